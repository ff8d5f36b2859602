// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <limits>
#include <span>

#include <attune/concepts/policy.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/cuda/launch.cuh>
#include <attune/cuda/objectives.cuh>
#include <attune/cuda/workspace.cuh>
#include <attune/device/pair_token_losses.hpp>
#include <attune/device/sequence_losses.hpp>
#include <attune/device/sft_losses.hpp>
#include <attune/device/token_weights.hpp>
#include <attune/objective/loss_aggregation.hpp>
#include <attune/objective/pairwise/dpo.hpp>
#include <attune/objective/pairwise/pair_loss.hpp>
#include <attune/objective/policy_gradient.hpp>
#include <attune/objective/sft.hpp>

/// The token objectives of objective/ under their names, on a CUDA stream: what cuda/loss_on_logits.cuh takes. The
/// batch and every number lie on the device, so nothing here can look at them: a batch is one that validate() passed on
/// the host, and how many tokens the step has is counted there too. Options and sizes are checked before a launch
/// (contract_violation). Arithmetic in double; nothing is allocated and nothing waits.
namespace attune::cuda {

/// For o of type O const&, `of` and `slopes` with one entry per token of the batch:
///   o.terms()                              what it reads beside log-probabilities
///   o.workspace_bytes(tokens, sequences)   scratch of the call below
///   o(batch, of, slopes, loss, workspace, stream)
///       queues work that overwrites all slopes, 0 where the mask is 0, and *loss; entries of `of` where the mask is 0
///       hold anything
template <class O>
concept StreamObjective =
    requires(O const& o, sequences_view batch, term_values<float const> of, term_slopes<float> slopes, double* loss,
             std::span<std::byte> workspace, stream_view stream, std::size_t n) {
      { o.terms() } -> std::same_as<token_terms>;
      { o.workspace_bytes(n, n) } -> std::same_as<std::size_t>;
      o(batch, of, slopes, loss, workspace, stream);
    };

namespace detail {

inline void expects_batch(sequences_view batch, term_values<float const> const& of, term_slopes<float> const& slopes,
                          double const* loss) {
  std::size_t const tokens = batch.total_tokens();
  auto const fits = [tokens](std::size_t term) { return term == 0 || term == tokens; };
  expects(batch.size() > 0, "cuda: a batch of at least one sequence");
  expects(batch.mask.size() == tokens, "cuda: mask.size() == tokens.size()", batch.mask.size());
  expects_terms(of, batch);
  expects(slopes.logps.size() == tokens, "cuda: slopes.logps.size() == tokens.size()", slopes.logps.size());
  expects(fits(slopes.mean_logps.size()), "cuda: slopes.mean_logps empty, or one per token", slopes.mean_logps.size());
  expects(fits(slopes.log_normalizers.size()), "cuda: slopes.log_normalizers empty, or one per token",
          slopes.log_normalizers.size());
  expects(loss != nullptr, "cuda: a place for the loss");
}

[[nodiscard]] constexpr std::size_t blocks_of_warps(std::size_t items) noexcept {
  return objective_blocks(items * device_block::warp_size);
}

/// Weights of tokens where a sequence's hang on its length; else none, and the weight is the same for all.
inline std::span<float> queue_token_weights(loss_aggregation aggregation, aggregation_totals const& totals,
                                            sequences_view batch, workspace_cursor& scratch, stream_view stream) {
  if (aggregation != loss_aggregation::sequence_mean) return {};
  std::span<float> const weights = scratch.take<float>(batch.total_tokens());
  launch<objective_threads>("token_weights",
                            device::token_weights{.aggregation = aggregation,
                                                  .totals = totals,
                                                  .mask = batch.mask.data(),
                                                  .offsets = batch.offsets.data(),
                                                  .sequences = batch.size(),
                                                  .weights = weights.data()},
                            blocks_of_warps(batch.size()), stream);
  return weights;
}

[[nodiscard]] constexpr std::size_t token_weights_bytes(loss_aggregation aggregation, std::size_t tokens) noexcept {
  return aggregation == loss_aggregation::sequence_mean ? workspace_cursor::bytes<float>(tokens) : 0;
}

/// The totals of a step, of which sequences may be left out if the batch is all of it.
[[nodiscard]] inline aggregation_totals step_totals(loss_aggregation aggregation, aggregation_totals totals,
                                                    sequences_view batch) {
  if (totals.sequences == 0) totals.sequences = batch.size();
  expects(aggregation != loss_aggregation::token_mean || totals.tokens > 0,
          "cuda: totals.tokens, the masked-in tokens of the step, which token_mean divides by");
  expects(totals.sequences >= batch.size(), "cuda: totals.sequences >= the sequences of the batch", totals.sequences);
  expects(aggregation != loss_aggregation::constant ||
              (totals.constant_length > 0.0 && totals.constant_length <= (std::numeric_limits<double>::max)()),
          "cuda: totals.constant_length > 0 and finite (loss_aggregation::constant)", totals.constant_length);
  return totals;
}

}  // namespace detail

/// sft_loss. Under sft_normalization::sequence a completion without a token weighs nothing, where the host refuses it.
struct sft_on_tokens {
  sft_options options = {};
  sft_totals totals = {};  ///< of the whole step: tokens under sft_normalization::token; sequences 0 is this batch's

