// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <attune/concepts/dataset.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/core/model_fingerprint.hpp>
#include <attune/objective/sequence_sums.hpp>
#include <attune/objective/unpaired/apo_zero_unpaired.hpp>
#include <attune/objective/unpaired/bco.hpp>
#include <attune/objective/unpaired/kto.hpp>
#include <attune/objective/unpaired/unpaired_loss.hpp>
#include <attune/train/loop.hpp>
#include <attune/train/mismatched_pairs.hpp>

/// Learning from responses that were judged one by one, against a reference: KTO, BCO and unpaired APO-zero.
namespace attune {

/// Which objective, and its options.
using unpaired_options = std::variant<kto_options, bco_options, apo_zero_unpaired_options>;

struct kto_trainer_options {
  loop_options loop = {.learning_rate = 1e-6};  ///< TRL's learning rate for language models
  unpaired_options objective = kto_options{};
  /// KTO: most tokens of a mismatched pair, where a long prompt may meet a long completion, which then loses its end;
  /// 0: no limit. With a model of a fixed window, that window. Not 0 is refused with the other objectives, which have
  /// no such pair.
  std::size_t max_length = 0;
  /// Refuse to start unless policy and reference agree on the first step, where every implied reward must be 0. false:
  /// the reference is another model on purpose.
  bool require_reference_equals_policy = true;
};

inline void validate(kto_trainer_options const& o) {
  validate(o.loop);
  std::visit([](auto const& objective) { validate(objective); }, o.objective);
  bool const mismatched = std::holds_alternative<kto_options>(o.objective);
  expects(mismatched || o.max_length == 0, "kto_trainer_options.max_length == 0, since only KTO has mismatched pairs",
          o.max_length);
  expects(!mismatched || o.loop.batch_size >= 2,
          "loop_options.batch_size >= 2 for KTO: a single example has no mismatched pair", o.loop.batch_size);
}

/// The three objectives of single responses as a stage of the training loop.
///
/// Before the micro-batches of a step are run, without gradients: the reference on all of them; KTO: policy and
/// reference on the step's mismatched pairs, for z0; BCO: the policy on the step itself, for delta. So a step's result
/// does not depend on how it is cut, and KTO and BCO cost a forward pass of the policy more than DPO. BCO's delta is
/// state: checkpoints hold it. A step whose numbers are not finite does not enter it. Evaluation takes z0 of each
/// batch_size examples in order, and leaves delta as it is.
///
/// Metrics, over the examples since the last report, in TRL's definitions: rewards/chosen and rewards/rejected (means
/// of beta * log-ratio over desirable and undesirable ones), logps/chosen and logps/rejected; rewards/margins
/// (difference of the step's two means, averaged over the steps that have both kinds); kl (KTO: z0) and delta (BCO),
/// averaged over steps.
template <Policy P, ReferencePolicy R>
class kto_stage {
 public:
  using scalar = typename P::scalar;
  using example = judged_completion;
  static constexpr std::string_view name = "kto";
  static constexpr std::array<std::string_view, 7> metric_names{
      "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected", "kl", "delta"};

  kto_stage(P& policy, R const& reference, kto_trainer_options const& options)
      : policy_(policy), reference_(reference), objective_(options.objective), max_length_(options.max_length),
        require_equal_(options.require_reference_equals_policy),
        beta_(std::visit([](auto const& o) { return o.beta; }, options.objective)),
        mismatched_(options.loop.micro_batch_tokens) {
    validate(options);
  }

  void begin_step(step_batches const& step, bool first) {
    prepare(step, true);
    check_equal_ = first && require_equal_;
  }

  void begin_evaluation(step_batches const& step) {
    prepare(step, false);
    check_equal_ = false;
  }

  batch_outcome accumulate(micro_batch const& batch) {
    batch_outcome outcome;
    if (!refer(batch, outcome)) return outcome;
    std::size_t asked = 0;
    auto const ask = [&](std::span<scalar const> logps, std::span<scalar> slopes) {
      ++asked;
      if (!take(batch, logps, outcome)) return;
      if (check_equal_) expects_equal(batch);
      measure(batch);
      outcome.loss = loss(batch, examples_of_step_);
      broadcast_slopes<scalar>(sums_, batch.sequences, slopes);
    };
    policy_.accumulate_gradient(batch.sequences, ask);
    expects(asked == 1, "the policy to call ask exactly once per accumulate_gradient", asked);
    return outcome;
  }

