// SPDX-License-Identifier: MIT
#include <attune/train/ppo_update.hpp>

#include "support/recording_sgd.hpp"
#include "support/small_world.hpp"
#include "support/tampered_policy.hpp"
#include "support/temporary_folder.hpp"
#include "support/token_value.hpp"

#include <attune/model/frozen.hpp>
#include <attune/train/adamw.hpp>
#include <attune/train/ppo_trainer.hpp>
#include <attune/train/reward_functions.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <complex>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

using namespace attune;
using test::message_of;
using test::recording_sgd;
using test::tampered_policy;
using test::token_list;

namespace {

constexpr std::size_t vocabulary = 5;
constexpr token_id end = 0;
constexpr double missing = std::numeric_limits<double>::quiet_NaN();

double sum_of_ids(std::span<token_id const>, std::span<token_id const> response) {
  double sum = 0.3;
  for (token_id const id : response) sum += 0.7 * id;
  return sum;
}

template <class Model>
std::vector<double> values_of(Model& model) {
  std::vector<double> out;
  for (auto&& p : model.parameters()) out.insert(out.end(), p.value.begin(), p.value.end());
  return out;
}

template <class Model>
double largest_gradient(Model& model) {
  double out = 0.0;
  for (auto&& p : model.parameters())
    for (auto const g : p.gradient) out = std::max(out, std::abs(static_cast<double>(g)));
  return out;
}

double worst(std::vector<double> const& a, std::vector<double> const& b) {
  REQUIRE(a.size() == b.size());
  double out = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) out = std::max(out, std::abs(a[i] - b[i]) / (1.0 + std::abs(b[i])));
  return out;
}

// PPO once more, for a bigram model: one response at a time, plain loops, formulas as the papers have them, any number
// type. Nothing of the library is used but the responses that were drawn and the names of the options.
template <class N>
struct plain_ppo {
  using rows = std::vector<std::vector<double>>;  // (responses)(tokens of the response)

  ppo_trainer_options const& o;
  double kl_coef = 0.0;
  std::vector<token_list> contexts;   // the token before each
  std::vector<token_list> responses;
  rows old_logps, ref_logps, old_values, advantages, returns;

  static double real(std::complex<double> x) { return x.real(); }
  static double real(double x) { return x; }

  template <class M>
  static M log_prob(std::vector<M> const& logits, token_id before, token_id id) {
    using std::exp;
    using std::log;
    M sum(0.0);
    std::size_t const row = static_cast<std::size_t>(before) * vocabulary;
    for (std::size_t v = 0; v < vocabulary; ++v) sum += exp(logits[row + v]);
    return logits[row + static_cast<std::size_t>(id)] - log(sum);
  }

  plain_ppo(ppo_trainer_options const& options, rollout const& of, std::vector<double> const& policy,
            std::vector<double> const& reference, std::vector<double> const& critic)
      : o(options), kl_coef(options.kl.kl_coef) {
    sequences_view const s = of.responses;
    std::vector<double> scores;
    for (std::size_t b = 0; b < s.size(); ++b) {
      token_list before, response;
      for (std::size_t i = 1; i < s.length(b); ++i)
        if (s.sequence_mask(b)[i] != 0) {
          before.push_back(s.sequence(b)[i - 1]);
          response.push_back(s.sequence(b)[i]);
        }
      double score = sum_of_ids({}, response);
      if (response.back() != end) {
        if (o.rollout.without_eos == missing_eos::subtract) score -= o.rollout.missing_eos_penalty;
        if (o.rollout.without_eos == missing_eos::replace) score = -o.rollout.missing_eos_penalty;
      }
      scores.push_back(score);
      contexts.push_back(before);
      responses.push_back(response);
    }
    rows rewards;
    for (std::size_t b = 0; b < responses.size(); ++b) {
      std::vector<double> logps, refs, values, reward;
      for (std::size_t k = 0; k < responses[b].size(); ++k) {
        logps.push_back(log_prob(policy, contexts[b][k], responses[b][k]));
        refs.push_back(log_prob(reference, contexts[b][k], responses[b][k]));
        values.push_back(critic[static_cast<std::size_t>(contexts[b][k])]);
        double const d = logps.back() - refs.back();
        double const price = o.kl.placement == kl_placement::loss        ? 0.0
                             : o.kl.estimator == kl_estimator::k1 ? d
                             : o.kl.estimator == kl_estimator::k2 ? d * d / 2
                                                                  : std::exp(-d) - 1 + d;
        reward.push_back(-kl_coef * price);
      }
      if (o.score == score_position::after_end && responses[b].size() < o.rollout.max_new_tokens) {
        values.push_back(critic[static_cast<std::size_t>(responses[b].back())]);
        reward.push_back(0.0);
      }
      reward.back() += scores[b];
      old_logps.push_back(logps);
      ref_logps.push_back(refs);
      old_values.push_back(values);
      rewards.push_back(reward);
    }
    if (o.advantages == advantage_estimator::gae) in_time(rewards);
    else in_groups(rewards);
  }

  static double mean_of(rows const& x) {
    double sum = 0.0, count = 0.0;
    for (auto const& row : x)
      for (double const v : row) sum += v, count += 1.0;
    return sum / count;
  }
  static double variance_of(rows const& x) {
    double const mean = mean_of(x);
    double sum = 0.0, count = -1.0;
    for (auto const& row : x)
      for (double const v : row) sum += (v - mean) * (v - mean), count += 1.0;
    return sum / count;
  }

