// SPDX-License-Identifier: MIT
//
// What every consumer builds: door 1 through the umbrella header. Equal log-ratios give log 2.
#include <attune/attune.hpp>

#include <array>
#include <cmath>
#include <cstdio>

int main() {
  std::array<double, 2> const chosen{-4.0, -5.0};
  std::array<double, 2> const rejected{-6.0, -7.0};
  std::array<double, 2> chosen_slopes{};
  std::array<double, 2> rejected_slopes{};
  double const loss = attune::dpo_loss<double>(
      {.chosen = chosen, .rejected = rejected, .ref_chosen = chosen, .ref_rejected = rejected},
      {.chosen = chosen_slopes, .rejected = rejected_slopes}, {.beta = 0.1});
  std::printf("loss %.6f\n", loss);
  return std::abs(loss - std::log(2.0)) < 1e-12 ? 0 : 1;
}
