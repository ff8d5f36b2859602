// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include <attune/core/contract.hpp>
#include <attune/cuda/launch.cuh>
#include <attune/device/block_sum.hpp>
#include <attune/device/gae.hpp>
#include <attune/device/pair_losses.hpp>
#include <attune/device/token_losses.hpp>
#include <attune/device/whiten.hpp>
#include <attune/objective/bradley_terry.hpp>
#include <attune/objective/gae.hpp>
#include <attune/objective/pairwise/pair_loss.hpp>
#include <attune/objective/policy_gradient.hpp>
#include <attune/objective/whiten.hpp>

/// The batch losses of objective/ under their names, on a CUDA stream: every pointer in a span is the device's, so that
/// between token_logps and its adjoint nothing comes to the host. Nothing is allocated and nothing waits; what a sum
/// needs is passed in, and a loss is a double on the device.
///
/// Options and sizes are checked here (contract_violation). The numbers are not, since they lie on the device: where
/// the host's function refuses one that is not finite, these carry it on. Slopes have the host's bits where its
/// arithmetic is in double; a loss, a sum in a fixed tree, the same bits for the same sizes.
namespace attune::cuda {

inline constexpr unsigned objective_threads = 256;
inline constexpr std::size_t most_objective_blocks =
    256;  // enough to be done at once, few enough for one block to add up

namespace detail {

[[nodiscard]] constexpr std::size_t objective_blocks(std::size_t items) noexcept {
  return (std::min)((items + objective_threads - 1) / objective_threads, most_objective_blocks);
}

inline void add_up(char const* name, std::span<double> workspace, std::size_t blocks, std::size_t width, double* out,
                   stream_view stream) {
  launch<objective_threads>(name, device::sum_partials{workspace.data(), blocks, out, width}, 1, stream);
}

template <class T>
T* pointer(std::span<T> values) noexcept {
  return values.empty() ? nullptr : values.data();
}

inline void expects_tokens(policy_gradient_tokens<float> const& of, std::span<std::uint8_t const> mask,
                           std::span<float const> slopes, kl_loss_options const& kl_loss) {
  std::size_t const tokens = of.logps.size();
  auto const sized = [tokens](auto values) { return values.size() == tokens; };
  expects(sized(of.old_logps), "cuda::policy_gradient_loss: old_logps.size() == logps.size()", of.old_logps.size());
  expects(sized(of.advantages), "cuda::policy_gradient_loss: advantages.size() == logps.size()", of.advantages.size());
  expects(of.ref_logps.empty() ? kl_loss.kl_loss_coef == 0.0 : sized(of.ref_logps),
          "cuda::policy_gradient_loss: ref_logps.size() == logps.size(), or empty without kl_loss_coef",
          of.ref_logps.size());
  expects(sized(mask), "cuda::policy_gradient_loss: mask.size() == logps.size()", mask.size());
  expects(sized(slopes), "cuda::policy_gradient_loss: slopes.size() == logps.size()", slopes.size());
}

}  // namespace detail

/// Elements of double that a loss over so many pairs needs.
[[nodiscard]] constexpr std::size_t pair_loss_workspace(std::size_t pairs) noexcept {
  return detail::objective_blocks(pairs);
}

/// Any loss of objective/pairwise with a pair_objective: *loss is this batch's share, slopes are overwritten and may be
/// the memory of the log-probabilities. `total`: pairs of the whole optimiser step, or its chosen tokens for a loss
/// that is per_chosen_token; 0 is this batch's pairs, and refused where it would be tokens, which cannot be counted
/// from here.
template <PairObjective O>
void pair_loss(pair_logps<float> logps, pair_slopes<float> slopes, O const& options, std::size_t total, double* loss,
               std::span<double> workspace, stream_view stream, pair_ratios const& ratios = {}) {
  validate(options);
  validate(ratios, options);
  pair_inputs const reads = options.reads();
  bool const referred = reads.reference && !ratios.reference_free;
  std::size_t const pairs = logps.chosen.size();
  auto const sized = [pairs](auto values) { return values.size() == pairs; };
  expects(pairs > 0, "cuda::pair_loss: at least one pair");
  expects(sized(logps.rejected), "cuda::pair_loss: rejected.size() == chosen.size()", logps.rejected.size());
  expects(!referred || sized(logps.ref_chosen), "cuda::pair_loss: ref_chosen.size() == chosen.size()",
          logps.ref_chosen.size());
  expects(!referred || sized(logps.ref_rejected), "cuda::pair_loss: ref_rejected.size() == chosen.size()",
          logps.ref_rejected.size());
  expects(!reads.lengths || (sized(logps.chosen_tokens) && sized(logps.rejected_tokens)),
          "cuda::pair_loss: chosen_tokens and rejected_tokens, one per pair");
  expects(logps.weights.empty() || sized(logps.weights), "cuda::pair_loss: weights.size() == chosen.size()",
          logps.weights.size());
  expects(sized(slopes.chosen) && sized(slopes.rejected), "cuda::pair_loss: slopes, one per pair");
  expects(total != 0 || !reads.per_chosen_token, "cuda::pair_loss: total, the chosen tokens of the step");
  expects(total == 0 || reads.per_chosen_token || total >= pairs, "cuda::pair_loss: total >= chosen.size()", total);
  expects(loss != nullptr && workspace.size() >= pair_loss_workspace(pairs),
          "cuda::pair_loss: a place for the loss and workspace.size() >= pair_loss_workspace(pairs)", workspace.size());
  std::size_t const blocks = detail::objective_blocks(pairs);
  launch<objective_threads>(
      "pair_loss",
      device::pair_losses<O>{.options = options,
                             .pairs = pairs,
                             .total = static_cast<double>(total == 0 ? pairs : total),
                             .chosen = logps.chosen.data(),
                             .rejected = logps.rejected.data(),
                             .ref_chosen = referred ? logps.ref_chosen.data() : nullptr,
                             .ref_rejected = referred ? logps.ref_rejected.data() : nullptr,
                             .chosen_tokens = reads.lengths ? logps.chosen_tokens.data() : nullptr,
                             .rejected_tokens = reads.lengths ? logps.rejected_tokens.data() : nullptr,
                             .weights = detail::pointer(logps.weights),
                             .chosen_slopes = slopes.chosen.data(),
                             .rejected_slopes = slopes.rejected.data(),
                             .partials = workspace.data(),
                             .divergence = ratios.divergence},
      blocks, stream);
  detail::add_up("pair_loss", workspace, blocks, 1, loss, stream);
}

/// The reward model's loss on scores; total_pairs as in pair_loss.
inline void bradley_terry_loss(pair_scores<float> scores, pair_slopes<float> slopes,
                               bradley_terry_options const& options, std::size_t total_pairs, double* loss,
                               std::span<double> workspace, stream_view stream) {
  validate(options);
  std::size_t const pairs = scores.chosen.size();
  expects(pairs > 0, "cuda::bradley_terry_loss: at least one pair");
  expects(scores.rejected.size() == pairs, "cuda::bradley_terry_loss: rejected.size() == chosen.size()",
          scores.rejected.size());
  expects(scores.margin.empty() || scores.margin.size() == pairs,
          "cuda::bradley_terry_loss: margin.size() == chosen.size()", scores.margin.size());
  expects(slopes.chosen.size() == pairs && slopes.rejected.size() == pairs,
          "cuda::bradley_terry_loss: slopes, one per pair");
  expects(total_pairs == 0 || total_pairs >= pairs, "cuda::bradley_terry_loss: total_pairs >= chosen.size()",
          total_pairs);
  expects(loss != nullptr && workspace.size() >= pair_loss_workspace(pairs),
          "cuda::bradley_terry_loss: a place for the loss and workspace.size() >= pair_loss_workspace(pairs)",
          workspace.size());
  std::size_t const blocks = detail::objective_blocks(pairs);
  launch<objective_threads>(
      "bradley_terry_loss",
      device::bradley_terry_losses{.options = options,
                                   .pairs = pairs,
                                   .total = static_cast<double>(total_pairs == 0 ? pairs : total_pairs),
                                   .chosen = scores.chosen.data(),
                                   .rejected = scores.rejected.data(),
                                   .margin = detail::pointer(scores.margin),
                                   .chosen_slopes = slopes.chosen.data(),
                                   .rejected_slopes = slopes.rejected.data(),
                                   .partials = workspace.data()},
      blocks, stream);
  detail::add_up("bradley_terry_loss", workspace, blocks, 1, loss, stream);
}

/// What policy_gradient_loss adds up, in this order, over tokens with mask 1 but for the loss, which is weighted.
struct policy_gradient_sums {
  double loss, approxkl, clipped, dual_clipped, ratio, ratio_squared, kl, tokens;
};

/// Elements of double that policy_gradient_loss needs.
[[nodiscard]] constexpr std::size_t policy_gradient_workspace(std::size_t tokens) noexcept {
  return device::token_sums::count * detail::objective_blocks(tokens);
}

/// A surrogate that sees each token's own ratio. A token's weight in the step's loss is `weight`, or weights[t] where
/// those are not empty: token_weight of objective/loss_aggregation.hpp. *sums lies on the device; slopes are
/// overwritten, 0 where the mask is 0, and may be the memory of the logps.
template <PolicyGradientSurrogate O>
void policy_gradient_loss(policy_gradient_tokens<float> of, std::span<std::uint8_t const> mask, std::span<float> slopes,
                          double weight, std::span<float const> weights, O const& surrogate, policy_gradient_sums* sums,
                          std::span<double> workspace, stream_view stream, kl_loss_options const& kl_loss = {}) {
  static_assert(device::token_sums::count * sizeof(double) == sizeof(policy_gradient_sums));
  validate(surrogate);
  validate(kl_loss);
  expects(ratio_level_of(surrogate) == ratio_level::token,
          "cuda::policy_gradient_loss: a surrogate of each token's own ratio");
  detail::expects_tokens(of, mask, slopes, kl_loss);
  std::size_t const tokens = of.logps.size();
  expects(weights.empty() || weights.size() == tokens, "cuda::policy_gradient_loss: weights.size() == logps.size()",
          weights.size());
  expects(sums != nullptr && workspace.size() >= policy_gradient_workspace(tokens),
          "cuda::policy_gradient_loss: a place for the sums and workspace.size() >= policy_gradient_workspace(tokens)",
          workspace.size());
  std::size_t const blocks = detail::objective_blocks(tokens);
  launch<objective_threads>("policy_gradient_loss",
                            device::token_losses<O>{.options = surrogate,
                                 .tokens = tokens,
                                 .logps = of.logps.data(),
                                 .old_logps = of.old_logps.data(),
                                 .advantages = of.advantages.data(),
                                 .ref_logps = detail::pointer(of.ref_logps),
                                 .mask = mask.data(),
                                 .weight = weight,
                                 .weights = detail::pointer(weights),
                                 .slopes = slopes.data(),
                                 .partials = workspace.data(),
                                 .kl_loss = kl_loss},
                            blocks, stream);
  detail::add_up("policy_gradient_loss", workspace, blocks, device::token_sums::count, &sums->loss, stream);
}

/// Advantages and returns of each sequence, a warp a sequence. Advantages may be the memory of the rewards, returns
/// that of the values.
inline void gae(gae_inputs<float> of, std::span<std::uint8_t const> mask, std::span<std::size_t const> offsets,
                gae_outputs<float> out, gae_options const& options, stream_view stream) {
  validate(options);
  std::size_t const tokens = of.rewards.size();
  expects(of.values.size() == tokens, "cuda::gae: values.size() == rewards.size()", of.values.size());
  expects(mask.size() == tokens, "cuda::gae: mask.size() == rewards.size()", mask.size());
  expects(out.advantages.size() == tokens, "cuda::gae: advantages.size() == rewards.size()", out.advantages.size());
  expects(out.returns.size() == tokens, "cuda::gae: returns.size() == rewards.size()", out.returns.size());
  expects(!offsets.empty() || tokens == 0, "cuda::gae: offsets, one more than sequences");
  std::size_t const sequences = offsets.empty() ? 0 : offsets.size() - 1;
  constexpr std::size_t per_block = objective_threads / device_block::warp_size;
  launch<objective_threads>("gae",
                            device::gae{.options = options,
                                        .rewards = of.rewards.data(),
                                        .values = of.values.data(),
                                        .mask = mask.data(),
                                        .offsets = offsets.data(),
                                        .sequences = sequences,
                                        .advantages = out.advantages.data(),
                                        .returns = out.returns.data()},
                            (sequences + per_block - 1) / per_block, stream);
}

/// Unit variance over what the mask leaves in, by one block.
inline void whiten(std::span<float const> values, std::span<std::uint8_t const> mask, std::span<float> whitened,
                   whiten_options const& options, stream_view stream) {
  expects(mask.size() == values.size(), "cuda::whiten: mask.size() == values.size()", mask.size());
  expects(whitened.size() == values.size(), "cuda::whiten: whitened.size() == values.size()", whitened.size());
  constexpr unsigned threads = 1024;
  launch<threads>("whiten", device::whiten{options, values.data(), mask.data(), values.size(), whitened.data()},
                  values.empty() ? 0 : 1, stream);
}

}  // namespace attune::cuda
