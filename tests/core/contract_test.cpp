// SPDX-License-Identifier: MIT
#include <attune/core/contract.hpp>

#include <doctest/doctest.h>

#include <stdexcept>
#include <string>
#include <type_traits>

#include "support/allocations.hpp"

using namespace attune;

TEST_CASE("expects: a condition that holds does nothing, without an allocation") {
  std::size_t const before = allocations();
  expects(true, "f: a condition that is longer than any small string could ever be");
  expects(true, "f: the same with a value that would have to be printed", 3.5);
  CHECK(allocations() == before);
}

TEST_CASE("expects: a broken condition is said in words, with the value that broke it") {
  CHECK_THROWS_WITH_AS(expects(false, "f: n > 0"), "expected f: n > 0", contract_violation);
  CHECK_THROWS_WITH_AS(expects(false, "f: n > 0", -3), "expected f: n > 0, got -3", contract_violation);
  CHECK_THROWS_WITH_AS(expects(false, "f: size", std::size_t{18446744073709551615u}),
                       "expected f: size, got 18446744073709551615", contract_violation);
  try {
    expects(false, "f: beta > 0", -0.5);
    FAIL("did not throw");
  } catch (contract_violation const& e) {
    CHECK(std::string(e.what()).starts_with("expected f: beta > 0, got -0.5"));
  }
}

TEST_CASE("contract_violation is a logic error, data_error a runtime error that begins with the place") {
  static_assert(std::is_base_of_v<std::logic_error, contract_violation>);
  static_assert(std::is_base_of_v<std::runtime_error, data_error>);
  CHECK(std::string(data_error("pairs.jsonl", 7, "no field \"chosen\"").what()) ==
        "pairs.jsonl:7: no field \"chosen\"");
  CHECK(std::string(data_error("model.bin: byte 12: cut short").what()) == "model.bin: byte 12: cut short");
}
