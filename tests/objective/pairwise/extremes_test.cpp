// SPDX-License-Identifier: MIT
//
// Pairwise losses at the edge of what a double can say: the exact limit from mpmath with 400 digits, or an error that names
// the place. Never NaN.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include <attune/objective/pairwise/preference_loss.hpp>
#include <attune/testing/gradient_check.hpp>

#include "objective/pairwise/loss_grid.hpp"
#include "support/golden_file.hpp"
#include "support/proofs.hpp"

using namespace attune;
using testing::relative_error;

namespace {

struct count {
  std::size_t cases = 0, failed = 0;

  void expect(bool holds) {
    ++cases;
    failed += holds ? 0 : 1;
  }
};

// A batch of three pairs, of which one number is not as it should be.
struct batch {
  std::vector<double> chosen{-1.0, -2.0, -3.0}, rejected{-2.0, -2.5, -1.0}, ref_chosen{-1.5, -2.0, -2.0},
      ref_rejected{-2.5, -2.0, -1.0}, weights{}, dchosen{7.0, 7.0, 7.0}, drejected{7.0, 7.0, 7.0};
  std::vector<std::size_t> chosen_tokens{1, 2, 3}, rejected_tokens{3, 1, 2};

  double loss(any_pair_loss const& one, pair_totals totals = {}) {
    return std::visit(
        [&](auto const& o) {
          pair_logps<double> const logps{.chosen = chosen, .rejected = rejected, .ref_chosen = ref_chosen,
                                         .ref_rejected = ref_rejected, .chosen_tokens = chosen_tokens,
                                         .rejected_tokens = rejected_tokens, .weights = weights};
          pair_slopes<double> const slopes{.chosen = dchosen, .rejected = drejected};
          if constexpr (PairObjective<std::remove_cvref_t<decltype(o)>>) {
            return pair_loss(logps, slopes, o, totals);
          } else {
            aot_workspace w;
            return aot_loss(logps, slopes, o, w, totals);
          }
        },
        one);
  }
};

}  // namespace

TEST_CASE("pairwise: at the extremes value and slopes are mpmath's") {
  std::map<std::string, count> counts;
  auto const names = named_pair_losses();
  for (golden_case const& c : read_golden("pairwise_extremes.txt")) {
    auto const number = [&](char const* name, double standard) {
      return c.fields.contains(name) ? c.number(name) : standard;
    };
    named_pair_loss one = names[c.integers<std::size_t>("loss")[0]];
    std::visit(
        [&](auto& loss) {
          for_each_option(loss, [&](std::string const& name, auto& field) {
            if constexpr (std::same_as<std::remove_cvref_t<decltype(field)>, double>)
              field = number(name.c_str(), name == "beta" ? 0.1 : name == "tau" ? 0.05 : 0.0);
          });
        },
        one.loss);
    visit_pair_objective(one.loss, [&](auto const& o) {
      auto const got = pair_objective(response_pair<double>{c["logps"][0], c["logps"][1]}, o);
      double const error = std::max({relative_error(got.value, c.number("value"), 1e-300),
                                     relative_error(got.chosen, c["slopes"][0], 1e-300),
                                     relative_error(got.rejected, c["slopes"][1], 1e-300)});
      bool const holds = error <= 1e-10;
      if (!holds) {
        CAPTURE(one.name);
        CAPTURE(c["logps"][0]);
        CAPTURE(c["logps"][1]);
        CAPTURE(number("beta", 0.1));
        CHECK(got.value == c.number("value"));
        CHECK(got.chosen == c["slopes"][0]);
        CHECK(got.rejected == c["slopes"][1]);
      }
      counts[std::string(one.name)].expect(holds);
    });
  }
  for (auto const& [name, n] : counts) {
    CHECK(n.failed == 0);
    proofs::extremes(name, n.cases, n.failed);
  }
  CHECK(counts.size() == 17);
}

TEST_CASE_TEMPLATE("pairwise: finite for every finite pair, in float and double", T, float, double) {
  T const largest = std::numeric_limits<T>::max();
  std::array<T, 11> const numbers{T(0), std::numeric_limits<T>::denorm_min(), -std::numeric_limits<T>::denorm_min(), T(1e-30),
                                  T(-1), T(1e4), T(-1e4), T(3e38), T(-3e38), largest, -largest};
  for (loss_case one : loss_grid()) {
    count n;
    visit_pair_objective(one.loss, [&](auto const& o) {
      for (T const a : numbers)
        for (T const b : numbers)
          for (T const tokens : {T(1), T(4096)}) {
            response_pair<T> p{a, b, tokens, T(1)};
            if (o.reads().divergence) {
              p.chosen = f_divergence_score(a, one.ratios.divergence).value;
              p.rejected = f_divergence_score(b, one.ratios.divergence).value;
            }
            auto const got = pair_objective(p, o);
            n.expect(std::isfinite(got.value) && std::isfinite(got.chosen) && std::isfinite(got.rejected));
          }
    });
    CAPTURE(one.objective);
    CHECK(n.failed == 0);
  }
}