  batch_outcome evaluate(micro_batch const& batch) {
    batch_outcome outcome;
    if (!refer(batch, outcome)) return outcome;
    logps_.resize(batch.sequences.total_tokens());
    std::as_const(policy_).log_probs(batch.sequences, std::span<scalar>(logps_));
    if (!take(batch, logps_, outcome)) return outcome;
    measure(batch);
    outcome.weight = static_cast<double>(batch.examples.size());
    outcome.loss = loss(batch, batch.examples.size());
    return outcome;
  }

  void collect(std::span<metric_sum> sums) noexcept {
    sums[0].add(rewards_[0]);
    sums[1].add(rewards_[1]);
    if (rewards_[0].weight > 0.0 && rewards_[1].weight > 0.0) sums[2].add(rewards_[0].mean() - rewards_[1].mean());
    sums[3].add(log_probs_[0]);
    sums[4].add(log_probs_[1]);
    sums[5].add(kl_);
    sums[6].add(delta_seen_);
    rewards_ = log_probs_ = {};
    kl_ = delta_seen_ = {};
  }

  void describe(checksum64& sum) const {
    sum.update_number(static_cast<std::uint64_t>(objective_.index())).update_number(beta_);
    std::visit(
        [&](auto const& o) {
          if constexpr (requires { o.desirable_weight; })
            sum.update_number(o.desirable_weight).update_number(o.undesirable_weight);
        },
        objective_);
    sum.update_number(static_cast<std::uint64_t>(max_length_));
    if constexpr (requires { reference_.fingerprint(); }) sum.update_number(model_fingerprint(reference_));
  }

  /// BCO's delta; of no consequence to the others, and the same sixteen bytes.
  void visit_state(state_visitor visit) {
    visit("stage/delta", std::as_writable_bytes(std::span(&delta_, std::size_t{1})));
  }

  bco_delta const& delta() const noexcept { return delta_; }

 private:
  // What all micro-batches of a step share: the reference's sums, and the baseline.
  void prepare(step_batches const& step, bool training) {
    examples_of_step_ = step.examples();
    next_ = 0;
    suspect_ = no_example;
    baseline_ = 0.0;
    examples_.clear();
    ref_sums_.clear();
    for (std::size_t i = 0; i < step.size(); ++i)
      examples_.insert(examples_.end(), step[i].examples.begin(), step[i].examples.end());
    append_sums(reference_, step, ref_logps_, ref_sums_);
    if (std::holds_alternative<kto_options>(objective_)) {
      mismatched_pairs(step, mismatched_, max_length_);
      pass_sums_.clear();
      pass_ref_sums_.clear();
      try {
        append_sums(std::as_const(policy_), mismatched_, logps_, pass_sums_);
        append_sums(reference_, mismatched_, ref_logps_, pass_ref_sums_);
      } catch (contract_violation const& broken) {
        throw contract_violation(std::string(broken.what()) +
                                 " (among KTO's mismatched pairs, whose length kto_trainer_options.max_length bounds)");
      }
      if (!are_finite(pass_sums_, pass_ref_sums_)) return;
      baseline_ = kto_kl<double>(pass_sums_, pass_ref_sums_);
      kl_.add(baseline_);
    } else if (std::holds_alternative<bco_options>(objective_)) {
      if (training) {
        pass_sums_.clear();
        append_sums(std::as_const(policy_), step, logps_, pass_sums_);
        if (!are_finite(pass_sums_, ref_sums_)) return;
        for (std::size_t i = 0; i < pass_sums_.size(); ++i)
          pass_sums_[i] = saturate_cast<double>(beta_ * (pass_sums_[i] - ref_sums_[i]));
        delta_ = updated(delta_, pass_sums_);
      }
      baseline_ = delta_.mean;
      delta_seen_.add(baseline_);
    }
  }

  // Sums of a model's log-probabilities, one per sequence, in order.
  template <class M, class T>
  static void append_sums(M const& model, step_batches const& batches, std::vector<T>& logps,
                          std::vector<double>& sums) {
    for (std::size_t i = 0; i < batches.size(); ++i) {
      sequences_view const s = batches[i].sequences;
      logps.resize(s.total_tokens());
      model.log_probs(s, std::span<T>(logps));
      sums.resize(sums.size() + s.size());
      sequence_sums<T>(logps, s, std::span<double>(sums).last(s.size()));
    }
  }

