// SPDX-License-Identifier: MIT
//
// Every objective through torch/autograd.hpp against the formula of objective/README.md written in LibTorch's operations and
// differentiated by its autograd: values and gradients, f32 to 1e-5 and f64 to 1e-12 of the largest element.
#include <attune/torch/autograd.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <torch/csrc/autograd/autograd.h>

#include <attune/core/random.hpp>
#include <attune/objective/cispo.hpp>
#include <attune/objective/gspo.hpp>
#include <attune/objective/pairwise/pairs_on_tokens.hpp>
#include <attune/objective/pairwise/preference_loss.hpp>
#include <attune/objective/ppo.hpp>
#include <attune/objective/process_reward.hpp>
#include <attune/objective/sapo.hpp>
#include <attune/objective/unpaired/apo_zero_unpaired.hpp>
#include <attune/objective/unpaired/bco.hpp>
#include <attune/objective/unpaired/kto.hpp>

using namespace attune;

namespace {

template <class T>
constexpr double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-12;

constexpr std::size_t vocabulary = 11, width = 6;

at::Tensor normal(std::vector<std::int64_t> shape, at::ScalarType type, std::uint64_t seed, double scale = 1.0) {
  random_stream random(seed);
  at::Tensor const out = at::empty(shape, at::kDouble);
  for (double& x : torch_span<double>(out, "normal")) x = scale * random.normal();
  return out.to(type);
}

at::Tensor tensor_of(std::vector<double> const& values, at::ScalarType type) {
  return at::tensor(values, at::TensorOptions(at::kDouble)).to(type);
}

template <class T>
std::vector<T> numbers(at::Tensor const& tensor) {
  auto const values = torch_span<T const>(tensor, "numbers");
  return {values.begin(), values.end()};
}

double apart(at::Tensor const& a, at::Tensor const& b) {
  REQUIRE(a.defined());
  REQUIRE(b.defined());
  double const scale = (std::max)(b.abs().max().item<double>(), 1e-30);
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>() / scale;
}

using loss_of_leaves = std::function<at::Tensor(std::vector<at::Tensor> const&)>;

// Both losses of copies of the leaves, behind an operation of autograd's own on either side: values and all gradients agree.
template <class T>
void agree(std::string const& name, std::vector<at::Tensor> const& leaves, loss_of_leaves const& attunes,
           loss_of_leaves const& torchs) {
  CAPTURE(name);
  auto const run = [&](loss_of_leaves const& f, std::vector<at::Tensor>& gradients) {
    std::vector<at::Tensor> own, seen;
    for (at::Tensor const& leaf : leaves) {
      own.push_back(leaf.detach().clone().requires_grad_(true));
      seen.push_back(own.back() * 1.0);
    }
    at::Tensor const loss = f(seen);
    CHECK(loss.dim() == 0);
    CHECK(static_cast<bool>(loss.scalar_type() == torch_dtype<T>));
    (loss * -3.0).backward();
    for (at::Tensor const& leaf : own) gradients.push_back(leaf.grad());
    return loss.detach();
  };
  std::vector<at::Tensor> ours, theirs;
  at::Tensor const value = run(attunes, ours), expected = run(torchs, theirs);
  CHECK(apart(value, expected) <= tolerance<T>);
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    CAPTURE(i);
    if (!theirs[i].defined()) theirs[i] = at::zeros_like(leaves[i]);
    if (!ours[i].defined()) ours[i] = at::zeros_like(leaves[i]);
    CHECK(theirs[i].abs().max().item<double>() > 0.0);
    CHECK(apart(ours[i], theirs[i]) <= tolerance<T>);
  }
}

// ---- pairs ----

struct pairs {
  at::Tensor lp_w, lp_l, ref_w, ref_l, W, L;  // (pairs)
  at::Tensor w() const { return lp_w - ref_w; }
  at::Tensor l() const { return lp_l - ref_l; }
};

at::Tensor nls(at::Tensor const& z) { return -at::log_sigmoid(z); }
at::Tensor s(at::Tensor const& z) { return at::sigmoid(z); }