TEST_CASE("pairwise: what is no number, or no batch, is refused by field and pair, and nothing is written") {
  double const inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  count n;
  for (named_pair_loss const& one : named_pair_losses()) {
    pair_inputs const reads = std::visit([](auto const& o) { return o.reads(); }, one.loss);
    auto const refused = [&](batch b, std::string const& why, pair_totals totals = {}) {
      auto const dchosen = b.dchosen, drejected = b.drejected;
      std::string message = "no error";
      try {
        b.loss(one.loss, totals);
      } catch (contract_violation const& e) {
        message = e.what();
      }
      bool const holds = message.find(why) != std::string::npos && b.dchosen == dchosen && b.drejected == drejected;
      CAPTURE(one.name);
      CAPTURE(why);
      if (!holds) CHECK(message == why);
      n.expect(holds);
    };
    for (double const bad : {nan, inf, -inf}) {
      std::string const text = std::isnan(bad) ? "nan" : bad > 0 ? "inf" : "-inf";
      batch b;
      b.chosen[2] = bad;
      refused(b, ": chosen[2] finite, got " + text);
      b = {};
      b.rejected[0] = bad;
      refused(b, ": rejected[0] finite, got " + text);
      if (reads.reference) {
        b = {};
        b.ref_chosen[1] = bad;
        refused(b, ": ref_chosen[1] finite, got " + text);
        b = {};
        b.ref_rejected[2] = bad;
        refused(b, ": ref_rejected[2] finite, got " + text);
      }
      b = {};
      b.weights = {1.0, bad, 1.0};
      refused(b, ": weights[1] finite, got " + text);
    }
    batch b;
    b.weights = {1.0, 1.0, -0.5};
    refused(b, ": weights[2] >= 0, got -0.5");
    if (reads.lengths) {
      b = {};
      b.chosen_tokens[1] = 0;
      refused(b, ": chosen_tokens[1] >= 1, got 0");
      b = {};
      b.rejected_tokens[0] = 0;
      refused(b, ": rejected_tokens[0] >= 1, got 0");
      b = {};
      b.rejected_tokens.clear();
      refused(b, ": rejected_tokens.size() == chosen.size(), got 0");
    }
    b = {};
    b.rejected.pop_back();
    refused(b, ": rejected.size() == chosen.size(), got 2");
    b = {};
    b.drejected.pop_back();
    refused(b, ": slopes.rejected.size() == chosen.size(), got 2");
    b = {};
    for (auto* v : {&b.chosen, &b.rejected, &b.ref_chosen, &b.ref_rejected, &b.dchosen, &b.drejected}) v->clear();
    b.chosen_tokens.clear();
    b.rejected_tokens.clear();
    refused(b, ": at least one pair");
    b = {};
    refused(b, reads.per_chosen_token ? ": total chosen_tokens >= those of the batch, got 2" : ": total_pairs >= those of the batch, got 2",
            {.pairs = 2, .chosen_tokens = 2});
  }
  CHECK(n.cases >= 300);
  CHECK(n.failed == 0);
  proofs::extremes("pairwise errors", n.cases, n.failed);
}

TEST_CASE("pairwise: options out of range are refused by field and value") {
  double const inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  count n;
  for (named_pair_loss const& one : named_pair_losses())
    std::visit(
        [&](auto const& standard) {
          auto altered = standard;
          auto const options = [&] { return sizeof altered; };
          std::size_t fields = 0;
          for_each_option(altered, [&](std::string const& name, auto& field) {
            ++fields;
            if constexpr (std::same_as<std::remove_cvref_t<decltype(field)>, double>) {
              double const keep = field;
              for (double const bad : {nan, inf, -inf, -1.0, 0.0, 1e6}) {
                // What these fields may be besides: any number, any number from 0, any share.
                bool const any = name == "target_margin" || name == "delta" || name == "gamma" || name == "alpha";
                bool const from_zero = name == "cpo_alpha";
                bool const above_zero = name == "beta" || name == "tau";
                bool const share = name == "label_smoothing";
                bool fine = (any && std::isfinite(bad)) || (from_zero && bad >= 0.0 && bad < inf) ||
                            (above_zero && bad > 0.0 && bad < inf) || (share && bad == 0.0 && one.name != "exo_pair");
                field = bad;
                std::string message;
                try {
                  validate(altered);
                } catch (contract_violation const& e) {
                  message = e.what();
                }
                bool const holds = fine ? message.empty() : message.find("_options." + name) != std::string::npos;
                CAPTURE(one.name);
                CAPTURE(name);
                CAPTURE(bad);
                if (!holds) CHECK(message == "");
                n.expect(holds);
              }
              field = keep;
            }
          });
          // for_each_option goes through all of them: eight bytes each, padding included.
          CHECK(options() >= 8 * fields - 4);
          CHECK(options() <= 8 * fields);
        },
        one.loss);
  CHECK(n.failed == 0);
  proofs::extremes("pairwise options", n.cases, n.failed);
}
