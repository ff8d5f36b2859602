// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>

#include <attune/concepts/backend.hpp>
#include <attune/core/adamw_update.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/storage.hpp>
#include <attune/core/view.hpp>
#include <attune/cuda/chunk_workspace.cuh>
#include <attune/cuda/launch.cuh>
#include <attune/cuda/shapes.cuh>
#include <attune/cuda/token_kl.cuh>
#include <attune/device/adamw.hpp>
#include <attune/device/block_sum.hpp>
#include <attune/device/gemm_plan.hpp>
#include <attune/device/kept_rows.hpp>
#include <attune/device/sample_tokens.hpp>
#include <attune/device/segments.hpp>
#include <attune/device/squared_norm.hpp>
#include <attune/device/token_logps.hpp>
#include <attune/device/token_logps_adjoint.hpp>
#include <attune/device/vocabulary_shards.hpp>

namespace attune::cuda {

/// The operations of concepts/backend.hpp under their names, on a CUDA device: every pointer in a view or span is the
/// device's, and the last argument is the stream on which the work is queued, in order. Nothing is allocated, nothing
/// waits, nothing is read on the host: scratch is passed in, results are there once the stream has come so far. Hence
/// not a model of the concept, whose squared_norm returns a number.
///
/// S is how large things are stored (logits, hidden states, the output matrix): float, bf16 or f16. What there is one
/// of per row is float. Arithmetic is in float at least, sums over the vocabulary in double.
///
/// Shapes that disagree throw contract_violation; a launch that the runtime refuses throws cuda_error; both before
/// anything of that launch runs. Targets cannot be looked at from here: one that is neither below the vocabulary nor
/// no_target makes its row's results NaN, and with them its gradient. Results are the same bits whenever the arguments
/// are, addresses modulo 16 bytes included (those of a product, addresses modulo 256).
template <class S>
class cuda_backend {
  static_assert(std::is_same_v<S, float> || std::is_same_v<S, bf16> || std::is_same_v<S, f16>, "float, bf16 or f16");

 public:
  using storage = S;
  using scalar = float;

  /// Threads of every block.
  static constexpr unsigned threads = 256;

  static constexpr std::size_t default_chunk = 1024;

  /// chunk: rows of logits that the linear operations hold at a time, >= 1; their workspace grows with it, and the
  /// products run the faster the larger it is, up to some thousands.
  explicit cuda_backend(std::size_t chunk = default_chunk, logit_gradients gradients = logit_gradients::split)
      : chunk_(chunk), gradients_(gradients) {
    expects(chunk >= 1, "cuda_backend: chunk >= 1", chunk);
  }

  void token_logps(matrix_view<S const> logits, std::span<token_id const> targets, row_logps<float> out,
                   stream_view stream) const {
    expects_rows(logits, targets);
    expects_outputs(out, logits.rows);
    launch_logps(logits, targets, out, stream);
  }

  /// dlogits may be logits itself; aligned to 16 bytes as logits is, its rows are written sixteen bytes at a time.
  void token_logps_adjoint(matrix_view<S const> logits, std::span<token_id const> targets,
                           std::span<float const> log_normalizers, row_slopes<float> slopes, matrix_view<S> dlogits,
                           stream_view stream) const {
    shard_adjoint(logits, 0, logits.cols, targets, log_normalizers, slopes, dlogits, stream);
  }

  /// A vocabulary divided over devices: columns [first, first + cols) of it here, targets counted over all of them.
  /// Each device summarises its rows, the summaries are gathered by whatever moves memory between devices, (shards, N),
  /// and each combines them to the same bits. `with` says which sums the outputs beyond the first two will need.
  void summarize_shard(matrix_view<S const> logits, std::size_t first, std::span<token_id const> targets,
                       device::row_terms with, std::span<device::shard_summary> out, stream_view stream) const {
    expects_rows(logits, targets);
    expects(out.size() == logits.rows, "summarize_shard: one summary per row", out.size());
    launch<threads>("summarize_shard", device::summarize_shard<S>{logits, first, targets.data(), with, out.data()},
                    logits.rows, stream);
  }
  void combine_shards(std::span<device::shard_summary const> parts, std::size_t shards, std::size_t vocabulary,
                      std::span<token_id const> targets, row_logps<float> out, stream_view stream) const {
    std::size_t const rows = targets.size();
    expects(shards >= 1 && parts.size() == shards * rows, "combine_shards: parts.size() == shards * rows",
            parts.size());
    expects(vocabulary >= 1, "combine_shards: vocabulary >= 1");
    expects_outputs(out, rows);
    launch<threads>("combine_shards",
                    device::combine_shards{.parts = parts.data(),
                                           .shards = shards,
                                           .rows = rows,
                                           .vocabulary = vocabulary,
                                           .targets = targets.data(),
                                           .logps = out.logps.data(),
                                           .log_normalizers = out.log_normalizers.data(),
                                           .mean_logps = pointer(out.mean_logps),
                                           .entropies = pointer(out.entropies),
                                           .collisions = pointer(out.collisions)},
                    blocks_for(rows, threads), stream);
  }

