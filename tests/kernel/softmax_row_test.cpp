// SPDX-License-Identifier: MIT
#include <attune/kernel/softmax_row.hpp>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <attune/core/random.hpp>

using namespace attune;

namespace {

template <class T>
std::vector<T> random_row(std::size_t count, double spread, std::uint64_t seed) {
  random_stream random(seed);
  std::vector<T> row(count);
  for (T& x : row) x = static_cast<T>(spread * random.normal());
  return row;
}

}  // namespace

TEST_CASE_TEMPLATE("softmax_row: maximum, normaliser and mean agree with long double at every length", T, float,
                   double) {
  double const epsilon = std::numeric_limits<T>::epsilon();
  for (std::size_t count : {1u, 2u, 15u, 16u, 17u, 1023u, 1024u, 1025u, 3000u}) {
    std::vector<T> const x = random_row<T>(count, 4.0, count);
    long double maximum = x[0], sum = 0.0L, mean = 0.0L;
    for (T const a : x) maximum = std::fmax(maximum, static_cast<long double>(a));
    for (T const a : x) {
      sum += std::exp(static_cast<long double>(a) - maximum);
      mean += static_cast<long double>(a) / static_cast<long double>(count);
    }
    softmax_summary const s = summarize_logits(x.data(), count, true);
    CHECK(s.maximum == static_cast<double>(maximum));
    CHECK(std::abs(s.log_sum - static_cast<double>(std::log(sum))) <= 8.0 * epsilon);
    CHECK(std::abs(s.mean_logit - static_cast<double>(mean)) <= 8.0 * epsilon);
    CHECK(summarize_logits(x.data(), count, false).log_sum == s.log_sum);
  }
}

TEST_CASE_TEMPLATE("softmax_row: a maximum that keeps rising from block to block does not lose what came before", T,
                   float, double) {
  std::vector<T> x(4 * softmax_block);
  for (std::size_t v = 0; v < x.size(); ++v) x[v] = static_cast<T>(v / softmax_block);
  double const expected = std::log(1024.0 * (1.0 + std::exp(-1.0) + std::exp(-2.0) + std::exp(-3.0)));
  CHECK(summarize_logits(x.data(), x.size(), false).log_sum ==
        doctest::Approx(expected).epsilon(8.0 * static_cast<double>(std::numeric_limits<T>::epsilon())));
}

TEST_CASE_TEMPLATE("softmax_row: a block that is all -inf adds nothing, before or after the others", T, float, double) {
  T const infinity = std::numeric_limits<T>::infinity();
  std::vector<T> x = random_row<T>(softmax_block, 2.0, 9);
  double const alone = summarize_logits(x.data(), x.size(), false).log_normalizer();
  std::vector<T> before(2 * softmax_block, -infinity), after = before;
  std::copy(x.begin(), x.end(), before.begin() + softmax_block);
  std::copy(x.begin(), x.end(), after.begin());
  CHECK(summarize_logits(before.data(), before.size(), false).log_normalizer() == alone);
  CHECK(summarize_logits(after.data(), after.size(), false).log_normalizer() == alone);
}

TEST_CASE_TEMPLATE("softmax_row: NaN, +inf and nothing but -inf have no normaliser, wherever they stand", T, float,
                   double) {
  T const infinity = std::numeric_limits<T>::infinity();
  for (std::size_t place : {0u, 15u, 16u, 1024u, 2040u, 2047u})
    for (T const bad : {std::numeric_limits<T>::quiet_NaN(), infinity}) {
      std::vector<T> x = random_row<T>(2048, 2.0, place);
      x[place] = bad;
      CHECK(std::isnan(summarize_logits(x.data(), x.size(), false).log_normalizer()));
      std::fill(x.begin(), x.end(), -infinity);
      x[place] = std::numeric_limits<T>::quiet_NaN();
      CHECK(std::isnan(summarize_logits(x.data(), x.size(), false).log_normalizer()));
    }
  std::vector<T> const none(2048, -infinity);
  CHECK(std::isnan(summarize_logits(none.data(), none.size(), false).log_normalizer()));
  std::vector<T> const short_row(3, -infinity);
  CHECK(std::isnan(summarize_logits(short_row.data(), short_row.size(), false).log_normalizer()));
}