// Losses of pairs, (pairs), or a 0-dimensional one where it is no mean over pairs.
at::Tensor formula(dpo_options const& o, pairs const& p) {
  at::Tensor const z = o.beta * (p.w() - p.l()) - o.target_margin;
  double const e = o.label_smoothing;
  if (o.smoothing == dpo_smoothing::robust) return ((1 - e) * nls(z) - e * nls(-z)) / (1 - 2 * e);
  return (1 - e) * nls(z) + e * nls(-z);
}
at::Tensor formula(hinge_options const& o, pairs const& p) { return at::relu(1 - o.beta * (p.w() - p.l())); }
at::Tensor formula(ipo_options const& o, pairs const& p) {
  bool const sum = o.length == ipo_length::sum;
  at::Tensor const h = sum ? p.w() - p.l() : p.w() / p.W - p.l() / p.L;
  return (h - 1 / (2 * o.beta)).square();
}
at::Tensor formula(sigmoid_norm_options const& o, pairs const& p) {
  return nls(o.beta * (p.w() / p.W - p.l() / p.L) - o.target_margin);
}
at::Tensor formula(exo_options const& o, pairs const& p) {
  at::Tensor const z = o.beta * (p.w() - p.l());
  double const e = o.label_smoothing;
  return s(z) * (at::log_sigmoid(z) - std::log(1 - e)) + s(-z) * (at::log_sigmoid(-z) - std::log(e));
}
at::Tensor formula(nca_options const& o, pairs const& p) {
  return nls(o.beta * p.w()) + 0.5 * (nls(-o.beta * p.w()) + nls(-o.beta * p.l()));
}
at::Tensor formula(bco_pair_options const& o, pairs const& p) {
  return nls(o.beta * p.w() - o.delta) + nls(o.delta - o.beta * p.l());
}
at::Tensor formula(sppo_options const& o, pairs const& p) {
  return (p.w() - 0.5 / o.beta).square() + (p.l() + 0.5 / o.beta).square();
}
at::Tensor formula(aot_options const& o, pairs const& p) {
  bool const paired = o.comparison == aot_comparison::paired;
  at::Tensor const above = std::get<0>(at::sort(paired ? p.lp_w - p.lp_l : p.w()));
  at::Tensor const below = std::get<0>(at::sort(paired ? p.ref_w - p.ref_l : p.l()));
  at::Tensor const z = o.beta * (above - below);
  return (1 - o.label_smoothing) * nls(z) + o.label_smoothing * nls(-z);
}
at::Tensor formula(apo_options const& o, pairs const& p) {
  at::Tensor const w = o.beta * p.w(), l = o.beta * p.l();
  return o.anchor == apo_anchor::zero ? (1 - s(w)) + s(l) : s(w) + (1 - s(w - l));
}
at::Tensor formula(discopop_options const& o, pairs const& p) {
  at::Tensor const z = o.beta * (p.w() - p.l()), m = s(z / o.tau);
  return (1 - m) * nls(z) + m * at::exp(-z);
}
at::Tensor formula(sft_term_options const& o, pairs const& p) {
  return o.normalization == sft_normalization::token ? -p.lp_w.sum() / p.W.sum() : -p.lp_w / p.W;
}
at::Tensor formula(cpo_options const& o, pairs const& p) {
  at::Tensor const z = o.beta * (p.lp_w - p.lp_l);
  return (1 - o.label_smoothing) * nls(z) + o.label_smoothing * nls(-z) - o.cpo_alpha * p.lp_w / p.W;
}
at::Tensor formula(simpo_options const& o, pairs const& p) {
  return nls(o.beta * (p.lp_w / p.W - p.lp_l / p.L) - o.gamma);
}
at::Tensor formula(alphapo_options const& o, pairs const& p) {
  auto const r = [&](at::Tensor const& x) { return (1 - at::exp(-o.alpha * x)) / o.alpha; };
  return nls(o.beta * (r(p.lp_w / p.W) - r(p.lp_l / p.L)) - o.gamma);
}
at::Tensor formula(orpo_options const& o, pairs const& p) {
  at::Tensor const w = p.lp_w / p.W, l = p.lp_l / p.L;
  at::Tensor const odds = (w - l) - (at::log1p(-at::exp(w)) - at::log1p(-at::exp(l)));
  return -w + o.beta * nls(odds);
}
at::Tensor mean_formula(any_pair_loss const& loss, pairs const& p) {
  return std::visit([&](auto const& o) { return formula(o, p).mean(); }, loss);
}

// What acts on pairs: rewards bent by another divergence, in place of the log-ratios.
at::Tensor bent(f_divergence_options const& o, at::Tensor const& d) {
  switch (o.type) {
    case f_divergence_type::forward_kl: return 1 - at::exp(-d);
    case f_divergence_type::js_divergence: return std::log(2.0) + at::log_sigmoid(d);
    case f_divergence_type::alpha_divergence: return (at::exp((o.alpha - 1) * d) - 1) / (o.alpha - 1);
    case f_divergence_type::reverse_kl: break;
  }
  return d;
}

// ---- a batch of text ----

struct text {
  sequences batch;
  std::vector<std::int64_t> rows, targets, owner, at_token;  // of the completion tokens, in order
  at::Tensor membership;                                     // (sequences, completion tokens), 0 or 1
  at::Tensor lengths;                                        // (sequences)

