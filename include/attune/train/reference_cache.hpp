// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <unistd.h>

#include <attune/concepts/dataset.hpp>
#include <attune/concepts/policy.hpp>
#include <attune/core/atomic_file.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/fingerprint.hpp>
#include <attune/core/model_fingerprint.hpp>
#include <attune/objective/pairwise/ld_dpo.hpp>
#include <attune/objective/sequence_sums.hpp>
#include <attune/train/batches.hpp>
#include <attune/train/checkpoint.hpp>
#include <attune/train/loop_options.hpp>

namespace attune {

/// log pi_ref of both responses of a pair, summed over their tokens.
struct reference_sums {
  double chosen = 0.0;
  double rejected = 0.0;
  double beyond_chosen = 0.0;    ///< the part of `chosen` that lies beyond the shorter response's length
  double beyond_rejected = 0.0;  ///< the like of `rejected`; one of the two is 0

  /// The sums with that part weighted by ld_alpha: see ld_dpo.hpp. The bits of the plain sums at 1.
  reference_sums desensitized(double ld_alpha) const noexcept {
    return {chosen - (1.0 - ld_alpha) * beyond_chosen, rejected - (1.0 - ld_alpha) * beyond_rejected,
            ld_alpha * beyond_chosen, ld_alpha * beyond_rejected};
  }
};

/// What DPO needs to know of its reference model, computed once: four numbers per pair. With it, training holds one
/// model in memory and runs no forward pass of another.
///
/// The cache knows which model it speaks of (fingerprint of architecture and parameter bits) and which datasets
/// (fingerprint of every row); asked about another, it throws and names both. It may lie in a file.
///
///   reference_cache const cache = cached_reference("reference.cache", policy, train_pairs, held_out_pairs);
///   dpo_trainer trainer{policy, cache, optimizer, options};
class reference_cache {
 public:
  /// An empty cache for the model of this fingerprint (model_fingerprint); `epsilon` is the rounding unit of its
  /// scalar.
  explicit reference_cache(std::uint64_t model, double epsilon = std::numeric_limits<double>::epsilon())
      : model_(model), epsilon_(epsilon) {}

  std::uint64_t model() const noexcept { return model_; }
  double epsilon() const noexcept { return epsilon_; }

  /// Computes the sums for a dataset; replaces those already there. The caller vouches that `reference` is the model.
  /// One forward pass over the data; nonfinite_error names a pair whose log-probabilities are not finite.
  template <ReferencePolicy R, PreferenceDataset D>
  void add(R const& reference, D const& pairs, std::size_t micro_batch_tokens = 4096) {
    using scalar = typename R::scalar;
    section fresh{fingerprint(rows_as<preference_pair, D>{pairs}), std::vector<reference_sums>(pairs.size())};
    step_batches batches(micro_batch_tokens);
    std::vector<scalar> logps;
    std::vector<double> sums, shared;
    auto const flush = [&] {
      for (std::size_t i = 0; i < batches.size(); ++i) {
        micro_batch const batch = batches[i];
        logps.resize(batch.sequences.total_tokens());
        sums.resize(batch.sequences.size());
        shared.resize(batch.sequences.size());
        reference.log_probs(batch.sequences, std::span<scalar>(logps));
        sequence_sums<scalar>(logps, batch.sequences, sums);
        desensitized_sums<scalar>(logps, batch.sequences, 0.0, shared);
        for (std::size_t j = 0; j < batch.examples.size(); ++j) {
          fresh.sums[batch.examples[j]] = {sums[2 * j], sums[2 * j + 1], sums[2 * j] - shared[2 * j],
                                           sums[2 * j + 1] - shared[2 * j + 1]};
          if (!std::isfinite(sums[2 * j]) || !std::isfinite(sums[2 * j + 1]))
            throw nonfinite_error("reference: the log-probabilities of pair " + std::to_string(batch.examples[j]) +
                                  " are not finite");
        }
      }
      batches.clear();
    };
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      preference_pair const one = pairs[i];
      batches.push_back(one, i);
      if (batches.size() >= 16 || batches.examples() >= 1024) flush();
    }
    flush();
    std::erase_if(sections_, [&](section const& s) { return s.data == fresh.data; });
    sections_.push_back(std::move(fresh));
  }

  bool holds(std::uint64_t data) const noexcept {
    return std::any_of(sections_.begin(), sections_.end(), [&](section const& s) { return s.data == data; });
  }

