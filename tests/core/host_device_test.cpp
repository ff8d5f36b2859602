// SPDX-License-Identifier: MIT
#include <attune/core/host_device.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <string_view>

// One step more, so that the macro is expanded before it becomes text.
#define TEXT_OF(...) #__VA_ARGS__
#define EXPANDED(...) TEXT_OF(__VA_ARGS__)

TEST_CASE("host_device: the macro is nothing to a host compiler") {
  CHECK(std::string_view(EXPANDED(ATTUNE_HOST_DEVICE)).empty());
}

TEST_CASE("host_device: the tests are compiled so that NaN and infinity mean what they say") {
  double const volatile zero = 0.0;
  CHECK(std::isnan(zero / zero));
  CHECK(std::isinf(1.0 / zero));
  CHECK(zero / zero != zero / zero);
}