  explicit text(at::ScalarType type, std::size_t sequences_count = 8) {
    random_stream random(17);
    for (std::size_t b = 0; b < sequences_count; ++b) {
      std::vector<token_id> prompt(1 + random.below(3)), completion(1 + random.below(5));
      for (auto* part : {&prompt, &completion})
        for (token_id& id : *part) id = static_cast<token_id>(random.below(vocabulary));
      batch.push_back(prompt, completion);
    }
    sequences_view const v = batch;
    for (std::size_t b = 0; b < v.size(); ++b)
      for (std::size_t t = v.offsets[b]; t < v.offsets[b + 1]; ++t)
        if (v.mask[t] != 0) {
          rows.push_back(static_cast<std::int64_t>(t) - 1);
          targets.push_back(v.tokens[t]);
          owner.push_back(static_cast<std::int64_t>(b));
          at_token.push_back(static_cast<std::int64_t>(t));
        }
    membership = at::zeros({static_cast<std::int64_t>(v.size()), static_cast<std::int64_t>(rows.size())}, type);
    for (std::size_t i = 0; i < owner.size(); ++i) membership[owner[i]][static_cast<std::int64_t>(i)] = 1.0;
    lengths = membership.sum(1);
  }
  std::int64_t tokens() const { return static_cast<std::int64_t>(batch.total_tokens()); }
  at::Tensor all_logps(at::Tensor const& logits) const {  // (completion tokens, vocabulary)
    return at::log_softmax(logits.index_select(0, at::tensor(rows)), 1);
  }
  at::Tensor logps(at::Tensor const& logits) const {
    return all_logps(logits).gather(1, at::tensor(targets).unsqueeze(1)).squeeze(1);
  }
  at::Tensor of_tokens(at::Tensor const& per_token) const { return per_token.index_select(0, at::tensor(at_token)); }
  pairs pairs_of(at::Tensor const& logits, at::Tensor const& ref) const {
    at::Tensor const sums = at::mv(membership, logps(logits));
    auto const even = [](at::Tensor const& x) { return x.slice(0, 0, c10::nullopt, 2); };
    auto const odd = [](at::Tensor const& x) { return x.slice(0, 1, c10::nullopt, 2); };
    return {even(sums), odd(sums), even(ref), odd(ref), even(lengths), odd(lengths)};
  }
  at::Tensor aggregated(loss_aggregation how, at::Tensor const& of_each, double constant) const {
    at::Tensor const per_sequence = at::mv(membership, of_each);
    switch (how) {
      case loss_aggregation::token_mean: return of_each.mean();
      case loss_aggregation::sequence_mean: return (per_sequence / lengths).mean();
      case loss_aggregation::sequence_sum: return per_sequence.mean();
      case loss_aggregation::constant: return per_sequence.mean() / constant;
    }
    return {};
  }
};

// An objective of any kind, so that what is under test is compiled once.
template <class T>
struct any_objective {
  token_terms wanted;
  std::function<T(sequences_view, term_values<T const> const&, term_slopes<T> const&)> call;

  template <class Objective>
  any_objective(Objective objective) : wanted(terms_of<T>(objective)) {
    call = [objective](sequences_view batch, term_values<T const> const& of, term_slopes<T> const& slopes) mutable -> T {
      if constexpr (TermedTokenObjective<Objective, T>) return objective(batch, of, slopes);
      else return objective(batch, of.logps, slopes.logps);
    };
  }
  token_terms terms() const { return wanted; }
  T operator()(sequences_view batch, term_values<T const> const& of, term_slopes<T> const& slopes) {
    return call(batch, of, slopes);
  }
};

// Through both doors: from logits, and from hidden states and the output matrix.
template <class T>
void agree_on_text(std::string const& name, text const& words, any_objective<T> const& objective,
                   std::function<at::Tensor(at::Tensor const& logits)> const& expected) {
  at::ScalarType const type = torch_dtype<T>;
  agree<T>(
      name + ", logits", {normal({words.tokens(), vocabulary}, type, 5)},
      [&](auto const& leaf) { return torch_loss(any_objective<T>(objective), leaf[0], words.batch); },
      [&](auto const& leaf) { return expected(leaf[0]); });
  agree<T>(
      name + ", hidden", {normal({words.tokens(), width}, type, 6), normal({vocabulary, width}, type, 7, 0.4)},
      [&](auto const& leaf) { return torch_loss(any_objective<T>(objective), leaf[0], leaf[1], words.batch); },
      [&](auto const& leaf) { return expected(leaf[0].mm(leaf[1].t())); });
}

struct pair_case {
  std::string name;
  preference_options options;
};