  void in_time(rows rewards) {
    if (o.whiten_rewards) {
      double const mean = mean_of(rewards), variance = variance_of(rewards);
      for (auto& row : rewards)
        for (double& r : row) r = (r - mean) / std::sqrt(variance + 1e-8) + mean;
    }
    for (std::size_t b = 0; b < responses.size(); ++b) {
      std::vector<double> a(rewards[b].size()), ret(rewards[b].size());
      for (std::size_t k = 0; k < a.size(); ++k) {
        double weight = 1.0;  // the sum of eq. 16 spelt out, not its recurrence
        for (std::size_t l = k; l < a.size(); ++l, weight *= o.gae.gamma * o.gae.lam)
          a[k] += weight *
                  (rewards[b][l] + (l + 1 < a.size() ? o.gae.gamma * old_values[b][l + 1] : 0.0) - old_values[b][l]);
        ret[k] = a[k] + old_values[b][k];
      }
      a.resize(responses[b].size());
      advantages.push_back(a);
      returns.push_back(ret);
    }
    if (!o.whiten_advantages) return;
    double const mean = mean_of(advantages), variance = variance_of(advantages);
    for (auto& row : advantages)
      for (double& a : row) a = (a - mean) / std::sqrt(variance + 1e-8);
  }

  void in_groups(rows const& rewards) {
    std::size_t const G = o.rollout.num_generations;
    std::vector<double> total, advantage;
    for (auto const& row : rewards) {
      double sum = 0.0;
      for (double const r : row) sum += r;
      total.push_back(sum);
    }
    for (std::size_t b = 0; b < total.size(); ++b) {
      double mean = 0.0, others = 0.0, squares = 0.0;
      for (std::size_t j = b / G * G; j < b / G * G + G; ++j) {
        mean += total[j] / static_cast<double>(G);
        if (j != b) others += total[j] / static_cast<double>(G - 1);
      }
      for (std::size_t j = b / G * G; j < b / G * G + G; ++j) squares += (total[j] - mean) * (total[j] - mean);
      if (o.advantages == advantage_estimator::rloo) advantage.push_back(total[b] - others);
      else if (o.advantages == advantage_estimator::grpo)
        advantage.push_back((total[b] - mean) / (std::sqrt(squares / static_cast<double>(G - 1)) + o.std_epsilon));
      else advantage.push_back(total[b] - mean);
    }
    if (o.advantages == advantage_estimator::reinforce_plus_plus) {
      double const variance = variance_of({advantage});
      for (double& a : advantage) a /= std::sqrt(variance + 1e-8);
    }
    for (std::size_t b = 0; b < total.size(); ++b)
      advantages.push_back(std::vector<double>(responses[b].size(), advantage[b]));
  }

  bool has_part(std::size_t b) const { return !o.mask_truncated_completions || responses[b].back() == end; }

  // Of one token, given the ratio that its method sees.
  N surrogate(N ratio, N logp, double a) const {
    using std::exp;
    if (auto const* cispo = std::get_if<cispo_options>(&o.surrogate))
      return -a * std::min(real(ratio), cispo->epsilon_high) * logp;  // the weight is not differentiated
    if (auto const* sapo = std::get_if<sapo_options>(&o.surrogate)) {
      double const tau = a > 0.0 ? sapo->sapo_temperature_pos : sapo->sapo_temperature_neg;
      return -a * 4.0 / tau / (1.0 + exp(-tau * (ratio - 1.0)));
    }
    auto const* ppo = std::get_if<ppo_options>(&o.surrogate);
    auto const* gspo = std::get_if<gspo_options>(&o.surrogate);
    double const low = 1.0 - (ppo ? ppo->cliprange : gspo->cliprange);
    double const above = ppo ? ppo->cliprange_high : gspo->cliprange_high;
    double const high = above > 0.0 ? 1.0 + above : 2.0 - low;
    N const held = real(ratio) < low ? N(low) : real(ratio) > high ? N(high) : ratio;
    N const plain = -a * ratio, clipped = -a * held;
    N const one = real(plain) >= real(clipped) ? plain : clipped;
    bool const dual = ppo && ppo->dual_clip > 0.0 && a < 0.0 && real(one) > -a * ppo->dual_clip;
    return dual ? N(-a * ppo->dual_clip) : one;
  }

  N policy_loss(std::vector<N> const& policy) const {
    using std::exp;
    N loss(0.0);
    double tokens = 0.0;
    for (std::size_t b = 0; b < responses.size(); ++b)
      if (has_part(b)) tokens += static_cast<double>(responses[b].size());
    double const B = static_cast<double>(responses.size());
    for (std::size_t b = 0; b < responses.size(); ++b) {
      if (!has_part(b)) continue;
      double const length = static_cast<double>(responses[b].size());
      double const weight = o.aggregation == loss_aggregation::token_mean      ? 1.0 / tokens
                            : o.aggregation == loss_aggregation::sequence_mean ? 1.0 / (B * length)
                            : o.aggregation == loss_aggregation::sequence_sum
                                ? 1.0 / B
                                : 1.0 / (B * static_cast<double>(o.rollout.max_new_tokens));
      N mean(0.0);
      for (std::size_t k = 0; k < responses[b].size(); ++k)
        mean += (log_prob(policy, contexts[b][k], responses[b][k]) - old_logps[b][k]) / length;
      for (std::size_t k = 0; k < responses[b].size(); ++k) {
        N const logp = log_prob(policy, contexts[b][k], responses[b][k]);
        bool const of_sequence = std::holds_alternative<gspo_options>(o.surrogate);
        N const ratio = of_sequence ? exp(mean) : exp(logp - old_logps[b][k]);
        N one = surrogate(ratio, logp, advantages[b][k]);
        if (o.kl.placement == kl_placement::loss) {
          N const d = logp - ref_logps[b][k];
          N const kl = o.kl.estimator == kl_estimator::k2 ? d * d / 2.0 : exp(-d) - 1.0 + d;
          one += kl_coef * kl * (o.kl.bias_correction ? ratio : N(1.0));
        }
        N entropy(0.0);
        if (o.entropy_coef > 0.0)
          for (token_id v = 0; v < static_cast<token_id>(vocabulary); ++v) {
            N const l = log_prob(policy, contexts[b][k], v);
            entropy -= exp(l) * l;
          }
        loss += weight * (one - o.entropy_coef * entropy);
      }
    }
    return loss;
  }