TEST_CASE_TEMPLATE("softmax_row: scaled_softmax writes factor * p + offset, and exactly 0 at -inf", T, float, double) {
  double const epsilon = std::numeric_limits<T>::epsilon();
  for (std::size_t count : {1u, 16u, 37u, 1000u}) {
    std::vector<T> x = random_row<T>(count, 2.0, count);
    if (count > 5) x[5] = -std::numeric_limits<T>::infinity();
    T const normalizer = static_cast<T>(summarize_logits(x.data(), count, false).log_normalizer());
    std::vector<T> out(count + 1, T(7));
    scaled_softmax(x.data(), count, normalizer, T(-0.5), T(0.25), out.data());
    for (std::size_t v = 0; v < count; ++v) {
      double const expected = -0.5 * std::exp(static_cast<double>(x[v]) - static_cast<double>(normalizer)) + 0.25;
      if (v == 5) CHECK(out[v] == T(0));
      if (v != 5) CHECK(std::abs(static_cast<double>(out[v]) - expected) <= 8.0 * epsilon);
    }
    CHECK(out[count] == T(7));
  }
}

TEST_CASE_TEMPLATE("softmax_row: a normaliser, factor or offset that is NaN makes the whole row NaN", T, float,
                   double) {
  T const nan = std::numeric_limits<T>::quiet_NaN();
  T const numbers[3][3] = {{nan, T(1), T(0)}, {T(1), nan, T(0)}, {T(1), T(1), nan}};
  for (auto const& n : numbers) {
    std::vector<T> x(20, T(0));
    x[3] = -std::numeric_limits<T>::infinity();
    scaled_softmax(x.data(), x.size(), n[0], n[1], n[2], x.data());
    for (T const y : x) CHECK(std::isnan(y));
  }
}

TEST_CASE_TEMPLATE("softmax_row: bits do not depend on the pointer's alignment, nor on writing in place", T, float,
                   double) {
  for (std::size_t count : {1u, 31u, 1025u, 2500u}) {
    std::vector<T> const x = random_row<T>(count, 3.0, count);
    softmax_summary const expected = summarize_logits(x.data(), count, true);
    std::vector<T> gradient(count);
    scaled_softmax(x.data(), count, T(6), T(-0.7), T(0.01), gradient.data());
    std::vector<T> memory(count + 17);
    for (std::size_t shift = 0; shift < 17; ++shift) {
      std::copy(x.begin(), x.end(), memory.data() + shift);
      softmax_summary const s = summarize_logits(memory.data() + shift, count, true);
      CHECK(s.log_sum == expected.log_sum);
      CHECK(s.mean_logit == expected.mean_logit);
      scaled_softmax(memory.data() + shift, count, T(6), T(-0.7), T(0.01), memory.data() + shift);
      CHECK(std::memcmp(memory.data() + shift, gradient.data(), count * sizeof(T)) == 0);
    }
  }
}

TEST_CASE_TEMPLATE("softmax_row: the entropy agrees with long double at every length, flat or nearly certain", T, float,
                   double) {
  double const epsilon = std::numeric_limits<T>::epsilon();
  double worst = 0.0;
  for (std::size_t count : {1u, 2u, 15u, 16u, 17u, 1023u, 1024u, 1025u, 3000u})
    for (double const spread : {0.0, 1e-3, 3.0, 40.0}) {
      std::vector<T> x = random_row<T>(count, spread, count);
      for (T& a : x) a += T(50);
      if (count > 5) x[5] = -std::numeric_limits<T>::infinity();
      if (count > 6) x[6] = std::numeric_limits<T>::lowest();
      long double maximum = x[0], sum = 0.0L, entropy = 0.0L;
      for (T const a : x) maximum = std::fmax(maximum, static_cast<long double>(a));
      for (T const a : x) sum += std::exp(static_cast<long double>(a) - maximum);
      for (T const a : x) {
        long double const logp = static_cast<long double>(a) - maximum - std::log(sum);
        if (std::exp(logp) > 0.0L) entropy -= std::exp(logp) * logp;
      }
      double const actual = softmax_entropy(x.data(), count, summarize_logits(x.data(), count, false));
      worst = std::fmax(worst, std::abs(actual - static_cast<double>(entropy)) / epsilon);
      CHECK(std::abs(actual - static_cast<double>(entropy)) <= 8.0 * epsilon * (1.0 + std::log(static_cast<double>(count))));
      CHECK(actual >= 0.0);
    }
  MESSAGE("worst error ", worst, " epsilon");
}

TEST_CASE_TEMPLATE("softmax_row: a row without a distribution has no entropy", T, float, double) {
  T const infinity = std::numeric_limits<T>::infinity();
  for (T const bad : {std::numeric_limits<T>::quiet_NaN(), infinity}) {
    std::vector<T> x = random_row<T>(40, 2.0, 3);
    x[30] = bad;
    CHECK(std::isnan(softmax_entropy(x.data(), x.size(), summarize_logits(x.data(), x.size(), false))));
  }
  std::vector<T> const none(40, -infinity);
  CHECK(std::isnan(softmax_entropy(none.data(), none.size(), summarize_logits(none.data(), none.size(), false))));
}