std::vector<pair_case> pair_cases() {
  std::vector<pair_case> out;
  for (named_pair_loss const& known : named_pair_losses())
    std::visit([&](auto const& loss) { out.push_back({std::string(known.name), {.losses = loss}}); }, known.loss);
  out.push_back({"cDPO, ODPO", {.losses = dpo_options{.beta = 0.4, .label_smoothing = 0.2, .target_margin = 0.3}}});
  out.push_back({"aot smoothed", {.losses = aot_options{.beta = 0.5, .label_smoothing = 0.1}}});
  out.push_back({"bco_pair shifted", {.losses = bco_pair_options{.beta = 0.3, .delta = 0.4}}});
  out.push_back({"cpo smoothed", {.losses = cpo_options{.beta = 0.3, .label_smoothing = 0.1, .cpo_alpha = 0.5}}});
  out.push_back({"sft by sequence", {.losses = sft_term_options{.normalization = sft_normalization::sequence}}});
  out.push_back({"MPO", {.losses = {{dpo_options{}, 0.8}, {bco_pair_options{}, 0.2}, {sft_term_options{}, 1.0}}}});
  return out;
}

at::Tensor expected_of(preference_options const& o, pairs const& p) {
  at::Tensor sum;
  for (weighted_pair_loss const& term : o.losses) {
    at::Tensor const one = term.weight * mean_formula(term.loss, p);
    sum = sum.defined() ? sum + one : one;
  }
  return sum;
}

}  // namespace

TEST_CASE_TEMPLATE("torch autograd: every pairwise loss on tokens and on sums is autograd's own", T, float, double) {
  at::ScalarType const type = torch_dtype<T>;
  text const words(type);
  at::Tensor const ref = normal({8}, type, 9, 2.0) - 6.0;
  std::vector<double> ref_sums;
  for (T const x : numbers<T>(ref)) ref_sums.push_back(static_cast<double>(x));
  for (pair_case const& c : pair_cases()) {
    any_objective<T> const objective(pairs_on_tokens<preference_loss>(ref_sums, preference_loss(c.options)));
    agree_on_text<T>(c.name, words, objective, [&](at::Tensor const& logits) {
      return expected_of(c.options, words.pairs_of(logits, ref));
    });
    // The door of numbers: sums of responses in, a slope each out.

    pairs const fixed = words.pairs_of(normal({words.tokens(), vocabulary}, type, 5), ref);
    std::vector<std::size_t> W, L;
    for (double const x : numbers<double>(fixed.W.to(at::kDouble).contiguous())) W.push_back(static_cast<std::size_t>(x));
    for (double const x : numbers<double>(fixed.L.to(at::kDouble).contiguous())) L.push_back(static_cast<std::size_t>(x));
    std::vector<at::Tensor> leaves{fixed.lp_w.clone(), fixed.lp_l.clone()};
    bool const without_rejected = c.name.starts_with("sft");
    auto const wanted = [&](auto const& leaf) {
      pairs p = fixed;
      p.lp_w = leaf[0];
      p.lp_l = without_rejected ? leaves[1] : leaf[1];
      return expected_of(c.options, p);
    };
    auto const got = [&](auto const& leaf) {
      return torch_pair_loss(preference_loss(c.options), {.chosen = leaf[0],
                                                          .rejected = without_rejected ? leaves[1] : leaf[1],
                                                          .ref_chosen = fixed.ref_w.contiguous(),
                                                          .ref_rejected = fixed.ref_l.contiguous(),
                                                          .chosen_tokens = W,
                                                          .rejected_tokens = L});
    };
    std::vector<at::Tensor> const in =
        without_rejected ? std::vector<at::Tensor>{leaves[0]} : leaves;
    agree<T>(c.name + ", sums", in, got, wanted);
  }
}

TEST_CASE_TEMPLATE("torch autograd: f-divergences, a reference-free loss and weights of pairs are autograd's own", T, float,
                   double) {
  at::ScalarType const type = torch_dtype<T>;
  pairs const p{normal({6}, type, 1) - 4.0, normal({6}, type, 2) - 4.0, normal({6}, type, 3) - 4.0,
                normal({6}, type, 4) - 4.0, {}, {}};
  std::vector<double> const weights{0.5, 1.0, 0.0, 2.0, 0.25, 1.5};
  dpo_options const o{.beta = 0.3};
  for (f_divergence_options const& f :
       {f_divergence_options{f_divergence_type::forward_kl}, f_divergence_options{f_divergence_type::js_divergence},
        f_divergence_options{f_divergence_type::alpha_divergence, 0.3}, f_divergence_options{}}) {
    agree<T>(
        "divergence " + std::to_string(static_cast<int>(f.type)), {p.lp_w, p.lp_l},
        [&](auto const& leaf) {
          return torch_pair_loss(o, {leaf[0], leaf[1], p.ref_w, p.ref_l, {}, {}, weights}, {}, {.divergence = f});
        },
        [&](auto const& leaf) {
          at::Tensor const z = o.beta * (bent(f, leaf[0] - p.ref_w) - bent(f, leaf[1] - p.ref_l));
          return (tensor_of(weights, type) * nls(z)).mean();
        });
  }
  agree<T>(
      "reference-free", {p.lp_w, p.lp_l},
      [&](auto const& leaf) { return torch_pair_loss(o, {leaf[0], leaf[1]}, {}, {.reference_free = true}); },
      [&](auto const& leaf) { return nls(o.beta * (leaf[0] - leaf[1])).mean(); });
}