  // One pair of sums per example of the step; remembers the first that is not finite.
  bool are_finite(std::span<double const> sums, std::span<double const> ref_sums) noexcept {
    for (std::size_t i = 0; i < sums.size() && suspect_ == no_example; ++i)
      if (!std::isfinite(sums[i] - ref_sums[i])) suspect_ = examples_[i];
    return suspect_ == no_example;
  }

  // Turns to the reference's sums of the batch; false if the step's baseline is not a number.
  bool refer(micro_batch const& batch, batch_outcome& outcome) {
    first_ = next_;
    next_ += batch.examples.size();
    expects(next_ <= examples_.size() &&
                std::equal(batch.examples.begin(), batch.examples.end(),
                           examples_.begin() + static_cast<std::ptrdiff_t>(first_)),
            "the micro-batches of a step once each, in order");
    if (suspect_ == no_example) return true;
    outcome.not_finite = suspect_;
    outcome.loss = std::numeric_limits<double>::quiet_NaN();
    return false;
  }

  std::span<double const> references(micro_batch const& batch) const noexcept {
    return std::span<double const>(ref_sums_).subspan(first_, batch.examples.size());
  }

  // The policy's sums for the batch; false if a number of either model is not finite.
  bool take(micro_batch const& batch, std::span<scalar const> logps, batch_outcome& outcome) {
    sums_.resize(batch.examples.size());
    sequence_sums<scalar>(logps, batch.sequences, sums_);
    for (std::size_t i = 0; i < sums_.size(); ++i) {
      if (std::isfinite(sums_[i] - references(batch)[i])) continue;
      outcome.not_finite = batch.examples[i];
      outcome.loss = std::numeric_limits<double>::quiet_NaN();
      return false;
    }
    return true;
  }

  void measure(micro_batch const& batch) noexcept {
    for (std::size_t i = 0; i < sums_.size(); ++i) {
      std::size_t const kind = batch.desirable[i] != 0 ? 0 : 1;
      rewards_[kind].add(beta_ * (sums_[i] - references(batch)[i]));
      log_probs_[kind].add(sums_[i]);
    }
  }

  // In double, whatever the policy's scalar. Slopes take the place of the policy's sums.
  double loss(micro_batch const& batch, std::size_t total_examples) {
    return std::visit(
        [&](auto const& options) {
          return unpaired_loss<double>({.logps = sums_, .ref_logps = references(batch), .desirable = batch.desirable,
                                        .weights = batch.weights},
                                       std::span<double>(sums_), options, baseline_, total_examples);
        },
        objective_);
  }

  void expects_equal(micro_batch const& batch) const {
    double const rounding = (std::max)(static_cast<double>(std::numeric_limits<scalar>::epsilon()),
                                       static_cast<double>(std::numeric_limits<typename R::scalar>::epsilon()));
    for (std::size_t i = 0; i < sums_.size(); ++i) {
      double const ratio = sums_[i] - references(batch)[i];
      if (std::abs(ratio) <= 256.0 * rounding * (1.0 + std::abs(sums_[i]))) continue;
      throw contract_violation(
          "kto: the policy differs from the reference before the first step, so rewards do not start at 0: example " +
          std::to_string(batch.examples[i]) + " has log-ratio " + std::to_string(ratio) +
          ". Is the reference the model that training starts from? If it is another one on purpose, set "
          "kto_trainer_options.require_reference_equals_policy = false");
    }
  }

  P& policy_;
  R const& reference_;
  unpaired_options objective_;
  std::size_t max_length_;
  bool require_equal_;
  double beta_;
  step_batches mismatched_;
  bco_delta delta_;
  double baseline_ = 0.0;
  bool check_equal_ = false;
  std::size_t examples_of_step_ = 0, suspect_ = no_example, first_ = 0, next_ = 0;
  std::vector<std::size_t> examples_;  // of the step, in order
  std::vector<scalar> logps_;
  std::vector<typename R::scalar> ref_logps_;
  std::vector<double> ref_sums_, sums_, pass_sums_, pass_ref_sums_;
  std::array<metric_sum, 2> rewards_{}, log_probs_{};  // desirable, undesirable
  metric_sum kl_, delta_seen_;
};

}  // namespace attune
