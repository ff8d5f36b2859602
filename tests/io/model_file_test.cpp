// SPDX-License-Identifier: MIT
#include <attune/io/model_file.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/temporary_folder.hpp"

using namespace attune;
using attune::test::message_of;
using attune::test::temporary_folder;

namespace {

template <class T>
struct model {
  std::vector<T> matrix = std::vector<T>(6);
  std::vector<T> norm = std::vector<T>(4);
  std::vector<T> gradient = std::vector<T>(6);
  std::size_t rows = 2;
  std::string_view norm_name = "norm";

  std::vector<parameter<T>> parameters() {
    return {{"matrix", matrix, gradient, {rows, 6 / rows}}, {norm_name, norm, std::span(gradient).first(4), {1, 4}}};
  }
};

template <class T>
model<T> filled() {
  model<T> m;
  for (std::size_t i = 0; i < 6; ++i) m.matrix[i] = T(1) / static_cast<T>(i + 3);
  m.norm = {T(-0.0), std::numeric_limits<T>::denorm_min(), std::numeric_limits<T>::infinity(), T(7)};
  return m;
}

}  // namespace

TEST_CASE_TEMPLATE("save_parameters: load_parameters gives back the same bits, and the metadata", T, float, double) {
  temporary_folder const folder;
  model<T> saved = filled<T>();
  save_parameters(folder / "m", saved.parameters(), {{"dim", "2"}});
  model<T> loaded;
  load_parameters(folder / "m", loaded.parameters());
  CHECK(loaded.matrix == saved.matrix);
  CHECK(loaded.norm == saved.norm);
  CHECK(std::signbit(loaded.norm[0]));
  CHECK(loaded.gradient == std::vector<T>(6));
  CHECK(read_metadata(folder / "m") == std::map<std::string, std::string>{{"dim", "2"}});
}

TEST_CASE("save_parameters: a vector has one dimension, a matrix two") {
  temporary_folder const folder;
  save_parameters(folder / "m", filled<float>().parameters());
  safetensors_reader const file(folder / "m");
  CHECK(file.find("norm")->shape == std::vector<std::size_t>{4});
  CHECK(file.find("matrix")->shape == std::vector<std::size_t>{2, 3});
}

TEST_CASE("load_parameters: a vector stored as one row is the same vector") {
  temporary_folder const folder;
  model<float> m = filled<float>();
  std::vector<safetensors_source> const sources{
      {"matrix", tensor_type_of<float>, {2, 3}, std::as_bytes(std::span(m.matrix))},
      {"norm", tensor_type_of<float>, {1, 4}, std::as_bytes(std::span(m.norm))}};
  write_safetensors(folder / "m", sources);
  model<float> loaded;
  load_parameters(folder / "m", loaded.parameters());
  CHECK(loaded.norm == m.norm);
}

TEST_CASE("load_parameters: another model's file is refused by tensor and both sides, and changes nothing") {
  temporary_folder const folder;
  std::string const path = folder / "m";
  save_parameters(path, filled<float>().parameters());
  auto const refusal = [&](auto m) {
    auto const matrix = m.matrix;
    auto const norm = m.norm;
    std::string const message = message_of<data_error>([&] { load_parameters(path, m.parameters()); });
    CHECK(m.matrix == matrix);
    CHECK(m.norm == norm);
    return message;
  };
  model<float> wrong_shape;
  wrong_shape.rows = 3;
  CHECK(refusal(wrong_shape) == path + ": tensor \"matrix\": shape [2, 3] in the file, [3, 2] in the model");
  model<float> wrong_name;
  wrong_name.norm_name = "other";
  CHECK(refusal(wrong_name) == path + ": tensor \"other\": the model has it, the file has not");
  CHECK(refusal(model<double>()) == path + ": tensor \"matrix\": dtype F32 in the file, F64 in the model");
  struct : model<float> {
    std::vector<parameter<float>> parameters() { return {model<float>::parameters()[0]}; }
  } smaller;
  CHECK(refusal(smaller) == path + ": tensor \"norm\": the file has it, the model has not");
}