TEST_CASE_TEMPLATE("softmax_row: the entropy's gradient is -p (log p + H), and exactly 0 where p is", T, float, double) {
  double const epsilon = std::numeric_limits<T>::epsilon();
  std::vector<T> x = random_row<T>(37, 2.0, 4);
  x[5] = -std::numeric_limits<T>::infinity();
  x[6] = std::numeric_limits<T>::lowest();
  softmax_summary const s = summarize_logits(x.data(), x.size(), false);
  double const entropy = softmax_entropy(x.data(), x.size(), s);
  std::vector<T> out(x.size()), plain(x.size()), flat(x.size());
  T const normalizer = static_cast<T>(s.log_normalizer());
  scaled_softmax(x.data(), x.size(), normalizer, T(-0.5), T(0.25), T(1.5), static_cast<T>(entropy), out.data());
  double sum = 0.0;
  for (std::size_t v = 0; v < x.size(); ++v) {
    double const logp = static_cast<double>(x[v]) - s.log_normalizer(), p = std::exp(logp);
    double const bent = p > 0.0 ? -1.5 * p * (logp + entropy) : 0.0;
    double const expected = v == 5 ? 0.0 : -0.5 * p + 0.25 + bent;
    CHECK(std::abs(static_cast<double>(out[v]) - expected) <= 16.0 * epsilon);
    sum += bent;
  }
  CHECK(std::abs(sum) <= 1e-6);
  CHECK(out[5] == T(0));
  CHECK(out[6] == T(0.25));
  scaled_softmax(x.data(), x.size(), normalizer, T(-0.5), T(0.25), plain.data());
  scaled_softmax(x.data(), x.size(), normalizer, T(-0.5), T(0.25), T(0), static_cast<T>(entropy), flat.data());
  CHECK(std::memcmp(plain.data(), flat.data(), plain.size() * sizeof(T)) == 0);
  T const nan = std::numeric_limits<T>::quiet_NaN();
  for (auto const& [slope, value] : {std::pair<T, T>{nan, T(1)}, {T(1), nan}}) {
    std::vector<T> y = x;
    scaled_softmax(y.data(), y.size(), normalizer, T(-0.5), T(0.25), slope, value, y.data());
    for (T const a : y) CHECK(std::isnan(a));
  }
}

TEST_CASE_TEMPLATE("softmax_row: the collision probability agrees with long double at every length, and at any alignment", T,
                   float, double) {
  double const epsilon = std::numeric_limits<T>::epsilon();
  for (std::size_t count : {1u, 2u, 15u, 16u, 17u, 1023u, 1024u, 1025u, 3000u}) {
    std::vector<T> x = random_row<T>(count, 4.0, count);
    if (count > 2) x[count / 2] = -std::numeric_limits<T>::infinity();
    softmax_summary const s = summarize_logits(x.data(), count, false);
    long double sum = 0.0L, squares = 0.0L;
    for (T const a : x) sum += std::exp(static_cast<long double>(a));
    for (T const a : x) squares += std::exp(2.0L * static_cast<long double>(a)) / (sum * sum);
    double const actual = softmax_collision(x.data(), count, s);
    CHECK(std::abs(actual - static_cast<double>(std::log(squares))) <= 16.0 * epsilon);
    CHECK(actual <= 4.0 * epsilon);
    CHECK(actual >= -std::log(static_cast<double>(count)) - 4.0 * epsilon);
    std::vector<T> memory(count + 17);
    for (std::size_t shift = 0; shift < 17; shift += 5) {
      std::copy(x.begin(), x.end(), memory.data() + shift);
      CHECK(softmax_collision(memory.data() + shift, count, s) == actual);
    }
  }
}

TEST_CASE_TEMPLATE("softmax_row: entropy and its gradient keep their bits at any alignment, and in place", T, float, double) {
  for (std::size_t count : {1u, 31u, 1025u, 2500u}) {
    std::vector<T> const x = random_row<T>(count, 3.0, count);
    softmax_summary const s = summarize_logits(x.data(), count, false);
    double const expected = softmax_entropy(x.data(), count, s);
    std::vector<T> gradient(count), memory(count + 17);
    scaled_softmax(x.data(), count, T(6), T(-0.7), T(0.01), T(0.3), T(2), gradient.data());
    for (std::size_t shift = 0; shift < 17; ++shift) {
      std::copy(x.begin(), x.end(), memory.data() + shift);
      CHECK(softmax_entropy(memory.data() + shift, count, s) == expected);
      scaled_softmax(memory.data() + shift, count, T(6), T(-0.7), T(0.01), T(0.3), T(2), memory.data() + shift);
      CHECK(std::memcmp(memory.data() + shift, gradient.data(), count * sizeof(T)) == 0);
    }
  }
}