  N weighted_value_loss(std::vector<N> const& critic) const {
    N loss(0.0);
    double tokens = 0.0;
    for (std::size_t b = 0; b < responses.size(); ++b)
      for (std::size_t k = 0; has_part(b) && k < returns[b].size(); ++k) {
        N const value = critic[static_cast<std::size_t>(k < contexts[b].size() ? contexts[b][k] : responses[b].back())];
        double const was = old_values[b][k], c = o.value.cliprange_value, target = returns[b][k];
        N const held = c == 0.0                ? value
                       : real(value) < was - c ? N(was - c)
                       : real(value) > was + c ? N(was + c)
                                               : value;
        N const one = (value - target) * (value - target), other = (held - target) * (held - target);
        loss += 0.5 * (real(one) >= real(other) ? one : other);
        tokens += 1.0;
      }
    return o.vf_coef * loss / tokens;
  }
};

// Every derivative of f at x by a complex step.
template <class F>
std::vector<double> gradient_of(std::vector<double> const& x, F&& f) {
  std::vector<std::complex<double>> at(x.begin(), x.end());
  std::vector<double> out;
  for (std::size_t i = 0; i < x.size(); ++i) {
    at[i] = {x[i], 1e-30};
    out.push_back(f(at).imag() / 1e-30);
    at[i] = x[i];
  }
  return out;
}

struct comparison {
  double clipped = 0.0, value_clipped = 0.0;
  std::size_t compared = 0;
};

// One update of three epochs by trainer and by hand: the gradients of all three steps and where they lead.
comparison compare(ppo_trainer_options o, std::uint64_t seed) {
  auto policy = test::random_tabular<double>({.vocabulary = vocabulary}, seed);
  auto const reference = test::random_tabular<double>({.vocabulary = vocabulary}, seed + 100);
  test::token_value<double> critic(vocabulary);
  random_stream random(seed, 5);
  auto const weights = critic.parameters();
  for (double& v : weights[0].value) v = random.normal();
  auto const prompts = test::random_prompts(9, vocabulary, seed);
  per_response reward(sum_of_ids);
  o.loop = {.learning_rate = 0.8, .schedule = learning_rate_schedule::constant, .max_steps = 1, .batch_size = 6,
            .micro_batch_tokens = 17, .seed = seed};
  o.rollout.max_new_tokens = 4;
  o.rollout.stop_tokens = {end};
  o.num_ppo_epochs = 3;
  o.require_reference_equals_policy = false;
  auto theta = values_of(policy), phi = values_of(critic);
  auto copy = reference;
  auto const ref = values_of(copy);
  comparison result;
  auto const sink = [&](report const& r) {
    for (metric const& m : r.metrics) {
      if (m.name == "policy/clipfrac_avg") result.clipped = m.value;
      if (m.name == "val/clipfrac_avg") result.value_clipped = m.value;
    }
  };
  recording_sgd optimizer, critic_optimizer;
  auto const check = [&](rollout const& of, bool with_critic) {
    plain_ppo<std::complex<double>> const plain(o, of, theta, ref, phi);
    if (o.mask_truncated_completions && std::count(of.finished.begin(), of.finished.end(), 1) == 0) {
      CHECK(optimizer.gradients.empty());  // nobody has a part in anything
      return;
    }
    ++result.compared;
    REQUIRE(optimizer.gradients.size() == 3);
    for (std::size_t step = 0; step < 3; ++step) {
      auto const g = gradient_of(theta, [&](auto const& x) { return plain.policy_loss(x); });
      CHECK(worst(optimizer.gradients[step], g) <= 1e-12);
      for (std::size_t i = 0; i < g.size(); ++i) theta[i] -= 0.8 * g[i];
      if (!with_critic) continue;
      auto const h = gradient_of(phi, [&](auto const& x) { return plain.weighted_value_loss(x); });
      CHECK(worst(critic_optimizer.gradients[step], h) <= 1e-12);
      for (std::size_t i = 0; i < h.size(); ++i) phi[i] -= 3.0 * h[i];
    }
    CHECK(worst(values_of(policy), theta) <= 1e-12);
    if (with_critic) CHECK(worst(values_of(critic), phi) <= 1e-12);
  };
  if (o.advantages == advantage_estimator::gae) {
    ppo_trainer trainer{policy, reference, reward, separate_critic{critic, critic_optimizer, 3.0}, optimizer, o};
    trainer.fit(prompts, sink);
    check(trainer.last_rollout(), true);
  } else {
    o.rollout.num_generations = 3;
    ppo_trainer trainer{policy, reference, reward, no_critic{}, optimizer, o};
    trainer.fit(prompts, sink);
    check(trainer.last_rollout(), false);
  }
  return result;
}