  token_terms terms() const noexcept { return terms_of(options); }

  std::size_t workspace_bytes(std::size_t tokens, std::size_t) const noexcept {
    return detail::token_weights_bytes(aggregation(), tokens) +
           workspace_cursor::bytes<double>(detail::objective_blocks(tokens));
  }

  void operator()(sequences_view batch, term_values<float const> const& of, term_slopes<float> const& slopes,
                  double* loss, std::span<std::byte> workspace, stream_view stream) const {
    validate(options);
    detail::expects_batch(batch, of, slopes, loss);
    token_terms const wanted = terms();
    expects(!wanted.mean_logps || (!of.mean_logps.empty() && !slopes.mean_logps.empty()),
            "cuda::sft_on_tokens: mean_logps, which label_smoothing > 0 needs");
    expects(!wanted.log_normalizers || (!of.log_normalizers.empty() && !slopes.log_normalizers.empty()),
            "cuda::sft_on_tokens: log_normalizers, which z_loss_coef > 0 needs");
    aggregation_totals const step =
        detail::step_totals(aggregation(), {.tokens = totals.tokens, .sequences = totals.sequences}, batch);
    workspace_cursor scratch(workspace);
    std::size_t const blocks = detail::objective_blocks(batch.total_tokens());
    std::span<double> const partials = scratch.take<double>(blocks);
    std::span<float> const weights = detail::queue_token_weights(aggregation(), step, batch, scratch, stream);
    launch<objective_threads>(
        "sft_loss",
        device::sft_losses{.options = options,
                           .tokens = batch.total_tokens(),
                           .logps = of.logps.data(),
                           .mean_logps = wanted.mean_logps ? of.mean_logps.data() : nullptr,
                           .log_normalizers = wanted.log_normalizers ? of.log_normalizers.data() : nullptr,
                           .mask = batch.mask.data(),
                           .weight = weights.empty() ? token_weight(aggregation(), step, 1) : 0.0,
                           .weights = detail::pointer(weights),
                           .slopes = slopes.logps.data(),
                           .mean_slopes = detail::pointer(slopes.mean_logps),
                           .log_normalizer_slopes = detail::pointer(slopes.log_normalizers),
                           .partials = partials.data()},
        blocks, stream);
    detail::add_up("sft_loss", partials, blocks, 1, loss, stream);
  }

 private:
  loss_aggregation aggregation() const noexcept {
    return options.normalization == sft_normalization::token ? loss_aggregation::token_mean
                                                             : loss_aggregation::sequence_mean;
  }
};

/// A pairwise loss over a pair batch: sequences 2i and 2i + 1 are the chosen and the rejected response of pair i. O is
/// any loss of objective/pairwise with a pair_objective.
template <PairObjective O>
struct pairs_on_tokens {
  std::span<double const> ref_logps = {};  ///< the reference's sums, one per sequence; empty for a loss without one
  O options = {};
  pair_totals totals = {};  ///< of the whole step; pairs 0 is this batch's, chosen_tokens must be said where they count
  pair_ratios ratios = {};

  token_terms terms() const noexcept { return {}; }

  std::size_t workspace_bytes(std::size_t, std::size_t sequences) const noexcept {
    return workspace_cursor::bytes<double>(detail::blocks_of_warps(sequences / 2));
  }

