// SPDX-License-Identifier: MIT
#include <attune/objective/expects_finite_tokens.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

using namespace attune;

namespace {

std::vector<token_id> const tokens(5, 0);
std::vector<std::size_t> const offsets{0, 2, 5};
std::vector<std::uint8_t> const mask{0, 1, 0, 0, 1};
sequences_view const batch{tokens, offsets, mask};

template <class T>
std::string message_of(std::vector<T> const& values) {
  try {
    expects_finite_tokens<T>(values, batch, "place: field");
  } catch (contract_violation const& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("expects_finite_tokens: names field, index, sequence, token and value") {
  auto const check = []<class T>(T) {
    T const nan = std::numeric_limits<T>::quiet_NaN(), inf = std::numeric_limits<T>::infinity();
    CHECK(message_of<T>({1, nan, 1, 1, 1}) == "expected place: field[1] finite (sequence 0, token 1), got nan");
    CHECK(message_of<T>({1, 1, 1, 1, inf}) == "expected place: field[4] finite (sequence 1, token 2), got inf");
    CHECK(message_of<T>({1, 1, 1, 1, -inf}) == "expected place: field[4] finite (sequence 1, token 2), got -inf");
    CHECK(message_of<T>({1, 1, 1, 1, (std::numeric_limits<T>::max)()}) == "no error");
    CHECK(message_of<T>({1, 1, 1, 1, std::numeric_limits<T>::lowest()}) == "no error");
  };
  check(0.0);
  check(0.0f);
}

TEST_CASE("expects_finite_tokens: what the mask leaves out may hold anything") {
  double const nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  CHECK(message_of<double>({nan, 1, -inf, inf, 1}) == "no error");
  CHECK(message_of<double>({nan, 1, nan, inf, nan}) ==
        "expected place: field[4] finite (sequence 1, token 2), got nan");
}

TEST_CASE("expects_finite_tokens: one value per token") {
  CHECK(message_of<double>({1, 1, 1, 1}) == "expected place: field.size() == batch.total_tokens(), got 4");
  CHECK(message_of<double>({}) == "expected place: field.size() == batch.total_tokens(), got 0");
}

TEST_CASE("expects_one_per_token: asks for the number of values alone") {
  std::vector<double> values(5, std::numeric_limits<double>::quiet_NaN());
  CHECK_NOTHROW(expects_one_per_token(std::span(values), batch, "place: field"));
  values.push_back(1.0);
  CHECK_THROWS_WITH_AS(expects_one_per_token(std::span(values), batch, "place: field"),
                       "expected place: field.size() == batch.total_tokens(), got 6", contract_violation);
}
