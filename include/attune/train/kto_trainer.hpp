// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <utility>
#include <variant>

#include <attune/concepts/dataset.hpp>
#include <attune/concepts/optimizer.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/core/contract.hpp>
#include <attune/train/kto_stage.hpp>
#include <attune/train/loop.hpp>
#include <attune/train/trainer.hpp>

namespace attune {

/// KTO, BCO or unpaired APO-zero of a policy against a reference (door 3), on a FeedbackDataset; `unpaired(pairs)`
/// makes one of preference pairs. All three are borrowed and must outlive the trainer.
///
///   frozen reference{policy};
///   kto_trainer trainer{policy, reference, optimizer, {.objective = kto_options{.beta = 0.1}}};
///   training_summary const summary = trainer.fit(feedback, held_out_feedback, sink);
///
/// The reference is a model. A reference_cache will not do: it knows the data's completions, and KTO asks about
/// completions that met another prompt, in pairs that change with every step.
///
/// KTO refuses, before it starts, data whose last step (or evaluation batch) would hold one example: another batch_size
/// helps.
template <Policy P, ReferencePolicy R, Optimizer<P> O>
class kto_trainer : public trainer_on<kto_trainer<P, R, O>, judged_completion> {
 public:
  kto_trainer(P& policy, R const& reference, O& optimizer, kto_trainer_options options = {})
      : policy_(policy), reference_(reference), optimizer_(optimizer), options_(std::move(options)) {
    validate(options_);
    expects(static_cast<void const*>(&policy) != static_cast<void const*>(&reference),
            "kto_trainer: a reference that is not the policy itself, which moves; wrap a copy in frozen");
  }
  kto_trainer(P& policy, R const&& reference, O& optimizer, kto_trainer_options options = {}) = delete;

 private:
  friend trainer_on<kto_trainer, judged_completion>;

  template <class Train, class Evaluation, class Sink>
  training_summary run(Train const& train, Evaluation const* evaluation, Sink&& sink) {
    if (std::holds_alternative<kto_options>(options_.objective)) {
      std::size_t const batch = options_.loop.batch_size, rows = static_cast<std::size_t>(train.size());
      std::size_t const per_epoch = rows / batch + (rows % batch != 0 ? 1 : 0);
      bool const reached = options_.loop.max_steps == 0 ? options_.loop.epochs * static_cast<double>(per_epoch) >
                                                              static_cast<double>(per_epoch) - 1.0
                                                        : options_.loop.max_steps >= per_epoch;
      expects(rows % batch != 1 || !reached,
              "kto: two examples or more in every step, since one has no mismatched pair; with this batch_size the "
              "epoch's last step has one: examples",
              rows);
      if (evaluation != nullptr)
        expects(static_cast<std::size_t>(evaluation->size()) % batch != 1,
                "kto: two examples or more in every evaluation batch, since one has no mismatched pair; with this "
                "batch_size the last one has one: examples",
                static_cast<std::size_t>(evaluation->size()));
    }
    kto_stage<P, R> stage(policy_, reference_, options_);
    training_loop loop(stage, policy_, optimizer_, options_.loop);
    return loop.run(train, evaluation, sink);
  }

  P& policy_;
  R const& reference_;
  O& optimizer_;
  kto_trainer_options options_;
};

template <class P, class R, class O>
kto_trainer(P&, R const&, O&, kto_trainer_options) -> kto_trainer<P, R, O>;

}  // namespace attune