TEST_CASE_TEMPLATE("torch autograd: supervised fine-tuning, its terms and the entropy bonus are autograd's own", T, float,
                   double) {
  text const words(torch_dtype<T>);
  for (sft_normalization const norm : {sft_normalization::token, sft_normalization::sequence}) {
    auto const how = norm == sft_normalization::token ? loss_aggregation::token_mean : loss_aggregation::sequence_mean;
    for (double const e : {0.0, 0.1})
      for (double const z : {0.0, 0.05})
        for (sft_loss_type const kind : {sft_loss_type::nll, sft_loss_type::dft}) {
          if (kind == sft_loss_type::dft && e > 0.0) continue;
          sft_on_tokens const objective{{.label_smoothing = e, .normalization = norm, .loss_type = kind, .z_loss_coef = z}};
          auto const expected = [&](at::Tensor const& logits) {
            at::Tensor const lp = words.logps(logits);
            at::Tensor const held = kind == sft_loss_type::dft ? lp.detach().exp() : at::ones_like(lp);
            at::Tensor const log_z = at::logsumexp(logits.index_select(0, at::tensor(words.rows)), {1});
            return words.aggregated(how, -held * (1 - e) * lp - e * words.all_logps(logits).mean(1) + z * log_z.square(), 0);
          };
          std::string const name = "sft e " + std::to_string(e) + " z " + std::to_string(z) + (kind == sft_loss_type::dft ? " dft" : "");
          agree_on_text<T>(name, words, objective, expected);
          if (e == 0.0 || z == 0.0) continue;
          agree_on_text<T>(name + " + entropy", words, with_entropy_bonus<sft_on_tokens>(objective, 0.2),
                           [&](at::Tensor const& logits) {
                             at::Tensor const all = words.all_logps(logits);
                             return expected(logits) + 0.2 * (all.exp() * all).sum(1).mean();
                           });
        }
  }
}

namespace {

template <class T, class S>
void agree_on_policy_gradient(std::string const& name, S const& surrogate, std::optional<kl_loss_options> kl,
                              loss_aggregation how,
                              std::function<at::Tensor(text const&, at::Tensor lp, at::Tensor old, at::Tensor A,
                                                       at::Tensor& ratio)> const& loss) {
  at::ScalarType const type = torch_dtype<T>;
  text const words(type);
  at::Tensor const old = normal({words.tokens()}, type, 21, 0.7) - 2.6;
  at::Tensor const reference = normal({words.tokens()}, type, 22, 0.7) - 2.6;
  at::Tensor const advantages = normal({words.tokens()}, type, 23) + 0.5;  // lest the mean cancel
  auto const olds = numbers<T>(old), As = numbers<T>(advantages), refs = numbers<T>(reference);
  policy_gradient_on_tokens<T, S> objective{.old_logps = olds, .advantages = As, .aggregation = how, .options = surrogate};
  objective.totals.constant_length = 7.0;
  if (kl) objective.ref_logps = refs, objective.kl_loss = *kl;
  agree_on_text<T>(name, words, objective, [&](at::Tensor const& logits) {
    at::Tensor const lp = words.logps(logits);
    at::Tensor ratio;
    at::Tensor each = loss(words, lp, words.of_tokens(old), words.of_tokens(advantages), ratio);
    if (kl) {
      at::Tensor const d = lp - words.of_tokens(reference);
      at::Tensor estimate = kl->kl_loss_estimator == kl_estimator::k2 ? d.square() / 2 : at::exp(-d) - 1 + d;
      if (kl->bias_correction) estimate = ratio * estimate;
      each = each + kl->kl_loss_coef * estimate;
    }
    return words.aggregated(how, each, 7.0);
  });
}

at::Tensor clipped(at::Tensor const& r, at::Tensor const& A, double low, double high, double dual) {
  at::Tensor value = at::min(r * A, at::clamp(r, 1 - low, 1 + high) * A);
  if (dual > 0) value = at::where(A < 0, at::max(value, dual * A), value);
  return -value;
}

}  // namespace