// What every accumulate_gradient was asked: the first tokens of its sequences, which tell the prompts apart.
struct asked_for {
  std::vector<std::vector<token_id>> calls;
  void watch(tampered_policy& policy) {
    policy.in_accumulate = [this](sequences_view s, std::span<double>) {
      calls.emplace_back();
      for (std::size_t b = 0; b < s.size(); ++b) calls.back().push_back(s.sequence(b)[0]);
    };
  }
};

test::prompt_list one_prompt_per_token(std::size_t count) {
  test::prompt_list out;
  for (std::size_t i = 0; i < count; ++i) out.rows.push_back({static_cast<token_id>(i)});
  return out;
}

struct refusing_sgd : recording_sgd {
  template <class Model>
  optimizer_report step(Model& model, optimizer_step) {
    zero_gradient(model);
    return {missing, false};
  }
};

struct cut_run {
  std::vector<double> parameters;
  std::map<std::string, double> metrics;
};

cut_run run_cut(ppo_trainer_options o, std::size_t micro_batch_tokens) {
  o.loop = {.learning_rate = 0.05,
            .max_steps = 3,
            .batch_size = 6,
            .micro_batch_tokens = micro_batch_tokens,
            .seed = 4,
            .logging_steps = 3};
  o.rollout.max_new_tokens = 5;
  o.rollout.stop_tokens = {end};
  o.num_ppo_epochs = 2;
  o.num_mini_batches = 2;
  auto policy = test::random_tabular<double>({.vocabulary = vocabulary}, 1);
  frozen const reference{policy};
  test::token_value<double> critic(vocabulary);
  adamw<double> optimizer, critic_optimizer;
  per_response reward(sum_of_ids);
  auto const prompts = test::random_prompts(8, vocabulary, 2);
  cut_run out;
  auto const sink = [&](report const& r) {
    if (r.kind == report_kind::log)
      for (metric const& m : r.metrics)
        if (m.name != "rollout/tokens_per_second") out.metrics[std::string(m.name)] = m.value;
  };
  if (o.advantages == advantage_estimator::gae) {
    ppo_trainer(policy, reference, reward, separate_critic{critic, critic_optimizer}, optimizer, o).fit(prompts, sink);
  } else {
    o.rollout.num_generations = 2;
    ppo_trainer(policy, reference, reward, no_critic{}, optimizer, o).fit(prompts, sink);
  }
  out.parameters = values_of(policy);
  for (double const v : values_of(critic)) out.parameters.push_back(v);
  return out;
}

}  // namespace

TEST_CASE(
    "ppo update: gradients and parameters are those of a plain second writing, every estimator, aggregation and KL") {
  double clipped = 0.0, value_clipped = 0.0;
  std::uint64_t seed = 1;
  for (auto const estimator : {advantage_estimator::gae, advantage_estimator::rloo, advantage_estimator::grpo,
                               advantage_estimator::dr_grpo, advantage_estimator::reinforce_plus_plus})
    for (auto const position : {score_position::end_token, score_position::after_end})
      for (auto const aggregation : {loss_aggregation::token_mean, loss_aggregation::sequence_mean,
                                     loss_aggregation::sequence_sum, loss_aggregation::constant})
        for (auto const& kl :
             {kl_options{.kl_coef = 0.3}, kl_options{.kl_coef = 0.3, .estimator = kl_estimator::k3},
              kl_options{.kl_coef = 0.3, .placement = kl_placement::loss, .estimator = kl_estimator::k2},
              kl_options{.kl_coef = 0.3, .placement = kl_placement::loss, .estimator = kl_estimator::k3}}) {
          bool const gae = estimator == advantage_estimator::gae;
          if (!gae && position == score_position::after_end) continue;
          CAPTURE(seed);
          random_stream random(seed, 9);
          auto const one_in = [&](std::uint64_t n) { return random.below(n) == 0; };
          ppo_trainer_options const options{
              .rollout = {.without_eos = std::array{missing_eos::keep, missing_eos::subtract,
                                                    missing_eos::replace}[random.below(3)],
                          .missing_eos_penalty = 1.5},
              .kl = kl,
              .surrogate =
                  ppo_options{
                      .cliprange = 0.1, .cliprange_high = one_in(2) ? 0.15 : 0.0, .dual_clip = one_in(3) ? 1.2 : 0.0},
              .value = {.cliprange_value = one_in(3) ? 0.0 : 0.2},
              .vf_coef = 0.4,
              .entropy_coef = one_in(4) ? 0.2 : 0.0,
              .aggregation = aggregation,
              .advantages = estimator,
              .gae = {.gamma = 0.97, .lam = 0.9},
              .whiten_advantages = !one_in(3),
              .whiten_rewards = gae && one_in(3),
              .score = position};
          auto const seen = compare(options, seed);
          clipped = std::max(clipped, seen.clipped);
          value_clipped = std::max(value_clipped, seen.value_clipped);
          ++seed;
        }
  CHECK(seed == 97);
  CHECK(clipped > 0.1);  // the bounds were met, or nothing was tested of them
  CHECK(value_clipped > 0.02);
}

