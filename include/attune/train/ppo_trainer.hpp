// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <attune/concepts/dataset.hpp>
#include <attune/concepts/generative_policy.hpp>
#include <attune/concepts/optimizer.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/concepts/report_sink.hpp>
#include <attune/concepts/reward_model.hpp>
#include <attune/core/fingerprint.hpp>
#include <attune/core/function_ref.hpp>
#include <attune/core/model_fingerprint.hpp>
#include <attune/train/batches.hpp>
#include <attune/train/critic.hpp>
#include <attune/train/dynamic_sampling.hpp>
#include <attune/train/kl_controller.hpp>
#include <attune/train/loop_options.hpp>
#include <attune/train/ppo_advantages.hpp>
#include <attune/train/ppo_figures.hpp>
#include <attune/train/ppo_options.hpp>
#include <attune/train/ppo_update.hpp>
#include <attune/train/rollout.hpp>
#include <attune/train/run_checkpoints.hpp>

namespace attune {

/// PPO with a KL penalty against a reference (Schulman et al. 2017; Ziegler et al. 2019; Stiennon et al. 2020), and on
/// the same loop the estimators that do without a critic: RLOO, GRPO, Dr.GRPO, REINFORCE++, and the other surrogates:
/// GSPO, CISPO, SAPO (door 3). DAPO is GRPO with cliprange_high 0.28, max_resamples, overlong_buffer and kl_coef 0.
///
///   frozen reference{policy};
///   value_head<float> value(reward_model);
///   ppo_trainer trainer{policy, reference, reward_model, separate_critic{value, value_optimizer}, optimizer,
///                       {.rollout = {.stop_tokens = {end}}, .kl = {.kl_coef = 0.05}}};
///   trainer.fit(prompts, sink);
///
/// A step is an update: sample responses, score them, advantages, num_ppo_epochs x num_mini_batches optimiser steps.
/// The reward is any RewardModel, a lambda over sequences included. All is borrowed and must outlive the trainer.
///
/// What an update does is a function of parameters, optimiser states, kl_coef and its number, so a run that was killed
/// and resumed ends in the same bits; checkpoints, made between updates, hold all of these. If an update throws, the
/// last checkpoint stands, and gradients are zero; optimiser steps it had made stay made.
///
/// Updates allocate only while buffers grow, but for what models, reward and sink do on their own account.
///
/// Checked as it runs: policy and reference agree on the first rollout (objective/kl is 0 there); the ratio is 1 before
/// the first step; the sampler's log-probabilities are the scorer's in every rollout (ScoredGenerativePolicy).
///
/// Metrics: those of ppo_figures, and kl_coef, learning_rate, episodes (responses drawn), and
/// rollout/tokens_per_second, the one figure that differs from run to run.
template <Policy P, ReferencePolicy R, RewardModel M, CriticOf<P> Critic, Optimizer<P> O>
  requires GenerativePolicy<P>
class ppo_trainer {
 public:
  ppo_trainer(P& policy, R const& reference, M& reward, Critic critic, O& optimizer, ppo_trainer_options options = {})
      : policy_(policy), reference_(reference), reward_(reward), critic_(critic), optimizer_(optimizer),
        options_(std::move(options)),
        collect_(policy, reference, reward, (validate(options_), options_.rollout), options_.loop.micro_batch_tokens,
                 options_.loop.seed),
        sample_(options_.max_resamples, options_.rollout.num_generations, options_.loop.seed),
        advantages_(options_), update_(policy, critic, optimizer, options_) {
    bool const with_gae = options_.advantages == advantage_estimator::gae;
    expects(with_gae == has_critic, with_gae ? "a critic, since ppo_trainer_options.advantages is gae"
                                             : "no_critic, since ppo_trainer_options.advantages is a group's");
    expects(static_cast<void const*>(&policy) != static_cast<void const*>(&reference),
            "ppo_trainer: a reference that is not the policy itself, which moves; wrap a copy in frozen");
    if constexpr (is_separate_critic<Critic>)
      expects(critic_.learning_rate >= 0.0 && std::isfinite(critic_.learning_rate),
              "separate_critic.learning_rate >= 0 and finite", critic_.learning_rate);
  }
  ppo_trainer(P& policy, R const&& reference, M& reward, Critic critic, O& optimizer,
              ppo_trainer_options options = {}) = delete;

