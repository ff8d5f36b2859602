// SPDX-License-Identifier: MIT
// Log-probabilities of target tokens and their gradient, written over the logits, against the least that memory allows:
// reading and writing the same logits once (a multiplication in place). Every candidate runs once per round, so that a
// change in the machine's mood meets all of them; ratios are taken within a round and their median is reported.
//
//   token_logps [--rows N] [--rounds R] [--threads T] [--json FILE]
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include <attune/backend/eigen.hpp>
#include <attune/backend/reference.hpp>
#include <attune/core/aligned_buffer.hpp>
#include <attune/core/parallel.hpp>
#include <attune/core/random.hpp>

namespace {

using namespace attune;

struct settings {
  std::size_t rows = 512;
  std::size_t rounds = 9;
  std::size_t threads = 0;  // 0: all the machine has
  std::string json;
};

struct sample {
  double scale, forward, adjoint, reference;  // seconds
};

struct summary {
  double median, least, most;
};

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <class F>
double seconds(F const& f) {
  double const start = now();
  f();
  return now() - start;
}

template <class F>
summary over(std::vector<sample> const& samples, F const& f) {
  std::vector<double> x;
  for (sample const& s : samples) x.push_back(f(s));
  std::sort(x.begin(), x.end());
  return {x[x.size() / 2], x.front(), x.back()};
}

/// One vocabulary: all candidates, round after round, on the same memory.
std::vector<sample> measure(settings const& o, std::size_t vocabulary, thread_pool& pool) {
  eigen_backend<float> const eigen(&pool);
  reference_backend<float> const reference;
  aligned_buffer<float> logits(o.rows * vocabulary);
  std::vector<float> logps(o.rows), normalizers(o.rows), slopes(o.rows, -1.0f / static_cast<float>(o.rows));
  std::vector<token_id> targets(o.rows);
  random_stream random(vocabulary);
  for (token_id& t : targets) t = static_cast<token_id>(random.below(vocabulary));
  std::vector<float> row(vocabulary);
  for (float& x : row) x = static_cast<float>(3.0 * random.normal());
  auto const refill = [&] {
    for (std::size_t i = 0; i < o.rows; ++i) std::copy(row.begin(), row.end(), logits.data() + i * vocabulary);
  };
  auto const view = as_matrix(logits.data(), o.rows, vocabulary);
  row_logps<float> const out{logps, normalizers};
  std::size_t const reference_rows = std::max<std::size_t>(1, o.rows / 16);  // plain loops are slow: a part, scaled up
  std::span<token_id const> const part = std::span<token_id const>(targets).first(reference_rows);

  std::vector<sample> samples;
  for (std::size_t round = 0; round < o.rounds + 1; ++round) {
    sample s{};
    refill();
    s.scale = seconds([&] {
      pool.for_each(64, [&](std::size_t task, std::size_t) {
        std::size_t const begin = o.rows * task / 64 * vocabulary;
        std::size_t const end = o.rows * (task + 1) / 64 * vocabulary;
        for (std::size_t i = begin; i < end; ++i) logits.data()[i] *= 0.999f;
      });
    });
    s.forward = seconds([&] { eigen.token_logps(view, targets, out); });
    s.adjoint = seconds([&] { eigen.token_logps_adjoint(view, targets, normalizers, {slopes}, view); });
    refill();
    auto const few = view.middle_rows(0, reference_rows);
    row_logps<float> const few_out{out.logps.first(reference_rows), out.log_normalizers.first(reference_rows)};
    s.reference = static_cast<double>(o.rows) / static_cast<double>(reference_rows) * seconds([&] {
                    reference.token_logps(few, part, few_out);
                    reference.token_logps_adjoint(few, part, few_out.log_normalizers,
                                                  {std::span<float const>(slopes).first(reference_rows)}, few);
                  });
    if (round > 0) samples.push_back(s);  // the first one warms up
  }
  return samples;
}

void write_summary(std::ostream& out, char const* name, summary s, char const* end) {
  out << "\"" << name << "\": {\"median\": " << s.median << ", \"min\": " << s.least << ", \"max\": " << s.most << "}"
      << end;
}

settings parse(int count, char** words) {
  settings o;
  for (int i = 1; i < count; i += 2) {
    std::string const word = words[i];
    char const* const value = i + 1 < count ? words[i + 1] : nullptr;
    auto const number = [&] {
      char* end = nullptr;
      long const n = value == nullptr ? 0 : std::strtol(value, &end, 10);
      if (n < 1 || *end != '\0') {
        std::fprintf(stderr, "token_logps: %s wants a number >= 1\n", word.c_str());
        std::exit(2);
      }
      return static_cast<std::size_t>(n);
    };
    if (word == "--rows") {
      o.rows = number();
    } else if (word == "--rounds") {
      o.rounds = number();
    } else if (word == "--threads") {
      o.threads = number();
    } else if (word == "--json" && value != nullptr) {
      o.json = value;
    } else {
      std::fprintf(stderr, "usage: token_logps [--rows N] [--rounds R] [--threads T] [--json FILE]\n");
      std::exit(word == "--help" ? 0 : 2);
    }
  }
  return o;
}

}  // namespace

