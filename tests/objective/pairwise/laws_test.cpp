// SPDX-License-Identifier: MIT
//
// What theory says of the pairwise losses. Every law is checked at many points and recorded by name.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numbers>
#include <string>
#include <vector>

#include <attune/core/random.hpp>
#include <attune/objective/pairwise/preference_loss.hpp>

#include "objective/pairwise/loss_grid.hpp"
#include "support/proofs.hpp"

using namespace attune;
using doctest::Approx;
using std::numbers::ln2;

namespace {

using pair = response_pair<double>;
using answer = pair_value_and_slopes<double>;

// Some pairs, moderate and not.
std::vector<pair> points(bool below_zero = false) {
  std::vector<pair> list;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    random_stream stream(seed, 5);
    double const spread = seed % 3 == 0 ? 0.3 : seed % 3 == 1 ? 4.0 : 40.0;
    pair p{spread * stream.normal(), spread * stream.normal(), 1.0 + static_cast<double>(stream.below(9)),
           1.0 + static_cast<double>(stream.below(9))};
    if (below_zero) p = {-std::abs(p.chosen) - 1e-3, -std::abs(p.rejected) - 1e-3, p.chosen_tokens, p.rejected_tokens};
    list.push_back(p);
  }
  return list;
}

pair swapped(pair p) { return {p.rejected, p.chosen, p.rejected_tokens, p.chosen_tokens}; }
pair shifted(pair p, double by) { return {p.chosen + by, p.rejected + by, p.chosen_tokens, p.rejected_tokens}; }
pair one_token(pair p) { return {p.chosen, p.rejected}; }

bool same(answer a, answer b, double tolerance = 1e-12) {
  return a.value == Approx(b.value).epsilon(tolerance) && a.chosen == Approx(b.chosen).epsilon(tolerance) &&
         a.rejected == Approx(b.rejected).epsilon(tolerance);
}

// Checks f at all points and records the law.
void law(char const* objective, char const* words, std::function<bool(pair)> const& f, bool below_zero = false) {
  std::size_t broken = 0;
  for (pair const& p : points(below_zero)) broken += f(p) ? 0 : 1;
  CAPTURE(std::string(objective));
  CAPTURE(std::string(words));
  CHECK(broken == 0);
  if (broken == 0) proofs::law(objective, words);
}

// Some point breaks what does not hold of this loss: laws must be able to fail.
void no_law(char const* objective, char const* words, std::function<bool(pair)> const& f) {
  bool holds = true;
  for (pair const& p : points()) holds = holds && f(p);
  CAPTURE(std::string(objective));
  CAPTURE(std::string(words));
  CHECK_FALSE(holds);
}

template <class O>
auto of(O options) {
  return [options](pair p) { return pair_objective(p, options); };
}

// f((p + q) / 2) <= (f(p) + f(q)) / 2 with q made of p.
template <class O>
bool midpoint_convex(O const& options, pair p) {
  pair const q{-0.7 * p.rejected + 1.0, 0.4 * p.chosen - 2.0, p.chosen_tokens, p.rejected_tokens};
  pair const middle{(p.chosen + q.chosen) / 2, (p.rejected + q.rejected) / 2, p.chosen_tokens, p.rejected_tokens};
  double const ends = (pair_objective(p, options).value + pair_objective(q, options).value) / 2;
  return pair_objective(middle, options).value <= ends + 1e-12 * (1.0 + std::abs(ends));
}

template <class O>
bool monotone(O const& options, pair p) {
  answer const a = pair_objective(p, options);
  return a.chosen <= 0.0 && a.rejected >= 0.0;
}

}  // namespace