  ppo_trainer(ppo_trainer const&) = delete;
  ppo_trainer& operator=(ppo_trainer const&) = delete;

  template <PromptDataset D>
  training_summary fit(D const& prompts) {
    return run(prompts, [](report const&) {});
  }

  /// `sink` is told what happens, from this thread.
  template <PromptDataset D, ReportSink Sink>
  training_summary fit(D const& prompts, Sink&& sink) {
    return run(prompts, [&](report const& r) { static_cast<void>(sink(r)); });
  }

  /// The last rollout, for looking at.
  rollout const& last_rollout() const noexcept { return rollout_; }

 private:
  static constexpr std::string_view stage_name = "ppo";
  static constexpr bool has_critic = !std::same_as<Critic, no_critic>;
  static constexpr double rounding =
      256.0 * (std::max)(static_cast<double>(std::numeric_limits<typename P::scalar>::epsilon()),
                         static_cast<double>(std::numeric_limits<typename R::scalar>::epsilon()));

  // The loop's part of a checkpoint: eight-byte members only, so that no padding is written.
  struct loop_state {
    std::uint64_t step = 0;  // updates done
    std::uint64_t skipped = 0;
    std::uint64_t episodes = 0;  // responses drawn
    std::uint64_t tokens = 0;
    double first_loss = 0.0;
    double last_loss = 0.0;
    double learning_rate = 0.0;
    double kl_coef = 0.0;
    ppo_figures window{};  // since the last log report
  };

  template <class D>
  training_summary run(D const& prompts, function_ref<void(report const&)> sink) {
    loop_options const& o = options_.loop;
    begin_ = std::chrono::steady_clock::now();
    expects(prompts.size() > 0, "a dataset of at least one prompt");
    epoch_order order(prompts.size(), o.batch_size, o.seed);
    steps_per_epoch_ = order.steps_per_epoch();
    total_steps_ = o.max_steps > 0 ? o.max_steps : order.steps_in(o.epochs);
    state_ = {};
    controller_ = kl_controller(options_.kl);
    state_.kl_coef = controller_.kl_coef();
    tokens_here_ = 0;
    generation_ = {};
    metrics_.reserve(ppo_figures::count + 5);
    update_.zero_gradients();
    run_checkpoints checkpoints;
    auto const visit = [this](state_visitor visitor) { visit_state(visitor); };
    if (auto const step = checkpoints.open(o, [&] { return identity_of(prompts); }, visit))
      expects(*step == state_.step && *step <= total_steps_, "a checkpoint whose parts agree on its step", *step);
    controller_.restore(state_.kl_coef);
    training_summary summary;
    summary.resumed_from = static_cast<std::size_t>(state_.step);

    tell(sink, report_kind::start, {});
    while (state_.step < total_steps_) {
      try {
        std::size_t const step = static_cast<std::size_t>(state_.step);
        update(prompts, order.step(step), order.examples_before(step) * options_.rollout.num_generations);
      } catch (...) {
        update_.zero_gradients();
        throw;
      }
      ++state_.step;
      bool const last = state_.step == total_steps_;
      report_step(sink, last);
      if (checkpoints.are_kept() && (last || due(o.save_steps))) checkpoints.save(state_.step, visit);
    }
    summary.steps = static_cast<std::size_t>(state_.step);
    summary.skipped_steps = static_cast<std::size_t>(state_.skipped);
    summary.tokens = static_cast<std::size_t>(state_.tokens);
    if (state_.step > state_.skipped) {
      summary.first_loss = state_.first_loss;
      summary.last_loss = state_.last_loss;
    }
    summary.seconds = seconds();
    tell(sink, report_kind::finish, {});
    return summary;
  }

