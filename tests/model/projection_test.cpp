// SPDX-License-Identifier: MIT
#include <attune/model/projection.hpp>

#include <doctest/doctest.h>

#include <limits>
#include <vector>

using namespace attune;

namespace {
std::vector<double> const w{2.0, -1.0, 0.5};
double const nan_value = std::numeric_limits<double>::quiet_NaN();
}  // namespace

TEST_CASE("projection: a dot product summed in double, and an adjoint that adds") {
  std::vector<float> const weights{1.0f, 1e8f, 1.0f, -1e8f}, ones(4, 1.0f);
  CHECK(project(std::span<float const>(weights), ones.data()) == 2.0);
  std::vector<double> const h{3.0, 4.0, 6.0};
  CHECK(project(std::span<double const>(w), h.data()) == 5.0);
  std::vector<double> d_h{1.0, 1.0, 1.0}, d_w{10.0, 10.0, 10.0};
  project_adjoint(2.0, std::span<double const>(w), h.data(), d_h.data(), std::span<double>(d_w));
  CHECK(d_h == std::vector<double>{5.0, -1.0, 2.0});
  CHECK(d_w == std::vector<double>{16.0, 18.0, 22.0});
}

TEST_CASE("projection: the value of a token is read at the one before it, and masked tokens are not touched") {
  sequences s;
  s.push_back(std::vector<token_id>{0, 1}, std::vector<token_id>{2});
  s.push_back(std::vector<token_id>{0}, std::vector<token_id>{1, 2});
  // Rows 0, 2 and 5 are followed by no masked-in token: what they hold must not matter.
  std::vector<double> hidden{nan_value, 0, 0, 1, 0, 0, nan_value, 0, 0, 0, 1, 0, 0, 0, 2, 0, nan_value, 0};
  std::vector<double> out(6, 9.0);
  auto const rows = as_matrix<double const>(hidden.data(), 6, 3);
  project_values(std::span<double const>(w), rows, s.view(), std::span<double>(out));
  CHECK(out == std::vector<double>{0.0, 0.0, 2.0, 0.0, -1.0, 1.0});

  std::vector<double> const slopes{nan_value, nan_value, 1.0, nan_value, 2.0, 3.0};
  std::vector<double> d_hidden(18, 0.0), d_w(3, 0.0);
  project_values_adjoint(std::span<double const>(slopes), std::span<double const>(w), rows, s.view(),
                         as_matrix(d_hidden.data(), 6, 3), std::span<double>(d_w));
  CHECK(d_w == std::vector<double>{1.0, 2.0, 6.0});
  CHECK(d_hidden == std::vector<double>{0, 0, 0, 2, -1, 0.5, 0, 0, 0, 4, -2, 1, 6, -3, 1.5, 0, 0, 0});
}
