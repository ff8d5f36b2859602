// SPDX-License-Identifier: MIT
//
// Door 3: training. A language model of your own is a Policy by three members; then every trainer takes it.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <vector>

#include <attune/model/frozen.hpp>
#include <attune/testing/policy_laws.hpp>
#include <attune/train/adamw.hpp>
#include <attune/train/dpo_trainer.hpp>

/// Says token v with logit bias[v], plus `copy` if v occurred before in the sequence: V + 1 parameters.
class copying_policy {
 public:
  using scalar = double;
  explicit copying_policy(std::size_t vocabulary) : bias_(vocabulary), bias_gradient_(vocabulary) {}
  auto parameters() {
    return std::array{attune::parameter<double>{"bias", bias_, bias_gradient_, {1, bias_.size()}, false},
                      attune::parameter<double>{"copy", copy_, copy_gradient_, {1, 1}, false}};
  }

  void log_probs(attune::sequences_view s, std::span<double> logps) const {
    std::ranges::fill(logps, 0.0);
    for_each_target(s, [&](std::size_t t, std::size_t target, auto& p, auto&) { logps[t] = std::log(p[target]); });
  }

  void accumulate_gradient(attune::sequences_view s, attune::slopes_of<double> ask) {
    std::vector<double> logps(s.total_tokens()), slopes(s.total_tokens());
    log_probs(s, logps);
    ask(logps, slopes);
    for_each_target(s, [&](std::size_t t, std::size_t target, auto& p, auto& seen) {
      for (std::size_t v = 0; v < p.size(); ++v) {
        double const slope = slopes[t] * ((v == target) - p[v]);  // dL/dlogit[v]
        bias_gradient_[v] += slope;
        copy_gradient_[0] += slope * seen[v];
      }
    });
  }

 private:
  template <class F>  // f(t, tokens[t], probabilities, seen) for every masked-in token
  void for_each_target(attune::sequences_view s, F f) const {
    attune::validate(s, bias_.size());
    for (std::size_t b = 0; b < s.size(); ++b) {
      std::vector<double> seen(bias_.size(), 0.0), p(bias_.size());
      for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t) {
        auto const target = static_cast<std::size_t>(s.tokens[t]);
        double sum = 0.0;
        for (std::size_t v = 0; v < p.size(); ++v) sum += p[v] = std::exp(bias_[v] + copy_[0] * seen[v]);
        for (double& x : p) x /= sum;
        if (s.mask[t] == 1) f(t, target, p, seen);
        seen[target] = 1.0;
      }
    }
  }

  std::vector<double> bias_, bias_gradient_, copy_ = {0.0}, copy_gradient_ = {0.0};
};

/// Preference pairs are a concept too. Here whoever repeats the prompt's tokens is preferred.
struct repetitions {
  attune::token_id prompt[3][2] = {{0, 1}, {2, 3}, {4, 1}}, chosen[3][2] = {{1, 0}, {3, 3}, {4, 4}},
                   rejected[3][2] = {{2, 4}, {0, 1}, {3, 0}};
  static std::size_t size() { return 3; }
  attune::preference_pair operator[](std::size_t i) const { return {prompt[i], chosen[i], rejected[i]}; }
};
int main() {
  copying_policy policy(5);
  attune::testing::expect_laws(attune::testing::check_policy_laws(policy, 5));  // throws, naming each broken law
  std::printf("normalised, pure, causal, local, linear, exact: the policy keeps its laws\n");
  attune::frozen reference(policy);
  attune::adamw<double> adamw;
  attune::dpo_trainer trainer{policy, reference, adamw, {.loop = {.learning_rate = 0.2, .max_steps = 30}}};
  auto const done = trainer.fit(repetitions{});
  std::printf("DPO: loss %.3f -> %.3f; log-odds that a repeated token gains: %.1f\n", done.first_loss, done.last_loss,
              policy.parameters()[1].value[0]);
}