TEST_CASE("ppo update: so are they for every surrogate, with truncated responses masked and the KL corrected") {
  double clipped = 0.0;
  std::size_t compared = 0;
  std::uint64_t seed = 200;
  for (policy_gradient_surrogate const& surrogate :
       {policy_gradient_surrogate(ppo_options{.cliprange = 0.1}),
        policy_gradient_surrogate(gspo_options{.cliprange = 0.05, .cliprange_high = 0.08}),
        policy_gradient_surrogate(cispo_options{.epsilon_high = 1.1}), policy_gradient_surrogate(sapo_options{})})
    for (auto const estimator : {advantage_estimator::gae, advantage_estimator::grpo})
      for (auto const aggregation : {loss_aggregation::token_mean, loss_aggregation::sequence_mean,
                                     loss_aggregation::sequence_sum, loss_aggregation::constant})
        for (auto const& kl :
             {kl_options{.kl_coef = 0.3},
              kl_options{.kl_coef = 0.3, .placement = kl_placement::loss, .estimator = kl_estimator::k2},
              kl_options{.kl_coef = 0.3, .placement = kl_placement::loss, .estimator = kl_estimator::k3,
                         .bias_correction = true}}) {
          CAPTURE(seed);
          auto const seen = compare({.kl = kl, .surrogate = surrogate, .vf_coef = 0.4, .aggregation = aggregation,
                                     .advantages = estimator, .mask_truncated_completions = seed % 2 == 0},
                                    seed);
          clipped = std::max(clipped, seen.clipped);
          compared += seen.compared;
          ++seed;
        }
  CHECK(seed == 296);
  CHECK(compared >= 90);
  CHECK(clipped > 0.1);
}

TEST_CASE(
    "ppo update: a mini-batch of truncated responses alone makes no step, and an update of them leaves no trace") {
  auto policy = test::random_tabular<double>({.vocabulary = 6}, 1);
  auto const before = values_of(policy);
  frozen const reference{policy};
  recording_sgd optimizer;
  per_response reward([](auto, std::span<token_id const> response) { return response.back(); });
  ppo_trainer_options options{.loop = {.max_steps = 2, .batch_size = 2},
                              .rollout = {.num_generations = 2, .max_new_tokens = 3, .stop_tokens = {77}},
                              .num_ppo_epochs = 1,
                              .num_mini_batches = 2,
                              .advantages = advantage_estimator::rloo,
                              .mask_truncated_completions = true};  // none can end
  double loss = missing;
  std::size_t gradients = 0;
  ppo_trainer(policy, reference, reward, no_critic{}, optimizer, options)
      .fit(one_prompt_per_token(4), [&](report const& r) {
        for (metric const& m : r.metrics) {
          if (m.name == "loss/policy_avg") loss = m.value;
          if (m.name == "grad_norm") ++gradients;
        }
      });
  CHECK(std::isnan(loss));  // never measured
  CHECK(gradients == 0);
  CHECK(optimizer.gradients.empty());
  CHECK(values_of(policy) == before);
  options.mask_truncated_completions = false;
  ppo_trainer(policy, reference, reward, no_critic{}, optimizer, options).fit(one_prompt_per_token(4));
  CHECK(optimizer.gradients.size() == 4);
}

TEST_CASE("ppo update: the cut into micro-batches changes parameters and metrics by rounding alone") {
  for (auto const& options :
       {ppo_trainer_options{}, ppo_trainer_options{.entropy_coef = 0.1, .score = score_position::after_end},
        ppo_trainer_options{.aggregation = loss_aggregation::sequence_mean, .advantages = advantage_estimator::rloo},
        ppo_trainer_options{.kl = {.placement = kl_placement::loss, .estimator = kl_estimator::k2},
        .aggregation = loss_aggregation::constant,
        .advantages = advantage_estimator::grpo}}) {
    cut_run const whole = run_cut(options, 0);
    CHECK(whole.metrics.at("val/ratio_var") > 0.0);
    for (std::size_t const budget : {1u, 17u, 40u}) {
      cut_run const cut = run_cut(options, budget);
      CHECK(worst(cut.parameters, whole.parameters) <= 1e-12);
      REQUIRE(cut.metrics.size() == whole.metrics.size());
      for (auto const& [name, value] : whole.metrics)
        CHECK_MESSAGE(std::abs(cut.metrics.at(name) - value) <= 1e-11, name);
    }
  }
}

TEST_CASE(
    "ppo update: every response is in one mini-batch per epoch, and the cut is new every epoch and every update") {
  tampered_policy policy(test::random_tabular<double>({.vocabulary = 7}, 1));
  frozen const reference{policy};
  asked_for seen;
  seen.watch(policy);
  recording_sgd optimizer;
  per_response reward(sum_of_ids);
  ppo_trainer trainer{policy, reference, reward, no_critic{}, optimizer,
                      {.loop = {.learning_rate = 1e-3, .max_steps = 2, .batch_size = 7, .micro_batch_tokens = 0},
                       .rollout = {.num_generations = 2, .max_new_tokens = 2},
                       .num_ppo_epochs = 3,
                       .num_mini_batches = 4,
                       .advantages = advantage_estimator::rloo}};
  trainer.fit(one_prompt_per_token(7));
  REQUIRE(seen.calls.size() == 2 * 3 * 4);
  CHECK(optimizer.gradients.size() == 24);
  std::set<std::vector<token_id>> orders;
  for (std::size_t epoch = 0; epoch < 6; ++epoch) {
    std::vector<token_id> all;
    for (std::size_t i = 0; i < 4; ++i) {
      auto const& batch = seen.calls[4 * epoch + i];
      CHECK((batch.size() == 3 || batch.size() == 4));
      all.insert(all.end(), batch.begin(), batch.end());
    }
    orders.insert(all);
    std::sort(all.begin(), all.end());
    CHECK(all == std::vector<token_id>{0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6});
  }
  CHECK(orders.size() == 6);
}