  template <class D>
  void update(D const& prompts, std::span<std::size_t const> examples, std::uint64_t first_response) {
    std::uint64_t const number = state_.step;
    double const share = learning_rate_factor(options_.loop.schedule, static_cast<std::size_t>(number),
                                              options_.loop.warmup_steps, total_steps_);
    state_.learning_rate = options_.loop.learning_rate * share;
    double critic_rate = state_.learning_rate;
    if constexpr (is_separate_critic<Critic>)
      if (critic_.learning_rate > 0.0) critic_rate = critic_.learning_rate * share;

    std::uint64_t const episodes = state_.episodes;
    state_.episodes += examples.size() * options_.rollout.num_generations;
    ppo_update_outcome outcome;
    try {
      sample_(collect_, prompts, examples, number, first_response, rollout_);
      state_.episodes = episodes + static_cast<std::uint64_t>(rollout_.drawn_scores.weight);
      if (number == 0 && options_.require_reference_equals_policy) expects_reference_equals_policy(rollout_, rounding);
      if (rollout_.responses.size() > 0) outcome = learn(number, critic_rate);
      else targets_ = {};  // no group had anything to teach
      if (!outcome.finite)
        throw nonfinite_error("a loss or gradient is not finite; the optimiser steps before it stay made");
    } catch (nonfinite_error const& trouble) {
      if (options_.loop.nonfinite == on_nonfinite::stop)
        throw nonfinite_error("update " + std::to_string(number) + ": " + trouble.what());
      ++state_.skipped;
      return;
    }
    measure(outcome);
    if (rollout_.responses.size() > 0) controller_.update(targets_.kl.mean(), rollout_.responses.size());
    state_.kl_coef = controller_.kl_coef();
  }

  ppo_update_outcome learn(std::uint64_t number, double critic_rate) {
    ask_critic();
    bool const in_reward = options_.kl.placement == kl_placement::reward;
    advantages_(rollout_, in_reward ? controller_.kl_coef() : 0.0, targets_);
    return update_(rollout_, targets_, number, in_reward ? 0.0 : controller_.kl_coef(), state_.learning_rate,
                   critic_rate);
  }

  void ask_critic() {
    if constexpr (has_critic) {
      auto& model = critic_model();
      std::size_t window = (std::numeric_limits<std::size_t>::max)();
      if constexpr (requires { { model.options().window } -> std::convertible_to<std::size_t>; })
        window = model.options().window;
      advantages_.extend(rollout_, window, targets_);
      sequences_view const s = targets_.critic_sequences(rollout_);
      targets_.values.assign(s.total_tokens(), 0.0);
      for_response_batches(s, options_.loop.micro_batch_tokens, batch_, [&](response_batch const& batch) {
        critic_values_.resize(batch.tokens().total_tokens());
        std::as_const(model).values(batch.tokens(), std::span(critic_values_));
        batch.scatter(std::span(std::as_const(critic_values_)), s, targets_.values);
      });
      for (std::size_t b = 0; b < s.size(); ++b)
        for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t)
          if (!std::isfinite(targets_.values[t]))
            throw nonfinite_error("the critic's value of response " + std::to_string(b) + " (prompt " +
                                  std::to_string(rollout_.prompts[b]) + ") is not finite");
    }
  }

  auto& critic_model() noexcept {
    if constexpr (is_separate_critic<Critic>) return critic_.model;
    else return policy_;
  }

  static auto critic_buffer() {
    if constexpr (is_separate_critic<Critic>)
      return std::vector<typename std::remove_cvref_t<decltype(std::declval<Critic&>().model)>::scalar>();
    else return std::vector<typename P::scalar>();
  }

  void measure(ppo_update_outcome const& outcome) {
    state_.window.add(options_, rollout_, targets_, outcome);
    double loss = outcome.policy_loss.weight > 0.0 ? outcome.policy_loss.mean() : 0.0;
    if (outcome.value_loss.weight > 0.0) loss += options_.vf_coef * outcome.value_loss.mean();
    if (state_.step == state_.skipped) state_.first_loss = loss;
    state_.last_loss = loss;
    state_.tokens += rollout_.responses.total_tokens();
    tokens_here_ += rollout_.responses.total_tokens();
    generation_.add(static_cast<double>(rollout_.new_tokens) / (std::max)(rollout_.generation_seconds, 1e-9),
                    rollout_.generation_seconds);
  }

