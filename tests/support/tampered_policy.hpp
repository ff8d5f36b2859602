// SPDX-License-Identifier: MIT
#pragma once

#include <attune/model/tabular.hpp>

#include <array>
#include <cstddef>
#include <functional>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace attune::test {

/// A tabular policy whose answers are changed on their way out: a user's policy with one fault, whichever a test is about.
struct tampered_policy {
  using scalar = double;

  tabular_policy<double> base;
  std::function<void(sequences_view, std::span<double>)> in_log_probs = {};
  std::function<void(sequences_view, std::span<double>)> in_accumulate = {};
  std::function<void(sequences&, std::vector<double>&)> in_generate = {};

  explicit tampered_policy(tabular_policy<double> of) : base(std::move(of)) {}

  void log_probs(sequences_view s, std::span<double> logps) const {
    base.log_probs(s, logps);
    if (in_log_probs) in_log_probs(s, logps);
  }

  void accumulate_gradient(sequences_view s, slopes_of<double> ask) {
    base.accumulate_gradient(s, [&](std::span<double const> logps, std::span<double> slopes) {
      std::vector<double> changed(logps.begin(), logps.end());
      if (in_accumulate) in_accumulate(s, changed);
      ask(changed, slopes);
    });
  }

  void generate(sequences_view prompts, sampling_options const& options, sequences& out) {
    std::vector<double> logps;
    generate(prompts, options, out, logps);
  }
  void generate(sequences_view prompts, sampling_options const& options, sequences& out, std::vector<double>& logps) {
    base.generate(prompts, options, out, logps);
    if (in_generate) in_generate(out, logps);
  }

  std::array<parameter<double>, 1> parameters() noexcept { return base.parameters(); }
};

/// For tampered_policy: NaN wherever the mask is 0.
inline void nan_on_prompts(sequences_view s, std::span<double> numbers) {
  for (std::size_t t = 0; t < numbers.size(); ++t)
    if (s.mask[t] == 0) numbers[t] = std::numeric_limits<double>::quiet_NaN();
}

}  // namespace attune::test