TEST_CASE("ppo update: the rate is that of the schedule over updates, the critic's its own on the same schedule") {
  auto policy = test::random_tabular<double>({.vocabulary = vocabulary}, 1);
  frozen const reference{policy};
  test::token_value<double> critic(vocabulary);
  recording_sgd optimizer, critic_optimizer;
  per_response reward(sum_of_ids);
  ppo_trainer_options const options{.loop = {.learning_rate = 0.1, .warmup_steps = 1, .max_steps = 4, .batch_size = 4},
                                    .rollout = {.max_new_tokens = 3}, .num_ppo_epochs = 2};
  auto const prompts = test::random_prompts(5, vocabulary, 1);
  ppo_trainer(policy, reference, reward, separate_critic{critic, critic_optimizer, 0.4}, optimizer, options)
      .fit(prompts);
  auto const close = [](std::vector<double> const& a, std::vector<double> const& b) { return worst(a, b) <= 1e-15; };
  // Warm-up to 1/2, then from 1 down over the three updates that remain; one rate for both epochs of an update.
  CHECK(close(optimizer.learning_rates, {0.05, 0.05, 0.1, 0.1, 0.2 / 3, 0.2 / 3, 0.1 / 3, 0.1 / 3}));
  CHECK(close(critic_optimizer.learning_rates, {0.2, 0.2, 0.4, 0.4, 0.8 / 3, 0.8 / 3, 0.4 / 3, 0.4 / 3}));
  frozen const again{policy};
  recording_sgd other, critic_other;
  ppo_trainer(policy, again, reward, separate_critic{critic, critic_other}, other, options).fit(prompts);
  CHECK(critic_other.learning_rates == other.learning_rates);
}

TEST_CASE("ppo update: a mini-batch beyond target_kl is not applied and ends the update") {
  per_response reward(sum_of_ids);
  auto const prompts = test::random_prompts(5, vocabulary, 1);
  std::map<std::string, double> metrics;
  auto const run = [&](std::size_t epochs, double target_kl) {
    auto policy = test::random_tabular<double>({.vocabulary = vocabulary}, 1);
    frozen const reference{policy};
    test::token_value<double> critic(vocabulary);
    adamw<double> optimizer, critic_optimizer;
    ppo_trainer trainer{policy,
                        reference,
                        reward,
                        separate_critic{critic, critic_optimizer},
                        optimizer,
                        {.loop = {.learning_rate = 0.05,
                                  .schedule = learning_rate_schedule::constant,
                                  .max_steps = 2,
                                  .batch_size = 4,
                                  .logging_steps = 2},
                         .rollout = {.max_new_tokens = 3},
                         .num_ppo_epochs = epochs,
                         .target_kl = target_kl}};
    metrics.clear();
    trainer.fit(prompts, [&](report const& r) {
      for (metric const& m : r.metrics) metrics[std::string(m.name)] = m.value;
    });
    CHECK(largest_gradient(policy) == 0.0);
    CHECK(largest_gradient(critic) == 0.0);
    CHECK(critic_optimizer.steps() == optimizer.steps());
    auto all = values_of(policy);
    for (double const v : values_of(critic)) all.push_back(v);
    return std::pair{all, optimizer.steps()};
  };
  auto const once = run(1, 0.0);
  CHECK(metrics.count("early_stops") == 0);
  auto const stopped = run(4, 1e-12);  // the first has an approxkl of 0, the second of more
  CHECK(metrics.at("early_stops") == 1.0);
  CHECK(metrics.at("policy/approxkl_avg") > 0.0);  // it counts the mini-batch that was one too many
  CHECK(stopped.second == 2);
  CHECK(stopped.first == once.first);
  auto const loose = run(4, 100.0);
  CHECK(metrics.at("early_stops") == 0.0);
  CHECK(loose.second == 8);
  CHECK(loose.first == run(4, 0.0).first);
}

TEST_CASE("ppo update: NaN on masked-out tokens, wherever a policy leaves it, changes no bit of the result") {
  per_response reward(sum_of_ids);
  auto const prompts = test::random_prompts(5, vocabulary, 1);
  auto const run = [&](bool spoilt) {
    tampered_policy policy(test::random_tabular<double>({.vocabulary = vocabulary}, 1));
    if (spoilt) policy.in_log_probs = policy.in_accumulate = test::nan_on_prompts;
    auto const reference = policy;
    test::token_value<double> critic(vocabulary);
    adamw<double> optimizer, critic_optimizer;
    ppo_trainer trainer{
        policy,
        reference,
        reward,
        separate_critic{critic, critic_optimizer},
        optimizer,
        {.loop = {.learning_rate = 0.05, .max_steps = 3, .batch_size = 4}, .rollout = {.max_new_tokens = 3}}};
    auto const summary = trainer.fit(prompts);
    auto all = values_of(policy);
    for (double const v : values_of(critic)) all.push_back(v);
    all.push_back(summary.last_loss);
    return all;
  };
  CHECK(run(true) == run(false));
}

