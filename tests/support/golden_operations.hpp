// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <attune/concepts/backend.hpp>
#include <attune/core/sequences.hpp>
#include <attune/objective/loss_on_logits.hpp>

#include "support/golden_file.hpp"
#include "support/keep_worst.hpp"

/// The golden files that are about logits, on any backend whose numbers are float or double: PyTorch's and TRL's values
/// and gradients, made in double from numbers that are rounded to the backend's.
namespace attune::test {

struct golden_operation {
  std::string name;
  double error, bound;  ///< of the largest of 1 and the number's size
};

/// The numbers of a field, -inf where the file has what stands for it.
template <class T>
std::vector<T> golden_numbers(golden_case const& c, std::string const& field) {
  std::vector<T> numbers;
  for (double const x : c[field]) numbers.push_back(x <= -1e308 ? -std::numeric_limits<T>::infinity() : static_cast<T>(x));
  return numbers;
}

/// Largest |seen - expected|, of the largest of 1 and |expected|.
template <class T>
double golden_error(std::vector<T> const& seen, std::vector<T> const& expected) {
  double worst = seen.size() == expected.size() ? 0.0 : std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < seen.size() && i < expected.size(); ++i) {
    double const a = static_cast<double>(seen[i]), b = static_cast<double>(expected[i]);
    if (a != b) keep_worst(worst, {std::abs(a - b) / std::max(1.0, std::abs(b))});
  }
  return worst;
}

template <Backend B>
golden_operation try_golden_rows(B& backend, double bound) {
  using T = typename B::scalar;
  double worst = 0.0;
  for (golden_case const& c : read_golden("row_terms.txt")) {
    std::size_t const v = static_cast<std::size_t>(c.number("vocabulary")), n = c["slopes"].size();
    auto const logits = golden_numbers<T>(c, "logits"), slopes = golden_numbers<T>(c, "slopes"),
               on_means = golden_numbers<T>(c, "mean_slopes"), on_entropies = golden_numbers<T>(c, "entropy_slopes"),
               on_normalizers = golden_numbers<T>(c, "normalizer_slopes");
    auto const targets = c.integers<token_id>("targets");
    bool const whole = *std::min_element(logits.begin(), logits.end()) > -std::numeric_limits<T>::infinity();
    std::vector<T> logps(n), normalizers(n), means(n), entropies(n), collisions(n), gradient(n * v);
    auto const in = as_matrix<T const>(logits.data(), n, v);
    backend.token_logps(in, targets, {logps, normalizers, means, entropies, collisions});
    row_slopes<T> of{slopes, on_means, entropies, on_entropies, on_normalizers};
    if (!whole) of.mean_logps = {};  // the mean of such a row is -inf
    backend.token_logps_adjoint(in, targets, normalizers, of, as_matrix(gradient.data(), n, v));
    keep_worst(worst, {golden_error(logps, golden_numbers<T>(c, "logps")),
                       golden_error(normalizers, golden_numbers<T>(c, "log_normalizers")),
                       golden_error(entropies, golden_numbers<T>(c, "entropies")),
                       golden_error(collisions, golden_numbers<T>(c, "collisions")),
                       golden_error(gradient, golden_numbers<T>(c, "gradient"))});
    if (whole) keep_worst(worst, {golden_error(means, golden_numbers<T>(c, "mean_logps"))});
  }
  return {"token_logps with all its terms, and its adjoint", worst, bound};
}

template <Backend B>
golden_operation try_golden_divergences(B& backend, double bound) {
  using T = typename B::scalar;
  double worst = 0.0;
  for (golden_case const& c : read_golden("row_kl.txt")) {
    std::size_t const v = static_cast<std::size_t>(c.number("vocabulary")), n = c["slopes"].size();
    auto const logits = golden_numbers<T>(c, "logits"), ref_logits = golden_numbers<T>(c, "ref_logits"),
               slopes = golden_numbers<T>(c, "slopes");
    std::vector<token_id> const targets(n, 0);
    kl_direction const direction = c.number("forward") != 0 ? kl_direction::forward : kl_direction::reverse;
    std::vector<T> kl(n), normalizers(n), ref_normalizers(n), gradient(n * v, T(0));
    auto const x = as_matrix<T const>(logits.data(), n, v), y = as_matrix<T const>(ref_logits.data(), n, v);
    backend.token_kl(x, y, targets, direction, {kl, normalizers, ref_normalizers});
    backend.token_kl_adjoint(x, y, targets, direction, {kl, normalizers, ref_normalizers}, slopes,
                             as_matrix(gradient.data(), n, v));
    keep_worst(worst, {golden_error(kl, golden_numbers<T>(c, "kl")),
                       golden_error(gradient, golden_numbers<T>(c, "gradient"))});
  }
  return {"token_kl and its adjoint", worst, bound};
}

template <Backend B>
golden_operation try_golden_sft(B& backend, std::string const& file, double bound) {
  using T = typename B::scalar;
  double worst = 0.0;
  loss_workspace<T> workspace;
  for (golden_case const& c : read_golden(file)) {
    auto const has = [&](char const* field) { return c.fields.count(field) != 0; };
    auto const tokens = c.integers<token_id>("tokens");
    auto const offsets = c.integers<std::size_t>("offsets");
    auto const mask = c.integers<std::uint8_t>("mask");
    auto logits = golden_numbers<T>(c, "logits");
    auto const view = as_matrix(logits.data(), tokens.size(), static_cast<std::size_t>(c.number("vocabulary")));
    sft_on_tokens const objective{
        .options = {.label_smoothing = c.number("label_smoothing"),
                    .normalization = c.number("sequence_normalization") != 0 ? sft_normalization::sequence
                                                                             : sft_normalization::token,
                    .loss_type = has("dft") && c.number("dft") != 0 ? sft_loss_type::dft : sft_loss_type::nll,
                    .z_loss_coef = has("z_loss_coef") ? c.number("z_loss_coef") : 0.0},
        .totals = {static_cast<std::size_t>(c.number("total_tokens")), static_cast<std::size_t>(c.number("total_sequences"))}};
    T const loss = loss_on_logits(backend, objective, view, {tokens, offsets, mask}, view, workspace);
    keep_worst(worst, {golden_error<T>({loss}, golden_numbers<T>(c, "loss")),
                       golden_error(logits, golden_numbers<T>(c, "dlogits"))});
  }
  return {"SFT on logits, " + file, worst, bound};
}

/// All of them. Bounds in units of the last place: inputs of a size of some units are rounded, and a number is made of a
/// few of them.
template <Backend B>
std::vector<golden_operation> try_golden(B& backend) {
  constexpr double epsilon = static_cast<double>(std::numeric_limits<typename B::scalar>::epsilon());
  return {try_golden_rows(backend, 32 * epsilon), try_golden_divergences(backend, 32 * epsilon),
          try_golden_sft(backend, "sft.txt", 32 * epsilon), try_golden_sft(backend, "sft_terms.txt", 32 * epsilon)};
}

}  // namespace attune::test
