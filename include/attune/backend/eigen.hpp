// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

#include <Eigen/Core>

#include <attune/backend/backend_contract.hpp>
#include <attune/backend/eigen_gemm.hpp>
#include <attune/backend/eigen_head.hpp>
#include <attune/backend/host_operations.hpp>
#include <attune/concepts/backend.hpp>
#include <attune/core/adamw_update.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/parallel.hpp>
#include <attune/core/storage.hpp>
#include <attune/core/view.hpp>
#include <attune/kernel/divergence_row.hpp>
#include <attune/kernel/token_row.hpp>

namespace attune {

/// The operations of concepts/backend.hpp, fast on a CPU: one reading of the logits in each direction, row by row;
/// matrix products by Eigen; the output matrix in chunks of rows, of which one exists at a time, in the workspace.
///
/// Determinism: results are the same bits for any number of threads. What belongs to one row (its log-probabilities,
/// its gradient in logits or hidden state) is the same bits whatever the other rows are, wherever it stands among them
/// and however the memory is aligned. dhead is a sum over rows: it is the same bits for the same rows in the same
/// order, and depends on the chunk by rounding only. Another instruction set rounds differently.
///
/// Beyond the concept: outputs of a row without a target are 0; a NaN among a row's log_normalizer and slopes makes the
/// row's gradient NaN throughout. Throws contract_violation for sizes that disagree or a target outside the vocabulary.
/// Allocates nothing itself; Eigen's product takes packing buffers of about a level-2 cache. A head in sixteen bits is
/// widened block by block into the workspace, whose size for it grows with the number of threads.
template <StorageScalar S>
class eigen_backend : public host_operations<arithmetic_t<S>> {
  using T = arithmetic_t<S>;

 public:
  using scalar = T;
  using storage = S;

  static constexpr std::size_t default_chunk = 256;
  static constexpr std::size_t largest_chunk = 4096;

  /// pool: where rows and products are spread, null for the calling thread alone; it outlives the backend, and no
  /// operation may be called from within one of its tasks. chunk: rows of logits that the linear operations hold at a
  /// time, in [1, largest_chunk]; memory grows with it.
  explicit eigen_backend(thread_pool* pool = nullptr, std::size_t chunk = default_chunk) : pool_(pool), chunk_(chunk) {
    expects(chunk >= 1 && chunk <= largest_chunk, "eigen_backend: chunk in [1, largest_chunk]", chunk);
  }

  void token_logps(matrix_view<S const> logits, std::span<token_id const> targets, row_logps<T> out) const {
    expects_matrix(logits);
    expects_targets(targets, logits.rows, logits.cols);
    expects_outputs(out, logits.rows);
    each_row(logits.rows, logits.cols,
             [&](std::size_t i) { score_row(logits.row(i), logits.cols, targets[i], out, i); });
  }

  void token_logps_adjoint(matrix_view<S const> logits, std::span<token_id const> targets,
                           std::span<T const> log_normalizers, row_slopes<T> slopes, matrix_view<S> dlogits) const {
    expects_adjoint(logits, targets, log_normalizers, slopes, dlogits);
    each_row(logits.rows, logits.cols, [&](std::size_t i) {
      score_row_adjoint(logits.row(i), logits.cols, targets[i], log_normalizers[i], slopes, i, dlogits.row(i));
    });
  }

  void linear_token_logps(matrix_view<S const> hidden, matrix_view<S const> head, std::span<token_id const> targets,
                          row_logps<T> out, std::span<T> workspace) const {
    expects_linear(hidden, head, targets, workspace, linear_workspace(hidden.rows, head.rows, head.cols));
    expects_outputs(out, hidden.rows);
    for (std::size_t i = 0; i < hidden.rows; ++i)
      if (targets[i] == no_target) score_row<T>(nullptr, head.rows, no_target, out, i);
    each_chunk(hidden, head, targets, workspace, [&](chunk_of_rows const& chunk) {
      each_row(chunk.count, head.rows, [&](std::size_t r) {
        std::size_t const i = chunk.source[r];
        score_row(chunk.logits.row(r), head.rows, targets[i], out, i);
      });
    });
  }