  /// token_logps_adjoint of columns [first, first + cols) of a vocabulary.
  void shard_adjoint(matrix_view<S const> logits, std::size_t first, std::size_t vocabulary,
                     std::span<token_id const> targets, std::span<float const> log_normalizers,
                     row_slopes<float> slopes, matrix_view<S> dlogits, stream_view stream) const {
    expects_rows(logits, targets);
    expects_slopes(log_normalizers, slopes, logits.rows);
    expects_matrix(dlogits);
    expects(dlogits.rows == logits.rows && dlogits.cols == logits.cols,
            "token_logps_adjoint: dlogits shaped as logits");
    expects(first + logits.cols <= vocabulary, "shard_adjoint: first + cols <= vocabulary", vocabulary);
    launch_adjoint<S, S>(logits, first, vocabulary, targets, log_normalizers, slopes, dlogits, nullptr, stream);
  }

  void token_kl(matrix_view<S const> logits, matrix_view<S const> ref_logits, std::span<token_id const> targets,
                kl_direction direction, row_kl<float> out, stream_view stream) const {
    cuda::token_kl<threads>(logits, ref_logits, targets, direction, out, stream);
  }
  void token_kl_adjoint(matrix_view<S const> logits, matrix_view<S const> ref_logits,
                        std::span<token_id const> targets, kl_direction direction, row_kl<float const> of,
                        std::span<float const> slopes, matrix_view<S> dlogits, stream_view stream) const {
    cuda::token_kl_adjoint<threads>(logits, ref_logits, targets, direction, of, slopes, dlogits, stream);
  }

  /// One token per row, drawn at a temperature >= 0 and finite (0: the largest logit) by numbers that are a function of
  /// seed, the row's stream, the position and the entry: device/sample_tokens.hpp.
  void sample_tokens(matrix_view<S const> logits, float temperature, std::uint64_t seed,
                     std::span<std::uint64_t const> streams, std::uint32_t position, std::span<token_id> out,
                     stream_view stream) const {
    expects_matrix(logits);
    expects(temperature >= 0.0f && temperature <= std::numeric_limits<float>::max(),
            "sample_tokens: temperature >= 0 and finite", temperature);
    expects(streams.size() == logits.rows, "sample_tokens: one stream per row", streams.size());
    expects(out.size() == logits.rows, "sample_tokens: one token per row", out.size());
    launch<threads>("sample_tokens",
                    device::sample_tokens<S>{logits, temperature, seed, streams.data(), position, out.data()},
                    logits.rows, stream);
  }

  /// Bytes of device memory, aligned to 16, that both linear operations need: for the rows of a chunk their logits in
  /// float, where S is narrower their gradients in one or two of S (logit_gradients), and their hidden states.
  [[nodiscard]] std::size_t workspace_bytes(std::size_t rows, std::size_t vocabulary,
                                            std::size_t width) const noexcept {
    return chunk_workspace<S>::bytes((std::min)(rows, chunk_), vocabulary, width, gradients_);
  }

  /// logits = hidden head^T, a chunk of rows at a time, in float throughout. Rows without a target are multiplied too,
  /// since which they are is known on the device alone: pack sequences, do not pad them.
  template <Gemm<stream_view, S, float> G>
  void linear_token_logps(matrix_view<S const> hidden, matrix_view<S const> head, std::span<token_id const> targets,
                          row_logps<float> out, std::span<std::byte> workspace, G const& gemm,
                          stream_view stream) const {
    expects_linear(hidden, head, targets, workspace);
    expects_outputs(out, hidden.rows);
    for (std::size_t first = 0; first < hidden.rows; first += chunk_) {
      chunk_workspace<S> const chunk = chunk_logits(hidden, head, first, workspace, gemm, stream);
      launch_logps<float>(chunk.logits, targets.subspan(first, chunk.logits.rows),
                          rows_of(out, first, chunk.logits.rows), stream);
    }
  }

