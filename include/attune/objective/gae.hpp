// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>
#include <attune/objective/expects_finite_tokens.hpp>

/// Generalised advantage estimation (Schulman et al. 2016, eq. 16).
namespace attune {

struct gae_options {
  double gamma = 1.0;  ///< discount per token; [0, 1]
  double lam = 0.95;   ///< 0: one-step TD error, least variance; 1: reward to go less value, least bias; [0, 1]
};

/// Throws contract_violation naming the field and its value.
inline void validate(gae_options const& o) {
  expects(o.gamma >= 0.0 && o.gamma <= 1.0, "gae_options.gamma in [0, 1]", o.gamma);
  expects(o.lam >= 0.0 && o.lam <= 1.0, "gae_options.lam in [0, 1]", o.lam);
}

template <class T>
struct gae_inputs {
  std::span<T const> rewards;  // (tokens)
  std::span<T const> values;   // (tokens) values[t]: what the critic expects from token t on, before it is seen
};

template <class T>
struct gae_outputs {
  std::span<T> advantages;  // (tokens)
  std::span<T> returns;     // (tokens) the critic's targets
};

/// One step of the recurrence, and where it stands in a sequence. Every loop of gae is over this one step, so a
/// sequence's result has the same bits whichever of them it goes through.
template <class T>
struct gae_recurrence {
  T const* rewards;
  T const* values;
  std::uint8_t const* mask;
  T* advantages;
  T* returns;
  double gamma;
  double gamma_lam;

  struct cursor {
    std::size_t first = 0;  ///< tokens [first, end) are still to do
    std::size_t end = 0;
    bool gaps = false;       ///< some of them are masked out
    double advantage = 0.0;  ///< of the masked-in token after them; 0 after the last
    double value = 0.0;      ///< likewise: the value of the end is 0

    std::size_t left() const noexcept { return end - first; }
  };

  void leave_out(std::size_t t) const noexcept { advantages[t] = returns[t] = T(0); }

  /// The cursor before tokens [first, end), less the masked-out ones at either side.
  cursor start(std::size_t first, std::size_t end) const noexcept {
    for (; first < end && mask[first] == 0; ++first) leave_out(first);
    for (; first < end && mask[end - 1] == 0; --end) leave_out(end - 1);
    return {.first = first, .end = end, .gaps = completion_tokens({mask + first, end - first}) != end - first};
  }

  template <bool gaps>
  void step(cursor& at) const noexcept {
    std::size_t const t = --at.end;
    if constexpr (gaps) {
      if (mask[t] == 0) return leave_out(t);
    }
    double const value = static_cast<double>(values[t]);
    double const delta = static_cast<double>(rewards[t]) + gamma * at.value - value;
    at.advantage = delta + gamma_lam * at.advantage;
    at.value = value;
    advantages[t] = static_cast<T>(at.advantage);
    returns[t] = static_cast<T>(at.advantage + value);
  }

  /// The same number of steps of both, in turn: each waits for its own last result alone. A function of its own, since
  /// g++ runs out of registers where it is inlined into much else.
  template <bool gaps>
  [[gnu::noinline]] void steps(cursor& one, cursor& other, std::size_t count) const noexcept {
    cursor a = one, b = other;
    for (; count > 0; --count) {
      step<gaps>(a);
      step<gaps>(b);
    }
    one = a;
    other = b;
  }
};

/// For every sequence, backwards over its masked-in tokens t, with t + 1 the next of them and A and V 0 after the last:
///
///   delta_t = r_t + gamma V_{t+1} - V_t      A_t = delta_t + gamma lam A_{t+1}      returns_t = A_t + V_t
///
/// Masked-out tokens, wherever they lie, are stepped over and get 0: what they hold is not read, nor do they count as
/// time. Overwrites all of advantages and returns.
///
/// Expects a valid batch, sizes equal to batch.total_tokens(), and finite numbers where the mask is 1. Advantages may
/// be the memory of the rewards, and returns that of the values. A sequence's result has the same bits whatever stands
/// beside it. Inputs beyond 1e30 (float) or 1e280 (double) may add up to infinity, which ppo_loss and value_loss
/// refuse. Allocates nothing; writes nothing if it throws.
///
/// Two sequences are worked on at a time, since a step has to wait for the one before it and, next to another
/// sequence's, does not wait alone (benchmarks/gae.cpp). The arithmetic is in double for float too: that costs about a
/// seventh of the time, and without it the rounding adds up along a sequence, to 3e-4 over 5000 tokens at lam = 1.
template <class T>
void gae(gae_inputs<T> of, sequences_view batch, gae_outputs<T> out, gae_options options = {}) {
  validate(options);
  validate(batch, (std::numeric_limits<std::size_t>::max)());
  expects_finite_tokens(of.rewards, batch, "gae: rewards");
  expects_finite_tokens(of.values, batch, "gae: values");
  expects_one_per_token(out.advantages, batch, "gae: advantages");
  expects_one_per_token(out.returns, batch, "gae: returns");

  gae_recurrence<T> const run{.rewards = of.rewards.data(),
                              .values = of.values.data(),
                              .mask = batch.mask.data(),
                              .advantages = out.advantages.data(),
                              .returns = out.returns.data(),
                              .gamma = options.gamma,
                              .gamma_lam = options.gamma * options.lam};
  typename gae_recurrence<T>::cursor one, other;
  std::size_t next = 0;
  auto const refill = [&](auto& at) {
    for (; at.left() == 0 && next < batch.size(); ++next) at = run.start(batch.offsets[next], batch.offsets[next + 1]);
    return at.left();
  };
  while (std::size_t const count = (std::min)(refill(one), refill(other))) {
    if (one.gaps || other.gaps)
      run.template steps<true>(one, other, count);
    else
      run.template steps<false>(one, other, count);
  }
  while (one.left() > 0) run.template step<true>(one);
  while (other.left() > 0) run.template step<true>(other);
}

}  // namespace attune