TEST_CASE("pairwise: at the start, where policy and reference agree, values and slopes are known") {
  struct start {
    char const* name;
    any_pair_loss loss;
    double value, chosen, rejected;
  };
  double const b = 0.2, e = 0.1;
  for (start const& s : std::vector<start>{
           {"sigmoid", dpo_options{b}, ln2, -b / 2, b / 2},
           {"sigmoid", dpo_options{b, e}, ln2, -b / 2 + b * e, b / 2 - b * e},
           {"robust", dpo_options{b, e, dpo_smoothing::robust}, ln2, -b / 2 - b * e / (1 - 2 * e), b / 2 + b * e / (1 - 2 * e)},
           {"hinge", hinge_options{b}, 1.0, -b, b},
           {"ipo", ipo_options{b}, 1 / (4 * b * b), -1 / b, 1 / b},
           {"ipo_sum", ipo_options{b, ipo_length::sum}, 1 / (4 * b * b), -1 / b, 1 / b},
           {"sigmoid_norm", sigmoid_norm_options{b}, ln2, -b / 2, b / 2},
           {"exo_pair", exo_options{b, e}, -ln2 - (std::log(1 - e) + std::log(e)) / 2, -b / 4 * std::log((1 - e) / e),
            b / 4 * std::log((1 - e) / e)},
           {"nca_pair", nca_options{b}, 2 * ln2, -b / 4, b / 4},
           {"bco_pair", bco_pair_options{b}, 2 * ln2, -b / 2, b / 2},
           {"sppo_hard", sppo_options{b}, 1 / (2 * b * b), -1 / b, 1 / b},
           {"apo_zero", apo_options{b, apo_anchor::zero}, 1.0, -b / 4, b / 4},
           {"apo_down", apo_options{b, apo_anchor::down}, 1.0, 0.0, b / 4},
           {"discopop", discopop_options{b, 0.5}, ln2 / 2 + 0.5, b * (0.5 * (1 - ln2) - 0.75), -b * (0.5 * (1 - ln2) - 0.75)}}) {
    CAPTURE(s.name);
    visit_pair_objective(s.loss, [&](auto const& o) {
      answer const got = pair_objective(pair{0.0, 0.0}, o);
      bool const holds = same(got, {s.value, s.chosen, s.rejected}, 1e-14);
      CHECK(got.value == Approx(s.value).epsilon(1e-14));
      CHECK(got.chosen == Approx(s.chosen).epsilon(1e-14));
      CHECK(got.rejected == Approx(s.rejected).epsilon(1e-14));
      if (holds) proofs::law(s.name, "value and slopes where policy and reference agree");
    });
  }
}

TEST_CASE("pairwise: losses of a difference do not change when both log-ratios do by the same") {
  char const* const words = "adding a constant to both log-ratios changes nothing";
  auto const invariant = [](auto f) {
    return [f](pair p) { return same(f(one_token(shifted(p, 3.25))), f(one_token(p)), 1e-9); };
  };
  law("sigmoid", words, invariant(of(dpo_options{.label_smoothing = 0.2})));
  law("robust", words, invariant(of(dpo_options{0.1, 0.2, dpo_smoothing::robust})));
  law("hinge", words, invariant(of(hinge_options{})));
  law("ipo_sum", words, invariant(of(ipo_options{.length = ipo_length::sum})));
  law("exo_pair", words, invariant(of(exo_options{})));
  law("discopop", words, invariant(of(discopop_options{})));
  no_law("nca_pair", words, invariant(of(nca_options{1.0})));
  no_law("bco_pair", words, invariant(of(bco_pair_options{1.0})));
  no_law("sppo_hard", words, invariant(of(sppo_options{1.0})));
  no_law("apo_zero", words, invariant(of(apo_options{1.0})));
  char const* const per_token = "adding a constant per token to both log-ratios changes nothing";
  auto const per_token_invariant = [](auto f) {
    return [f](pair p) {
      pair const q{p.chosen + 0.5 * p.chosen_tokens, p.rejected + 0.5 * p.rejected_tokens, p.chosen_tokens, p.rejected_tokens};
      return same(f(q), f(p), 1e-9);
    };
  };
  law("ipo", per_token, per_token_invariant(of(ipo_options{})));
  law("sigmoid_norm", per_token, per_token_invariant(of(sigmoid_norm_options{})));
  law("simpo", per_token, per_token_invariant(of(simpo_options{})));
  no_law("sigmoid", per_token, per_token_invariant(of(dpo_options{})));
}

