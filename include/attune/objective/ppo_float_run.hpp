// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <attune/objective/token_run.hpp>

/// PPO's loss over a run of tokens in float, for float log-probabilities whose numbers are moderate: the case that training
/// lives in, four times as fast as the double arithmetic that everything else goes through, and within 1e-6 of it. One loop
/// reads every number once and writes the slopes, so that it runs at the speed of vectors.
namespace attune {

/// e^x for |x| <= 80, within two units in the last place of a float.
[[nodiscard]] inline float exp_moderate(float x) noexcept {
  constexpr float shift = 0x1.8p23f;
  float const shifted = x * 0x1.715476p0f + shift;
  float const n = shifted - shift;
  float const r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(p) + (std::bit_cast<std::uint32_t>(shifted) << 23));
}

/// What ppo_float_run reads. ref_logp may be null without a KL.
struct ppo_float_tokens {
  float const* logp;
  float const* old_logp;
  float const* advantage;
  float const* ref_logp;
};

/// Its weight in the loss, and the KL beside it.
struct ppo_float_terms {
  float weight;
  float kl_coef;           ///< 0 without a reference
  bool cubic;              ///< k3; else k2
  float low, high, lower;  ///< bounds of the ratio: 1 - cliprange, 1 + cliprange_high, dual_clip or infinity
};

/// Whether float holds all that is computed of these tokens: ratios and their squares, the KL, products with advantages.
[[nodiscard]] [[gnu::noinline]] inline bool is_moderate(ppo_float_tokens const& of, std::size_t count) noexcept {
  int beyond = 0;
  for (std::size_t k = 0; k < count; ++k) {
    beyond |= !(std::abs(of.logp[k] - of.old_logp[k]) <= 40.0f);
    beyond |= !(std::abs(of.advantage[k]) <= 1e9f);
  }
  if (of.ref_logp != nullptr)
    for (std::size_t k = 0; k < count; ++k) beyond |= !(std::abs(of.logp[k] - of.ref_logp[k]) <= 40.0f);
  return beyond == 0;
}

/// Numbers of a run that statistics and the loss are made of.
struct ppo_float_results {
  static constexpr std::size_t size = token_run::size;
  float value[size], slope[size], ratio[size], kl[size];
};

/// Values and slopes of moderate tokens; results are apart from what is read. The KL is there if ref_logp is.
[[gnu::noinline]] inline void ppo_float_run(ppo_float_tokens const& of, std::size_t count, ppo_float_terms const& terms,
                                            ppo_float_results& out) noexcept {
  ppo_float_terms const t = terms;
  ppo_float_tokens const in = of;
  // value and slope of the surrogate; the ratio
  auto const surrogate = [&](std::size_t k, float& value, float& slope) {
    float const A = in.advantage[k];
    float const r = exp_moderate(in.logp[k] - in.old_logp[k]);
    float const top = A > 0.0f ? t.high : t.lower;
    float const bottom = A > 0.0f ? 0.0f : t.low;
    float const raised = r < bottom ? bottom : r;
    float const bounded = raised > top ? top : raised;
    value = -A * bounded;
    slope = bounded == r ? value : 0.0f;
    return r;
  };
  if (in.ref_logp == nullptr) {
    for (std::size_t k = 0; k < count; ++k) out.ratio[k] = surrogate(k, out.value[k], out.slope[k]);
    return;
  }
  if (!t.cubic) {
    for (std::size_t k = 0; k < count; ++k) {
      float value, slope;
      out.ratio[k] = surrogate(k, value, slope);
      float const d = in.logp[k] - in.ref_logp[k];
      float const kl = d * d * 0.5f;
      out.kl[k] = kl;
      out.value[k] = value + t.kl_coef * kl;
      out.slope[k] = slope + t.kl_coef * d;
    }
    return;
  }
  for (std::size_t k = 0; k < count; ++k) {  // both exponentials in one loop: they wait for nothing but themselves
    float value, slope;
    out.ratio[k] = surrogate(k, value, slope);
    float const d = in.logp[k] - in.ref_logp[k];
    float const q = d * d;  // as in kl_estimates, with fewer terms
    float const even = ((1.0f / 40320.0f * q + 1.0f / 720.0f) * q + 1.0f / 24.0f) * q + 0.5f;
    float const odd = ((1.0f / 362880.0f * q + 1.0f / 5040.0f) * q + 1.0f / 120.0f) * q + 1.0f / 6.0f;
    float const close = q * (even - d * odd);
    float const inverse = exp_moderate(-d);
    float const away = inverse - 1.0f + d;
    bool const is_close = q < 0.25f;
    float const kl = is_close ? close : away;
    float const kl_slope = is_close ? d - close : 1.0f - inverse;
    out.kl[k] = kl;
    out.value[k] = value + t.kl_coef * kl;
    out.slope[k] = slope + t.kl_coef * kl_slope;
  }
}

/// In sixteen partial sums of floats, then four in double: a fixed tree.
[[nodiscard]] inline double sum_of_run(float const* x, std::size_t count) noexcept {
  float part[16] = {};
  std::size_t const whole = count - count % 16;
  for (std::size_t k = 0; k < whole; k += 16)
    for (std::size_t j = 0; j < 16; ++j) part[j] += x[k + j];
  for (std::size_t k = whole; k < count; ++k) part[k - whole] += x[k];
  for (std::size_t j = 0; j < 8; ++j) part[j] += part[j + 8];
  for (std::size_t j = 0; j < 4; ++j) part[j] += part[j + 4];
  return (static_cast<double>(part[0]) + static_cast<double>(part[2])) +
         (static_cast<double>(part[1]) + static_cast<double>(part[3]));
}

}  // namespace attune