TEST_CASE("ppo update: a policy whose two passes disagree is refused before the first step, by token and prompt") {
  tampered_policy policy(tabular_policy<double>({.vocabulary = vocabulary}));
  frozen const reference{policy};
  policy.in_accumulate = [](sequences_view s, std::span<double> logps) {
    for (std::size_t b = 0; b < s.size(); ++b)
      if (s.sequence(b)[0] == 2) logps[s.offsets[b] + 2] += 1e-6;
  };
  auto const before = values_of(policy);
  adamw<double> optimizer;
  per_response reward(sum_of_ids);
  ppo_trainer trainer{policy, reference, reward, no_critic{}, optimizer,
                      {.loop = {.max_steps = 1, .batch_size = 3, .micro_batch_tokens = 4},
                       .rollout = {.num_generations = 2, .max_new_tokens = 2},
                       .advantages = advantage_estimator::rloo}};
  auto const why = message_of<contract_violation>([&] { trainer.fit(one_prompt_per_token(3)); });
  CHECK(why.find("ppo: before the first step the ratio is not 1: accumulate_gradient gives token 2 of response ") == 0);
  CHECK(why.find(" (prompt 2) log-probability -1.609437, log_probs gave -1.609438") != std::string::npos);
  CHECK(values_of(policy) == before);
  CHECK(largest_gradient(policy) == 0.0);
}

TEST_CASE("ppo update: a policy or critic that asks twice is refused") {
  struct asks_twice : tampered_policy {
    using tampered_policy::tampered_policy;
    void accumulate_gradient(sequences_view s, slopes_of<double> ask) {
      tampered_policy::accumulate_gradient(s, ask);
      tampered_policy::accumulate_gradient(s, ask);
    }
  };
  struct critic_asks_twice : test::token_value<double> {
    using token_value::token_value;
    void accumulate_value_gradient(sequences_view s, value_slopes_of<double> ask) {
      token_value::accumulate_value_gradient(s, ask);
      token_value::accumulate_value_gradient(s, ask);
    }
  };
  per_response reward(sum_of_ids);
  auto const run = [&](auto policy, auto critic) {
    frozen const reference{policy};
    adamw<double> optimizer, critic_optimizer;
    auto const why = message_of<contract_violation>([&] {
      ppo_trainer(policy, reference, reward, separate_critic{critic, critic_optimizer}, optimizer,
                  {.loop = {.max_steps = 1}, .rollout = {.max_new_tokens = 2}})
          .fit(one_prompt_per_token(3));
    });
    CHECK(largest_gradient(policy) == 0.0);
    CHECK(largest_gradient(critic) == 0.0);
    return why;
  };
  CHECK(run(asks_twice(tabular_policy<double>({.vocabulary = vocabulary})), test::token_value<double>(vocabulary)) ==
        "expected the policy to call ask exactly once per accumulate_gradient, got 2");
  CHECK(run(tampered_policy(tabular_policy<double>({.vocabulary = vocabulary})), critic_asks_twice(vocabulary)) ==
        "expected the critic to call ask exactly once per accumulate_value_gradient, got 2");
}

TEST_CASE(
    "ppo update: a number that stops being finite ends the update; steps before it stay made, gradients are zero") {
  per_response reward(sum_of_ids);
  tampered_policy policy(test::random_tabular<double>({.vocabulary = vocabulary}, 1));
  auto const initial = policy;
  frozen const reference{policy};
  std::size_t calls = 0;
  policy.in_accumulate = [&](sequences_view, std::span<double> logps) {
    if (++calls == 3) logps.back() = missing;
  };
  ppo_trainer_options options{.loop = {.learning_rate = 0.05,
                                       .schedule = learning_rate_schedule::constant,
                                       .max_steps = 2,
                                       .batch_size = 3,
                                       .logging_steps = 2},
                              .rollout = {.max_new_tokens = 2}};
  std::map<std::string, double> metrics;
  auto const run = [&](on_nonfinite what) {
    calls = 0;
    policy.base = initial.base;
    test::token_value<double> critic(vocabulary);
    adamw<double> optimizer, critic_optimizer;
    options.loop.nonfinite = what;
    ppo_trainer trainer{policy, reference, reward, separate_critic{critic, critic_optimizer}, optimizer, options};
    std::string why;
    training_summary summary;
    try {
      summary = trainer.fit(one_prompt_per_token(3), [&](report const& r) {
        for (metric const& m : r.metrics) metrics[std::string(m.name)] = m.value;
      });
    } catch (nonfinite_error const& e) {
      why = e.what();
    }
    CHECK(largest_gradient(policy) == 0.0);
    CHECK(largest_gradient(critic) == 0.0);
    CHECK(optimizer.steps() == (what == on_nonfinite::stop ? 2 : 6));
    CHECK(critic_optimizer.steps() == optimizer.steps());
    return std::pair{why, summary};
  };
  CHECK(run(on_nonfinite::stop).first ==
        "update 0: a loss or gradient is not finite; the optimiser steps before it stay made");
  auto const skipped = run(on_nonfinite::skip).second;
  CHECK(skipped.skipped_steps == 1);
  CHECK(skipped.steps == 2);
  CHECK(std::isfinite(skipped.first_loss));
  CHECK(skipped.first_loss == skipped.last_loss);  // of the only update that was not skipped
  CHECK(skipped.first_loss != 0.0);
  CHECK(metrics.at("skipped_steps") == 1.0);
  CHECK(metrics.at("episodes") == 6.0);
  for (auto const& [name, value] : metrics) CHECK_MESSAGE(std::isfinite(value), name);
}

