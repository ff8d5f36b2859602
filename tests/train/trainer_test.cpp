// SPDX-License-Identifier: MIT
#include <attune/train/trainer.hpp>

#include <attune/concepts/dataset.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace attune;

namespace {

struct numbers {
  std::vector<int> all;
  std::size_t size() const { return all.size(); }
  int operator[](std::size_t i) const { return all[i]; }
};

struct not_a_number {};
struct no_numbers {
  std::size_t size() const { return 0; }
  not_a_number operator[](std::size_t) const { return {}; }
};

/// Notes what run was given.
struct noting_trainer : trainer_on<noting_trainer, int> {
  numbers const* train = nullptr;
  numbers const* evaluation = nullptr;

  template <class Train, class Evaluation, class Sink>
  training_summary run(Train const& with, Evaluation const* against, Sink&& sink) {
    train = &with;
    evaluation = against;
    sink(report{.kind = report_kind::log, .step = 7});
    training_summary summary;
    summary.steps = 3;
    return summary;
  }
};

}  // namespace

static_assert(DatasetOf<numbers, int> && DatasetOf<numbers, double>);
static_assert(!DatasetOf<no_numbers, int> && !DatasetOf<int, int>);

TEST_CASE("trainer: all four ways to call fit reach run with their datasets and their sink") {
  numbers const train{{1, 2}}, held_out{{3}};
  std::size_t told = 0;
  auto const sink = [&](report const& r) { return told += r.step; };  // what a sink returns is of no interest
  noting_trainer trainer;
  CHECK(trainer.fit(train).steps == 3);
  CHECK(trainer.train == &train);
  CHECK(trainer.evaluation == nullptr);
  trainer.fit(train, held_out);
  CHECK(trainer.evaluation == &held_out);
  CHECK(told == 0);
  trainer.fit(train, sink);
  CHECK(trainer.evaluation == nullptr);
  CHECK(told == 7);
  trainer.fit(train, held_out, sink);
  CHECK(trainer.evaluation == &held_out);
  CHECK(told == 14);
}
