// SPDX-License-Identifier: MIT
#include <attune/train/run_checkpoints.hpp>

#include "support/temporary_folder.hpp"

#include <doctest/doctest.h>

#include <optional>

using namespace attune;
using test::message_of;

namespace {

struct run {
  std::uint64_t state = 0;
  run_checkpoints checkpoints;

  std::optional<std::uint64_t> open(loop_options const& o, run_identity identity = {1, 2, 3}) {
    return checkpoints.open(o, [&] { return identity; }, [&](state_visitor v) { visit(v); });
  }
  void save(std::uint64_t step) {
    checkpoints.save(step, [&](state_visitor v) { visit(v); });
  }
  void visit(state_visitor v) { v("state", std::as_writable_bytes(std::span(&state, std::size_t{1}))); }
};

}  // namespace

TEST_CASE("run checkpoints: without a folder nothing is kept, and nobody asks who the run is") {
  run_checkpoints none;
  bool asked = false;
  auto const step = none.open({}, [&] { asked = true; return run_identity{}; }, [](state_visitor) {});
  CHECK(!step.has_value());
  CHECK(!asked);
  CHECK(!none.are_kept());
}

TEST_CASE("run checkpoints: what was saved is read by a run that resumes, the newest of it") {
  test::temporary_folder const folder;
  loop_options options{.checkpoint_folder = folder / "run"};
  run first;
  CHECK(!first.open(options).has_value());
  CHECK(first.checkpoints.are_kept());
  for (std::uint64_t step = 1; step <= 3; ++step) {
    first.state = 10 * step;
    first.save(step);
  }
  // Killed between writing the fourth and removing the second.
  first.state = 40;
  save_checkpoint(checkpoint_folder(options.checkpoint_folder).file(4), {1, 2, 3}, 4, [&](state_visitor v) { first.visit(v); });
  options.resume = true;
  run second;
  CHECK(second.open(options) == 4);
  CHECK(second.state == 40);
  CHECK(checkpoint_folder(options.checkpoint_folder).steps() == std::vector<std::uint64_t>{3, 4});
}

TEST_CASE("run checkpoints: an earlier run's are neither overwritten nor taken for one's own") {
  test::temporary_folder const folder;
  loop_options options{.checkpoint_folder = folder / "run"};
  run first;
  first.open(options);
  first.state = 5;
  first.save(7);
  run second;
  CHECK(message_of<contract_violation>([&] { second.open(options); }) ==
        "expected loop_options.resume, or a folder without checkpoints: this one has an earlier run's, of step, got 7");
  options.resume = true;
  auto const why = message_of<data_error>([&] { second.open(options, {1, 2, 4}); });
  CHECK(why.find("the checkpoint belongs to a run with other options") != std::string::npos);
  CHECK(second.state == 0);
}

TEST_CASE("run checkpoints: a folder opened before is forgotten by a run without one") {
  test::temporary_folder const folder;
  run one;
  one.open({.checkpoint_folder = folder / "run"});
  CHECK(one.checkpoints.are_kept());
  one.open({});
  CHECK(!one.checkpoints.are_kept());
}