TEST_CASE("pairwise: exchanging chosen and rejected") {
  law("sigmoid", "L(b, a) - L(a, b) is the margin", [](pair p) {
    double const z = 0.3 * (p.chosen - p.rejected);
    return of(dpo_options{0.3})(swapped(p)).value - of(dpo_options{0.3})(p).value == Approx(z).epsilon(1e-12);
  });
  law("sigmoid", "with half of the labels flipped, chosen and rejected are one", [](pair p) {
    answer const a = of(dpo_options{0.3, 0.5})(p), b = of(dpo_options{0.3, 0.5})(swapped(p));
    return same(a, {b.value, b.rejected, b.chosen}, 1e-11);
  });
  law("robust", "the expectation under flipped labels is the clean loss", [](pair p) {
    double const e = 0.2;
    auto const noisy = of(dpo_options{0.1, e, dpo_smoothing::robust});
    answer const kept = noisy(p), flipped = noisy(swapped(p)), clean = of(dpo_options{})(p);
    return (1 - e) * kept.value + e * flipped.value == Approx(clean.value).epsilon(1e-11) &&
           (1 - e) * kept.chosen + e * flipped.rejected == Approx(clean.chosen).epsilon(1e-11);
  });
  law("exo_pair", "with half of the labels wrong, chosen and rejected are one", [](pair p) {
    answer const a = of(exo_options{0.3, 0.5})(p), b = of(exo_options{0.3, 0.5})(swapped(p));
    return same(a, {b.value, b.rejected, b.chosen}, 1e-11);
  });
  law("apo_zero", "L(b, a) = 2 - L(a, b)", [](pair p) {
    return of(apo_options{})(swapped(p)).value == Approx(2 - of(apo_options{})(p).value).epsilon(1e-13);
  });
  law("bco_pair", "L(b, a) - L(a, b) is the margin", [](pair p) {
    double const z = 0.3 * (p.chosen - p.rejected);
    return of(bco_pair_options{0.3})(swapped(p)).value - of(bco_pair_options{0.3})(p).value == Approx(z).epsilon(1e-11);
  });
  law("ipo_sum", "L(b, a) - L(a, b) is twice the margin over beta", [](pair p) {
    auto const f = of(ipo_options{0.5, ipo_length::sum});
    return f(swapped(p)).value - f(p).value == Approx(2 * (p.chosen - p.rejected) / 0.5).epsilon(1e-11);
  });
  law("hinge", "L(a, b) + L(b, a) >= 2, with equality inside the margin", [](pair p) {
    double const sum = of(hinge_options{})(p).value + of(hinge_options{})(swapped(p)).value;
    double const z = 0.1 * std::abs(p.chosen - p.rejected);
    return z <= 1 ? sum == Approx(2.0).epsilon(1e-14) : sum == Approx(1 + z).epsilon(1e-14);
  });
}

TEST_CASE("pairwise: convex where the papers say so, and not where they do not") {
  char const* const words = "convex in the pair of log-ratios";
  auto const convex = [](auto options) { return [options](pair p) { return midpoint_convex(options, p); }; };
  law("sigmoid", words, convex(dpo_options{0.5, 0.1}));
  law("robust", words, convex(dpo_options{0.5, 0.1, dpo_smoothing::robust}));
  law("hinge", words, convex(hinge_options{0.5}));
  law("ipo", words, convex(ipo_options{}));
  law("sigmoid_norm", words, convex(sigmoid_norm_options{}));
  law("nca_pair", words, convex(nca_options{0.5}));
  law("bco_pair", words, convex(bco_pair_options{0.5}));
  law("sppo_hard", words, convex(sppo_options{0.5}));
  law("simpo", words, convex(simpo_options{}));
  law("cpo", words, convex(cpo_options{}));
  no_law("apo_zero", words, convex(apo_options{1.0}));
  no_law("apo_down", words, convex(apo_options{1.0, apo_anchor::down}));
  no_law("exo_pair", words, convex(exo_options{1.0}));
  no_law("discopop", words, convex(discopop_options{1.0, 0.05}));
}

