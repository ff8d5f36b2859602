// SPDX-License-Identifier: MIT
//
// A backend of your own: the operations of concepts/backend.hpp in the plainest way, and a tensor class that attune has
// never heard of. The laws of the concept are tried on the backend, and a DPO loss is computed with both.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <span>
#include <vector>

#include <attune/backend/host_operations.hpp>
#include <attune/objective/loss_on_logits.hpp>
#include <attune/objective/pairwise/pairs_on_tokens.hpp>
#include <attune/testing/backend_laws.hpp>

using namespace attune;
using matrix = matrix_view<double>;
using const_matrix = matrix_view<double const>;
using numbers = std::span<double const>;
using target_ids = std::span<token_id const>;

struct naive_tensor {
  std::size_t rows, cols;
  std::vector<double> values = std::vector<double>(rows * cols);
  double& operator()(std::size_t i, std::size_t k) { return values[i * cols + k]; }
  matrix view() { return as_matrix(values.data(), rows, cols); }
};

naive_tensor times_transposed(const_matrix a, const_matrix b) {
  naive_tensor product{a.rows, b.rows};
  for (std::size_t i = 0; i < a.rows; ++i)
    for (std::size_t k = 0; k < b.rows; ++k)
      for (std::size_t d = 0; d < a.cols; ++d) product(i, k) += a(i, d) * b(k, d);
  return product;
}

/// NaN where the row has no distribution: it is all -inf, or holds NaN or +inf.
double log_normalizer(const_matrix x, std::size_t i) {
  double maximum = -HUGE_VAL, sum = 0.0;
  for (std::size_t v = 0; v < x.cols; ++v) maximum = std::max(maximum, x(i, v));
  for (std::size_t v = 0; v < x.cols; ++v) sum += std::exp(x(i, v) - maximum);
  return maximum + std::log(sum);
}

struct naive_backend : host_operations<double> {  // segments, norm and AdamW are there
  using scalar = double;
  using storage = double;
  void token_logps(const_matrix logits, target_ids targets, row_logps<double> out) const {
    for (std::size_t i = 0; i < logits.rows; ++i) {
      bool const asked = targets[i] != no_target;
      double const z = asked ? log_normalizer(logits, i) : 0.0;
      double mean = 0.0, entropy = 0.0 * z, collision = 0.0;  // 0 z: NaN stays NaN
      for (std::size_t v = 0; v < logits.cols && asked; ++v) {
        double const logp = logits(i, v) - z, p = std::exp(logp);
        mean += logp / static_cast<double>(logits.cols);
        if (p > 0.0) entropy -= p * logp;
        collision += p * p;
      }
      out.logps[i] = asked ? logits(i, static_cast<std::size_t>(targets[i])) - z : 0.0;
      out.log_normalizers[i] = z;
      if (!out.mean_logps.empty()) out.mean_logps[i] = mean;
      if (!out.entropies.empty()) out.entropies[i] = entropy;
      if (!out.collisions.empty()) out.collisions[i] = asked ? std::log(collision) : 0.0;
    }
  }

  void token_logps_adjoint(const_matrix logits, target_ids targets, numbers z, row_slopes<double> of,
                           matrix out) const {
    auto const read = [](numbers some, std::size_t i) { return some.empty() ? 0.0 : some[i]; };
    for (std::size_t i = 0; i < logits.rows; ++i)
      for (std::size_t v = 0; v < logits.cols; ++v) {
        double const logp = logits(i, v) - z[i], p = std::exp(logp), uniform = 1.0 / static_cast<double>(logits.cols);
        double const hit = targets[i] == static_cast<token_id>(v) ? 1.0 : 0.0;
        double const bent = p > 0.0 ? p * (logp + read(of.entropies, i)) : 0.0;
        out(i, v) = of.logps[i] * (hit - p) + read(of.mean_logps, i) * (uniform - p) + read(of.log_normalizers, i) * p -
                    read(of.entropy_slopes, i) * bent;
        if (targets[i] == no_target || std::isinf(logp)) out(i, v) = 0.0;  // isinf: of a masked entry
      }
  }

  std::size_t linear_workspace(std::size_t, std::size_t, std::size_t) const { return 0; }  // it allocates as it goes

