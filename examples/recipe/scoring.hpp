// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <attune/data/demonstration_data.hpp>
#include <attune/data/preference_data.hpp>
#include <attune/model/decoder.hpp>

/// Models as judges of data: one number per row.
namespace recipe {

inline constexpr std::size_t rows_at_once = 128;

/// Log-probability of every completion, summed over its tokens.
template <class Model, class Dataset>
std::vector<double> completion_logps(Model const& model, Dataset const& data) {
  std::vector<double> sums;
  std::vector<typename Model::scalar> logps;
  attune::sequences batch;
  for (std::size_t first = 0; first < data.size(); first += rows_at_once) {
    batch.clear();
    for (std::size_t i = first; i < std::min(first + rows_at_once, data.size()); ++i)
      batch.push_back(data[i].prompt, data[i].completion);
    logps.resize(batch.total_tokens());
    model.log_probs(batch, logps);
    attune::sequences_view const s = batch;
    for (std::size_t b = 0; b < s.size(); ++b) {
      double sum = 0.0;
      for (std::size_t t = s.offsets[b]; t < s.offsets[b + 1]; ++t)
        if (s.mask[t]) sum += static_cast<double>(logps[t]);
      sums.push_back(sum);
    }
  }
  return sums;
}

/// KL(arm || reference) in nats per response, over what was sampled from the arm: the mean of log arm - log reference
/// (the k1 estimator, unbiased), with its standard error.
struct divergence {
  double mean = 0.0;
  double standard_error = 0.0;
};

inline divergence divergence_between(attune::decoder<float> const& arm, attune::decoder<float> const& reference,
                                     attune::demonstration_data const& spoken) {
  std::vector<double> const own = completion_logps(arm, spoken), other = completion_logps(reference, spoken);
  double const count = static_cast<double>(own.size());
  double sum = 0.0, squares = 0.0;
  for (std::size_t i = 0; i < own.size(); ++i) sum += own[i] - other[i];
  double const mean = sum / count;
  for (std::size_t i = 0; i < own.size(); ++i) squares += (own[i] - other[i] - mean) * (own[i] - other[i] - mean);
  return {mean, std::sqrt(squares / (count - 1.0) / count)};
}

/// A reward model's scores of prompt + completion, one per row.
template <class RewardModel, class Dataset>
std::vector<double> completion_scores(RewardModel& model, Dataset const& data) {
  std::vector<double> all;
  std::vector<double> scores;
  attune::sequences batch;
  for (std::size_t first = 0; first < data.size(); first += rows_at_once) {
    batch.clear();
    for (std::size_t i = first; i < std::min(first + rows_at_once, data.size()); ++i)
      batch.push_back(data[i].prompt, data[i].completion);
    scores.resize(batch.size());
    model(batch, scores);
    all.insert(all.end(), scores.begin(), scores.end());
  }
  return all;
}

/// The chosen or the rejected side of pairs, as demonstrations.
template <class Pairs>
struct side_of {
  Pairs const& pairs;
  bool chosen;
  std::size_t size() const { return pairs.size(); }
  attune::demonstration operator[](std::size_t i) const {
    attune::preference_pair const pair = pairs[i];
    return {.prompt = pair.prompt, .completion = chosen ? pair.chosen : pair.rejected};
  }
};

/// By how much a model prefers chosen to rejected, in nats, one number per pair.
inline std::vector<double> log_prob_margins(attune::decoder<float> const& model, attune::preference_data const& pairs) {
  std::vector<double> margins = completion_logps(model, side_of<attune::preference_data>{pairs, true});
  std::vector<double> const rejected = completion_logps(model, side_of<attune::preference_data>{pairs, false});
  for (std::size_t i = 0; i < margins.size(); ++i) margins[i] -= rejected[i];
  return margins;
}

}  // namespace recipe
