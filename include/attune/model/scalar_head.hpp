// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <attune/concepts/reward_model.hpp>
#include <attune/core/aligned_buffer.hpp>
#include <attune/core/random.hpp>
#include <attune/model/decoder.hpp>
#include <attune/model/decoder_trunk.hpp>
#include <attune/model/projection.hpp>

namespace attune {

/// Which hidden states a sequence's score is read from; always by length, never by a token's value.
enum class score_pooling {
  last,      ///< the last token (Ouyang et al. 2022, section 3.5)
  mean,      ///< a score per masked-in token, averaged
  root_sum,  ///< the same, summed and divided by the root of their number: between the sum, which the longest response
             ///< dominates, and the mean, which forgets how much evidence it averaged
};

/// Their names in files and on command lines.
inline constexpr std::array<std::pair<std::string_view, score_pooling>, 3> score_pooling_names{
    {{"last", score_pooling::last}, {"mean", score_pooling::mean}, {"root_sum", score_pooling::root_sum}}};

[[nodiscard]] inline std::optional<score_pooling> score_pooling_of(std::string_view name) noexcept {
  for (auto const& [known, pooling] : score_pooling_names)
    if (known == name) return pooling;
  return {};
}

/// A reward model: a decoder's trunk and one output, score = w . h, without a bias (Bradley-Terry cannot see one).
/// TrainableRewardModel. Errors, determinism and memory are those of decoder_trunk.
template <class T>
class scalar_head {
 public:
  using scalar = T;

  /// Starts from the language model's trunk. For the last token w is normal with deviation 1 / sqrt(dim + 1) (Huang et
  /// al. 2024, detail 3); where tokens are pooled it is zero, because random projections of many tokens that resemble
  /// each other add up to a strong opinion about nothing.
  explicit scalar_head(decoder<T> const& initial, std::uint64_t seed = 0, score_pooling pooling = score_pooling::last)
      : scalar_head(initial.options(), seed, initial.trunk().shared_pool(), pooling) {
    trunk_.copy_values(initial.trunk());
  }

  /// Fresh parameters from `seed`.
  explicit scalar_head(decoder_options const& options, std::uint64_t seed = 0,
                       std::shared_ptr<thread_pool> pool = nullptr, score_pooling pooling = score_pooling::last)
      : trunk_(options, seed, std::move(pool), {{"score.weight", 1, false}}), pooling_(pooling) {
    random_stream random(seed, ~std::uint64_t{0});
    double const deviation =
        pooling == score_pooling::last ? 1.0 / std::sqrt(static_cast<double>(options.dim + 1)) : 0.0;
    for (T& w : trunk_.store().vector(trunk_.head(0))) w = static_cast<T>(deviation * random.normal());
  }

  scalar_head(scalar_head const& other) : trunk_(other.trunk_), pooling_(other.pooling_) {}
  scalar_head(scalar_head&&) noexcept = default;
  scalar_head& operator=(scalar_head const& other) { return *this = scalar_head(other); }
  scalar_head& operator=(scalar_head&&) noexcept = default;

  decoder_options const& options() const noexcept { return trunk_.options(); }
  score_pooling pooling() const noexcept { return pooling_; }
  decoder_trunk<T> const& trunk() const noexcept { return trunk_; }
  std::size_t parameter_count() const noexcept { return trunk_.store().parameter_count(); }
  std::vector<parameter<T>> const& parameters() { return trunk_.store().parameters(); }
  double flops() const noexcept { return trunk_.flops(); }

  /// out (B). A sequence without a token to read (length 0, or pooling and an empty mask) is a contract_violation.
  void scores(sequences_view s, std::span<T> out) const {
    expects(out.size() == s.size(), "scalar_head::scores: out.size() == sequences", out.size());
    read(trunk_.forward(s, activations::discard), s, out);
  }

  void operator()(sequences_view s, std::span<double> out) const {
    scores_.resize(s.size());
    scores(s, scores_);
    expects(out.size() == s.size(), "scalar_head: scores.size() == sequences", out.size());
    for (std::size_t b = 0; b < s.size(); ++b) out[b] = static_cast<double>(scores_[b]);
  }

  void accumulate_score_gradient(sequences_view s, score_slopes_of<T> ask) {
    std::size_t const dim = options().dim;
    scores_.resize(s.size());
    slopes_.assign(s.size(), T(0));
    matrix_view<T const> const hidden = trunk_.forward(s, activations::keep);
    read(hidden, s, scores_);
    ask(scores_, slopes_);
    d_hidden_.resize(s.total_tokens() * dim);
    std::fill_n(d_hidden_.data(), s.total_tokens() * dim, T(0));
    std::span<T const> const w = std::as_const(trunk_).store().vector(trunk_.head(0));
    std::span<T> const d_w = trunk_.store().vector_gradient(trunk_.head(0));
    for (std::size_t b = 0; b < s.size(); ++b)
      for_read_tokens(s, b, [&](std::size_t t, T weight) {
        project_adjoint(slopes_[b] * weight, w, hidden.row(t), d_hidden_.data() + t * dim, d_w);
      });
    trunk_.backward(s, as_matrix<T const>(d_hidden_.data(), s.total_tokens(), dim));
  }

 private:
  /// Calls f(t, weight) for the tokens whose hidden states make up the score of sequence b.
  template <class F>
  void for_read_tokens(sequences_view s, std::size_t b, F&& f) const {
    if (pooling_ == score_pooling::last) {
      if (s.length(b) == 0) throw contract_violation("scalar_head: sequence " + std::to_string(b) + " is empty");
      return f(s.offsets[b + 1] - 1, T(1));
    }
    std::size_t const count = completion_tokens(s.sequence_mask(b));
    if (count == 0)
      throw contract_violation("scalar_head: sequence " + std::to_string(b) + " has no masked-in token to pool");
    T const weight =
        pooling_ == score_pooling::mean ? T(1) / static_cast<T>(count) : T(1) / std::sqrt(static_cast<T>(count));
    for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t)
      if (s.mask[t]) f(t, weight);
  }

  void read(matrix_view<T const> hidden, sequences_view s, std::span<T> out) const {
    std::span<T const> const w = trunk_.store().vector(trunk_.head(0));
    for (std::size_t b = 0; b < s.size(); ++b) {
      double score = 0.0;
      for_read_tokens(
          s, b, [&](std::size_t t, T weight) { score += project(w, hidden.row(t)) * static_cast<double>(weight); });
      out[b] = static_cast<T>(score);
    }
  }

  decoder_trunk<T> trunk_;
  score_pooling pooling_ = score_pooling::last;
  mutable std::vector<T> scores_;
  std::vector<T> slopes_;
  aligned_buffer<T> d_hidden_;
};

}  // namespace attune