  void report_step(function_ref<void(report const&)> sink, bool last) {
    std::vector<metric>& metrics = metrics_;
    metrics.clear();
    if (!last && !due(options_.loop.logging_steps)) {
      if (state_.step > state_.skipped) metrics.push_back({"loss", state_.last_loss});
      tell(sink, report_kind::progress, metrics);
      return;
    }
    state_.window.append_to(metrics);
    metrics.push_back({"kl_coef", state_.kl_coef});
    metrics.push_back({"learning_rate", state_.learning_rate});
    metrics.push_back({"episodes", static_cast<double>(state_.episodes)});
    if (generation_.weight > 0.0) metrics.push_back({"rollout/tokens_per_second", generation_.mean()});
    if (state_.skipped > 0) metrics.push_back({"skipped_steps", static_cast<double>(state_.skipped)});
    state_.window = {};
    generation_ = {};
    tell(sink, report_kind::log, metrics);
  }

  void visit_state(state_visitor visit) {
    visit("loop", std::as_writable_bytes(std::span(&state_, std::size_t{1})));
    auto const visit_model = [&](std::string_view whose, auto& model, auto& optimizer) {
      std::string name;
      for (auto&& p : model.parameters()) {
        name.assign(whose).append("parameter/").append(p.name);
        visit(name, std::as_writable_bytes(p.value));
      }
      optimizer.visit_state(model, [&](std::string_view part, std::span<std::byte> bytes) {
        visit(std::string(whose).append(part), bytes);
      });
    };
    visit_model("", policy_, optimizer_);
    if constexpr (is_separate_critic<Critic>) visit_model("critic/", critic_.model, critic_.optimizer);
  }

  template <class D>
  run_identity identity_of(D const& prompts) {
    checksum64 sum, model(shape_fingerprint(policy_));
    sum.update(stage_name);
    describe(options_, sum);
    describe(options_.loop, total_steps_, sum);
    auto const describe_optimizer = [&](auto& optimizer) {
      if constexpr (requires { optimizer.describe(sum); }) optimizer.describe(sum);
    };
    describe_optimizer(optimizer_);
    if constexpr (is_separate_critic<Critic>) {
      model.update_number(shape_fingerprint(critic_.model));
      sum.update_number(critic_.learning_rate);
      describe_optimizer(critic_.optimizer);
    }
    if constexpr (requires { policy_.temperature(); }) sum.update_number(static_cast<double>(policy_.temperature()));
    if constexpr (requires { reference_.fingerprint(); }) sum.update_number(model_fingerprint(reference_));
    if constexpr (requires { reward_.fingerprint(); } || requires { reward_.parameters(); })
      sum.update_number(model_fingerprint(reward_));
    return {model.value(), fingerprint(prompts), sum.value()};
  }

  bool due(std::size_t interval) const noexcept { return interval > 0 && state_.step % interval == 0; }
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(); }

  void tell(function_ref<void(report const&)> sink, report_kind kind, std::span<metric const> metrics) const {
    double const epoch = static_cast<double>(state_.step) / static_cast<double>(steps_per_epoch_);
    sink({.kind = kind, .stage = stage_name, .step = static_cast<std::size_t>(state_.step), .total_steps = total_steps_,
          .epoch = epoch, .tokens = tokens_here_, .seconds = seconds(), .metrics = metrics});
  }

  P& policy_;
  R const& reference_;
  M& reward_;
  Critic critic_;
  O& optimizer_;
  ppo_trainer_options options_;
  rollout_collector<P, R, M> collect_;
  dynamic_sampling sample_;
  ppo_advantages advantages_;
  ppo_update<P, Critic, O> update_;
  kl_controller controller_;
  rollout rollout_;
  ppo_targets targets_;
  response_batch batch_;
  decltype(critic_buffer()) critic_values_;
  loop_state state_;
  std::vector<metric> metrics_;
  metric_sum generation_;  // tokens per second, weighted by time; not part of the state
  std::size_t steps_per_epoch_ = 1, total_steps_ = 0, tokens_here_ = 0;
  std::chrono::steady_clock::time_point begin_;
};

template <class P, class R, class M, class Critic, class O>
ppo_trainer(P&, R const&, M&, Critic, O&, ppo_trainer_options) -> ppo_trainer<P, R, M, Critic, O>;

}  // namespace attune