  void linear_token_logps_adjoint(matrix_view<S const> hidden, matrix_view<S const> head,
                                  std::span<token_id const> targets, std::span<T const> log_normalizers,
                                  row_slopes<T> slopes, matrix_view<S> dhidden, matrix_view<T> dhead,
                                  std::span<T> workspace) const {
    expects_linear(hidden, head, targets, workspace, linear_workspace(hidden.rows, head.rows, head.cols));
    expects_linear_adjoint(hidden, head, log_normalizers, slopes, dhidden, dhead);
    for (std::size_t i = 0; i < hidden.rows; ++i)
      if (targets[i] == no_target) std::fill_n(dhidden.row(i), dhidden.cols, S(0));
    each_chunk(hidden, head, targets, workspace, [&](chunk_of_rows const& chunk) {
      matrix_view<T> const dlogits = chunk.logits;
      each_row(dlogits.rows, head.rows, [&](std::size_t r) {
        std::size_t const i = r < chunk.count ? chunk.source[r] : 0;
        score_row_adjoint(dlogits.row(r), head.rows, r < chunk.count ? targets[i] : no_target, log_normalizers[i],
                          slopes, i, dlogits.row(r));
      });
      tasks((dlogits.rows + token_block - 1) / token_block, [&](std::size_t task, std::size_t thread) {
        std::size_t const first = task * token_block;
        std::size_t const rows = (std::min)(token_block, dlogits.rows - first);
        chunk.head.multiply(dlogits.middle_rows(first, rows), chunk.dhidden.middle_rows(first, rows), thread);
        for (std::size_t r = first; r < (std::min)(first + rows, chunk.count); ++r)
          convert(chunk.dhidden.row(r), dhidden.cols, dhidden.row(chunk.source[r]));
      });
      each_vocabulary_block(head.rows, [&](std::size_t first, std::size_t count, std::size_t) {
        gemm_tn<T>({dlogits.data + first, dlogits.rows, count, dlogits.row_stride}, chunk.hidden,
                   dhead.middle_rows(first, count), product::add);
      });
    });
  }

  std::size_t linear_workspace(std::size_t rows, std::size_t vocabulary, std::size_t width) const noexcept {
    std::size_t const gathered = padded((std::min)(rows, chunk_), vocabulary, width) * (vocabulary + 2 * width);
    return gathered + threads() * eigen_head<S>::elements_per_thread(vocabulary, width);
  }

  void token_kl(matrix_view<S const> logits, matrix_view<S const> ref_logits, std::span<token_id const> targets,
                kl_direction direction, row_kl<T> out) const {
    expects_divergence(logits, ref_logits, targets, out);
    each_row(logits.rows, logits.cols, [&](std::size_t i) {
      divergence_row(logits.row(i), ref_logits.row(i), logits.cols, targets[i], direction, out, i);
    });
  }

  void token_kl_adjoint(matrix_view<S const> logits, matrix_view<S const> ref_logits, std::span<token_id const> targets,
                        kl_direction direction, row_kl<T const> of, std::span<T const> slopes,
                        matrix_view<S> dlogits) const {
    expects_divergence(logits, ref_logits, targets, of);
    expects_divergence_slopes(logits, slopes, dlogits);
    each_row(logits.rows, logits.cols, [&](std::size_t i) {
      if (targets[i] != no_target)
        divergence_row_adjoint(logits.row(i), ref_logits.row(i), logits.cols, direction, of, slopes[i], i,
                               dlogits.row(i));
    });
  }

  /// The sum of at most 64 pieces whose bounds depend on the length alone.
  double squared_norm(std::span<T const> values) const {
    constexpr std::size_t pieces = 64;
    constexpr std::size_t least = 4096;
    std::size_t const piece = ((values.size() + pieces - 1) / pieces + least - 1) / least * least;
    std::array<double, pieces> sums{};
    tasks(piece == 0 ? 0 : (values.size() + piece - 1) / piece, [&](std::size_t task, std::size_t) {
      std::size_t const first = task * piece;
      sums[task] = squares(values.subspan(first, (std::min)(piece, values.size() - first)));
    });
    double sum = 0.0;
    for (double const s : sums) sum += s;
    return sum;
  }

  /// Second moments below the smallest normal number count as 0 in the denominator.
  void adamw(adamw_update<T> update, std::span<T> value, std::span<T const> gradient, std::span<T> first,
             std::span<T> second) const {
    expects(gradient.size() == value.size() && first.size() == value.size() && second.size() == value.size(),
            "adamw: value, gradient and both moments of one length");
    constexpr std::size_t piece = 1 << 16;
    tasks((value.size() + piece - 1) / piece, [&](std::size_t task, std::size_t) {
      std::size_t const end = (std::min)(value.size(), (task + 1) * piece);
      std::size_t i = task * piece;
      for (; i + block_width <= end; i += block_width) step(update, &value[i], &gradient[i], &first[i], &second[i]);
      if (i == end) return;
      std::array<T, block_width> v{}, g{}, m{}, s{};  // the end goes through the same arithmetic as the rest
      std::size_t const count = end - i;
      std::copy_n(&value[i], count, v.begin());
      std::copy_n(&gradient[i], count, g.begin());
      std::copy_n(&first[i], count, m.begin());
      std::copy_n(&second[i], count, s.begin());
      step(update, v.data(), g.data(), m.data(), s.data());
      std::copy_n(v.begin(), count, &value[i]);
      std::copy_n(m.begin(), count, &first[i]);
      std::copy_n(s.begin(), count, &second[i]);
    });
  }

 private:
  static constexpr std::size_t block_width = 16;  // of elementwise work: a multiple of every register
  static constexpr std::size_t token_block = 128;

