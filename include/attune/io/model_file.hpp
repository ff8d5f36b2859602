// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <ranges>
#include <set>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <attune/core/contract.hpp>
#include <attune/core/parameter.hpp>
#include <attune/io/safetensors.hpp>
#include <attune/io/safetensors_writer.hpp>

/// A model's parameters in a safetensors file: any range of parameter<T>, so any model of the concepts.
namespace attune {

template <class Range>
using parameter_scalar_t =
    typename std::remove_cvref_t<decltype(std::declval<std::ranges::range_reference_t<Range>>().value)>::element_type;

/// A vector (rows = 1) is stored with one dimension, everything else with two.
[[nodiscard]] inline std::vector<std::size_t> stored_shape(std::array<std::size_t, 2> shape) {
  if (shape[0] == 1) return {shape[1]};
  return {shape[0], shape[1]};
}

/// Writes values (gradients are not saved) as F32 or F64, whole or not at all.
template <std::ranges::input_range Parameters>
void save_parameters(std::string const& path, Parameters&& parameters,
                     std::map<std::string, std::string> const& metadata = {}) {
  using scalar = std::remove_const_t<parameter_scalar_t<Parameters>>;
  std::vector<safetensors_source> sources;
  for (auto const& p : parameters)
    sources.push_back({p.name, tensor_type_of<scalar>, stored_shape(p.shape), std::as_bytes(p.value)});
  write_safetensors(path, sources, metadata);
}

/// Reads values into the parameters' memory. The file must hold exactly these tensors: a name that is missing or not
/// asked for, another type or another shape is a data_error that names the tensor and both sides, thrown before the
/// first value is changed. A vector may be stored as [n] or as [1, n].
template <std::ranges::forward_range Parameters>
void load_parameters(std::string const& path, Parameters&& parameters) {
  using scalar = parameter_scalar_t<Parameters>;
  safetensors_reader const file(path);
  auto const refuse = [&](std::string_view name, std::string const& reason) {
    throw data_error(path + ": tensor \"" + std::string(name) + "\": " + reason);
  };
  std::set<std::string_view> wanted;
  for (auto const& p : parameters) {
    safetensors_entry const* const entry = file.find(p.name);
    if (entry == nullptr) {
      refuse(p.name, "the model has it, the file has not");
      continue;
    }
    wanted.insert(entry->name);
    if (entry->type != tensor_type_of<scalar>)
      refuse(p.name, "dtype " + std::string(entry->type.name) + " in the file, " +
                         std::string(tensor_type_of<scalar>.name) + " in the model");
    bool const same = entry->shape == stored_shape(p.shape) || std::ranges::equal(entry->shape, p.shape);
    if (!same)
      refuse(p.name, "shape " + shape_text(entry->shape) + " in the file, " + shape_text(stored_shape(p.shape)) +
                         " in the model");
    expects(p.value.size() == p.shape[0] * p.shape[1], "parameter: value.size() == rows * cols", p.value.size());
  }
  for (safetensors_entry const& entry : file.tensors())
    if (!wanted.contains(entry.name)) refuse(entry.name, "the file has it, the model has not");
  for (auto const& p : parameters) file.read(*file.find(p.name), std::as_writable_bytes(p.value));
}

/// What save_parameters was given beside the parameters: a model's dimensions, say.
[[nodiscard]] inline std::map<std::string, std::string> read_metadata(std::string const& path) {
  return safetensors_reader(path).metadata();
}

}  // namespace attune