TEST_CASE_TEMPLATE("torch autograd: PPO, GSPO, CISPO and SAPO are autograd's own", T, float, double) {
  using how = loss_aggregation;
  std::vector<std::optional<kl_loss_options>> const kls{
      std::nullopt, kl_loss_options{.kl_loss_coef = 0.2}, kl_loss_options{0.2, kl_estimator::k3, false},
      kl_loss_options{0.2, kl_estimator::k3, true}};
  for (std::size_t k = 0; k < kls.size(); ++k) {
    auto const& kl = kls[k];
    std::string const tail = ", kl " + std::to_string(k);
    for (ppo_options const& o : {ppo_options{}, ppo_options{.cliprange_high = 0.28}, ppo_options{.dual_clip = 1.5}})
      for (how const a : {how::token_mean, how::sequence_mean, how::sequence_sum, how::constant})
        agree_on_policy_gradient<T>("ppo" + tail, o, kl, a, [&](text const&, auto lp, auto old, auto A, auto& r) {
          r = at::exp(lp - old);
          return clipped(r, A, o.cliprange, o.cliprange_high > 0 ? o.cliprange_high : o.cliprange, o.dual_clip);
        });
    for (bool const by_token : {false, true})
      agree_on_policy_gradient<T>(
          "gspo" + tail, gspo_options{0.3, 0.4, by_token}, kl, how::sequence_mean,
          [&](text const& words, auto lp, auto old, auto A, auto& r) {
            at::Tensor const mean = at::mv(words.membership, lp - old) / words.lengths;
            at::Tensor const of_sequence = at::exp(mean).index_select(0, at::tensor(words.owner));
            r = by_token ? of_sequence.detach() * at::exp(lp - lp.detach()) : of_sequence;
            return clipped(r, A, 0.3, 0.4, 0);
          });
    agree_on_policy_gradient<T>("cispo" + tail, cispo_options{1.5}, kl, how::token_mean,
                                [&](text const&, auto lp, auto old, auto A, auto& r) {
                                  r = at::exp(lp - old);
                                  return -A * r.detach().clamp_max(1.5) * lp;
                                });
    agree_on_policy_gradient<T>("sapo" + tail, sapo_options{}, kl, how::sequence_mean,
                                [&](text const&, auto lp, auto old, auto A, auto& r) {
                                  r = at::exp(lp - old);
                                  at::Tensor const tau = at::where(A > 0, at::full_like(A, 1.0), at::full_like(A, 1.05));
                                  return -A * 4 / tau * s(tau * (r - 1));
                                });
  }
}

TEST_CASE_TEMPLATE("torch autograd: the exact KL to a reference is autograd's own", T, float, double) {
  text const words(torch_dtype<T>);
  at::Tensor const ref = normal({words.tokens(), vocabulary}, torch_dtype<T>, 8);
  for (kl_direction const direction : {kl_direction::reverse, kl_direction::forward})
    agree<T>(
        "kl", {normal({words.tokens(), vocabulary}, torch_dtype<T>, 5)},
        [&](auto const& leaf) { return torch_kl(leaf[0], ref, words.batch, {.coef = 0.3, .direction = direction}); },
        [&](auto const& leaf) {
          at::Tensor const p = words.all_logps(leaf[0]), q = words.all_logps(ref);
          return 0.3 * (direction == kl_direction::reverse ? p.exp() * (p - q) : q.exp() * (q - p)).sum(1).mean();
        });
}

TEST_CASE_TEMPLATE("torch autograd: Bradley-Terry, unpaired, value and process reward losses are autograd's own", T, float,
                   double) {
  at::ScalarType const type = torch_dtype<T>;
  at::Tensor const a = normal({7}, type, 1), b = normal({7}, type, 2);
  std::vector<double> const margin{0.0, 0.5, 1.0, -0.5, 0.25, 2.0, 0.1}, weights{1, 0.5, 2, 0, 1, 1, 0.25};
  for (double const c : {0.0, 0.01})
    agree<T>(
        "bradley_terry", {a, b},
        [&](auto const& leaf) { return torch_bradley_terry_loss(leaf[0], leaf[1], {c}, margin); },
        [&](auto const& leaf) {
          return (nls(leaf[0] - leaf[1] - tensor_of(margin, type)) + c * (leaf[0] + leaf[1]).square()).mean();
        });
  std::vector<std::uint8_t> const desirable{1, 0, 0, 1, 1, 0, 1};
  at::Tensor const is = tensor_of({1, 0, 0, 1, 1, 0, 1}, type), sign = 2 * is - 1;
  auto const unpaired = [&](std::string const& name, auto const& options, double baseline, auto const& each) {
    agree<T>(
        name, {a}, [&](auto const& leaf) { return torch_unpaired_loss(options, {leaf[0], b, desirable, weights}, baseline); },
        [&](auto const& leaf) { return (tensor_of(weights, type) * each(leaf[0] - b)).mean(); });
  };
  unpaired("kto", kto_options{0.3, 1.2, 0.8}, 0.4,
           [&](at::Tensor const& D) { return (1.2 * is + 0.8 * (1 - is)) * (1 - s(sign * 0.3 * (D - 0.4))); });
  unpaired("bco", bco_options{0.3}, 0.2, [&](at::Tensor const& D) { return nls(sign * (0.3 * D - 0.2)); });
  unpaired("apo_zero_unpaired", apo_zero_unpaired_options{0.3, 1.5, 0.5}, 0.0,
           [&](at::Tensor const& D) { return (1.5 * is + 0.5 * (1 - is)) * (1 - s(sign * 0.3 * D)); });

  text const words(type);
  at::Tensor const returns = normal({words.tokens()}, type, 3), old = normal({words.tokens()}, type, 4);
  for (double const c : {0.0, 0.3})
    agree<T>(
        "value", {normal({words.tokens()}, type, 5)},
        [&](auto const& leaf) { return torch_value_loss(leaf[0], returns, old, words.batch, {c}); },
        [&](auto const& leaf) {
          at::Tensor const v = words.of_tokens(leaf[0]), R = words.of_tokens(returns), V = words.of_tokens(old);
          at::Tensor error = (v - R).square();
          if (c > 0) error = at::max(error, (at::max(at::min(v, V + c), V - c) - R).square());
          return error.mean() / 2;
        });
  std::vector<std::uint8_t> labels;
  for (std::int64_t t = 0; t < words.tokens(); ++t) labels.push_back(t % 3 == 0);
  agree<T>(
      "process reward", {normal({words.tokens()}, type, 6)},
      [&](auto const& leaf) {
        return torch_token_value_loss(leaf[0], [&]<class U>(std::span<U const> scores, std::span<U> slopes) {
          return process_reward_loss<U>({scores, labels}, words.batch, slopes);
        });
      },
      [&](auto const& leaf) {
        std::vector<double> signs;
        for (std::uint8_t const x : labels) signs.push_back(x ? 1.0 : -1.0);
        return nls(words.of_tokens(tensor_of(signs, type)) * words.of_tokens(leaf[0])).mean();
      });
}

