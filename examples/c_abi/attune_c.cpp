// SPDX-License-Identifier: MIT
//
// The functions of attune_c.h: each takes its tensors apart by backend/dlpack.hpp, calls one function of the library,
// and lets no exception out.
#include "attune_c.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <span>
#include <string>
#include <vector>

#include <attune/backend/dlpack.hpp>
#include <attune/backend/eigen.hpp>
#include <attune/core/contract.hpp>
#include <attune/objective/loss_on_logits.hpp>
#include <attune/objective/pairwise/dpo.hpp>
#include <attune/objective/pairwise/pairs_on_tokens.hpp>
#include <attune/objective/ppo.hpp>
#include <attune/objective/sequence_sums.hpp>

// The bytes that other languages lay out for themselves.
static_assert(sizeof(DLTensor) == 48 && offsetof(DLTensor, device) == 8 && offsetof(DLTensor, ndim) == 16 &&
              offsetof(DLTensor, dtype) == 20 && offsetof(DLTensor, shape) == 24 && offsetof(DLTensor, strides) == 32 &&
              offsetof(DLTensor, byte_offset) == 40);

namespace {

using namespace attune;

DLTensor const& given(DLTensor const* tensor, char const* name) {
  if (tensor == nullptr) throw contract_violation(std::string("expected ") + name + ": a tensor, got NULL");
  return *tensor;
}

double& given(double* loss) {
  expects(loss != nullptr, "loss: where to write it, got NULL");
  return *loss;
}

template <class T>
std::span<T> span_of(DLTensor const* tensor, char const* name) {
  return dl_span<T>(given(tensor, name), name);
}

template <class T>
matrix_view<T> matrix_of(DLTensor const* tensor, char const* name) {
  return dl_matrix<T>(given(tensor, name), name);
}

/// What a thread keeps between its calls: a few numbers per token, so that a training loop stops allocating.
template <class T>
struct scratch {
  loss_workspace<T> workspace;
  std::vector<token_id> tokens;
  std::vector<std::size_t> offsets;
  std::vector<double> sums;

  static scratch& of_this_thread() {
    static thread_local scratch one;
    return one;
  }

  sequences_view batch(attune_sequences const* s) {
    expects(s != nullptr, "sequences: a structure, got NULL");
    return {dl_integers<token_id>(given(s->tokens, "tokens"), "tokens", tokens),
            dl_integers<std::size_t>(given(s->offsets, "offsets"), "offsets", offsets),
            span_of<std::uint8_t const>(s->mask, "mask")};
  }
};

attune_status report(attune_status status, char const* text, char* error, std::size_t error_size) noexcept {
  if (error == nullptr || error_size == 0) return status;
  std::size_t const length = (std::min)(std::strlen(text), error_size - 1);
  std::memcpy(error, text, length);
  error[length] = '\0';
  return status;
}

/// Calls f with a number of the type that `first` holds; whatever is thrown becomes a status and a text.
template <class F>
attune_status in_type_of(DLTensor const* first, char const* name, char* error, std::size_t error_size,
                         F const& f) noexcept {
  try {
    DLTensor const& tensor = given(first, name);
    if (dl_holds<float>(tensor))
      f(float());
    else if (dl_holds<double>(tensor))
      f(double());
    else
      dl_refuse(name, "DLPack dtype float32 or float64", dl_dtype_name(dl_description_of(tensor).dtype));
    return report(ATTUNE_OK, "", error, error_size);
  } catch (contract_violation const& e) {
    return report(ATTUNE_BAD_ARGUMENT, e.what(), error, error_size);
  } catch (std::exception const& e) {
    return report(ATTUNE_FAILED, e.what(), error, error_size);
  } catch (...) {
    return report(ATTUNE_FAILED, "an exception without a text", error, error_size);
  }
}

/// Throws unless the two are one matrix, or share no element. Rows of equal stride may interleave.
template <class T>
void expects_one_or_apart(matrix_view<T const> logits, matrix_view<T> gradient) {
  if (logits.data == nullptr || gradient.data == nullptr) return;
  auto const begin = [](auto m) { return reinterpret_cast<std::uintptr_t>(m.data); };
  auto const end = [&](auto m) { return begin(m) + ((m.rows - 1) * m.row_stride + m.cols) * sizeof(T); };
  if (begin(logits) >= end(gradient) || begin(gradient) >= end(logits)) return;
  bool const one_stride = logits.row_stride == gradient.row_stride;
  if (one_stride && begin(logits) == begin(gradient)) return;
  bool const forward = begin(logits) < begin(gradient);
  std::size_t const row = logits.row_stride * sizeof(T);
  std::size_t const between = (forward ? begin(gradient) - begin(logits) : begin(logits) - begin(gradient)) % row;
  std::size_t const first = forward ? logits.cols : gradient.cols, second = forward ? gradient.cols : logits.cols;
  expects(one_stride && between >= first * sizeof(T) && row - between >= second * sizeof(T),
          "gradient: the logits themselves, or memory apart from them, got memory that overlaps");
}

/// The gradient of an objective on logits; `make(scratch, batch)` is the objective.
template <class Make>
attune_status loss_of(DLTensor const* logits, attune_sequences const* sequences, double* loss, DLTensor const* gradient,
                      char* error, std::size_t error_size, Make const& make) noexcept {
  return in_type_of(logits, "logits", error, error_size, [&]<class T>(T) {
    auto& mine = scratch<T>::of_this_thread();
    double& result = given(loss);
    auto const from = matrix_of<T const>(logits, "logits");
    auto const to = matrix_of<T>(gradient, "gradient");
    expects_one_or_apart(from, to);
    sequences_view const batch = mine.batch(sequences);
    eigen_backend<T> backend;
    auto objective = make.template operator()<T>(mine, batch);
    result = static_cast<double>(loss_on_logits(backend, objective, from, batch, to, mine.workspace));
  });
}

}  // namespace

