// SPDX-License-Identifier: MIT
//
// Door 2: tensors. Another framework has run its model forward and hands over its memory: logits, or hidden states and
// the output matrix. It gets back the gradient in the same kind of memory, and does the rest of the backward pass.
#include <cstddef>
#include <cstdio>
#include <vector>

#include <attune/backend/eigen.hpp>
#include <attune/objective/loss_on_logits.hpp>
#include <attune/objective/pairwise/pairs_on_tokens.hpp>
#include <attune/objective/sequence_sums.hpp>

namespace theirs {

struct tensor {  // row-major
  std::size_t rows, cols;
  std::vector<float> data = std::vector<float>(rows * cols);
};

tensor made_up(std::size_t rows, std::size_t cols, std::size_t seed) {  // small numbers, the same everywhere
  tensor t{rows, cols};
  for (std::size_t i = 0; i < t.data.size(); ++i) t.data[i] = static_cast<float>((i * 7 + seed) % 11) / 8.0f - 0.5f;
  return t;
}

attune::matrix_view<float> view(tensor& t) { return attune::as_matrix(t.data.data(), t.rows, t.cols); }

double size_of(tensor const& t) {
  double sum = 0.0;
  for (float const x : t.data) sum += static_cast<double>(x) * static_cast<double>(x);
  return sum;
}

}  // namespace theirs

int main() {
  constexpr std::size_t vocabulary = 6, width = 4;
  attune::sequences batch;  // prompt, completion; the pair's two responses are neighbours
  batch.push_back(std::vector<attune::token_id>{1, 2}, std::vector<attune::token_id>{3, 4, 0});
  batch.push_back(std::vector<attune::token_id>{1, 2}, std::vector<attune::token_id>{5, 0});
  attune::eigen_backend<float> backend;
  attune::loss_workspace<float> workspace;

  // SFT on logits, the gradient written over them. Row t predicts token t + 1; rows before a prompt's token, and the
  // last row of a sequence, get 0.
  theirs::tensor logits = theirs::made_up(batch.total_tokens(), vocabulary, 3);
  float const sft = attune::loss_on_logits(backend, attune::sft_on_tokens{}, theirs::view(logits), batch,
                                           theirs::view(logits), workspace);
  std::printf("SFT loss on logits: %.4f\ngradient, over the logits:\n", static_cast<double>(sft));
  for (std::size_t t = 0; t < logits.rows; ++t) {
    std::printf("  row %zu", t);
    for (std::size_t v = 0; v < vocabulary; ++v)
      std::printf(" %7.3f", static_cast<double>(logits.data[t * vocabulary + v]) + 0.0);
    std::printf("\n");
  }

  // DPO on hidden states and the output matrix: the logits never exist as a whole. The reference first, log-probs only.
  theirs::tensor reference = theirs::made_up(batch.total_tokens(), width, 5);
  theirs::tensor head = theirs::made_up(vocabulary, width, 1);
  std::vector<float> logps(batch.total_tokens());
  std::vector<double> reference_sums(batch.size());
  attune::logps_on_hidden(backend, theirs::view(reference), theirs::view(head), batch, logps, workspace);
  attune::sequence_sums<float>(logps, batch, reference_sums);
  std::printf("log pi_ref: chosen %.3f, rejected %.3f\n", reference_sums[0], reference_sums[1]);

  theirs::tensor hidden = theirs::made_up(batch.total_tokens(), width, 8);
  theirs::tensor dhidden{hidden.rows, width}, dhead{vocabulary, width};
  float const dpo = attune::loss_on_hidden(backend, attune::dpo_on_tokens(reference_sums, {.beta = 0.5}),
                                           theirs::view(hidden), theirs::view(head), batch, theirs::view(dhidden),
                                           theirs::view(dhead), workspace);
  std::printf("DPO loss on hidden states: %.4f; |dhidden|^2 %.4f, |dhead|^2 %.4f\n", static_cast<double>(dpo),
              theirs::size_of(dhidden), theirs::size_of(dhead));
}