  /// dhidden is overwritten, dhead, in float, is added to. log_normalizers are those that linear_token_logps wrote with
  /// a backend of the same chunk and the same gemm. The gradient of a chunk's logits is a factor of both products and
  /// hence in S: see logit_gradients. Hidden states of rows without a target do not reach dhead, whatever they hold.
  template <class G>
  requires Gemm<G, stream_view, S> && Gemm<G, stream_view, S, float>
  void linear_token_logps_adjoint(matrix_view<S const> hidden, matrix_view<S const> head,
                                  std::span<token_id const> targets, std::span<float const> log_normalizers,
                                  row_slopes<float> slopes, matrix_view<S> dhidden, matrix_view<float> dhead,
                                  std::span<std::byte> workspace, G const& gemm, stream_view stream) const {
    expects_linear(hidden, head, targets, workspace);
    expects_slopes(log_normalizers, slopes, hidden.rows);
    expects_matrix(dhidden);
    expects_matrix(dhead);
    expects(dhidden.rows == hidden.rows && dhidden.cols == hidden.cols,
            "linear_token_logps_adjoint: dhidden shaped as hidden");
    expects(dhead.rows == head.rows && dhead.cols == head.cols, "linear_token_logps_adjoint: dhead shaped as head");
    for (std::size_t first = 0; first < hidden.rows; first += chunk_) {
      chunk_workspace<S> const chunk = chunk_logits(hidden, head, first, workspace, gemm, stream);
      std::size_t const rows = chunk.logits.rows;
      std::span<token_id const> const ids = targets.subspan(first, rows);
      launch_adjoint<float>(chunk.logits, 0, head.rows, ids, log_normalizers.subspan(first, rows),
                            rows_of(slopes, first, rows), chunk.dlogits, chunk.rests.data, stream);
      launch<threads>("linear_token_logps_adjoint",
                      device::kept_rows<S>{hidden.middle_rows(first, rows), ids.data(), chunk.hidden}, rows, stream);
      bool added = false;
      matrix_view<S const> const factors[] = {chunk.rests, chunk.dlogits};  // what is small before what is large
      for (matrix_view<S const> const& factor : factors) {
        if (factor.data == nullptr) continue;
        gemm(plan_gemm<S, S>(transpose::no, factor, transpose::no, head, dhidden.middle_rows(first, rows)), 1.0f,
             added ? 1.0f : 0.0f, stream);
        gemm(plan_gemm<S, float>(transpose::yes, factor, transpose::no, chunk.hidden, dhead), 1.0f, 1.0f, stream);
        added = true;
      }
    }
  }

  /// out[b] = sum of values[offsets[b] .. offsets[b + 1]), in double and rounded once. Offsets cannot be looked at from
  /// here.
  void segment_sum(std::span<float const> values, std::span<std::size_t const> offsets, std::span<float> out,
                   stream_view stream) const {
    expects_segments(offsets, out.size(), values.size());
    launch<threads>("segment_sum", device::segment_sum{values.data(), offsets.data(), out.size(), out.data()},
                    blocks_for(out.size(), segments_per_block), stream);
  }

  void segment_broadcast(std::span<float const> values, std::span<std::size_t const> offsets, std::span<float> out,
                         stream_view stream) const {
    expects_segments(offsets, values.size(), out.size());
    launch<threads>("segment_broadcast",
                    device::segment_broadcast{values.data(), offsets.data(), values.size(), out.data()},
                    blocks_for(values.size(), segments_per_block), stream);
  }

  /// Elements of double that squared_norm needs for so many values.
  [[nodiscard]] static constexpr std::size_t squared_norm_workspace(std::size_t count) noexcept {
    return (std::min)(blocks_for(count, 4096), most_partials);
  }

  /// *out, on the device, is the sum of squares of values; 0 of none.
  void squared_norm(std::span<S const> values, double* out, std::span<double> workspace, stream_view stream) const {
    std::size_t const partials = squared_norm_workspace(values.size());
    expects(workspace.size() >= partials, "squared_norm: workspace.size() >= squared_norm_workspace(count)",
            workspace.size());
    expects(out != nullptr, "squared_norm: a place for the result");
    launch<threads>("squared_norm", device::squared_norm<S>{values.data(), values.size(), workspace.data()}, partials,
                    stream);
    launch<threads>("squared_norm", device::sum_partials{workspace.data(), partials, out}, 1, stream);
  }

  /// AdamW on float weights and moments, in place, with gradients of S. `copy`, empty or of the weights' length, gets
  /// the new weights rounded to S: where `value` are the master weights of mixed precision, the model's own.
  void adamw(adamw_update<float> update, std::span<float> value, std::span<S const> gradient, std::span<float> first,
             std::span<float> second, std::span<S> copy, stream_view stream) const {
    expects(gradient.size() == value.size() && first.size() == value.size() && second.size() == value.size(),
            "adamw: value, gradient and both moments of one length");
    expects(copy.empty() || copy.size() == value.size(), "adamw: copy empty, or of the weights' length", copy.size());
    launch<threads>("adamw",
                    device::adamw<S>{update, value.size(), value.data(), gradient.data(), first.data(), second.data(),
                                     pointer(copy)},
                    blocks_for(value.size(), threads * pack<S>::size), stream);
  }

