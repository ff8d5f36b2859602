// SPDX-License-Identifier: MIT
#pragma once

#include <attune/concepts/dataset.hpp>
#include <attune/concepts/reward_model.hpp>
#include <attune/core/parameter.hpp>
#include <attune/core/random.hpp>
#include <attune/core/sequences.hpp>
#include <attune/model/tabular.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

/// Datasets in vectors and a reward model with one weight per token: enough to train on within milliseconds.
namespace attune::test {

using token_list = std::vector<token_id>;

struct owned_demonstration {
  token_list prompt, completion;
};

struct owned_pair {
  token_list prompt, chosen, rejected;
  double margin = 0.0;
};

struct demonstration_list {
  std::vector<owned_demonstration> rows;
  std::size_t size() const { return rows.size(); }
  demonstration operator[](std::size_t i) const { return {rows[i].prompt, rows[i].completion}; }
};

struct pair_list {
  std::vector<owned_pair> rows;
  std::size_t size() const { return rows.size(); }
  preference_pair operator[](std::size_t i) const {
    return {rows[i].prompt, rows[i].chosen, rows[i].rejected, rows[i].margin};
  }
};

struct owned_feedback {
  token_list prompt, completion;
  bool desirable = false;
  double weight = 1.0;
};

struct feedback_list {
  std::vector<owned_feedback> rows;
  std::size_t size() const { return rows.size(); }
  judged_completion operator[](std::size_t i) const {
    return {rows[i].prompt, rows[i].completion, rows[i].desirable, rows[i].weight};
  }
};

struct owned_solution {
  token_list prompt, completion;
  std::vector<std::size_t> step_ends;
  std::vector<std::uint8_t> labels;
};

struct solution_list {
  std::vector<owned_solution> rows;
  std::size_t size() const { return rows.size(); }
  stepwise_completion operator[](std::size_t i) const {
    return {rows[i].prompt, rows[i].completion, rows[i].step_ends, rows[i].labels};
  }
};

struct prompt_row {
  std::span<token_id const> prompt;
};

struct prompt_list {
  std::vector<token_list> rows;
  std::size_t size() const { return rows.size(); }
  prompt_row operator[](std::size_t i) const { return {rows[i]}; }
};

inline token_list random_tokens(random_stream& random, std::size_t vocabulary, std::size_t longest) {
  token_list out(1 + random.below(longest));
  for (token_id& id : out) id = static_cast<token_id>(random.below(vocabulary));
  return out;
}

inline demonstration_list random_demonstrations(std::size_t rows, std::size_t vocabulary, std::uint64_t seed,
                                                std::size_t longest = 6) {
  random_stream random(seed);
  demonstration_list out;
  for (std::size_t i = 0; i < rows; ++i)
    out.rows.push_back({random_tokens(random, vocabulary, longest), random_tokens(random, vocabulary, longest)});
  return out;
}

inline pair_list random_pairs(std::size_t rows, std::size_t vocabulary, std::uint64_t seed, std::size_t longest = 6) {
  random_stream random(seed);
  pair_list out;
  for (std::size_t i = 0; i < rows; ++i)
    out.rows.push_back({random_tokens(random, vocabulary, longest), random_tokens(random, vocabulary, longest),
                        random_tokens(random, vocabulary, longest), 0.0});
  return out;
}

inline feedback_list random_feedback(std::size_t rows, std::size_t vocabulary, std::uint64_t seed,
                                     std::size_t longest = 6) {
  random_stream random(seed);
  feedback_list out;
  for (std::size_t i = 0; i < rows; ++i)
    out.rows.push_back({random_tokens(random, vocabulary, longest), random_tokens(random, vocabulary, longest),
                        random.below(2) == 0, 1.0});
  return out;
}

inline solution_list random_solutions(std::size_t rows, std::size_t vocabulary, std::uint64_t seed,
                                      std::size_t longest = 4) {
  random_stream random(seed);
  solution_list out;
  for (std::size_t i = 0; i < rows; ++i) {
    owned_solution row{random_tokens(random, vocabulary, longest), {}, {}, {}};
    for (std::size_t steps = 1 + random.below(3); steps-- > 0;) {
      token_list const step = random_tokens(random, vocabulary, longest);
      row.completion.insert(row.completion.end(), step.begin(), step.end());
      row.step_ends.push_back(row.completion.size());
      row.labels.push_back(random.below(2) == 0);
    }
    out.rows.push_back(row);
  }
  return out;
}

inline prompt_list random_prompts(std::size_t rows, std::size_t vocabulary, std::uint64_t seed, std::size_t longest = 4) {
  random_stream random(seed);
  prompt_list out;
  for (std::size_t i = 0; i < rows; ++i) out.rows.push_back(random_tokens(random, vocabulary, longest));
  return out;
}

/// A tabular policy with random logits.
template <class T>
tabular_policy<T> random_tabular(tabular_options options, std::uint64_t seed) {
  tabular_policy<T> policy(options);
  random_stream random(seed);
  for (std::size_t c = 0; c < policy.contexts(); ++c)
    for (T& logit : policy.row(c)) logit = static_cast<T>(random.normal());
  return policy;
}

/// score = sum over the completion's tokens of the token's weight. A TrainableRewardModel.
template <class T>
class token_score {
 public:
  using scalar = T;

  explicit token_score(std::size_t vocabulary) : weights_(vocabulary, T(0)), gradient_(vocabulary, T(0)) {}

  void scores(sequences_view s, std::span<T> out) const {
    for (std::size_t b = 0; b < s.size(); ++b) {
      out[b] = T(0);
      for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t)
        if (s.mask[t] != 0) out[b] += weights_[static_cast<std::size_t>(s.tokens[t])];
    }
  }

  void operator()(sequences_view s, std::span<double> out) const {
    std::vector<T> own(s.size());
    scores(s, own);
    std::copy(own.begin(), own.end(), out.begin());
  }

  void accumulate_score_gradient(sequences_view s, score_slopes_of<T> ask) {
    scores_.resize(s.size());
    slopes_.assign(s.size(), T(0));
    scores(s, scores_);
    ask(scores_, slopes_);
    for (std::size_t b = 0; b < s.size(); ++b)
      for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t)
        if (s.mask[t] != 0) gradient_[static_cast<std::size_t>(s.tokens[t])] += slopes_[b];
  }

  std::array<parameter<T>, 1> parameters() noexcept {
    return {parameter<T>{.name = "weights", .value = weights_, .gradient = gradient_, .shape = {1, weights_.size()}, .decay = false}};
  }

 private:
  std::vector<T> weights_, gradient_, scores_, slopes_;
};

}  // namespace attune::test
