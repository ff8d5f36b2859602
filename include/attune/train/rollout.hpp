// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <attune/concepts/dataset.hpp>
#include <attune/concepts/generative_policy.hpp>
#include <attune/concepts/reward_model.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/statistics.hpp>
#include <attune/objective/overlong_penalty.hpp>
#include <attune/train/loop_options.hpp>
#include <attune/train/rollout_options.hpp>
#include <attune/train/response_batch.hpp>

namespace attune {

/// Responses to some prompts, and what policy, reference and reward model say of them. Numbers per token are aligned
/// with the tokens and 0 on prompts; double, whatever the models' scalars. A rollout filled again keeps its memory.
struct rollout {
  sequences responses;                  ///< prompt + response, the response masked in
  std::vector<std::size_t> prompts;     ///< (responses) place of the prompt in the dataset
  std::vector<std::uint8_t> finished;   ///< (responses) 1: it ended with a stop token
  std::vector<double> logps;            ///< (tokens) under the policy that drew them
  std::vector<double> ref_logps;        ///< (tokens) under the reference
  std::vector<double> scores;           ///< (responses) of the reward model, missing_eos and overlong_buffer applied
  metric_sum sampler_log_ratio;         ///< mean over tokens of log sampler - log policy; 0 unless a filter is set
  std::size_t new_tokens = 0;           ///< drawn
  double generation_seconds = 0.0;      ///< wall-clock of sampling alone
  metric_sum drawn_scores;              ///< mean over all responses drawn: dynamic_sampling drops some of them
  std::size_t dropped_groups = 0;       ///< by dynamic_sampling
};

/// Throws contract_violation unless policy and reference agree on every token but for `rounding`, relative to 1 and the
/// log-probability: what an update's rollout has to show where the reference is the model that training starts from.
inline void expects_reference_equals_policy(rollout const& of, double rounding) {
  sequences_view const s = of.responses;
  for (std::size_t b = 0; b < s.size(); ++b)
    for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t)
      if (std::abs(of.logps[t] - of.ref_logps[t]) > rounding * (1.0 + std::abs(of.ref_logps[t])))
        throw contract_violation(
            "ppo: the policy differs from the reference before the first update, so objective/kl does not start at 0: "
            "response " + std::to_string(b) + " (prompt " + std::to_string(of.prompts[b]) + ") has log-ratio " +
            std::to_string(of.logps[t] - of.ref_logps[t]) + " at token " + std::to_string(t - s.offsets[b]) +
            ". Is the reference the model that training starts from? If it is another one on purpose, set "
            "ppo_trainer_options.require_reference_equals_policy = false");
}

/// Draws the responses of an update and scores them. What a response is depends on seed, its number in the run, prompt,
/// policy and options, not on its neighbours. Policy, reference and reward model are borrowed.
template <GenerativePolicy P, ReferencePolicy R, RewardModel M>
class rollout_collector {
 public:
  rollout_collector(P& policy, R const& reference, M& reward, rollout_options options, std::size_t micro_batch_tokens,
                    std::uint64_t seed)
      : policy_(policy),
        reference_(reference),
        reward_(reward),
        options_(std::move(options)),
        budget_(micro_batch_tokens) {
    sampling_ = {.temperature = 1.0,
                 .top_k = options_.top_k,
                 .top_p = options_.top_p,
                 .max_new_tokens = options_.max_new_tokens,
                 .stop_tokens = options_.stop_tokens,
                 .seed = seed};
  }

  /// num_generations responses to each of the prompts `examples`, one prompt after the other; `first_response` is the
  /// number in the run of the first of them. Throws contract_violation for a prompt that the policy refuses, a response
  /// without a token, a sampler whose log-probabilities are not the policy's, and temperatures that differ;
  /// nonfinite_error for a number that is not finite; each names the response and its prompt's place in the dataset.
  /// What the reward model throws passes through.
  template <PromptDataset D>
  void operator()(D const& prompts, std::span<std::size_t const> examples, std::uint64_t first_response, rollout& out) {
    if constexpr (requires { policy_.temperature(); reference_.temperature(); })
      expects(policy_.temperature() == reference_.temperature(),
              "rollout: policy and reference at one temperature; the reference has", reference_.temperature());
    asked_.clear();
    out.prompts.clear();
    out.sampler_log_ratio = out.drawn_scores = {};
    out.dropped_groups = 0;
    for (std::size_t const example : examples)
      for (std::size_t g = 0; g < options_.num_generations; ++g) {
        auto&& row = prompts[example];
        std::span<token_id const> const prompt(row.prompt);
        if (prompt.empty()) throw contract_violation("rollout: prompt " + std::to_string(example) + " has no token");
        asked_.push_back(prompt, {});
        out.prompts.push_back(example);
      }
    sampling_.first_stream = first_response_stream + first_response;
    auto const begin = std::chrono::steady_clock::now();
    bool const scored = generate(out);
    out.generation_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    sequences_view const s = out.responses;
    expects(s.size() == asked_.size(), "rollout: as many responses as prompts from the policy's generate", s.size());
    out.new_tokens = completion_tokens(s.mask);
    out.finished.resize(s.size());
    for (std::size_t b = 0; b < s.size(); ++b) {
      if (completion_tokens(s.sequence_mask(b)) == 0) throw contract_violation("rollout: no token in " + place(out, b));
      out.finished[b] = sampling_.stops(s.sequence(b).back()) ? 1 : 0;
    }
    read_log_probs(policy_, s, policy_logps_, out.logps, "policy", out);
    read_log_probs(reference_, s, reference_logps_, out.ref_logps, "reference", out);
    if (scored) compare_sampler(out);
    score(out);
  }

