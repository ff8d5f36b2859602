/* SPDX-License-Identifier: MIT */
/*
 * attune for other languages: losses and their gradients behind a C interface, on DLPack tensors, the structure in
 * which NumPy, PyTorch, JAX, Julia and others hand out their memory. An example of an interface, small on purpose: what
 * it leaves out is written the same way. demo.py calls it from Python by ctypes, without compiling anything.
 *
 * Names of sizes: T tokens, V vocabulary, B sequences (B = 2 pairs for DPO), P pairs.
 *
 * Tensors are borrowed for the call: nothing is kept, nothing is released, and nothing of the size of the logits is
 * allocated. They lie in memory that the host reads (CPU, pinned, managed). Elements of a row are adjacent; rows may
 * lie further apart. All floating-point tensors of a call are of one dtype, float32 or float64. strides may be NULL.
 *
 * Every function returns ATTUNE_OK, or says in `error`, which has room for `error_size` bytes, what it expected, of
 * which argument, and what it found: "expected logits: DLPack dtype float32 or float64, got bfloat16". The text ends
 * with a 0 and is cut to fit; error may be NULL where error_size is 0. On success the text is empty. Unless a function
 * returns ATTUNE_OK its results are not to be read; after ATTUNE_BAD_ARGUMENT gradients and losses were not written at
 * all.
 *
 * The functions may be called from several threads at once, if they write to different tensors.
 */
#ifndef ATTUNE_C_H
#define ATTUNE_C_H

#include <stddef.h>
#include <stdint.h>

/* The structures of DLPack: those of its own header where that was included before or can be found; else this copy.
 * They are the same bytes in DLPack 0.6 and all versions up to 1.x. A dlpack.h of another path must come before this
 * header. */
#if !defined(DLPACK_DLPACK_H_) && defined(__has_include)
#if __has_include(<dlpack/dlpack.h>)
#include <dlpack/dlpack.h>
#endif
#endif
#ifndef DLPACK_DLPACK_H_
#ifdef __cplusplus
typedef enum : int32_t {
#else
typedef enum {
#endif
  kDLCPU = 1,
  kDLCUDA = 2,
  kDLCUDAHost = 3,
  kDLCUDAManaged = 13
} DLDeviceType;

typedef struct {
  DLDeviceType device_type;
  int32_t device_id;
} DLDevice;

typedef enum { kDLInt = 0U, kDLUInt = 1U, kDLFloat = 2U, kDLBfloat = 4U, kDLBool = 6U } DLDataTypeCode;

typedef struct {
  uint8_t code; /* DLDataTypeCode */
  uint8_t bits;
  uint16_t lanes; /* 1 */
} DLDataType;

typedef struct {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;       /* (ndim) */
  int64_t* strides;     /* (ndim) in elements, or NULL: compact */
  uint64_t byte_offset; /* of the first element from data */
} DLTensor;
#endif

#if defined(__GNUC__)
#define ATTUNE_C_API __attribute__((visibility("default")))
#else
#define ATTUNE_C_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum attune_status {
  ATTUNE_OK = 0,
  ATTUNE_BAD_ARGUMENT = 1, /* the caller's mistake, named in error */
  ATTUNE_FAILED = 2        /* memory ran out, or worse */
} attune_status;

/* Sequences end to end, never padded. Row t of logits predicts the token after token t; the shift by one is made here.
 */
typedef struct attune_sequences {
  DLTensor const* tokens;  /* (T) ids in [0, V): int32 or int64 */
  DLTensor const* offsets; /* (B + 1) int32 or int64: 0, ..., T; sequence b is tokens [offsets[b], offsets[b + 1]) */
  DLTensor const* mask;    /* (T) uint8 or bool: 1 on the tokens of responses; 0 on prompts and every first token */
} attune_sequences;

/* Door 1: DPO from log-probabilities of whole responses (Rafailov et al. 2023, eq. 7), the mean over the P pairs. All
 * tensors (P). Writes dL/dchosen and dL/drejected, the slopes in the policy's log-probabilities. beta > 0;
 * label_smoothing in [0, 0.5]. The slopes may be the memory of what they are slopes of. */
ATTUNE_C_API attune_status attune_dpo_loss(DLTensor const* chosen, DLTensor const* rejected, DLTensor const* ref_chosen,
                                           DLTensor const* ref_rejected, double beta, double label_smoothing,
                                           double* loss, DLTensor const* chosen_slopes, DLTensor const* rejected_slopes,
                                           char* error, size_t error_size);

/* Door 2. In all that follow logits is (T, V), and gradient, (T, V), is overwritten with dL/dlogits: 0 in rows without
 * a target. gradient may be the logits themselves, and must not overlap them otherwise. */

/* Log-probabilities of tokens under some logits: those of a reference policy, or of the policy that drew the tokens.
 * Writes logps (T): 0 where the mask is 0. */
ATTUNE_C_API attune_status attune_logps_on_logits(DLTensor const* logits, attune_sequences const* sequences,
                                                  DLTensor const* logps, char* error, size_t error_size);

/* Supervised fine-tuning: the mean over masked-in tokens of the negative log-likelihood. label_smoothing in [0, 1). */
ATTUNE_C_API attune_status attune_sft_loss_on_logits(DLTensor const* logits, attune_sequences const* sequences,
                                                     double label_smoothing, double* loss, DLTensor const* gradient,
                                                     char* error, size_t error_size);

/* DPO, the mean over pairs: sequences 2i and 2i + 1 are the chosen and the rejected response of pair i. ref_logps (T)
 * of the reference policy, as attune_logps_on_logits writes them. */
ATTUNE_C_API attune_status attune_dpo_loss_on_logits(DLTensor const* logits, attune_sequences const* sequences,
                                                     DLTensor const* ref_logps, double beta, double label_smoothing,
                                                     double* loss, DLTensor const* gradient, char* error,
                                                     size_t error_size);

/* PPO's clipped surrogate (Schulman et al. 2017, eq. 7), the mean over masked-in tokens. old_logps (T) of the policy
 * that drew the tokens; advantages (T); both are read where the mask is 1. cliprange in (0, 1]. */
ATTUNE_C_API attune_status attune_ppo_loss_on_logits(DLTensor const* logits, attune_sequences const* sequences,
                                                     DLTensor const* old_logps, DLTensor const* advantages,
                                                     double cliprange, double* loss, DLTensor const* gradient,
                                                     char* error, size_t error_size);

#ifdef __cplusplus
}
#endif

#endif
