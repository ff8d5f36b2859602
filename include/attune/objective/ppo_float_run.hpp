// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <attune/core/lanes.hpp>

/// PPO's loss in float, for float log-probabilities whose numbers are moderate: the case that training lives in,
/// several times as fast as the double arithmetic that everything else goes through, and within 1e-6 of it. One pass
/// over the tokens says whether they are, a second does all the rest, so that it runs at the speed of the machine's
/// vectors.
namespace attune {

/// Tokens side by side, all of one weight in the loss. What the mask leaves out may hold anything.
struct ppo_float_tokens {
  float const* logp;
  float const* old_logp;
  float const* advantage;
  float const* ref_logp;     // null without a KL
  std::uint8_t const* mask;  // 0 or 1
};

struct ppo_float_terms {
  float weight;
  float kl_coef;           ///< 0 without a reference
  bool cubic;              ///< k3; else k2
  float low, high, lower;  ///< bounds of the ratio: 1 - cliprange, 1 + cliprange_high, dual_clip or float's largest
};

/// Over the tokens that the mask leaves in. `value` is before the weight.
struct ppo_float_sums {
  double value = 0.0, ratio = 0.0, ratio_squared = 0.0, approxkl = 0.0, clipped = 0.0, dual_clipped = 0.0, kl = 0.0;
};

/// Lanes of tokens, and what is computed of them beyond arithmetic.
struct ppo_float_lanes : lanes<float> {
  static constexpr std::size_t size = register_bytes / sizeof(float);

  static values load(float const* x) noexcept { return *reinterpret_cast<values_in_memory const*>(x); }

  static values magnitude(values x) noexcept { return (values)((integers)x & 0x7fffffff); }

  /// e^x - 1 (within 4 ulp) and e^x - 1 - x (within 8) for |x| <= 80. The second does not cancel where it is small:
  /// with x = n ln 2 + r and q = e^r - 1 - r, e^x - 1 is 2^n q + (2^n r + 2^n - 1), whose bracket is x, to the bit, if
  /// n is 0.
  static void exponential_less_one(values x, values& less_one, values& excess) noexcept {
    values const shifted = x * 1.44269504088896341f + rounder;
    values const n = shifted - rounder;
    values const r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    values p = r * 0.001392617612f + 0.008363173075f;  // (e^r - 1 - r) / r^2 at Chebyshev nodes: within 1.4e-7
    p = p * r + 0.04166655466f;
    p = p * r + 0.1666657703f;
    p = p * r + 0.5f;
    values const power = (values)((integers)shifted << 23);
    values const curved = power * (r * r * p);
    values const straight = power * r + (power - 1.0f);
    less_one = curved + straight;
    excess = curved + (straight - x);
  }
};

/// Up to `size` tokens in whole groups of lanes: behind the last come tokens that the mask leaves out. What the group
/// that is cut short would read lies in a copy.
class ppo_float_block {
 public:
  static constexpr std::size_t size = 512;
  static constexpr std::size_t group = lane_group<float>::size;

  /// The tokens [first, first + count) of all; count in [1, size].
  ppo_float_block(ppo_float_tokens const& all, std::size_t first, std::size_t count) noexcept
      : tokens_{all.logp + first, all.old_logp + first, all.advantage + first,
                all.ref_logp == nullptr ? nullptr : all.ref_logp + first, all.mask + first},
        whole_(count - count % group),
        groups_((count + group - 1) / group * group) {
    for (std::size_t k = 0; k < count; ++k) selected_[k] = -static_cast<std::int32_t>(tokens_.mask[k]);
    for (std::size_t k = count; k < groups_; ++k) selected_[k] = 0;
    if (groups_ == whole_) return;
    std::size_t const rest = count - whole_;
    std::copy_n(tokens_.logp + whole_, rest, logp_);
    std::copy_n(tokens_.old_logp + whole_, rest, old_logp_);
    std::copy_n(tokens_.advantage + whole_, rest, advantage_);
    if (tokens_.ref_logp != nullptr) std::copy_n(tokens_.ref_logp + whole_, rest, ref_logp_);
  }

  /// One past the last group's last token.
  std::size_t end() const noexcept { return groups_; }
  /// Whether the group that begins at k is not cut short.
  bool whole(std::size_t k) const noexcept { return k < whole_; }

  float const* logp(std::size_t k) const noexcept { return whole(k) ? tokens_.logp + k : logp_ + (k - whole_); }
  float const* old_logp(std::size_t k) const noexcept {
    return whole(k) ? tokens_.old_logp + k : old_logp_ + (k - whole_);
  }
  float const* advantage(std::size_t k) const noexcept {
    return whole(k) ? tokens_.advantage + k : advantage_ + (k - whole_);
  }
  float const* ref_logp(std::size_t k) const noexcept {
    return whole(k) ? tokens_.ref_logp + k : ref_logp_ + (k - whole_);
  }
  /// All bits of a lane where the mask is 1.
  ppo_float_lanes::integers selected(std::size_t k) const noexcept {
    ppo_float_lanes::integers lanes;
    std::memcpy(&lanes, selected_ + k, sizeof lanes);
    return lanes;
  }