int main(int count, char** words) {
  settings const o = parse(count, words);
  thread_pool pool(o.threads);
  std::ofstream json;
  if (!o.json.empty()) {
    json.open(o.json);
    if (!json) {
      std::fprintf(stderr, "token_logps: cannot write %s\n", o.json.c_str());
      return 1;
    }
    json << "{\"benchmark\": \"token_logps\", \"dtype\": \"f32\", \"compiler\": \"" << __VERSION__
         << "\", \"register_bytes\": " << register_bytes << ", \"threads\": " << pool.threads()
         << ", \"rounds\": " << o.rounds << ", \"cases\": [";
  }
  std::printf("f32, %zu rows, %zu threads, registers of %zu bytes, median of %zu rounds\n", o.rows, pool.threads(),
              register_bytes, o.rounds);
  std::printf("%10s %10s %10s %10s %12s   %s\n", "vocabulary", "scale ms", "logps ms", "adjoint ms", "reference ms",
              "both / scale [min..max]   adjoint / scale");
  bool first = true;
  for (std::size_t const vocabulary : {std::size_t{32000}, std::size_t{49152}}) {
    std::vector<sample> const samples = measure(o, vocabulary, pool);
    summary const scale = over(samples, [](sample s) { return s.scale; });
    summary const forward = over(samples, [](sample s) { return s.forward; });
    summary const adjoint = over(samples, [](sample s) { return s.adjoint; });
    summary const reference = over(samples, [](sample s) { return s.reference; });
    summary const both_ratio = over(samples, [](sample s) { return (s.forward + s.adjoint) / s.scale; });
    summary const forward_ratio = over(samples, [](sample s) { return s.forward / s.scale; });
    summary const adjoint_ratio = over(samples, [](sample s) { return s.adjoint / s.scale; });
    std::printf("%10zu %10.2f %10.2f %10.2f %12.1f   %.2f [%.2f..%.2f]   %.2f\n", vocabulary, scale.median * 1e3,
                forward.median * 1e3, adjoint.median * 1e3, reference.median * 1e3, both_ratio.median, both_ratio.least,
                both_ratio.most, adjoint_ratio.median);
    if (json.is_open()) {
      json << (first ? "" : ", ") << "{\"rows\": " << o.rows << ", \"vocabulary\": " << vocabulary << ", ";
      write_summary(json, "scale_seconds", scale, ", ");
      write_summary(json, "logps_seconds", forward, ", ");
      write_summary(json, "adjoint_seconds", adjoint, ", ");
      write_summary(json, "reference_seconds", reference, ", ");
      write_summary(json, "logps_over_scale", forward_ratio, ", ");
      write_summary(json, "adjoint_over_scale", adjoint_ratio, ", ");
      write_summary(json, "logps_and_adjoint_over_scale", both_ratio, "}");
    }
    first = false;
  }
  if (json.is_open()) {
    json << "]}\n";
    json.close();
    if (!json) {
      std::fprintf(stderr, "token_logps: could not write %s to its end\n", o.json.c_str());
      return 1;
    }
  }
}
