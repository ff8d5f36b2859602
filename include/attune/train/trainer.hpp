// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>

#include <attune/concepts/report_sink.hpp>
#include <attune/train/loop_options.hpp>

namespace attune {

/// A dataset whose elements are read as Example: DemonstrationDataset or PreferenceDataset by another name.
template <class D, class Example>
concept DatasetOf = requires(D const& d, std::size_t i) {
  { d.size() } -> std::convertible_to<std::size_t>;
  { d[i] } -> std::convertible_to<Example>;
};

/// The ways to start a trainer, the same for all of them:
///
///   fit(train)                      fit(train, sink)
///   fit(train, evaluation)          fit(train, evaluation, sink)
///
/// `evaluation` is measured as loop_options says, at the end at least; `sink` is told what happens, from this thread.
/// A Trainer derives from this and has  run(train, evaluation_or_null, sink) -> training_summary.
template <class Trainer, class Example>
class trainer_on {
 public:
  template <DatasetOf<Example> Train>
  training_summary fit(Train const& train) {
    return start(train, static_cast<Train const*>(nullptr), [](report const&) {});
  }

  template <DatasetOf<Example> Train, ReportSink Sink>
  training_summary fit(Train const& train, Sink&& sink) {
    return start(train, static_cast<Train const*>(nullptr), sink);
  }

  template <DatasetOf<Example> Train, DatasetOf<Example> Evaluation>
  training_summary fit(Train const& train, Evaluation const& evaluation) {
    return start(train, &evaluation, [](report const&) {});
  }

  template <DatasetOf<Example> Train, DatasetOf<Example> Evaluation, ReportSink Sink>
  training_summary fit(Train const& train, Evaluation const& evaluation, Sink&& sink) {
    return start(train, &evaluation, sink);
  }

 private:
  friend Trainer;
  trainer_on() = default;

  template <class Train, class Evaluation, class Sink>
  training_summary start(Train const& train, Evaluation const* evaluation, Sink&& sink) {
    return static_cast<Trainer&>(*this).run(train, evaluation, [&](report const& r) { static_cast<void>(sink(r)); });
  }
};

}  // namespace attune
