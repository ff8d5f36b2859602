// SPDX-License-Identifier: MIT
//
// Every pairwise loss with every combination of its options: slopes against dual numbers and a complex step of the value,
// which know nothing of the slopes' code, and against central differences of the batch loss.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <attune/core/random.hpp>
#include <attune/testing/dual_number.hpp>
#include <attune/testing/gradient_check.hpp>

#include "objective/pairwise/loss_grid.hpp"
#include "support/proofs.hpp"

using namespace attune;
using testing::relative_error;

namespace {

constexpr std::size_t seeds = 20;

struct worst_errors {
  std::size_t combinations = 0;
  double exact = 0.0, central = 0.0;
};

// Where a loss adds slopes of both signs, what is left cannot be known better than to the rounding of the parts: errors
// below 1e-3 of the loss's scale count as absolute.
double floor_of(double beta) { return 1e-3 * (std::min)(beta, 1.0); }

}  // namespace

TEST_CASE("pairwise: every slope agrees with dual numbers and a complex step to 1e-12") {
  using dual = testing::dual_number<double>;
  using complex = std::complex<double>;
  constexpr double step = 1e-100;
  std::map<std::string, worst_errors> worst;
  for (loss_case const& one : loss_grid()) {
    worst_errors& w = worst[one.objective];
    ++w.combinations;
    visit_pair_objective(one.loss, [&](auto const& o) {
      double scale = 1.0;
      if constexpr (requires { o.beta; }) scale = o.beta;
      for (std::uint64_t seed = 0; seed < seeds; ++seed) {
        random_stream stream(seed, 17);
        double const spread = seed % 4 == 0 ? 0.1 : seed % 4 == 1 ? 30.0 : 5.0;
        double const a_tokens = 1.0 + static_cast<double>(stream.below(7)), b_tokens = 1.0 + static_cast<double>(stream.below(7));
        double a = spread * stream.normal(), b = spread * stream.normal();
        if (!o.reads().reference) {
          a = -std::abs(a);
          b = -std::abs(b);
        }
        std::vector<double> chosen{a}, rejected{b}, zero{0.0}, dchosen{0.0}, drejected{0.0};
        std::vector<std::size_t> const chosen_tokens{static_cast<std::size_t>(a_tokens)},
            rejected_tokens{static_cast<std::size_t>(b_tokens)};
        auto const loss = [&] {
          return pair_loss<double>({.chosen = chosen, .rejected = rejected, .ref_chosen = zero, .ref_rejected = zero,
                                    .chosen_tokens = chosen_tokens, .rejected_tokens = rejected_tokens},
                                   {.chosen = dchosen, .rejected = drejected}, o, {.pairs = 1, .chosen_tokens = 100}, one.ratios);
        };
        double const factor = o.reads().per_chosen_token ? 100.0 : 1.0;
        CHECK(std::isfinite(loss()));
        std::vector<double> const slopes{dchosen[0] * factor, drejected[0] * factor};
        auto const value = [&]<class T>(T c, T r) { return value_of<T>(c, r, a_tokens, b_tokens, o, one.ratios); };
        double const expected[2][2] = {
            {value(dual(a, 1), dual(b)).derivative, value(complex(a, step), complex(b)).imag() / step},
            {value(dual(a), dual(b, 1)).derivative, value(complex(a), complex(b, step)).imag() / step}};
        for (std::size_t i = 0; i < 2; ++i)
          for (double const e : expected[i]) {
            double const error = relative_error(slopes[i], e, floor_of(scale));
            if (!(error <= 1e-12)) {
              CAPTURE(one.objective);
              CAPTURE(scale);
              CAPTURE(seed);
              CAPTURE(a);
              CAPTURE(b);
              CAPTURE(i);
              CHECK(slopes[i] == e);
            }
            w.exact = (std::max)(w.exact, std::isnan(error) ? INFINITY : error);
          }
        if (spread < 30.0) {  // smooth on the scale of the step
          auto const dc = dchosen, dr = drejected;
          double const size = (std::max)(1.0, std::abs(loss()));
          for (auto const& [x, g] : {std::pair{&chosen, &dc}, std::pair{&rejected, &dr}})
            w.central = (std::max)(w.central, testing::check_gradient(loss, *x, *g, size, 1e-4).worst_error);
        }
      }
    });
  }
  for (auto const& [name, w] : worst) {
    CAPTURE(name);
    CHECK(w.exact <= 1e-12);
    CHECK(w.central <= 1e-7);
    proofs::derivatives(name, w.combinations, seeds, w.exact, w.central);
  }
}