 private:
  static constexpr std::size_t segments_per_block = threads / device_block::warp_size;
  static constexpr std::size_t most_partials =
      1024;  // what one block adds up in a moment, and blocks enough for any device

  static constexpr std::size_t blocks_for(std::size_t count, std::size_t per_block) noexcept {
    return (count + per_block - 1) / per_block;
  }

  template <class X>
  static void launch_logps(matrix_view<X const> logits, std::span<token_id const> targets, row_logps<float> const& out,
                           stream_view stream) {
    launch<threads>("token_logps",
                    device::token_logps<X>{.logits = logits,
                                           .targets = targets.data(),
                                           .logps = out.logps.data(),
                                           .log_normalizers = out.log_normalizers.data(),
                                           .mean_logps = pointer(out.mean_logps),
                                           .entropies = pointer(out.entropies),
                                           .collisions = pointer(out.collisions)},
                    logits.rows, stream);
  }

  template <class X, class D>
  static void launch_adjoint(matrix_view<X const> logits, std::size_t first, std::size_t vocabulary,
                             std::span<token_id const> targets, std::span<float const> log_normalizers,
                             row_slopes<float> slopes, matrix_view<D> dlogits, D* rests, stream_view stream) {
    launch<threads>("token_logps_adjoint",
                    device::token_logps_adjoint<X, D>{.logits = logits,
                                                      .targets = targets.data(),
                                                      .log_normalizers = log_normalizers.data(),
                                                      .slopes = slopes.logps.data(),
                                                      .dlogits = dlogits,
                                                      .mean_slopes = pointer(slopes.mean_logps),
                                                      .entropies = pointer(slopes.entropies),
                                                      .entropy_slopes = pointer(slopes.entropy_slopes),
                                                      .log_normalizer_slopes = pointer(slopes.log_normalizers),
                                                      .first = first,
                                                      .vocabulary = vocabulary,
                                                      .rests = rests},
                    logits.rows, stream);
  }

  template <class G>
  chunk_workspace<S> chunk_logits(matrix_view<S const> hidden, matrix_view<S const> head, std::size_t first,
                                  std::span<std::byte> workspace, G const& gemm, stream_view stream) const {
    std::size_t const rows = (std::min)(chunk_, hidden.rows - first);
    auto const chunk = chunk_workspace<S>::in(workspace.data(), rows, head.rows, head.cols, gradients_);
    gemm(plan_gemm<S, float>(transpose::no, hidden.middle_rows(first, rows), transpose::yes, head, chunk.logits), 1.0f,
         0.0f, stream);
    return chunk;
  }

  /// An empty span may point anywhere; a body takes null.
  template <class T>
  static T* pointer(std::span<T> values) noexcept {
    return values.empty() ? nullptr : values.data();
  }

  template <class T>
  static std::span<T> part(std::span<T> values, std::size_t first, std::size_t count) {
    return values.empty() ? values : values.subspan(first, count);
  }
  static row_logps<float> rows_of(row_logps<float> const& of, std::size_t first, std::size_t count) {
    return {part(of.logps, first, count), part(of.log_normalizers, first, count), part(of.mean_logps, first, count),
            part(of.entropies, first, count), part(of.collisions, first, count)};
  }
  static row_slopes<float> rows_of(row_slopes<float> const& of, std::size_t first, std::size_t count) {
    return {part(of.logps, first, count), part(of.mean_logps, first, count), part(of.entropies, first, count),
            part(of.entropy_slopes, first, count), part(of.log_normalizers, first, count)};
  }

  void expects_linear(matrix_view<S const> hidden, matrix_view<S const> head, std::span<token_id const> targets,
                      std::span<std::byte const> workspace) const {
    expects_matrix(hidden);
    expects_matrix(head);
    expects(hidden.cols == head.cols, "cuda_backend: hidden and head of one width", head.cols);
    expects(targets.size() == hidden.rows, "cuda_backend: one target per row", targets.size());
    expects(hidden.rows == 0 || head.rows > 0, "cuda_backend: a vocabulary of at least one entry");
    expects(workspace.size() >= workspace_bytes(hidden.rows, head.rows, head.cols),
            "cuda_backend: workspace.size() >= workspace_bytes(N, V, D)", workspace.size());
    expects(reinterpret_cast<std::uintptr_t>(workspace.data()) % 16 == 0, "cuda_backend: workspace aligned to 16 bytes");
  }

  std::size_t chunk_;
  logit_gradients gradients_;
};

}  // namespace attune::cuda
