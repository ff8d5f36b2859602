// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/ATen.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/embedding.h>

#include <attune/concepts/dataset.hpp>

// What the page include/attune/torch/README.md takes for granted: the reader's model and data.
struct reader_module : torch::nn::Cloneable<reader_module> {
  torch::nn::Embedding table{nullptr};
  reader_module() { reader_module::reset(); }
  void reset() override { table = register_module("table", torch::nn::Embedding(8, 8)); }
  at::Tensor forward(at::Tensor const& ids) { return table(ids); }
};
struct reader_pairs {
  std::size_t size() const { return 0; }
  attune::preference_pair operator[](std::size_t) const { return {}; }
};
inline std::shared_ptr<reader_module> model;
inline reader_pairs pairs;
inline at::Tensor ids, mask;
inline std::vector<double> reference_sums;
inline std::vector<float> old_logps, advantages;