  void operator()(sequences_view batch, term_values<float const> const& of, term_slopes<float> const& slopes,
                  double* loss, std::span<std::byte> workspace, stream_view stream) const {
    validate(options);
    validate(ratios, options);
    detail::expects_batch(batch, of, slopes, loss);
    pair_inputs const reads = options.reads();
    bool const referred = reads.reference && !ratios.reference_free;
    std::size_t const pairs = batch.size() / 2;
    expects(batch.size() % 2 == 0,
            "cuda::pairs_on_tokens: an even number of sequences, chosen and rejected in turn", batch.size());
    expects(!referred || ref_logps.size() == batch.size(),
            "cuda::pairs_on_tokens: one reference log-probability per sequence", ref_logps.size());
    std::size_t const total = reads.per_chosen_token ? totals.chosen_tokens : totals.pairs == 0 ? pairs : totals.pairs;
    expects(total != 0, "cuda::pairs_on_tokens: totals.chosen_tokens, which this loss divides by");
    expects(reads.per_chosen_token || total >= pairs, "cuda::pairs_on_tokens: totals.pairs >= the pairs of the batch",
            total);
    workspace_cursor scratch(workspace);
    std::size_t const blocks = detail::blocks_of_warps(pairs);
    std::span<double> const partials = scratch.take<double>(blocks);
    launch<objective_threads>("pairs_on_tokens",
                              device::pair_token_losses<O>{.options = options,
                                                           .total = static_cast<double>(total),
                                                           .logps = of.logps.data(),
                                                           .mask = batch.mask.data(),
                                                           .offsets = batch.offsets.data(),
                                                           .pairs = pairs,
                                                           .ref_logps = referred ? ref_logps.data() : nullptr,
                                                           .slopes = slopes.logps.data(),
                                                           .partials = partials.data(),
                                                           .divergence = ratios.divergence},
                              blocks, stream);
    detail::add_up("pairs_on_tokens", partials, blocks, 1, loss, stream);
  }
};

using dpo_on_tokens = pairs_on_tokens<dpo_options>;

/// The policy gradient family: PPO, CISPO, SAPO by each token's ratio, GSPO by that of the response. A number per token
/// of the batch in each span.
template <PolicyGradientSurrogate O>
struct policy_gradient_on_tokens {
  std::span<float const> old_logps = {};
  std::span<float const> advantages = {};
  std::span<float const> ref_logps = {};  ///< may be empty without kl_loss_coef
  aggregation_totals totals = {};  ///< of the whole step: tokens under token_mean; sequences 0 is this batch's
  loss_aggregation aggregation = O::paper_aggregation;
  O options = {};
  policy_gradient_sums* statistics = nullptr;  ///< on the device; overwritten unless null
  kl_loss_options kl_loss = {};

  token_terms terms() const noexcept { return {}; }

  std::size_t workspace_bytes(std::size_t tokens, std::size_t sequences) const noexcept {
    return workspace_cursor::bytes<policy_gradient_sums>(1) +
           (by_token ? detail::token_weights_bytes(aggregation, tokens) +
                           workspace_cursor::bytes<double>(policy_gradient_workspace(tokens))
                     : workspace_cursor::bytes<double>(partials(sequences)));
  }

  void operator()(sequences_view batch, term_values<float const> const& of, term_slopes<float> const& slopes,
                  double* loss, std::span<std::byte> workspace, stream_view stream) const {
    validate(options);
    validate(kl_loss);
    detail::expects_batch(batch, of, slopes, loss);
    aggregation_totals const step = detail::step_totals(aggregation, totals, batch);
    workspace_cursor scratch(workspace);
    policy_gradient_sums* const sums =
        statistics != nullptr ? statistics : scratch.take<policy_gradient_sums>(1).data();
    policy_gradient_tokens<float> const tokens{
        .logps = of.logps, .old_logps = old_logps, .advantages = advantages, .ref_logps = ref_logps};
    if constexpr (by_token) {
      std::span<float> const weights = detail::queue_token_weights(aggregation, step, batch, scratch, stream);
      policy_gradient_loss(tokens, batch.mask, slopes.logps, weights.empty() ? token_weight(aggregation, step, 1) : 0.0,
                           weights, options, sums,
                           scratch.take<double>(policy_gradient_workspace(batch.total_tokens())), stream, kl_loss);
    } else {
      by_sequence(tokens, batch, slopes.logps, step, sums, scratch.take<double>(partials(batch.size())), stream);
    }
    launch<objective_threads>("policy_gradient_loss", device::sum_partials{&sums->loss, 1, loss}, 1, stream);
  }

 private:
  static constexpr bool by_token = ratio_level_of(O{}) == ratio_level::token;

  static constexpr std::size_t partials(std::size_t sequences) noexcept {
    return device::token_sums::count * detail::blocks_of_warps(sequences);
  }

  void by_sequence(policy_gradient_tokens<float> const& of, sequences_view batch, std::span<float> slopes,
                   aggregation_totals const& step, policy_gradient_sums* sums, std::span<double> workspace,
                   stream_view stream) const {
    detail::expects_tokens(of, batch.mask, slopes, kl_loss);
    std::size_t const blocks = detail::blocks_of_warps(batch.size());
    launch<objective_threads>("policy_gradient_loss",
                              device::sequence_losses<O>{.options = options,
                                                         .aggregation = aggregation,
                                                         .totals = step,
                                                         .logps = of.logps.data(),
                                                         .old_logps = of.old_logps.data(),
                                                         .advantages = of.advantages.data(),
                                                         .ref_logps = detail::pointer(of.ref_logps),
                                                         .mask = batch.mask.data(),
                                                         .offsets = batch.offsets.data(),
                                                         .sequences = batch.size(),
                                                         .slopes = slopes.data(),
                                                         .partials = workspace.data(),
                                                         .kl_loss = kl_loss},
                              blocks, stream);
    detail::add_up("policy_gradient_loss", workspace, blocks, device::token_sums::count, &sums->loss, stream);
  }
};

}  // namespace attune::cuda