  /// Rows that have a target, gathered; `count` of them real, the rest zero.
  struct chunk_of_rows {
    std::size_t const* source;  // (count) where the rows came from
    std::size_t count;
    matrix_view<T> hidden;   // (padded, D)
    matrix_view<T> logits;   // (padded, V)
    matrix_view<T> dhidden;  // (padded, D), not yet written
    eigen_head<S> head;
  };

  std::size_t threads() const noexcept { return pool_ != nullptr ? pool_->threads() : 1; }

  /// Eigen computes a row of a product the same way wherever it stands if the number of rows is a multiple of its
  /// register block, 4 or 8, and if the product is not so small that another algorithm is taken.
  static std::size_t padded(std::size_t rows, std::size_t vocabulary, std::size_t width) noexcept {
    std::size_t const multiple = vocabulary + width < 24 ? token_block : 8;
    return (rows + multiple - 1) / multiple * multiple;
  }

  template <class F>
  void tasks(std::size_t count, F const& f) const {
    if (pool_ != nullptr)
      pool_->for_each(count, f);
    else
      for (std::size_t task = 0; task < count; ++task) f(task, std::size_t{0});
  }

  /// Rows in tasks of about 32 K elements, so that waking a thread is worth it.
  template <class F>
  void each_row(std::size_t rows, std::size_t cols, F const& f) const {
    std::size_t const per_task = (std::max<std::size_t>)(1, 32768 / (std::max<std::size_t>)(1, cols));
    tasks((rows + per_task - 1) / per_task, [&](std::size_t task, std::size_t) {
      std::size_t const end = (std::min)(rows, (task + 1) * per_task);
      for (std::size_t i = task * per_task; i < end; ++i) f(i);
    });
  }

  /// Blocks of the head's rows; the last takes what is left over, so that none is smaller.
  template <class F>
  void each_vocabulary_block(std::size_t vocabulary, F const& f) const {
    std::size_t const size = eigen_head<S>::block, blocks = (std::max<std::size_t>)(1, vocabulary / size);
    tasks(blocks, [&](std::size_t block, std::size_t thread) {
      std::size_t const first = block * size;
      f(first, block + 1 == blocks ? vocabulary - first : size, thread);
    });
  }

  /// Calls f with one chunk after another: rows gathered, logits computed.
  template <class F>
  void each_chunk(matrix_view<S const> hidden, matrix_view<S const> head, std::span<token_id const> targets,
                  std::span<T> workspace, F const& f) const {
    std::array<std::size_t, largest_chunk> source;
    std::size_t next = 0;
    for (;;) {
      std::size_t count = 0;
      for (; next < hidden.rows && count < chunk_; ++next)
        if (targets[next] != no_target) source[count++] = next;
      if (count == 0) return;
      std::size_t const rows = padded(count, head.rows, head.cols);
      T* const gathered = workspace.data();
      T* const logits = gathered + rows * head.cols;
      T* const dhidden = logits + rows * head.rows;
      chunk_of_rows const chunk{source.data(),
                                count,
                                as_matrix(gathered, rows, head.cols),
                                as_matrix(logits, rows, head.rows),
                                as_matrix(dhidden, rows, head.cols),
                                {head, dhidden + rows * head.cols}};
      for (std::size_t r = 0; r < rows; ++r) {
        if (r < count)
          convert(hidden.row(source[r]), head.cols, chunk.hidden.row(r));
        else
          std::fill_n(chunk.hidden.row(r), head.cols, T(0));
      }
      each_vocabulary_block(head.rows, [&](std::size_t first, std::size_t entries, std::size_t thread) {
        gemm_nt<T>(chunk.hidden, chunk.head.rows(first, entries, thread), {logits + first, rows, entries, head.rows});
      });
      f(chunk);
    }
  }

  static double squares(std::span<T const> values) noexcept {
    using doubles = Eigen::Array<double, block_width, 1>;
    using block = Eigen::Array<T, block_width, 1>;
    doubles lanes = doubles::Zero();
    std::size_t i = 0;
    for (; i + block_width <= values.size(); i += block_width)
      lanes += Eigen::Map<block const>(values.data() + i).template cast<double>().square();
    double sum = 0.0;
    for (double const lane : lanes) sum += lane;
    for (; i < values.size(); ++i) sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
    return sum;
  }

  /// adamw_update::operator() on block_width elements, in the same order of operations.
  static void step(adamw_update<T> const& u, T* value, T const* gradient, T* first, T* second) noexcept {
    using block = Eigen::Array<T, block_width, 1>;
    Eigen::Map<block> v(value), m(first), s(second);
    block const g = Eigen::Map<block const>(gradient) * u.gradient_scale;
    m = u.beta1 * m + (T(1) - u.beta1) * g;
    s = u.beta2 * s + (T(1) - u.beta2) * g * g;
    // Eigen's vector root of infinity is NaN; the largest number stands in for it.
    v = v * u.decay - u.step_size * m / ((s.min)((std::numeric_limits<T>::max)()).sqrt() * u.second_scale + u.epsilon);
  }

  thread_pool* pool_;
  std::size_t chunk_;
};

}  // namespace attune
