// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <attune/core/contract.hpp>
#include <attune/core/function_ref.hpp>
#include <attune/train/checkpoint.hpp>
#include <attune/train/loop_options.hpp>

namespace attune {

/// The checkpoints of one run, as its loop_options ask for them: opened once, before the first step, and written when
/// due.
class run_checkpoints {
 public:
  /// Without a checkpoint_folder nothing happens, and `identity` is not asked for. Else the folder is made; if it holds
  /// an earlier run's checkpoints, that run is gone on with (the newest is read into the state) or, without `resume`,
  /// refused. Returns the step read, or nothing.
  std::optional<std::uint64_t> open(loop_options const& options, function_ref<run_identity()> identity,
                                    visit_run_state visit) {
    folder_.reset();
    if (options.checkpoint_folder.empty()) return {};
    folder_.emplace(options.checkpoint_folder);
    identity_ = identity();
    std::vector<std::uint64_t> const steps = folder_->steps();
    if (steps.empty()) return {};
    expects(options.resume,
            "loop_options.resume, or a folder without checkpoints: this one has an earlier run's, of step",
            steps.back());
    std::uint64_t const step = load_checkpoint(folder_->file(steps.back()), identity_, visit);
    folder_->prune();
    return step;
  }

  bool are_kept() const noexcept { return folder_.has_value(); }

  /// Expects are_kept().
  void save(std::uint64_t step, visit_run_state visit) const { folder_->save(identity_, step, visit); }

 private:
  std::optional<checkpoint_folder> folder_;
  run_identity identity_;
};

}  // namespace attune