TEST_CASE("ppo update: where the policy's gradient is not finite, the critic is not stepped either") {
  per_response reward(sum_of_ids);
  auto policy = test::random_tabular<double>({.vocabulary = vocabulary}, 1);
  frozen const reference{policy};
  test::token_value<double> critic(vocabulary);
  refusing_sgd optimizer;
  recording_sgd critic_optimizer;
  ppo_trainer trainer{policy, reference, reward, separate_critic{critic, critic_optimizer}, optimizer,
                      {.loop = {.max_steps = 1}, .rollout = {.max_new_tokens = 2}}};
  CHECK_THROWS_AS(trainer.fit(one_prompt_per_token(3)), nonfinite_error);
  CHECK(critic_optimizer.gradients.empty());
  CHECK(largest_gradient(critic) == 0.0);
}

TEST_CASE("ppo update: an entropy bonus is refused of a policy that knows no entropy") {
  tampered_policy policy(tabular_policy<double>({.vocabulary = vocabulary}));
  frozen const reference{policy};
  adamw<double> optimizer;
  per_response reward(sum_of_ids);
  CHECK(message_of<contract_violation>([&] {
          ppo_trainer trainer(
              policy, reference, reward, no_critic{}, optimizer,
              {.rollout = {.num_generations = 2}, .entropy_coef = 0.1, .advantages = advantage_estimator::rloo});
        }) == "expected ppo_trainer_options.entropy_coef == 0: the policy is no TermedPolicy, got 0.1");
}

TEST_CASE("ppo update: an entropy bonus keeps a policy undecided that has nothing else to gain") {
  auto const entropy_after = [](double coef) {
    auto policy = test::random_tabular<double>({.vocabulary = vocabulary}, 1);
    frozen const reference{policy};
    adamw<double> optimizer;
    per_response reward([](auto, auto) { return 1.0; });
    double entropy = 0.0;
    ppo_trainer trainer{policy, reference, reward, no_critic{}, optimizer,
                        {.loop = {.learning_rate = 0.05, .max_steps = 100, .logging_steps = 100},
                         .rollout = {.num_generations = 2, .max_new_tokens = 3},
                         .kl = {.kl_coef = 0.0},
                         .entropy_coef = coef,
                         .advantages = advantage_estimator::rloo}};
    trainer.fit(one_prompt_per_token(5), [&](report const&) {});
    for (token_id v = 0; v < static_cast<token_id>(vocabulary); ++v) {
      sequences s;
      for (token_id a = 0; a < static_cast<token_id>(vocabulary); ++a) s.push_back(token_list{v}, token_list{a});
      std::vector<double> logps(s.total_tokens());
      policy.log_probs(s, logps);
      for (std::size_t a = 0; a < vocabulary; ++a) entropy -= std::exp(logps[2 * a + 1]) * logps[2 * a + 1] / 5.0;
    }
    return entropy;
  };
  CHECK(entropy_after(0.5) > entropy_after(0.0) + 0.2);
  CHECK(entropy_after(0.5) > 0.99 * std::log(5.0));
}

TEST_CASE("ppo update: the order of the responses in a rollout changes the result by rounding alone") {
  ppo_trainer_options const o{.loop = {.micro_batch_tokens = 17},
                              .rollout = {.num_generations = 2, .max_new_tokens = 4, .stop_tokens = {end}},
                              .num_ppo_epochs = 2};
  auto const initial = test::random_tabular<double>({.vocabulary = vocabulary}, 1);
  auto const reference = test::random_tabular<double>({.vocabulary = vocabulary}, 2);
  auto const run = [&](bool turned) {
    auto policy = initial;
    test::token_value<double> critic(vocabulary);
    recording_sgd optimizer, critic_optimizer;
    per_response reward(sum_of_ids);
    rollout_collector collect(policy, reference, reward, o.rollout, 40, 1);
    rollout drawn, of;
    collect(test::random_prompts(6, vocabulary, 3), std::vector<std::size_t>{0, 1, 2, 3, 4, 5}, 0, drawn);
    sequences_view const s = drawn.responses;
    for (std::size_t i = 0; i < s.size(); ++i) {
      std::size_t const b = turned ? (5 * i + 7) % s.size() : i;
      of.responses.push_back_masked(s.sequence(b), s.sequence_mask(b));
      of.prompts.push_back(drawn.prompts[b]);
      of.finished.push_back(drawn.finished[b]);
      of.scores.push_back(drawn.scores[b]);
      for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t) {
        of.logps.push_back(drawn.logps[t]);
        of.ref_logps.push_back(drawn.ref_logps[t]);
      }
    }
    ppo_advantages advantages(o);
    ppo_targets targets;
    targets.values.assign(of.responses.total_tokens(), 0.0);
    advantages(of, 0.2, targets);
    ppo_update update(policy, separate_critic{critic, critic_optimizer}, optimizer, o);
    ppo_update_outcome const outcome = update(of, targets, 0, 0.0, 0.5, 0.5);
    CHECK(outcome.optimizer_steps == 2);
    CHECK(outcome.finite);
    CHECK(!outcome.stopped_early);
    CHECK(outcome.policy.ratio.weight == 2.0 * static_cast<double>(drawn.new_tokens));
    auto all = values_of(policy);
    for (double const v : values_of(critic)) all.push_back(v);
    return all;
  };
  auto const straight = run(false), turned = run(true);
  CHECK(straight != turned);
  CHECK(worst(turned, straight) <= 1e-12);
}
