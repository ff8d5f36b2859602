// SPDX-License-Identifier: MIT
#pragma once

/// All that needs the standard library alone: words, concepts, objectives, training, evaluation. A test holds this list
/// against the folders. Models, backends, file formats and data sets are included one by one, each with its own target.

#include <attune/core/adamw_update.hpp>
#include <attune/core/aligned_buffer.hpp>
#include <attune/core/atomic_file.hpp>
#include <attune/core/checksum.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/file_descriptor.hpp>
#include <attune/core/fingerprint.hpp>
#include <attune/core/function_ref.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/mapped_file.hpp>
#include <attune/core/model_fingerprint.hpp>
#include <attune/core/parallel.hpp>
#include <attune/core/parameter.hpp>
#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/core/statistics.hpp>
#include <attune/core/storage.hpp>
#include <attune/core/view.hpp>

#include <attune/concepts/backend.hpp>
#include <attune/concepts/dataset.hpp>
#include <attune/concepts/generative_policy.hpp>
#include <attune/concepts/optimizer.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/concepts/report_sink.hpp>
#include <attune/concepts/reward_model.hpp>
#include <attune/concepts/value_model.hpp>

#include <attune/objective/bradley_terry.hpp>
#include <attune/objective/dpo.hpp>
#include <attune/objective/expects_finite.hpp>
#include <attune/objective/loss_on_logits.hpp>
#include <attune/objective/sequence_sums.hpp>
#include <attune/objective/sft.hpp>
#include <attune/objective/token_objectives.hpp>
#include <attune/objective/value_and_slope.hpp>

#include <attune/train/adamw.hpp>
#include <attune/train/batches.hpp>
#include <attune/train/checkpoint.hpp>
#include <attune/train/dpo_trainer.hpp>
#include <attune/train/loop.hpp>
#include <attune/train/loop_options.hpp>
#include <attune/train/reference_cache.hpp>
#include <attune/train/reward_trainer.hpp>
#include <attune/train/schedule.hpp>
#include <attune/train/sft_trainer.hpp>
#include <attune/train/stage.hpp>
#include <attune/train/trainer.hpp>

#include <attune/eval/pairwise_accuracy.hpp>