TEST_CASE("torch autograd: a padded batch is the same loss as its packed one, and padding gets no gradient") {
  at::Tensor const ids = at::tensor({1, 2, 3, 4, 0, 0, 5, 6, 7, 8, 9, 1}).to(at::kLong).view({2, 6});
  at::Tensor const mask = at::tensor({0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1}).view({2, 6});
  sequences const padded = torch_sequences(ids, mask.to(at::kBool));
  sequences packed;
  packed.push_back(std::vector<token_id>{1, 2}, std::vector<token_id>{3, 4});
  packed.push_back(std::vector<token_id>{5}, std::vector<token_id>{6, 7, 8, 9, 1});
  at::Tensor const logits = normal({2, 6, vocabulary}, at::kDouble, 3).requires_grad_(true);
  at::Tensor const rows = logits.detach().flatten(0, 1);
  at::Tensor const few = at::cat({rows.slice(0, 0, 4), rows.slice(0, 6, 12)}).requires_grad_(true);
  at::Tensor const a = torch_loss(sft_on_tokens{}, logits, padded), b = torch_loss(sft_on_tokens{}, few, packed);
  CHECK(a.item<double>() == b.item<double>());
  a.backward();
  b.backward();
  at::Tensor const got = logits.grad().flatten(0, 1);
  CHECK(at::equal(at::cat({got.slice(0, 0, 4), got.slice(0, 6, 12)}), few.grad()));
  CHECK(got.slice(0, 4, 6).abs().max().item<double>() == 0.0);
  CHECK(at::equal(torch_logps(few, packed), torch_logps(rows, padded).index_select(0, at::tensor({0, 1, 2, 3, 6, 7, 8, 9, 10, 11}))));
}

TEST_CASE("torch autograd: in bf16 and f16 a loss is float's of the widened numbers, its gradients rounded once") {
  sequences batch;
  for (token_id const first : {1, 4}) batch.push_back(std::vector<token_id>{first, 2}, std::vector<token_id>{3, first, 7});
  std::int64_t const tokens = static_cast<std::int64_t>(batch.total_tokens());
  std::vector<double> const reference(2, -6.0);
  for (at::ScalarType const type : {at::kBFloat16, at::kHalf}) {
    auto const leaf = [&](std::vector<std::int64_t> shape, std::uint64_t seed) {
      return normal(std::move(shape), type, seed).requires_grad_(true);
    };
    auto const widened = [](at::Tensor const& x) { return x.detach().to(at::kFloat).requires_grad_(true); };
    auto const rounded_once = [&](at::Tensor const& narrow, at::Tensor const& wide) {
      CHECK(static_cast<bool>(narrow.grad().scalar_type() == type));
      CHECK(at::equal(narrow.grad(), wide.grad().to(type)));
      CHECK(narrow.grad().abs().max().item<double>() > 0.0);
    };
    auto const objective = [&] { return dpo_on_tokens(reference, {.beta = 0.3}); };
    at::Tensor const logits = leaf({tokens, vocabulary}, 3), wide_logits = widened(logits);
    at::Tensor const loss = torch_loss(objective(), logits, batch), wide_loss = torch_loss(objective(), wide_logits, batch);
    CHECK(static_cast<bool>(loss.scalar_type() == at::kFloat));
    CHECK(at::equal(loss, wide_loss));
    loss.backward();
    wide_loss.backward();
    rounded_once(logits, wide_logits);

    at::Tensor const hidden = leaf({tokens, width}, 4), wide_hidden = widened(hidden);
    at::Tensor const head = leaf({vocabulary, width}, 5), wide_head = widened(head);
    at::Tensor const through = torch_loss(objective(), hidden, head, batch), wide = torch_loss(objective(), wide_hidden, wide_head, batch);
    CHECK(at::equal(through, wide));
    through.backward();
    wide.backward();
    rounded_once(hidden, wide_hidden);
    rounded_once(head, wide_head);
  }
}