 private:
  ppo_float_tokens tokens_;
  std::size_t whole_, groups_;
  std::int32_t selected_[size];
  float logp_[group] = {}, old_logp_[group] = {}, advantage_[group] = {}, ref_logp_[group] = {};
};

/// Whether every token that the mask leaves in is finite and float holds all that is computed of it: ratios and their
/// squares, the KL, products with advantages.
[[nodiscard]] inline bool is_moderate(ppo_float_tokens const& all, std::size_t count) noexcept {
  using L = ppo_float_lanes;
  L::integers beyond{};
  for (std::size_t first = 0; first < count; first += ppo_float_block::size) {
    ppo_float_block const in(all, first, (std::min)(ppo_float_block::size, count - first));
    for (std::size_t k = 0; k < in.end(); k += L::size) {
      L::values const logp = L::load(in.logp(k));
      L::integers moderate =
          (L::magnitude(logp - L::load(in.old_logp(k))) <= 40.0f) & (L::magnitude(L::load(in.advantage(k))) <= 1e9f);
      if (all.ref_logp != nullptr) moderate &= L::magnitude(logp - L::load(in.ref_logp(k))) <= 40.0f;
      beyond |= in.selected(k) & ~moderate;
    }
  }
  for (std::size_t j = 0; j < L::size; ++j)
    if (beyond[j] != 0) return false;
  return true;
}

/// Writes slopes, weight included and 0 where the mask is, of moderate tokens, and adds to the sums, of which
/// statistics alone need more than `value`. Slopes may be the memory of any input. Adds floats lane by lane over a
/// block and these sums in double: a fixed tree whatever the machine.
template <bool WithReference, bool Cubic, bool WithStatistics>
void ppo_float_run(ppo_float_tokens const& all, std::size_t count, ppo_float_terms const terms, float* slopes,
                   ppo_float_sums& sums) noexcept {
  using L = ppo_float_lanes;
  using group_sum = lane_group<float>;
  for (std::size_t first = 0; first < count; first += ppo_float_block::size) {
    std::size_t const length = (std::min)(ppo_float_block::size, count - first);
    ppo_float_block const in(all, first, length);
    group_sum value{}, ratio{}, ratio_squared{}, approxkl{}, clipped{}, dual_clipped{}, kl{};
    float last[group_sum::size];
    for (std::size_t begin = 0; begin < in.end(); begin += group_sum::size) {
      for (std::size_t part = 0; part < group_sum::registers; ++part) {
        std::size_t const k = begin + part * L::size;
        L::values const zero{};
        L::integers const selected = in.selected(k);
        L::values const logp = L::load(in.logp(k));
        L::values const A = selected ? L::load(in.advantage(k)) : zero;
        L::values const moved = selected ? logp - L::load(in.old_logp(k)) : zero;
        L::values const r = L::exp_inside(moved);
        L::values const top = A > 0.0f ? zero + terms.high : zero + terms.lower;  // one bound or the other is in force,
        L::values const bottom = A > 0.0f ? zero : zero + terms.low;              // by the advantage's sign
        L::values const raised = r < bottom ? bottom : r;
        L::values const bounded = raised > top ? top : raised;
        L::values const gain = A * bounded;
        L::values fall = bounded == r ? gain : zero;  // the slope, of the other sign
        L::values token = -gain;
        if constexpr (WithReference) {
          L::values const d = selected ? L::load(in.ref_logp(k)) - logp : zero;
          L::values excess = d * d * 0.5f, less_one = d;
          if constexpr (Cubic) L::exponential_less_one(d, less_one, excess);
          token = terms.kl_coef * excess - gain;
          fall += terms.kl_coef * less_one;
          if constexpr (WithStatistics) kl.part[part] += excess;
        }
        value.part[part] += token;
        if constexpr (WithStatistics) {
          L::integers const beyond = (bounded != r) & (A != 0.0f), dual = beyond & (A < 0.0f) & (r > terms.lower);
          ratio.part[part] += selected ? r : zero;
          ratio_squared.part[part] += selected ? r * r : zero;
          approxkl.part[part] += moved * moved;
          clipped.part[part] += (beyond & ~dual) ? zero + 1.0f : zero;
          dual_clipped.part[part] += dual ? zero + 1.0f : zero;
        }
        float* const to = in.whole(k) ? slopes + first + k : last + part * L::size;
        *reinterpret_cast<L::values_in_memory*>(to) = fall * -terms.weight + zero;  // 0, not -0, where the mask is
      }
    }
    std::size_t const rest = length % group_sum::size;
    std::copy_n(last, rest, slopes + first + length - rest);
    sums.value += value.total();
    if constexpr (WithStatistics) {
      sums.ratio += ratio.total();
      sums.ratio_squared += ratio_squared.total();
      sums.approxkl += 0.5 * approxkl.total();
      sums.clipped += clipped.total();
      sums.dual_clipped += dual_clipped.total();
      sums.kl += kl.total();
    }
  }
}

/// The KL is there if ref_logp is.
template <bool WithStatistics>
void ppo_float_run(ppo_float_tokens const& all, std::size_t count, ppo_float_terms const& terms, float* slopes,
                   ppo_float_sums& sums) noexcept {
  if (all.ref_logp == nullptr) return ppo_float_run<false, false, WithStatistics>(all, count, terms, slopes, sums);
  if (!terms.cubic) return ppo_float_run<true, false, WithStatistics>(all, count, terms, slopes, sums);
  ppo_float_run<true, true, WithStatistics>(all, count, terms, slopes, sums);
}

}  // namespace attune
