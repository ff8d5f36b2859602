// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include <attune/concepts/dataset.hpp>
#include <attune/concepts/generative_policy.hpp>
#include <attune/concepts/optimizer.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/concepts/reward_model.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/model_fingerprint.hpp>
#include <attune/train/dpo_stage.hpp>
#include <attune/train/loop.hpp>
#include <attune/train/rollout.hpp>
#include <attune/train/rollout_options.hpp>

/// Online DPO (Guo et al. 2024, "Direct language model alignment from online AI feedback"; TRL: OnlineDPOTrainer): the
/// pairs of a step are drawn from the policy itself and ordered by a reward, so that what is learnt from is never
/// somebody else's.
namespace attune {

struct online_dpo_trainer_options {
  /// batch_size counts prompts. A prompt whose responses are scored alike gives no pair; a step may so have fewer.
  dpo_trainer_options dpo = {};
  /// num_generations responses to each prompt, 2 or more: the best and the worst make the pair; of equal scores the
  /// earlier drawn. missing_eos applies before they are compared.
  rollout_options rollout = {.num_generations = 2};
};

/// Throws contract_violation naming the field and its value.
inline void validate(online_dpo_trainer_options const& o) {
  validate(o.dpo.loop);
  validate(preference_options{.losses = o.dpo.losses, .ratios = o.dpo.ratios});
  validate(o.rollout);
  expects(o.rollout.num_generations >= 2, "rollout_options.num_generations >= 2: a pair is made of two responses",
          o.rollout.num_generations);
}

/// dpo_stage over pairs that it draws. Everything else, reports and checkpoints with it, is the training loop's.
///
/// Metrics: dpo_stage's, and objective/scores (mean of all that were drawn), rollout/pairs (share of prompts that gave
/// one), completions/mean_length (tokens).
template <Policy P, ReferencePolicy R, RewardModel M>
  requires GenerativePolicy<P>
class online_dpo_stage {
 public:
  using example = preference_pair;
  using reference_type = typename dpo_stage<P, R>::reference_type;
  static constexpr std::string_view name = "online_dpo";
  static constexpr std::size_t own_metrics = 3;
  static constexpr auto metric_names = [] {
    std::array<std::string_view, dpo_stage<P, R>::metric_names.size() + own_metrics> names{};
    std::ranges::copy(dpo_stage<P, R>::metric_names, names.begin());
    names[names.size() - 3] = "objective/scores";
    names[names.size() - 2] = "rollout/pairs";
    names[names.size() - 1] = "completions/mean_length";
    return names;
  }();

  online_dpo_stage(P& policy, reference_type& reference, M& reward, online_dpo_trainer_options const& options)
      : stage_(policy, reference, options.dpo),
        reward_(reward),
        options_(options.rollout),
        batch_size_(options.dpo.loop.batch_size),
        collect_(policy, reference, reward, options.rollout, options.dpo.loop.micro_batch_tokens,
                 options.dpo.loop.seed) {}

  /// Responses of step s are numbered from s * batch_size * num_generations: what they are does not depend on what was
  /// drawn before, so that a resumed run draws the same.
  template <PromptDataset D>
  void draw(D const& prompts, std::span<std::size_t const> rows, std::size_t step, step_batches& out) {
    std::size_t const group = options_.num_generations;
    collect_(prompts, rows, static_cast<std::uint64_t>(step) * batch_size_ * group, rollout_);
    sequences_view const s = rollout_.responses;
    auto const response = [&](std::size_t b) {
      return s.sequence(b).last(completion_tokens(s.sequence_mask(b)));
    };
    out.clear();
    for (std::size_t i = 0; i < rows.size(); ++i) {
      std::size_t best = i * group, worst = i * group;
      for (std::size_t b = i * group; b < (i + 1) * group; ++b) {
        if (rollout_.scores[b] > rollout_.scores[best]) best = b;
        if (rollout_.scores[b] < rollout_.scores[worst]) worst = b;
        drawn_[0].add(rollout_.scores[b]);
        drawn_[2].add(static_cast<double>(response(b).size()));
      }
      bool const told_apart = rollout_.scores[best] > rollout_.scores[worst];
      drawn_[1].add(told_apart ? 1.0 : 0.0);
      if (!told_apart) continue;
      out.push_back(preference_pair{.prompt = std::span<token_id const>(prompts[rows[i]].prompt),
                                    .chosen = response(best), .rejected = response(worst)}, rows[i]);
    }
  }