TEST_CASE("torch autograd: graphs behave as LibTorch's own") {
  text const words(at::kDouble);
  at::Tensor const logits = normal({words.tokens(), vocabulary}, at::kDouble, 5).requires_grad_(true);
  auto const loss = [&] { return torch_loss(sft_on_tokens{}, logits, words.batch); };

  at::Tensor const once = loss();
  once.backward({}, true);
  at::Tensor const first = logits.grad().clone();
  once.backward();
  CHECK(at::equal(logits.grad(), 2 * first));  // kept, and added up
  CHECK_THROWS_WITH_AS(once.backward(), doctest::Contains("second time"), c10::Error);

  logits.mutable_grad() = at::Tensor();
  (loss() + 2 * loss()).backward();
  CHECK(apart(logits.grad(), 3 * first) < 1e-15);

  {
    at::NoGradGuard const guard;
    at::Tensor const plain = loss();
    CHECK_FALSE(plain.requires_grad());
    CHECK(plain.item<double>() == once.item<double>());
  }
  CHECK_FALSE(torch_loss(sft_on_tokens{}, logits.detach(), words.batch).requires_grad());

  // One of two inputs without a gradient.
  at::Tensor const hidden = normal({words.tokens(), width}, at::kDouble, 6);
  at::Tensor const head = normal({vocabulary, width}, at::kDouble, 7).requires_grad_(true);
  torch_loss(sft_on_tokens{}, hidden, head, words.batch).backward();
  CHECK(head.grad().abs().max().item<double>() > 0.0);

  // Not a silent 0.
  at::Tensor const gradient = torch::autograd::grad({loss()}, {logits}, {}, true, true)[0];
  CHECK(apart(gradient, first) < 1e-15);
  CHECK_THROWS_WITH(gradient.square().sum().backward(), doctest::Contains("attune's losses have no second derivative"));
}

TEST_CASE("torch autograd: what does not fit is refused by name") {
  text const words(at::kDouble);
  at::Tensor const logits = normal({words.tokens(), vocabulary}, at::kDouble, 5);
  auto const refused = [](auto const& f, char const* message) {
    CHECK_THROWS_WITH_AS(f(), doctest::Contains(message), contract_violation);
  };
  refused([&] { return torch_loss(sft_on_tokens{}, at::Tensor(), words.batch); }, "logits: a tensor, got an undefined one");
  refused([&] { return torch_loss(sft_on_tokens{}, logits.to(at::kLong), words.batch); },
          "logits: a tensor of dtype Float, Double, BFloat16 or Half, got Long");
  refused([&] { return torch_loss(sft_on_tokens{}, logits.slice(0, 1), words.batch); }, "batch.total_tokens(), got");
  refused([&] { return torch_loss(sft_on_tokens{}, logits, logits.to(at::kFloat), words.batch); },
          "head: a tensor of dtype Double, got Float");
  refused([&] { return torch_loss(ppo_on_tokens<float>{}, logits, words.batch); },
          "logits: a tensor of the type that the objective is of, got Double");
  refused([&] { return torch_loss(sft_on_tokens{{.label_smoothing = 2.0}}, logits, words.batch); },
          "sft_options.label_smoothing in [0, 1), got 2");
  at::Tensor const a = at::zeros({3}, at::kDouble);
  refused([&] { return torch_pair_loss(dpo_options{}, {a, at::Tensor(), a, a}); }, "rejected: a tensor, got an undefined one");
  refused([&] { return torch_pair_loss(dpo_options{}, {a, a}); }, "ref_chosen.size() == chosen.size(), got 0");
  refused([&] { return torch_pair_loss(dpo_options{}, {a, a.to(at::kFloat), a, a}); },
          "rejected: a tensor of dtype Double, got Float");
  refused([&] { return torch_pair_loss(preference_loss(), {a, a, a, a}, {}, {.reference_free = true}); },
          "no pair_ratios beside a preference_loss");
}
