// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <attune/concepts/backend.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/view.hpp>
#include <attune/objective/loss_on_logits.hpp>
#include <attune/objective/token_objectives.hpp>

/// Logits whose vocabulary is cut into shards, each a matrix of its own: (N, V_0), (N, V_1), ... in the order of the
/// entries, on one device or on several, as tensor parallelism leaves them (Shoeybi et al. 2019, Megatron-LM, section
/// 3). No shard sees another's logits: each gives a row_logps of what it has, numbers per row, from which every one can
/// make those of the whole vocabulary; and with these each finds the gradient in its own logits.
///
///   shard_token_logps          one shard's logits -> its partial row_logps      where the shard lies
///   combine_shards             all partials -> row_logps of the whole row       anywhere, after an all-gather
///   shard_token_logps_adjoint  -> dlogits of one shard                          where the shard lies
///   loss_on_logit_shards       all of it, for shards in one process
///
/// Any backend serves: a shard is a vocabulary to it, and what it owes to the others is a slope of its normaliser.
/// One shard gives the bits of the unsharded operations. With more, and partials that are off by their rounding to
/// scalar alone, a number x of a row is off by 3 epsilon (shards + |log_normalizer| + |x|) at most, the entropy by that
/// times 1 + log V (and the mean in double by epsilon |x| / 2 per shard more, which its sum may lose): a shard's
/// normaliser z_s is rounded, and |z_s|, averaged as the derivatives of x do, is |log_normalizer| + |x| + log(shards)
/// at most. Without |x| there is no bound: the z_s of an improbable target's shard is as far away. Beyond that, x has
/// the errors of the backend in its partials. Gradients of the same normalisers differ from the unsharded ones by 4
/// epsilon of the sum of their row's slopes in size, that of the entropy times 1 + log V: five roundings here, three
/// there.
namespace attune {

/// Scratch of one shard: allocates nothing once it has seen as many rows.
template <class T>
struct shard_workspace {
  std::vector<token_id> targets;                    // (N) by the shard's count; 0 where the target is another shard's
  std::vector<T> slopes, means, normalizer_slopes;  // (N)
};

/// Whether entry `target` of the vocabulary lies in the shard [first, first + size).
[[nodiscard]] constexpr bool shard_has(std::size_t first, std::size_t size, token_id target) noexcept {
  return target != no_target && static_cast<std::size_t>(target) >= first &&
         static_cast<std::size_t>(target) - first < size;
}

/// Throws contract_violation, naming the place, the row and the value, unless every target is an entry of the whole
/// vocabulary or no_target: no shard has such a one, and each would take it for another's.
inline void expects_targets_in_all(std::span<token_id const> targets, std::size_t vocabulary, char const* place) {
  for (std::size_t i = 0; i < targets.size(); ++i)
    if (targets[i] != no_target && !shard_has(0, vocabulary, targets[i])) [[unlikely]]
      throw contract_violation(std::string(place) + ": row " + std::to_string(i) + ": expected a target below " +
                               std::to_string(vocabulary) + " or no_target, got " + std::to_string(targets[i]));
}

/// The targets as the shard counts them, into workspace.targets. A target of another shard becomes entry 0, any one:
/// its row is computed for the normaliser's sake.
template <class T>
void localize_targets(std::size_t first, std::size_t size, std::span<token_id const> targets,
                      shard_workspace<T>& workspace) {
  workspace.targets.resize(targets.size());
  for (std::size_t i = 0; i < targets.size(); ++i)
    workspace.targets[i] = targets[i] == no_target ? no_target
                           : shard_has(first, size, targets[i])
                               ? static_cast<token_id>(static_cast<std::size_t>(targets[i]) - first)
                               : token_id{0};
}

/// What one shard knows of each row: its own normaliser, mean, entropy and collision, and the log-probability of the
/// target among its own entries, -inf where the target is another shard's. A row of the shard that is all -inf is no
/// error here: its normaliser is -inf. `first`: the vocabulary entry of the shard's column 0. Targets count the whole
/// vocabulary, whose size no shard knows here: one beyond it is refused by combine_shards.
template <Backend B>
void shard_token_logps(B& backend, matrix_view<typename B::storage const> logits, std::size_t first,
                       std::span<token_id const> targets, row_logps<typename B::scalar> partial,
                       shard_workspace<typename B::scalar>& workspace) {
  using T = typename B::scalar;
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  expects(logits.rows == 0 || logits.cols > 0, "shard_token_logps: a shard of at least one entry");
  expects(targets.size() == logits.rows, "shard_token_logps: one target per row", targets.size());
  localize_targets(first, logits.cols, targets, workspace);
  backend.token_logps(logits, workspace.targets, partial);
  for (std::size_t i = 0; i < targets.size(); ++i) {
    if (targets[i] == no_target) continue;
    if (std::isnan(partial.log_normalizers[i])) {
      bool empty = true;
      for (std::size_t v = 0; v < logits.cols && empty; ++v) empty = static_cast<T>(logits(i, v)) == lowest;
      if (!empty) continue;
      partial.logps[i] = partial.log_normalizers[i] = lowest;
      if (!partial.mean_logps.empty()) partial.mean_logps[i] = lowest;
      if (!partial.entropies.empty()) partial.entropies[i] = T(0);
      if (!partial.collisions.empty()) partial.collisions[i] = T(0);
    }
    if (!shard_has(first, logits.cols, targets[i])) partial.logps[i] = lowest;
  }
}

/// The rows of the whole vocabulary from those of all its shards, in order; sizes[s] entries in shard s. Writes what is
/// not empty in `out`, for which every partial must have the same; out may be one of the partials. In double, shard by
/// shard. A row that no shard has a number for is NaN, as in an unsharded row; 0 without a target. Refuses a target
/// outside the vocabulary.
template <class T>
void combine_shards(std::span<row_logps<T> const> partials, std::span<std::size_t const> sizes,
                    std::span<token_id const> targets, row_logps<T> out) {
  expects(!partials.empty() && sizes.size() == partials.size(), "combine_shards: one size per partial, at least one",
          sizes.size());
  std::size_t vocabulary = 0;
  for (std::size_t const size : sizes) vocabulary += size;
  auto const agrees = [&](std::span<T> mine, std::span<T> theirs) {
    return mine.empty() || (mine.size() == targets.size() && theirs.size() == targets.size());
  };
  for (row_logps<T> const& p : partials)
    expects(p.logps.size() == targets.size() && out.logps.size() == targets.size() &&
                agrees(out.log_normalizers, p.log_normalizers) && out.log_normalizers.size() == targets.size() &&
                agrees(out.mean_logps, p.mean_logps) && agrees(out.entropies, p.entropies) &&
                agrees(out.collisions, p.collisions),
            "combine_shards: one of each number per row, in every partial that `out` asks for");
  expects_targets_in_all(targets, vocabulary, "combine_shards");

  constexpr double lowest = -std::numeric_limits<double>::infinity();
  auto const wide = [](std::span<T> values, std::size_t i) { return static_cast<double>(values[i]); };
  // log sum over shards of e^term(s), exact for one of them; terms are not NaN
  auto const log_sum = [&](auto const& term) {
    double highest = lowest, sum = 0.0;
    for (std::size_t s = 0; s < partials.size(); ++s) highest = (std::max)(highest, term(s));
    if (highest == lowest) return lowest;
    for (std::size_t s = 0; s < partials.size(); ++s) sum += std::exp(term(s) - highest);
    return highest + std::log(sum);
  };
  for (std::size_t i = 0; i < targets.size(); ++i) {
    double logp = 0.0, normalizer = 0.0, mean = 0.0, entropy = 0.0, collision = 0.0;
    if (targets[i] != no_target) {
      bool sound = true;
      for (row_logps<T> const& p : partials) sound = sound && !std::isnan(p.log_normalizers[i]);
      auto const of = [&](std::size_t s) { return wide(partials[s].log_normalizers, i); };
      normalizer = sound ? log_sum(of) : lowest;
      if (normalizer == lowest) {
        logp = normalizer = mean = entropy = collision = std::numeric_limits<double>::quiet_NaN();
      } else {
        std::size_t first = 0;
        for (std::size_t s = 0; s < partials.size(); first += sizes[s++]) {
          double const away = of(s) - normalizer;  // the log of the shard's probability
          if (shard_has(first, sizes[s], targets[i])) logp = wide(partials[s].logps, i) + away;
          if (!out.mean_logps.empty())
            mean += (away == lowest ? lowest : wide(partials[s].mean_logps, i) + away) *
                    (static_cast<double>(sizes[s]) / static_cast<double>(vocabulary));
          if (!out.entropies.empty() && away > lowest)
            entropy += std::exp(away) * (wide(partials[s].entropies, i) - away);
        }
        if (!out.collisions.empty())
          collision = log_sum([&](std::size_t s) {
            return of(s) == lowest ? lowest : wide(partials[s].collisions, i) + 2.0 * (of(s) - normalizer);
          });
      }
    }
    out.logps[i] = static_cast<T>(logp);
    out.log_normalizers[i] = static_cast<T>(normalizer);
    if (!out.mean_logps.empty()) out.mean_logps[i] = static_cast<T>(mean);
    if (!out.entropies.empty()) out.entropies[i] = static_cast<T>(entropy);
    if (!out.collisions.empty()) out.collisions[i] = static_cast<T>(collision);
  }
}

/// The gradient in one shard's logits, of slopes that belong to the rows of the whole vocabulary, with its normalisers
/// (and entropies, in `slopes`). Overwrites dlogits, which may be the logits. Refuses a target outside the vocabulary.
template <Backend B>
void shard_token_logps_adjoint(B& backend, matrix_view<typename B::storage const> logits, std::size_t first,
                               std::size_t vocabulary, std::span<token_id const> targets,
                               std::span<typename B::scalar const> log_normalizers,
                               row_slopes<typename B::scalar> slopes, matrix_view<typename B::storage> dlogits,
                               shard_workspace<typename B::scalar>& workspace) {
  using T = typename B::scalar;
  expects(first + logits.cols <= vocabulary, "shard_token_logps_adjoint: first + cols <= vocabulary",
          first + logits.cols);
  expects(targets.size() == logits.rows, "shard_token_logps_adjoint: one target per row", targets.size());
  expects(slopes.logps.size() == logits.rows, "shard_token_logps_adjoint: one slope per row", slopes.logps.size());
  expects_targets_in_all(targets, vocabulary, "shard_token_logps_adjoint");
  localize_targets(first, logits.cols, targets, workspace);
  bool const with_mean = !slopes.mean_logps.empty(), with_normalizers = !slopes.log_normalizers.empty();
  workspace.slopes.assign(slopes.logps.begin(), slopes.logps.end());
  workspace.normalizer_slopes.assign(targets.size(), T(0));
  workspace.means.assign(with_mean ? targets.size() : 0, T(0));
  double const share = static_cast<double>(logits.cols) / static_cast<double>(vocabulary);
  for (std::size_t i = 0; i < targets.size(); ++i) {
    double rise = with_normalizers ? static_cast<double>(slopes.log_normalizers[i]) : 0.0;
    if (!shard_has(first, logits.cols, targets[i])) {  // the target's own part is elsewhere, -slope p is everywhere
      rise -= static_cast<double>(slopes.logps[i]);
      workspace.slopes[i] = T(0);
    }
    if (with_mean) {  // m (1/V - p) is m' (1/V' - p) - (m - m') p with m' = m V' / V
      double const mean = static_cast<double>(slopes.mean_logps[i]);
      workspace.means[i] = static_cast<T>(mean * share);
      rise -= mean - static_cast<double>(workspace.means[i]);
    }
    workspace.normalizer_slopes[i] = static_cast<T>(rise);
  }
  backend.token_logps_adjoint(
      logits, workspace.targets, log_normalizers,
      {workspace.slopes, workspace.means, slopes.entropies, slopes.entropy_slopes, workspace.normalizer_slopes},
      dlogits);
}

/// loss_on_logits of a vocabulary in shards: the loss of a batch, and in dlogits[s] (T, V_s) the gradient in logits[s],
/// which it may be. Expects as many of one as of the other, batch.total_tokens() rows each. Allocates a few numbers per
/// row.
template <Backend B, class Objective>
typename B::scalar loss_on_logit_shards(B& backend, Objective&& objective,
                                        std::span<matrix_view<typename B::storage const> const> logits,
                                        sequences_view batch, std::span<matrix_view<typename B::storage> const> dlogits,
                                        loss_workspace<typename B::scalar>& workspace) {
  using T = typename B::scalar;
  expects(!logits.empty(), "loss_on_logit_shards: at least one shard");
  expects(dlogits.size() == logits.size(), "loss_on_logit_shards: as many dlogits as logits", dlogits.size());
  std::vector<std::size_t> sizes;
  std::size_t vocabulary = 0;
  for (std::size_t s = 0; s < logits.size(); ++s) {
    expects(logits[s].rows == batch.total_tokens(), "loss_on_logit_shards: logits[s].rows == batch.total_tokens(), s",
            s);
    expects(dlogits[s].rows == logits[s].rows && dlogits[s].cols == logits[s].cols,
            "loss_on_logit_shards: dlogits[s] shaped as logits[s], s", s);
    sizes.push_back(logits[s].cols);
    vocabulary += logits[s].cols;
  }
  validate(batch, vocabulary);
  token_terms const terms = terms_of<T>(objective);
  workspace.prepare(batch, terms);
  shard_workspace<T> scratch;
  std::vector<loss_workspace<T>> each(logits.size());
  std::vector<row_logps<T>> partials;
  std::size_t first = 0;
  for (std::size_t s = 0; s < logits.size(); first += sizes[s++]) {
    each[s].prepare(batch, terms);
    partials.push_back(each[s].forward());
    shard_token_logps(backend, logits[s], first, workspace.targets, partials.back(), scratch);
  }
  combine_shards<T>(partials, sizes, workspace.targets, workspace.forward());
  T const loss = ask_for_slopes(objective, batch, workspace);
  first = 0;
  for (std::size_t s = 0; s < logits.size(); first += sizes[s++])
    shard_token_logps_adjoint(backend, logits[s], first, vocabulary, workspace.targets,
                              workspace.by_row(workspace.log_normalizers), workspace.backward(), dlogits[s], scratch);
  return loss;
}

}  // namespace attune
