// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>

#include <attune/concepts/policy.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/host_device.hpp>
#include <attune/core/sequences.hpp>
#include <attune/core/stable_math.hpp>
#include <attune/objective/expects_finite.hpp>

/// Supervised fine-tuning: the masked negative log-likelihood of demonstrations (Ouyang et al. 2022, section 3.5), with
/// label smoothing (Szegedy et al. 2016, section 7), with every token weighed by the probability that the policy gives
/// it (DFT, Wu et al. 2025, "On the Generalization of SFT", eq. 9), and with a penalty on normalisers that wander off
/// (z-loss, Chowdhery et al. 2022, PaLM, section 5).
namespace attune {

/// What the mean is taken over. The two differ when completions differ in length: a long one weighs more under `token`.
enum class sft_normalization {
  token,     ///< sum over tokens / tokens of the step
  sequence,  ///< mean over the step's sequences of each one's mean over its own tokens
};

/// TRL's loss_type.
enum class sft_loss_type {
  nll,  ///< -log pi
  dft,  ///< -sg(pi) log pi, where nothing flows through sg(.): what the policy holds unlikely pulls less
};

struct sft_options {
  double label_smoothing = 0.0;  ///< probability mass spread evenly over the vocabulary; [0, 1), 0 with dft
  sft_normalization normalization = sft_normalization::token;  ///< what the mean is taken over
  sft_loss_type loss_type = sft_loss_type::nll;                ///< whether a token is weighed by its probability
  double z_loss_coef = 0.0;  ///< weight of log^2 Z, Z the sum over the vocabulary of exp(logit); >= 0, PaLM: 1e-4
};

/// Throws contract_violation naming the field and its value.
inline void validate(sft_options const& o) {
  expects(o.label_smoothing >= 0.0 && o.label_smoothing < 1.0, "sft_options.label_smoothing in [0, 1)",
          o.label_smoothing);
  expects(o.loss_type == sft_loss_type::nll || o.label_smoothing == 0.0,
          "sft_options.label_smoothing == 0 with loss_type dft, which has no uniform distribution to mix in",
          o.label_smoothing);
  expects(o.z_loss_coef >= 0.0 && o.z_loss_coef <= (std::numeric_limits<double>::max)(),
          "sft_options.z_loss_coef >= 0 and finite", o.z_loss_coef);
}

/// What these options read of the policy beside log-probabilities.
[[nodiscard]] constexpr token_terms terms_of(sft_options const& o) noexcept {
  return {.mean_logps = o.label_smoothing > 0.0, .log_normalizers = o.z_loss_coef > 0.0};
}

template <class T>
struct sft_value_and_slopes {
  T value;
  T logp;            ///< d value / d logp
  T mean_logp;       ///< d value / d mean_logp
  T log_normalizer;  ///< d value / d log_normalizer
};

/// The loss of one token, with logp = log pi(target), mean_logp = 1/V sum over v of log pi(v), e = label_smoothing:
///
///   nll  -(1 - e) logp - e mean_logp   cross-entropy against the target's one-hot distribution mixed with the uniform
///   dft  -sg(pi(target)) logp          slope -pi(target): the derivative with the weight held fixed, not of the value
///
/// plus z_loss_coef log_normalizer^2 in either. The weight is 1 where rounding makes logp > 0. An argument whose
/// option is off has no weight, but must be finite: pass 0. Finite for every finite input: what lies beyond T's range
/// is T's largest number. Of a number that carries a derivative along, sg(.) takes the real part. Expects valid
/// options.
template <class T>
[[nodiscard]] ATTUNE_HOST_DEVICE sft_value_and_slopes<T> sft_objective(T logp, T mean_logp, T log_normalizer,
                                                                       sft_options o = {}) noexcept {
  using std::exp;
  auto const held = real_part(logp);
  bool const weighed = o.loss_type == sft_loss_type::dft && held < 0;
  T const keep = weighed ? T(exp(held)) : T(1.0 - o.label_smoothing);
  T const spread = T(o.label_smoothing);
  T const value = -(keep * logp + spread * mean_logp);
  if (!(o.z_loss_coef > 0.0)) return {value, -keep, -spread, T(0)};
  T const pull = saturate_cast<T>(saturate_cast<T>(o.z_loss_coef) * log_normalizer);
  T const whole = saturate_cast<T>(value + saturate_cast<T>(pull * log_normalizer));
  return {whole, -keep, -spread, saturate_cast<T>(pull + pull)};
}

/// Denominators: those of the whole optimiser step, over all of its micro-batches and ranks, so that splitting a step
/// changes nothing.
struct sft_totals {
  std::size_t tokens = 0;     ///< masked-in tokens; read under sft_normalization::token only
  std::size_t sequences = 0;  ///< read under sft_normalization::sequence only
};

template <class T>
struct sft_logps {
  std::span<T const> logps;            // (tokens)
  std::span<T const> mean_logps = {};       // (tokens); may be empty without label smoothing
  std::span<T const> log_normalizers = {};  // (tokens); may be empty without z-loss
};

template <class T>
struct sft_slopes {
  std::span<T> logps;                 // (tokens)
  std::span<T> mean_logps = {};       // (tokens); may be empty without label smoothing
  std::span<T> log_normalizers = {};  // (tokens); may be empty without z-loss
};

/// This batch's share of the step's mean loss; the shares of a step's micro-batches add up to it. Overwrites the slopes
/// with its derivatives (sft_objective says of what under dft), 0 on masked-out tokens.
///
/// Deviations from TRL: its z-loss, label smoothing and dft go by different paths and do not combine, here z-loss joins
/// either; a step without a supervised token is an error and no clamped 0.
/// Expects a sequence or more; sizes equal to s.total_tokens(); totals not smaller than this batch; mean_logps if
/// label_smoothing > 0, log_normalizers if z_loss_coef > 0; finite log-probabilities where the mask is 1 (where it is
/// 0 they are not read); under `sequence`, a masked-in token in every sequence. Slopes may be the memory of the
/// log-probabilities they belong to. Sums run in double, left to right; a mean beyond T's range is T's largest number.
/// Allocates nothing; writes nothing if it throws.
template <class T>
T sft_loss(sft_logps<T> logps, sequences_view s, sft_slopes<T> slopes, sft_totals totals, sft_options options = {}) {
  validate(options);
  validate(s, (std::numeric_limits<std::size_t>::max)());
  bool const by_token = options.normalization == sft_normalization::token;
  bool const smoothed = options.label_smoothing > 0.0;
  bool const with_z = options.z_loss_coef > 0.0;
  std::size_t const tokens = s.total_tokens();
  expects(s.size() > 0, "sft_loss: at least one sequence");
  expects(logps.logps.size() == tokens, "sft_loss: logps.logps.size() == s.total_tokens()", logps.logps.size());
  expects(slopes.logps.size() == tokens, "sft_loss: slopes.logps.size() == s.total_tokens()", slopes.logps.size());
  expects(logps.mean_logps.size() == tokens || (!smoothed && logps.mean_logps.empty()),
          "sft_loss: logps.mean_logps.size() == s.total_tokens(), which label_smoothing > 0 needs",
          logps.mean_logps.size());
  expects(slopes.mean_logps.size() == tokens || (!smoothed && slopes.mean_logps.empty()),
          "sft_loss: slopes.mean_logps.size() == s.total_tokens(), which label_smoothing > 0 needs",
          slopes.mean_logps.size());
  expects(logps.log_normalizers.size() == tokens || (!with_z && logps.log_normalizers.empty()),
          "sft_loss: logps.log_normalizers.size() == s.total_tokens(), which z_loss_coef > 0 needs",
          logps.log_normalizers.size());
  expects(slopes.log_normalizers.size() == tokens || (!with_z && slopes.log_normalizers.empty()),
          "sft_loss: slopes.log_normalizers.size() == s.total_tokens(), which z_loss_coef > 0 needs",
          slopes.log_normalizers.size());
  std::size_t const supervised = completion_tokens(s.mask);
  if (by_token) {
    expects(totals.tokens > 0, "sft_loss: totals.tokens > 0, a step with a supervised token");
    expects(totals.tokens >= supervised, "sft_loss: totals.tokens >= the masked-in tokens of this batch",
            totals.tokens);
  } else {
    expects(totals.sequences >= s.size(), "sft_loss: totals.sequences >= s.size()", totals.sequences);
  }
  for (std::size_t b = 0; b < s.size(); ++b) {
    std::size_t const first = s.offsets[b];
    expects(by_token || completion_tokens(s.sequence_mask(b)) > 0,
            "sft_loss: a masked-in token in every sequence, for its mean; found none in sequence", b);
    for (std::size_t t = first; t < s.offsets[b + 1]; ++t) {
      if (s.mask[t] == 0) continue;
      auto const refuse_unless_finite = [&](T value, char const* field) {
        if (!std::isfinite(value)) [[unlikely]]
          throw contract_violation(std::string("expected sft_loss: ") + field + "[" + std::to_string(t) +
                                   "] finite (sequence " + std::to_string(b) + ", token " + std::to_string(t - first) +
                                   "), got " + nonfinite_text(value));
      };
      refuse_unless_finite(logps.logps[t], "logps");
      if (smoothed) refuse_unless_finite(logps.mean_logps[t], "mean_logps");
      if (with_z) refuse_unless_finite(logps.log_normalizers[t], "log_normalizers");
    }
  }

  double loss = 0.0;
  for (std::size_t b = 0; b < s.size(); ++b) {
    double const denominator =
        by_token ? static_cast<double>(totals.tokens)
                 : static_cast<double>(completion_tokens(s.sequence_mask(b))) * static_cast<double>(totals.sequences);
    double sum = 0.0;
    for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t) {
      bool const counts = s.mask[t] != 0;
      sft_value_and_slopes<double> one{0.0, 0.0, 0.0, 0.0};
      if (counts)
        one = sft_objective(static_cast<double>(logps.logps[t]),
                            smoothed ? static_cast<double>(logps.mean_logps[t]) : 0.0,
                            with_z ? static_cast<double>(logps.log_normalizers[t]) : 0.0, options);
      sum += one.value;
      slopes.logps[t] = static_cast<T>(one.logp / denominator);
      if (!slopes.mean_logps.empty()) slopes.mean_logps[t] = static_cast<T>(one.mean_logp / denominator);
      if (!slopes.log_normalizers.empty())
        slopes.log_normalizers[t] = saturate_cast<T>(one.log_normalizer / denominator);
    }
    loss += sum / denominator;
  }
  return saturate_cast<T>(loss);
}

}  // namespace attune