  void begin_step(step_batches const& step, bool first) { stage_.begin_step(step, first); }
  batch_outcome accumulate(micro_batch const& batch) { return stage_.accumulate(batch); }
  batch_outcome evaluate(micro_batch const& batch) { return stage_.evaluate(batch); }
  void collect(std::span<metric_sum> sums) noexcept {
    stage_.collect(sums.first(sums.size() - own_metrics));
    for (std::size_t i = 0; i < own_metrics; ++i) sums[sums.size() - own_metrics + i].add(drawn_[i]);
    drawn_ = {};
  }
  void end_step(std::size_t steps)
    requires dpo_stage<P, R>::follows
  {
    stage_.end_step(steps);
  }
  void visit_state(state_visitor visit)
    requires dpo_stage<P, R>::follows
  {
    stage_.visit_state(visit);
  }
  void describe(checksum64& sum) const {
    stage_.describe(sum);
    attune::describe(options_, sum);
    if constexpr (requires { reward_.fingerprint(); } || requires { reward_.parameters(); })
      sum.update_number(model_fingerprint(reward_));
  }

 private:
  dpo_stage<P, R> stage_;
  M& reward_;
  rollout_options options_;
  std::size_t batch_size_;
  rollout_collector<P, R, M> collect_;
  rollout rollout_;
  std::array<metric_sum, own_metrics> drawn_{};
};

template <class P, class R, class M>
online_dpo_stage(P&, R const&, M&, online_dpo_trainer_options const&) -> online_dpo_stage<P, R, M>;

/// Online DPO of a policy against a reference, by a reward (door 3): any callable from sequences to scores, a judge
/// among them. All four are borrowed and must outlive the trainer.
///
///   online_dpo_trainer trainer{policy, reference, reward, optimizer, {.dpo = {.loop = {.batch_size = 32}}}};
///   training_summary const summary = trainer.fit(prompts, sink);
///
/// A step in which no prompt gave a pair is skipped, and counted as such.
template <Policy P, ReferencePolicy R, RewardModel M, Optimizer<P> O>
  requires GenerativePolicy<P>
class online_dpo_trainer {
 public:
  using reference_type = typename dpo_stage<P, R>::reference_type;

  online_dpo_trainer(P& policy, reference_type& reference, M& reward, O& optimizer,
                     online_dpo_trainer_options options = {})
      : policy_(policy), reference_(reference), reward_(reward), optimizer_(optimizer), options_(std::move(options)) {
    validate(options_);
    expects(static_cast<void const*>(&policy) != static_cast<void const*>(&reference),
            "online_dpo_trainer: a reference that is not the policy itself, which moves; wrap a copy in frozen");
  }
  online_dpo_trainer(P& policy, R const&& reference, M& reward, O& optimizer,
                     online_dpo_trainer_options options = {}) = delete;

  template <PromptDataset D>
  training_summary fit(D const& prompts) {
    return run(prompts, static_cast<no_pairs const*>(nullptr), [](report const&) {});
  }

  /// `sink` is told what happens, from this thread.
  template <PromptDataset D, ReportSink Sink>
  training_summary fit(D const& prompts, Sink&& sink) {
    return run(prompts, static_cast<no_pairs const*>(nullptr), [&](report const& r) { static_cast<void>(sink(r)); });
  }

  /// `held_out` is measured as loop_options says, at the end at least.
  template <PromptDataset D, PreferenceDataset Pairs, ReportSink Sink>
  training_summary fit(D const& prompts, Pairs const& held_out, Sink&& sink) {
    return run(prompts, &held_out, [&](report const& r) { static_cast<void>(sink(r)); });
  }

 private:
  struct no_pairs {
    std::size_t size() const { return 0; }
    preference_pair operator[](std::size_t) const { return {}; }
  };

  template <class D, class Pairs>
  training_summary run(D const& prompts, Pairs const* held_out, function_ref<void(report const&)> sink) {
    online_dpo_stage<P, R, M> stage(policy_, reference_, reward_, options_);
    training_loop loop(stage, policy_, optimizer_, options_.dpo.loop);
    return loop.run(prompts, held_out, sink);
  }

  P& policy_;
  reference_type& reference_;
  M& reward_;
  O& optimizer_;
  online_dpo_trainer_options options_;
};

template <class P, class R, class M, class O>
online_dpo_trainer(P&, R const&, M&, O&, online_dpo_trainer_options) -> online_dpo_trainer<P, R, M, O>;

}  // namespace attune