TEST_CASE("pairwise: more probability on the chosen response, or less on the rejected one, never costs") {
  char const* const words = "falls with the chosen log-ratio, rises with the rejected one";
  auto const falls = [](auto options) { return [options](pair p) { return monotone(options, p); }; };
  law("sigmoid", words, falls(dpo_options{}));
  law("hinge", words, falls(hinge_options{}));
  law("sigmoid_norm", words, falls(sigmoid_norm_options{}));
  law("bco_pair", words, falls(bco_pair_options{}));
  law("apo_zero", words, falls(apo_options{}));
  law("simpo", words, falls(simpo_options{}), true);
  law("alphapo", words, falls(alphapo_options{}), true);
  law("cpo", words, falls(cpo_options{}), true);
  law("orpo", words, falls(orpo_options{}), true);
  law("sft", words, falls(sft_term_options{}), true);
  no_law("ipo_sum", words, falls(ipo_options{1.0, ipo_length::sum}));
  no_law("sppo_hard", words, falls(sppo_options{1.0}));
  no_law("nca_pair", words, falls(nca_options{1.0}));
  law("apo_down", "rises with the rejected log-ratio", [](pair p) { return of(apo_options{0.1, apo_anchor::down})(p).rejected >= 0.0; });
}

TEST_CASE("pairwise: one loss is another at a limit of its options") {
  law("robust", "without label smoothing it is DPO's loss", [](pair p) {
    return same(of(dpo_options{0.1, 0.0, dpo_smoothing::robust})(p), of(dpo_options{0.1})(p), 1e-15);
  });
  law("ipo", "of responses of one token both lengths are one", [](pair p) {
    return same(of(ipo_options{})(one_token(p)), of(ipo_options{.length = ipo_length::sum})(one_token(p)), 1e-15);
  });
  law("sigmoid_norm", "of responses of one token it is DPO's loss", [](pair p) {
    return same(of(sigmoid_norm_options{0.3, 0.2})(one_token(p)), of(dpo_options{.beta = 0.3, .target_margin = 0.2})(one_token(p)), 1e-15);
  });
  law("sigmoid_norm", "twice the log-ratio of twice the length is the same loss", [](pair p) {
    pair const twice{2 * p.chosen, 2 * p.rejected, 2 * p.chosen_tokens, 2 * p.rejected_tokens};
    return of(sigmoid_norm_options{})(twice).value == of(sigmoid_norm_options{})(p).value;
  });
  law("simpo", "with gamma 0 and one token it is DPO's loss of log-probabilities", [](pair p) {
    return same(of(simpo_options{0.5, 0.0})(one_token(p)), of(dpo_options{0.5})(one_token(p)), 1e-15);
  }, true);
  law("alphapo", "alpha 0 is SimPO", [](pair p) {
    return same(of(alphapo_options{2.5, 0.3, 0.0})(p), of(simpo_options{2.5, 0.3})(p), 1e-15);
  }, true);
  law("alphapo", "alpha -> 0 goes to SimPO", [](pair p) {
    return same(of(alphapo_options{2.5, 0.3, 1e-9})(p), of(simpo_options{2.5, 0.3})(p), 1e-5);
  }, true);
  law("cpo", "without its likelihood it is DPO's loss of log-probabilities", [](pair p) {
    return same(of(cpo_options{0.5, 0.1, 0.0})(p), of(dpo_options{0.5, 0.1})(p), 1e-15);
  }, true);
  law("cpo", "cpo_alpha adds an sft term", [](pair p) {
    answer const a = of(cpo_options{0.5, 0.1, 0.7})(p), b = of(cpo_options{0.5, 0.1, 0.0})(p),
                 nll = of(sft_term_options{sft_normalization::sequence})(p);
    return same(a, {b.value + 0.7 * nll.value, b.chosen + 0.7 * nll.chosen, b.rejected}, 1e-12);
  }, true);
  law("orpo", "of equal mean log-probabilities it is the likelihood and beta ln 2", [](pair p) {
    pair const equal{p.chosen, p.chosen / p.chosen_tokens * p.rejected_tokens, p.chosen_tokens, p.rejected_tokens};
    return of(orpo_options{0.4})(equal).value == Approx(-p.chosen / p.chosen_tokens + 0.4 * ln2).epsilon(1e-12);
  }, true);
  law("nca_pair", "it is BCO's loss and half the difference of the noise terms", [](pair p) {
    double const w = 0.3 * p.chosen, l = 0.3 * p.rejected;
    return of(nca_options{0.3})(p).value - of(bco_pair_options{0.3})(p).value == Approx((softplus(w) - softplus(l)) / 2).epsilon(1e-10);
  });
  law("sigmoid", "beta -> 0: ln 2 - z / 2, a policy gradient with reward +-1", [](pair p) {
    double const beta = 1e-9;
    answer const a = of(dpo_options{beta})(p);
    return a.value == Approx(ln2 - beta * (p.chosen - p.rejected) / 2).epsilon(1e-13) && a.chosen == Approx(-beta / 2).epsilon(1e-6);
  });
  law("sigmoid", "beta -> infinity: beta max(0, rejected - chosen)", [](pair p) {
    double const beta = 1e9;
    return of(dpo_options{beta})(p).value / beta == Approx((std::max)(0.0, p.rejected - p.chosen)).epsilon(1e-6);
  });
  law("sigmoid", "a target margin moves the loss along its margin", [](pair p) {
    pair const moved{p.chosen - 0.7 / 0.5, p.rejected, p.chosen_tokens, p.rejected_tokens};
    return same(of(dpo_options{.beta = 0.5, .target_margin = 0.7})(p), of(dpo_options{0.5})(moved), 1e-11);
  });
  law("discopop", "far below 0 it is the logistic loss, far above the exponential one", [](pair p) {
    double const z = 5.0 + std::abs(p.chosen - p.rejected);
    auto const f = of(discopop_options{1.0, 0.05});
    return same(f({-z, 0.0}), of(dpo_options{1.0})({-z, 0.0}), 1e-12) && f({z, 0.0}).value == Approx(std::exp(-z)).epsilon(1e-12);
  });
  law("hinge", "beyond the margin it is 0, and so is its slope", [](pair p) {
    double const z = 1.0 + std::abs(p.chosen);
    return same(of(hinge_options{0.1})({10.0 * z, 0.0}), {0.0, 0.0, 0.0});
  });
  law("hinge", "at the margin itself the slope is 0, and 1 just inside", [](pair p) {
    auto const f = of(hinge_options{1.0});
    double const scale = std::ldexp(1.0, static_cast<int>(p.chosen_tokens));  // exact, whatever it is
    answer const at = f({scale + 1.0, scale}), inside = f({scale + 1.0 - 1e-9, scale});
    return at.value == 0.0 && at.chosen == 0.0 && at.rejected == 0.0 && inside.chosen == -1.0 && inside.rejected == 1.0;
  });
  law("f_divergence", "alpha 0 is the forward KL", [](pair p) {
    auto const a = f_divergence_score(p.chosen, {f_divergence_type::alpha_divergence, 0.0});
    auto const b = f_divergence_score(p.chosen, {f_divergence_type::forward_kl});
    return a.value == b.value && a.slope == b.slope;
  });
  law("f_divergence", "alpha -> 1 goes to the reverse KL, and is it at 1", [](pair p) {
    auto const a = f_divergence_score(p.chosen, {f_divergence_type::alpha_divergence, 1.0 + 1e-9});
    auto const b = f_divergence_score(p.chosen, {f_divergence_type::alpha_divergence, 1.0});
    return a.value == Approx(p.chosen).epsilon(1e-6) && b.value == p.chosen && b.slope == 1.0;
  });
  law("f_divergence", "every score is 0 with slope 1, or 1/2 of the JS divergence, where policy and reference agree", [](pair) {
    for (auto const type : {f_divergence_type::reverse_kl, f_divergence_type::forward_kl, f_divergence_type::alpha_divergence})
      if (f_divergence_score(0.0, {type}).value != 0.0 || f_divergence_score(0.0, {type}).slope != 1.0) return false;
    auto const js = f_divergence_score(0.0, {f_divergence_type::js_divergence});
    return std::abs(js.value) < 1e-16 && js.slope == 0.5;
  });
  law("f_divergence", "every score rises with the log-ratio", [](pair p) {
    for (auto const& d : {f_divergence_options{f_divergence_type::forward_kl}, f_divergence_options{f_divergence_type::js_divergence},
                          f_divergence_options{f_divergence_type::alpha_divergence, 0.5},
                          f_divergence_options{f_divergence_type::alpha_divergence, -1.0}})
      if (!(f_divergence_score(p.chosen, d).slope >= 0.0)) return false;
    return true;
  });
}