  void linear_token_logps(const_matrix hidden, const_matrix head, target_ids targets, row_logps<double> out,
                          std::span<double>) const {
    token_logps(times_transposed(hidden, head).view(), targets, out);
  }

  void linear_token_logps_adjoint(const_matrix hidden, const_matrix head, target_ids targets, numbers z,
                                  row_slopes<double> of, matrix dhidden, matrix dhead, std::span<double>) const {
    naive_tensor dlogits = times_transposed(hidden, head);
    token_logps_adjoint(dlogits.view(), targets, z, of, dlogits.view());
    for (std::size_t i = 0; i < hidden.rows; ++i)
      for (std::size_t d = 0; d < hidden.cols; ++d) {
        dhidden(i, d) = 0.0;
        for (std::size_t v = 0; v < head.rows && targets[i] != no_target; ++v) {  // other rows may hold anything
          dhidden(i, d) += dlogits(i, v) * head(v, d);
          dhead(v, d) += dlogits(i, v) * hidden(i, d);
        }
      }
  }

  void token_kl(const_matrix logits, const_matrix ref_logits, target_ids targets, kl_direction direction,
                row_kl<double> out) const {
    for (std::size_t i = 0; i < logits.rows; ++i) {
      bool const asked = targets[i] != no_target, reverse = direction == kl_direction::reverse;
      double const z = asked ? log_normalizer(logits, i) : 0.0, w = asked ? log_normalizer(ref_logits, i) : 0.0;
      double kl = 0.0 * (z + w);
      for (std::size_t v = 0; v < logits.cols && asked; ++v) {
        double const logp = logits(i, v) - z, logq = ref_logits(i, v) - w, p = std::exp(reverse ? logp : logq);
        if (p > 0.0) kl += p * (reverse ? logp - logq : logq - logp);
      }
      out.kl[i] = std::max(kl, 0.0);
      out.log_normalizers[i] = z;
      out.ref_log_normalizers[i] = w;
    }
  }

  void token_kl_adjoint(const_matrix logits, const_matrix ref_logits, target_ids targets, kl_direction direction,
                        row_kl<double const> of, numbers slopes, matrix out) const {
    for (std::size_t i = 0; i < logits.rows; ++i)
      for (std::size_t v = 0; v < logits.cols && targets[i] != no_target; ++v) {
        double const logp = logits(i, v) - of.log_normalizers[i], logq = ref_logits(i, v) - of.ref_log_normalizers[i];
        double const p = std::exp(logp), reverse = p > 0.0 ? p * (logp - logq - of.kl[i]) : 0.0;
        double const forward = std::isinf(logp) ? 0.0 : p - std::exp(logq);
        double const slope = std::isfinite(of.kl[i]) ? slopes[i] : std::nan("");
        out(i, v) += slope * (direction == kl_direction::reverse ? reverse : forward);
      }
  }
};

int main() {
  naive_backend backend;
  std::vector<testing::tried_law> const laws = testing::try_backend_laws(backend);
  for (testing::tried_law const& law : laws)
    std::printf("%-22s %s\n", law.name.c_str(), law.holds() ? "holds" : law.evidence.c_str());

  sequences batch;  // prompt, completion; the pair's two responses are neighbours
  batch.push_back(std::vector<token_id>{1, 2}, std::vector<token_id>{3, 4, 0});
  batch.push_back(std::vector<token_id>{1, 2}, std::vector<token_id>{5, 0});
  naive_tensor logits{batch.total_tokens(), 6};
  for (std::size_t k = 0; k < logits.values.size(); ++k) logits.values[k] = static_cast<double>(k * 7 % 11) / 8.0;
  double const reference[2] = {-5.5, -3.0};  // log pi_ref of both responses
  dpo_on_tokens dpo(reference, {.beta = 0.5});
  loss_workspace<double> workspace;
  double const loss = loss_on_logits(backend, dpo, logits.view(), batch, logits.view(), workspace);  // in place
  std::printf("DPO loss %.4f, |dlogits|^2 %.4f\n", loss, backend.squared_norm(logits.values));
  return testing::broken_of(laws).empty() ? 0 : 1;
}