  /// The sums of a dataset by its fingerprint, one per pair, in its order. contract_violation if the cache has other
  /// data.
  std::span<reference_sums const> sums(std::uint64_t data) const {
    for (section const& s : sections_)
      if (s.data == data) return s.sums;
    throw contract_violation("reference_cache: it was made for other data (asked for fingerprint " + hexadecimal(data) +
                             ", it has" + datasets() + ")");
  }

  /// Writes the cache whole or not at all. data_error names path and reason.
  void save(std::string const& path) const {
    write_atomically(path, [&](file_writer& out) {
      out.write(magic);
      out.write_value(checkpoint_byte_order);
      out.write_value(model_);
      out.write_value(epsilon_);
      out.write_value(static_cast<std::uint64_t>(sections_.size()));
      for (section const& s : sections_) {
        out.write_value(s.data);
        out.write_value(static_cast<std::uint64_t>(s.sums.size()));
        out.write(std::as_bytes(std::span(s.sums)));
      }
      out.write_value(out.checksum());
    });
  }

  /// Reads what save wrote. data_error names path and byte.
  [[nodiscard]] static reference_cache load(std::string const& path) {
    checkpoint_reader in(path);
    if (in.left() < magic.size() || in.text(magic.size()) != magic)
      in.fail("not an attune reference cache (version 2)");
    if (in.number<std::uint32_t>() != checkpoint_byte_order) in.fail("written on a machine of the other byte order");
    std::uint64_t const model = in.number<std::uint64_t>();
    reference_cache cache(model, in.number<double>());
    std::uint64_t const sections = in.number<std::uint64_t>();
    for (std::uint64_t i = 0; i < sections; ++i) {
      section s;
      s.data = in.number<std::uint64_t>();
      std::uint64_t const pairs = in.number<std::uint64_t>();
      if (pairs > in.left() / sizeof(reference_sums)) in.fail("the file is cut short or damaged");
      s.sums.resize(static_cast<std::size_t>(pairs));
      in.read(std::as_writable_bytes(std::span(s.sums)));
      cache.sections_.push_back(std::move(s));
    }
    std::uint64_t const computed = in.checksum();
    std::uint64_t const stored = in.number<std::uint64_t>();
    if (computed != stored)
      in.fail("damaged: its checksum is " + hexadecimal(computed) + ", the file says " + hexadecimal(stored));
    if (in.left() != 0) in.fail("bytes after the end");
    return cache;
  }

  /// The fingerprints of its datasets, for messages.
  std::string datasets() const {
    std::string list;
    for (section const& s : sections_) list += " " + hexadecimal(s.data);
    return list.empty() ? " none" : list;
  }

 private:
  static constexpr std::string_view magic = "attune reference 2\n";

  struct section {
    std::uint64_t data = 0;
    std::vector<reference_sums> sums;
  };

  std::uint64_t model_;
  double epsilon_;
  std::vector<section> sections_;
};

/// The cache for this model and these datasets: read from `path` if the file is there, else computed and written to it.
/// A file made for another model or other data is a contract_violation that names both fingerprints; it is not
/// overwritten. An empty path computes and keeps it in memory.
template <class R, PreferenceDataset... D>
  requires ReferencePolicy<R>
[[nodiscard]] reference_cache cached_reference(std::string const& path, R& reference, D const&... pairs) {
  std::uint64_t const model = model_fingerprint(reference);
  if (!path.empty() && ::access(path.c_str(), F_OK) == 0) {
    reference_cache cache = reference_cache::load(path);
    if (cache.model() != model)
      throw contract_violation(path + ": made for another reference model (its fingerprint " +
                               hexadecimal(cache.model()) + ", this model's " + hexadecimal(model) +
                               "); remove the file to make it anew");
    auto const check = [&](std::uint64_t data) {
      if (!cache.holds(data))
        throw contract_violation(path + ": made for other data (it has" + cache.datasets() + ", this dataset is " +
                                 hexadecimal(data) + "); remove the file to make it anew");
    };
    (check(fingerprint(rows_as<preference_pair, D>{pairs})), ...);
    return cache;
  }
  reference_cache cache(model, static_cast<double>(std::numeric_limits<typename R::scalar>::epsilon()));
  (cache.add(reference, pairs), ...);
  if (!path.empty()) cache.save(path);
  return cache;
}

}  // namespace attune
