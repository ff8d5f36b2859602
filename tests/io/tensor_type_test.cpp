// SPDX-License-Identifier: MIT
#include <attune/io/tensor_type.hpp>

#include <doctest/doctest.h>

using namespace attune;

TEST_CASE("tensor_type: every name of the format is known once, with its size") {
  for (tensor_type const& type : tensor_types) CHECK(tensor_type_named(type.name) == type);
  CHECK(tensor_type_named("BF16")->bits == 16);
  CHECK(tensor_type_named("BOOL")->bits == 8);
  CHECK(tensor_type_named("C64")->bits == 64);
  CHECK_FALSE(tensor_type_named("F31").has_value());
  CHECK_FALSE(tensor_type_named("").has_value());
}

TEST_CASE("tensor_type: float and double are F32 and F64") {
  CHECK(tensor_type_of<float> == *tensor_type_named("F32"));
  CHECK(tensor_type_of<double> == *tensor_type_named("F64"));
  CHECK(tensor_type_of<float>.bits == 8 * sizeof(float));
}
