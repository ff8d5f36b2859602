// SPDX-License-Identifier: MIT
#pragma once

#include <utility>

#include <attune/concepts/dataset.hpp>
#include <attune/concepts/optimizer.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/core/contract.hpp>
#include <attune/train/dpo_stage.hpp>
#include <attune/train/loop.hpp>
#include <attune/train/trainer.hpp>

namespace attune {

/// Direct preference optimisation of a policy against a reference, or by a loss that needs none (door 3). All three are
/// borrowed and must outlive the trainer.
///
///   frozen reference{policy};
///   dpo_trainer trainer{policy, reference, optimizer,
///                       {.loop = {.learning_rate = 1e-4}, .losses = dpo_options{.beta = 0.1}}};
///   training_summary const summary = trainer.fit(pairs, held_out_pairs, sink);
///
/// With a reference_cache in the reference's place, one model is in memory; with a synchronized_reference it is TR-DPO.
template <Policy P, PairReference R, Optimizer<P> O>
class dpo_trainer : public trainer_on<dpo_trainer<P, R, O>, preference_pair> {
 public:
  using reference_type = typename dpo_stage<P, R>::reference_type;

  dpo_trainer(P& policy, reference_type& reference, O& optimizer, dpo_trainer_options options = {})
      : policy_(policy), reference_(reference), optimizer_(optimizer), options_(std::move(options)) {
    validate(options_.loop);
    validate(preference_options{.losses = options_.losses, .ratios = options_.ratios});
    expects(static_cast<void const*>(&policy) != static_cast<void const*>(&reference),
            "dpo_trainer: a reference that is not the policy itself, which moves; wrap a copy in frozen");
  }
  dpo_trainer(P& policy, R const&& reference, O& optimizer, dpo_trainer_options options = {}) = delete;

 private:
  friend trainer_on<dpo_trainer, preference_pair>;

  template <class Train, class Evaluation, class Sink>
  training_summary run(Train const& train, Evaluation const* evaluation, Sink&& sink) {
    dpo_stage<P, R> stage(policy_, reference_, options_);
    stage.bind(train, evaluation);
    training_loop loop(stage, policy_, optimizer_, options_.loop);
    return loop.run(train, evaluation, sink);
  }

  P& policy_;
  reference_type& reference_;
  O& optimizer_;
  dpo_trainer_options options_;
};

template <class P, class R, class O>
dpo_trainer(P&, R const&, O&, dpo_trainer_options) -> dpo_trainer<P, R, O>;

}  // namespace attune
