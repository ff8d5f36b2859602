// SPDX-License-Identifier: MIT
#include <attune/objective/whiten.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <attune/core/random.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/allocations.hpp"
#include "support/golden_file.hpp"

using namespace attune;
using testing::relative_error;

namespace {

constexpr double missing = std::numeric_limits<double>::quiet_NaN();
constexpr double inf = std::numeric_limits<double>::infinity();

std::vector<double> whitened(std::vector<double> const& values, std::vector<std::uint8_t> const& mask,
                             whiten_options o = {}) {
  std::vector<double> out(values.size(), 7.0);
  whiten<double>(values, mask, out, o);
  return out;
}

std::string message_of(std::vector<double> const& values, std::vector<std::uint8_t> const& mask, std::size_t size = 0) {
  std::vector<double> out(size == 0 ? values.size() : size, 7.0);
  auto const before = out;
  try {
    whiten<double>(values, mask, out);
  } catch (contract_violation const& e) {
    CHECK(out == before);  // nothing half-written
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("whiten: masked mean 0 and masked variance 1; without the shift the mean stays what it was") {
  for (std::uint64_t seed = 0; seed < 20; ++seed)
    for (bool const bessel : {true, false})
      for (bool const shift : {true, false}) {
        random_stream stream(seed);
        std::vector<double> values;
        std::vector<std::uint8_t> mask;
        for (int i = 0; i < 300; ++i) {
          mask.push_back(i < 2 || stream.uniform() < 0.7 ? 1 : 0);
          values.push_back(mask.back() != 0 ? 30 + 5 * stream.normal() : (i % 2 == 0 ? missing : inf));
        }
        auto const out = whitened(values, mask, {.shift_mean = shift, .bessel_correction = bessel});
        double count = 0, mean = 0, before = 0, squares = 0;
        for (std::size_t i = 0; i < out.size(); ++i) {
          if (mask[i] == 0) {
            CHECK(out[i] == 0.0);
            continue;
          }
          ++count;
          mean += out[i];
          before += values[i];
        }
        mean /= count;
        before /= count;
        for (std::size_t i = 0; i < out.size(); ++i)
          if (mask[i] != 0) squares += (out[i] - mean) * (out[i] - mean);
        CHECK(std::abs(mean - (shift ? 0.0 : before)) <= 1e-12);
        CHECK(squares / (bessel ? count - 1 : count) == doctest::Approx(1.0).epsilon(1e-8));
      }
}

TEST_CASE("whiten: a case worked by hand") {
  // mean 2, squares 8: variance 4 over n - 1 = 2, 8 / 3 over n
  auto const out = whitened({0, 2, missing, 4}, {1, 1, 0, 1});
  CHECK(out[0] == doctest::Approx(-2 / std::sqrt(4 + 1e-8)).epsilon(1e-15));
  CHECK(out[1] == 0.0);
  CHECK(out[2] == 0.0);
  CHECK(out[3] == -out[0]);
  CHECK(whitened({0, 2, missing, 4}, {1, 1, 0, 1}, {.bessel_correction = false})[3] ==
        doctest::Approx(2 / std::sqrt(8.0 / 3 + 1e-8)).epsilon(1e-15));
  CHECK(whitened({0, 2, missing, 4}, {1, 1, 0, 1}, {.shift_mean = false})[3] ==
        doctest::Approx(2 + 2 / std::sqrt(4 + 1e-8)).epsilon(1e-15));
}

TEST_CASE("whiten: is PyTorch's masked_whiten") {
  auto const cases = read_golden("whiten.txt");
  CHECK(cases.size() >= 20);
  for (golden_case const& c : cases) {
    auto const out =
        whitened(c["values"], c.integers<std::uint8_t>("mask"),
                 {.shift_mean = c.number("shift_mean") != 0, .bessel_correction = c.number("bessel_correction") != 0});
    for (std::size_t i = 0; i < out.size(); ++i) CHECK(relative_error(out[i], c["whitened"][i], 1e-3) <= 1e-12);
  }
}

TEST_CASE("whiten: one value and equal values give exactly 0, and without the shift exactly themselves") {
  for (bool const bessel : {true, false}) {
    CHECK(whitened({missing, 0.1}, {0, 1}, {.bessel_correction = bessel}) == std::vector<double>{0, 0});
    CHECK(whitened({missing, 0.1}, {0, 1}, {.shift_mean = false, .bessel_correction = bessel}) ==
          std::vector<double>{0, 0.1});
    std::vector<double> const equal(10, 0.1);  // whose sum / 10 is not 0.1
    std::vector<std::uint8_t> const mask(10, 1);
    CHECK(whitened(equal, mask, {.bessel_correction = bessel}) == std::vector<double>(10, 0.0));
    CHECK(whitened(equal, mask, {.shift_mean = false, .bessel_correction = bessel}) == equal);
  }
}

TEST_CASE("whiten: f32 in place is the double result rounded, and allocates nothing") {
  random_stream stream(1);
  std::vector<float> values;
  std::vector<std::uint8_t> const mask(50, 1);
  for (int i = 0; i < 50; ++i) values.push_back(static_cast<float>(stream.normal()));
  auto const expected = whitened({values.begin(), values.end()}, mask);
  std::size_t const before = allocations();
  whiten<float>(values, mask, values);
  CHECK(allocations() == before);
  for (std::size_t i = 0; i < 50; ++i) CHECK(values[i] == static_cast<float>(expected[i]));
}

TEST_CASE("whiten: nothing to whiten, NaN, sizes that disagree and a variance beyond double are refused by name") {
  CHECK(message_of({missing, 1}, {0, 0}) == "expected whiten: at least one masked-in value");
  CHECK(message_of({}, {}) == "expected whiten: at least one masked-in value");
  CHECK(message_of({1, missing}, {1, 1}) == "expected whiten: values[1] finite, got nan");
  CHECK(message_of({1, -inf, 2}, {1, 1, 1}) == "expected whiten: values[1] finite, got -inf");
  CHECK(message_of({1, 2}, {1}) == "expected whiten: mask.size() == values.size(), got 1");
  CHECK(message_of({1, 2}, {1, 1}, 3) == "expected whiten: whitened.size() == values.size(), got 3");
  CHECK(message_of({1e200, -1e200}, {1, 1}) == "expected whiten: a variance within double's range, got inf");
  CHECK(message_of({1e308, 1.5e308}, {1, 1}).starts_with("expected whiten: a variance within double's range, got "));
}