 private:
  // The orders of the data take the random streams from 0 up, the orders of mini-batches those from the last one down.
  static constexpr std::uint64_t first_response_stream = std::uint64_t{1} << 63;

  static std::string place(rollout const& of, std::size_t response) {
    return "response " + std::to_string(response) + " (prompt " + std::to_string(of.prompts[response]) + ")";
  }

  // True if the sampler said how probable each token was to it.
  bool generate(rollout& out) {
    try {
      if constexpr (ScoredGenerativePolicy<P>) {
        policy_.generate(asked_.view(), sampling_, out.responses, sampler_logps_);
        return true;
      } else {
        policy_.generate(asked_.view(), sampling_, out.responses);
        return false;
      }
    } catch (contract_violation const& broken) {
      throw contract_violation(broken.what() + refused_prompt(out));
    }
  }

  // The policy names a prompt by its place among those it was asked, the user knows the dataset's: alone, the culprit
  // is refused again.
  std::string refused_prompt(rollout& out) {
    sampling_options shortest = sampling_;
    shortest.max_new_tokens = 1;
    for (std::size_t b = 0; b < asked_.size(); b += options_.num_generations) {
      sequences alone;
      alone.push_back(asked_.view().sequence(b), {});
      try {
        policy_.generate(alone.view(), shortest, out.responses);
      } catch (contract_violation const&) {
        return "; in the dataset it is prompt " + std::to_string(out.prompts[b]);
      }
    }
    return {};
  }

  template <class Model, class T>
  void read_log_probs(Model const& model, sequences_view s, std::vector<T>& scratch, std::vector<double>& out,
                      char const* whose, rollout const& of) {
    out.assign(s.total_tokens(), 0.0);
    for_response_batches(s, budget_, batch_, [&](response_batch const& batch) {
      scratch.resize(batch.tokens().total_tokens());
      model.log_probs(batch.tokens(), std::span<T>(scratch));
      batch.scatter(std::span<T const>(scratch), s, out);
    });
    for (std::size_t b = 0; b < s.size(); ++b)
      for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t)
        if (!std::isfinite(out[t]))
          throw nonfinite_error("rollout: the " + std::string(whose) + "'s log-probabilities are not finite in " +
                                place(of, b));
  }

  // Without a filter the sampler's distribution has to be the one that the trainer scores; with one it is reported how
  // far they are apart.
  void compare_sampler(rollout& out) {
    bool const filtered = sampling_.top_k > 0 || sampling_.top_p < 1.0;
    double const rounding = 4096.0 * static_cast<double>(std::numeric_limits<typename P::scalar>::epsilon());
    sequences_view const s = out.responses;
    expects(sampler_logps_.size() == s.total_tokens(),
            "rollout: a log-probability for every token from the policy's generate", sampler_logps_.size());
    for (std::size_t b = 0; b < s.size(); ++b)
      for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t) {
        if (s.mask[t] == 0) continue;
        double const drawn = static_cast<double>(sampler_logps_[t]);
        double const off = std::abs(drawn - out.logps[t]);
        if (!(filtered ? std::isfinite(off) : off <= rounding * (1.0 + std::abs(out.logps[t]))))
          throw contract_violation("rollout: the sampler drew token " + std::to_string(t - s.offsets[b]) + " of " +
                                   place(out, b) + " with log-probability " + std::to_string(drawn) +
                                   ", the policy's log_probs says " + std::to_string(out.logps[t]) +
                                   ": they have to be one distribution");
        if (filtered) out.sampler_log_ratio.add(drawn - out.logps[t]);
      }
  }

  void score(rollout& out) {
    sequences_view const s = out.responses;
    out.scores.assign(s.size(), 0.0);
    for_response_batches(s, budget_, batch_, [&](response_batch const& batch) {
      batch_scores_.assign(batch.size(), 0.0);
      reward_(batch.tokens(), std::span<double>(batch_scores_));
      for (std::size_t i = 0; i < batch.size(); ++i) out.scores[batch.source(i)] = batch_scores_[i];
    });
    for (std::size_t b = 0; b < s.size(); ++b) {
      if (!std::isfinite(out.scores[b]))
        throw nonfinite_error("rollout: the reward is not finite for " + place(out, b));
      bool const truncated = out.finished[b] == 0;
      if (truncated && options_.without_eos == missing_eos::subtract) out.scores[b] -= options_.missing_eos_penalty;
      if (truncated && options_.without_eos == missing_eos::replace) out.scores[b] = -options_.missing_eos_penalty;
      if (options_.overlong_buffer > 0)
        out.scores[b] += overlong_penalty(completion_tokens(s.sequence_mask(b)),
                                          {.max_length = options_.max_new_tokens,
                                           .buffer = options_.overlong_buffer,
                                           .factor = options_.overlong_factor});
      out.drawn_scores.add(out.scores[b]);
    }
  }

  P& policy_;
  R const& reference_;
  M& reward_;
  rollout_options options_;
  sampling_options sampling_;
  std::size_t budget_;
  sequences asked_;
  response_batch batch_;
  std::vector<typename P::scalar> sampler_logps_, policy_logps_;
  std::vector<typename R::scalar> reference_logps_;
  std::vector<double> batch_scores_;
};

}  // namespace attune
