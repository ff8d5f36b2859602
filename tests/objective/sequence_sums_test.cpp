// SPDX-License-Identifier: MIT
#include <attune/objective/sequence_sums.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <attune/core/random.hpp>

#include "support/allocations.hpp"

using namespace attune;

namespace {
float const missing = std::nanf("");
std::vector<token_id> const tokens{1, 2, 3, 4, 5, 6};
std::vector<std::size_t> const offsets{0, 3, 3, 6};
std::vector<std::uint8_t> const mask{0, 1, 1, 0, 0, 1};
sequences_view const three{tokens, offsets, mask};
}  // namespace

TEST_CASE("sequence_sums: adds what the mask lets in, and does not read the rest") {
  std::vector<float> const logps{missing, -1.5f, -2.0f, missing, missing, -4.0f};
  std::vector<double> sums(3, 7.0);
  sequence_sums<float>(logps, three, sums);
  CHECK(sums == std::vector<double>{-3.5, 0.0, -4.0});
}

TEST_CASE("sequence_sums: float tokens are added in double") {
  std::size_t const n = 100001;
  std::vector<token_id> const many_tokens(n, 0);
  std::vector<std::size_t> const one{0, n};
  std::vector<std::uint8_t> many_mask(n, 1);
  many_mask[0] = 0;
  std::vector<float> const logps(n, -0.1f);
  double sum = 0;
  sequence_sums<float>(logps, {many_tokens, one, many_mask}, {&sum, 1});
  CHECK(sum == doctest::Approx(1e5 * static_cast<double>(-0.1f)).epsilon(1e-12));
}

TEST_CASE("broadcast_slopes: gives each masked-in token its sequence's slope, and 0 to the rest") {
  std::vector<double> const slopes{2.0, 3.0, -4.0};
  std::vector<float> out(6, missing);
  broadcast_slopes<float>(slopes, three, out);
  CHECK(out == std::vector<float>{0, 2, 2, 0, 0, -4});
}

TEST_CASE("broadcast_slopes: is the adjoint of sequence_sums") {
  random_stream stream(5);
  std::vector<double> logps(6), slopes(3), sums(3), back(6);
  for (double& x : logps) x = stream.normal();
  for (double& x : slopes) x = stream.normal();
  sequence_sums<double>(logps, three, sums);
  broadcast_slopes<double>(slopes, three, back);
  double left = 0, right = 0;
  for (std::size_t b = 0; b < 3; ++b) left += sums[b] * slopes[b];
  for (std::size_t t = 0; t < 6; ++t) right += logps[t] * back[t];
  CHECK(left == doctest::Approx(right).epsilon(1e-14));
}

TEST_CASE("sequence_sums, broadcast_slopes: no sequence gives nothing, and neither allocates") {
  std::size_t const before = allocations();
  sequence_sums<double>({}, {}, {});
  broadcast_slopes<double>({}, {}, {});
  CHECK(allocations() == before);
}

TEST_CASE("sequence_sums, broadcast_slopes: sizes that disagree are refused by name") {
  std::vector<double> five(5), six(6), two(2), sums(3);
  CHECK_THROWS_WITH_AS(sequence_sums<double>(five, three, sums),
                       "expected sequence_sums: logps.size() == s.total_tokens(), got 5", contract_violation);
  CHECK_THROWS_WITH_AS(sequence_sums<double>(six, three, two), "expected sequence_sums: sums.size() == s.size(), got 2",
                       contract_violation);
  CHECK_THROWS_WITH_AS(broadcast_slopes<double>(two, three, six),
                       "expected broadcast_slopes: per_sequence.size() == s.size(), got 2", contract_violation);
  CHECK_THROWS_WITH_AS(broadcast_slopes<double>(sums, three, five),
                       "expected broadcast_slopes: slopes.size() == s.total_tokens(), got 5", contract_violation);
}