extern "C" {

attune_status attune_dpo_loss(DLTensor const* chosen, DLTensor const* rejected, DLTensor const* ref_chosen,
                              DLTensor const* ref_rejected, double beta, double label_smoothing, double* loss,
                              DLTensor const* chosen_slopes, DLTensor const* rejected_slopes, char* error,
                              size_t error_size) {
  return in_type_of(chosen, "chosen", error, error_size, [&]<class T>(T) {
    double& result = given(loss);
    result = static_cast<double>(dpo_loss<T>({.chosen = span_of<T const>(chosen, "chosen"),
                                              .rejected = span_of<T const>(rejected, "rejected"),
                                              .ref_chosen = span_of<T const>(ref_chosen, "ref_chosen"),
                                              .ref_rejected = span_of<T const>(ref_rejected, "ref_rejected")},
                                             {.chosen = span_of<T>(chosen_slopes, "chosen_slopes"),
                                              .rejected = span_of<T>(rejected_slopes, "rejected_slopes")},
                                             {.beta = beta, .label_smoothing = label_smoothing}));
  });
}

attune_status attune_logps_on_logits(DLTensor const* logits, attune_sequences const* sequences, DLTensor const* logps,
                                     char* error, size_t error_size) {
  return in_type_of(logits, "logits", error, error_size, [&]<class T>(T) {
    auto& mine = scratch<T>::of_this_thread();
    auto const from = matrix_of<T const>(logits, "logits");
    auto const to = span_of<T>(logps, "logps");
    eigen_backend<T> backend;
    logps_on_logits(backend, from, mine.batch(sequences), to, mine.workspace);
  });
}

attune_status attune_sft_loss_on_logits(DLTensor const* logits, attune_sequences const* sequences,
                                        double label_smoothing, double* loss, DLTensor const* gradient, char* error,
                                        size_t error_size) {
  return loss_of(logits, sequences, loss, gradient, error, error_size, [&]<class T>(scratch<T>&, sequences_view) {
    return sft_on_tokens{.options = {.label_smoothing = label_smoothing}};
  });
}

attune_status attune_dpo_loss_on_logits(DLTensor const* logits, attune_sequences const* sequences,
                                        DLTensor const* ref_logps, double beta, double label_smoothing, double* loss,
                                        DLTensor const* gradient, char* error, size_t error_size) {
  return loss_of(logits, sequences, loss, gradient, error, error_size,
                 [&]<class T>(scratch<T>& mine, sequences_view batch) {
                   mine.sums.resize(batch.size());
                   sequence_sums(span_of<T const>(ref_logps, "ref_logps"), batch, mine.sums);
                   return dpo_on_tokens(mine.sums, {.beta = beta, .label_smoothing = label_smoothing});
                 });
}

attune_status attune_ppo_loss_on_logits(DLTensor const* logits, attune_sequences const* sequences,
                                        DLTensor const* old_logps, DLTensor const* advantages, double cliprange,
                                        double* loss, DLTensor const* gradient, char* error, size_t error_size) {
  return loss_of(logits, sequences, loss, gradient, error, error_size, [&]<class T>(scratch<T>&, sequences_view) {
    return ppo_on_tokens<T>{.old_logps = span_of<T const>(old_logps, "old_logps"),
                            .advantages = span_of<T const>(advantages, "advantages"),
                            .options = {.cliprange = cliprange}};
  });
}

}  // extern "C"