TEST_CASE("pairwise: the optimum over all policies is the one that theory names") {
  // Labels are Bradley-Terry's for two responses: p that the first is preferred. A loss is averaged over both orders, and its
  // slope must vanish at the margin of log-ratios that is its paper's optimum.
  auto const slope_at = [](auto options, double p, double margin) {
    answer const kept = pair_objective(pair{margin / 2, -margin / 2}, options);
    answer const flipped = pair_objective(pair{-margin / 2, margin / 2}, options);
    return p * kept.chosen + (1 - p) * flipped.rejected;
  };
  law("sigmoid", "the optimum of noiseless DPO has the margin r / beta: pi_ref exp(r / beta) / Z", [&](pair x) {
    double const r = std::tanh(x.chosen) * 4, beta = 0.3;
    return std::abs(slope_at(dpo_options{beta}, sigmoid(r), r / beta)) < 1e-15;
  });
  law("robust", "with labels flipped at its rate the optimum is that of clean labels", [&](pair x) {
    double const r = std::tanh(x.chosen) * 4, beta = 0.3, e = 0.2, p = sigmoid(r);
    return std::abs(slope_at(dpo_options{beta, e, dpo_smoothing::robust}, p * (1 - e) + (1 - p) * e, r / beta)) < 1e-15;
  });
  law("ipo_sum", "the optimum's margin is (2 p - 1) / (2 beta)", [&](pair x) {
    double const p = sigmoid(x.chosen), beta = 0.3;
    return std::abs(slope_at(ipo_options{beta, ipo_length::sum}, p, (2 * p - 1) / (2 * beta))) < 1e-14;
  });
  law("ipo_sum", "certain preferences have a finite optimum: the margin 1 / (2 beta)", [](pair) {
    answer const a = pair_objective(pair{0.5 / 0.3, 0.0}, ipo_options{0.3, ipo_length::sum});
    return a.value < 1e-30 && std::abs(a.chosen) < 1e-15;
  });
  law("exo_pair", "value and slope are 0 where the policy's odds are the labels'", [](pair x) {
    double const e = 0.5 * sigmoid(x.chosen / 10);
    answer const a = pair_objective(pair{std::log((1 - e) / e) / 0.3, 0.0}, exo_options{0.3, e});
    return std::abs(a.value) < 1e-15 && std::abs(a.chosen) < 1e-15;
  });
  law("sppo_hard", "value and slopes are 0 at the targets +-1 / (2 beta)", [](pair) {
    return same(pair_objective(pair{0.5 / 0.3, -0.5 / 0.3}, sppo_options{0.3}), {0.0, 0.0, 0.0});
  });
  law("sigmoid", "with conservative smoothing certain preferences have the optimum log((1 - e) / e) / beta", [](pair x) {
    double const e = 0.49 * sigmoid(x.chosen / 10), beta = 0.3;
    return std::abs(pair_objective(pair{std::log((1 - e) / e) / beta, 0.0}, dpo_options{beta, e}).chosen) < 1e-14;
  });
  law("nca_pair", "the optimum of the chosen log-ratio is log 2 / beta, of which it wants no more", [](pair) {
    return std::abs(pair_objective(pair{ln2 / 0.3, 0.0}, nca_options{0.3}).chosen) < 1e-15;
  });
}
