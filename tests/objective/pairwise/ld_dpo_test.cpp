// SPDX-License-Identifier: MIT
#include <attune/objective/pairwise/ld_dpo.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <attune/core/random.hpp>
#include <attune/objective/sequence_sums.hpp>
#include <attune/testing/gradient_check.hpp>

#include "support/proofs.hpp"

using namespace attune;

namespace {

// Two pairs: completions of 3 and 1 tokens, of 2 and 5.
struct batch {
  sequences text;
  std::vector<double> logps;

  batch() {
    std::vector<token_id> const prompt{1, 2}, reply{3, 4, 5, 6, 7};
    for (std::size_t const length : {3u, 1u, 2u, 5u}) text.push_back(prompt, std::span<token_id const>(reply).first(length));
    random_stream stream(3);
    for (std::uint8_t const m : text.view().mask) logps.push_back(m != 0 ? -4.0 * stream.uniform() : NAN);
  }
};

}  // namespace

TEST_CASE("ld_dpo: tokens beyond the shorter response's length weigh ld_alpha, forth and back") {
  batch b;
  auto const view = b.text.view();
  for (double const alpha : {0.0, 0.3, 1.0}) {
    std::vector<double> sums(4);
    desensitized_sums<double>(b.logps, view, alpha, sums);
    std::vector<std::size_t> const shared{1, 1, 2, 2};
    for (std::size_t s = 0; s < 4; ++s) {
      double expected = 0.0;
      std::size_t seen = 0;
      for (std::size_t t = view.offsets[s]; t < view.offsets[s + 1]; ++t)
        if (view.mask[t] != 0) expected += (seen++ < shared[s] ? 1.0 : alpha) * b.logps[t];
      CHECK(sums[s] == doctest::Approx(expected).epsilon(1e-15));
    }
    std::vector<double> const weights{0.5, -2.0, 3.0, 0.25};
    std::vector<double> slopes(b.logps.size(), 7.0);
    broadcast_desensitized<double>(weights, view, alpha, slopes);
    auto const f = [&] {
      desensitized_sums<double>(b.logps, view, alpha, sums);
      double total = 0.0;
      for (std::size_t s = 0; s < 4; ++s) total += weights[s] * sums[s];
      return total;
    };
    for (std::size_t t = 0; t < slopes.size(); ++t) {
      if (view.mask[t] == 0) CHECK(slopes[t] == 0.0);
      else CHECK(slopes[t] == doctest::Approx(testing::central_difference(f, b.logps[t])).epsilon(1e-9));
    }
  }
  proofs::law("ld_dpo", "the adjoint is that of the weighted sums");
}

TEST_CASE("ld_dpo: at 1 it has the bits of plain sums, at 0 what lies beyond is not read") {
  batch b;
  std::vector<double> sums(4), plain(4);
  desensitized_sums<double>(b.logps, b.text, 1.0, sums);
  sequence_sums<double>(b.logps, b.text, plain);
  CHECK(sums == plain);
  b.logps[4] = NAN;  // the third token of the first response, whose partner has one
  desensitized_sums<double>(b.logps, b.text, 0.0, sums);
  CHECK(std::isfinite(sums[0]));
  CHECK(sums[1] == plain[1]);
  proofs::law("ld_dpo", "ld_alpha 1 is the plain sum, bit for bit");
}

TEST_CASE("ld_dpo: half a pair, sizes and an alpha out of range are refused") {
  batch b;
  std::vector<double> sums(4), few(3);
  CHECK_THROWS_WITH_AS(desensitized_sums<double>(b.logps, b.text, 1.5, sums), "expected ld_alpha in [0, 1], got 1.5", contract_violation);
  CHECK_THROWS_AS(desensitized_sums<double>(b.logps, b.text, std::nan(""), sums), contract_violation);
  CHECK_THROWS_AS(desensitized_sums<double>(b.logps, b.text, 0.5, few), contract_violation);
  b.text.push_back(std::vector<token_id>{1}, std::vector<token_id>{2});
  CHECK_THROWS_WITH_AS(desensitized_sums<double>(b.logps, b.text, 0.5, sums), doctest::Contains("an even number of sequences, got 5"),
                       contract_violation);
}
