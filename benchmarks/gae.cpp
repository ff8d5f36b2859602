// SPDX-License-Identifier: MIT
// Generalised advantage estimation against the least that memory allows (copying rewards to advantages and values to
// returns and reading the mask: the same bytes), against a plain loop over one sequence after another with the same
// checks, and, with --pytorch, against the program that PyTorch users run. Every candidate runs once per round, so that
// a change in the machine's mood meets all of them; ratios are taken within a round and their median is reported.
//
//   gae [--rounds R] [--json FILE] [--pytorch "python3"]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <attune/objective/gae.hpp>

namespace {

using namespace attune;

struct settings {
  std::size_t rounds = 9;
  std::string json;
  std::string pytorch;
};

struct sample {
  double copy, checks, plain, gae, pytorch;  // seconds per call
};

struct summary {
  double median, least, most;
};

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Of one call, over as many as take 5 ms.
template <class F>
double seconds(F const& f) {
  std::size_t calls = 0;
  double const start = now();
  double end = start;
  for (; end < start + 5e-3; end = now(), ++calls) f();
  return (end - start) / static_cast<double>(calls);
}

template <class F>
summary over(std::vector<sample> const& samples, F const& f) {
  std::vector<double> x;
  for (sample const& s : samples) x.push_back(f(s));
  std::sort(x.begin(), x.end());
  return {x[x.size() / 2], x.front(), x.back()};
}

/// What one would write first: a sequence at a time, the mask asked at every token.
template <class T>
void plain_gae(gae_inputs<T> of, sequences_view batch, gae_outputs<T> out, gae_options o) {
  validate(batch, (std::numeric_limits<std::size_t>::max)());
  expects_finite_tokens(of.rewards, batch, "plain_gae: rewards");
  expects_finite_tokens(of.values, batch, "plain_gae: values");
  for (std::size_t b = 0; b < batch.size(); ++b) {
    double advantage = 0.0, next_value = 0.0;
    for (std::size_t t = batch.offsets[b + 1]; t-- > batch.offsets[b];) {
      if (batch.mask[t] == 0) {
        out.advantages[t] = out.returns[t] = T(0);
        continue;
      }
      double const value = static_cast<double>(of.values[t]);
      double const delta = static_cast<double>(of.rewards[t]) + o.gamma * next_value - value;
      advantage = delta + o.gamma * o.lam * advantage;
      next_value = value;
      out.advantages[t] = static_cast<T>(advantage);
      out.returns[t] = static_cast<T>(advantage + value);
    }
  }
}

/// The PyTorch program's seconds per call and sum of advantages; false where it could not run.
bool run_pytorch(settings const& o, std::size_t sequences, std::size_t length, char const* dtype, double& time,
                 double& sum) {
  std::string const script = (std::filesystem::path(__FILE__).parent_path() / "gae_pytorch.py").string();
  std::string const command = o.pytorch + " \"" + script + "\" " + std::to_string(sequences) + " " +
                              std::to_string(length) + " " + dtype + " 0.2";
  std::FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return false;
  bool const read = std::fscanf(pipe, "%lf %lf", &time, &sum) == 2;
  return pclose(pipe) == 0 && read;
}

/// One shape: all candidates, round after round, on the same memory. Clears o.pytorch where that does not run.
template <class T>
std::vector<sample> measure(settings& o, std::size_t sequences, std::size_t length) {
  std::vector<token_id> tokens;
  std::vector<std::size_t> offsets{0};
  std::vector<std::uint8_t> mask;
  std::vector<T> rewards, values;
  for (std::size_t b = 0; b < sequences; ++b) {
    for (std::size_t i = 0; i <= length; ++i) {  // one token of prompt, then the completion
      double const index = static_cast<double>(b * length) + static_cast<double>(i) - 1.0;
      mask.push_back(i == 0 ? 0 : 1);
      rewards.push_back(static_cast<T>(i == 0 ? 0.0 : std::sin(index)));
      values.push_back(static_cast<T>(i == 0 ? 0.0 : std::cos(0.7 * index)));
    }
    offsets.push_back(mask.size());
  }
  tokens.resize(mask.size());
  std::vector<T> advantages(mask.size()), returns(mask.size());
  sequences_view const batch{tokens, offsets, mask};
  gae_inputs<T> const in{rewards, values};
  gae_outputs<T> const out{advantages, returns};

  std::vector<sample> samples;
  for (std::size_t round = 0; round < o.rounds + 1; ++round) {
    sample s{};
    s.copy = seconds([&] {
      std::copy(rewards.begin(), rewards.end(), advantages.begin());
      std::copy(values.begin(), values.end(), returns.begin());
      if (completion_tokens(mask) == 0) std::abort();
    });
    s.checks = seconds([&] {
      validate(batch, (std::numeric_limits<std::size_t>::max)());
      expects_finite_tokens<T>(rewards, batch, "gae: rewards");
      expects_finite_tokens<T>(values, batch, "gae: values");
    });
    s.plain = seconds([&] { plain_gae<T>(in, batch, out, {}); });
    s.gae = seconds([&] { gae<T>(in, batch, out); });
    double sum = 0.0, theirs = 0.0;
    for (T const a : advantages) sum += static_cast<double>(a);
    if (round > 0 && !o.pytorch.empty()) {  // the first round warms up
      if (!run_pytorch(o, sequences, length, sizeof(T) == 4 ? "float32" : "float64", s.pytorch, theirs)) {
        std::printf("PyTorch is left out: \"%s\" did not run gae_pytorch.py to its end (is torch installed?)\n",
                    o.pytorch.c_str());
        o.pytorch.clear();
      } else if (!(std::abs(sum - theirs) <= 1e-4 * std::max(1.0, std::abs(sum)) * std::sqrt(double(mask.size())))) {
        std::fprintf(stderr, "gae: the programs disagree: advantages add up to %.9g, PyTorch's to %.9g\n", sum, theirs);
        std::exit(1);
      }
    }
    if (round > 0) samples.push_back(s);
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
    if (word == "--rounds") {
      char* end = nullptr;
      long const n = value == nullptr ? 0 : std::strtol(value, &end, 10);
      if (n < 1 || *end != '\0') {
        std::fprintf(stderr, "gae: --rounds wants a number >= 1\n");
        std::exit(2);
      }
      o.rounds = static_cast<std::size_t>(n);
    } else if (word == "--json" && value != nullptr) {
      o.json = value;
    } else if (word == "--pytorch" && value != nullptr) {
      o.pytorch = value;
    } else {
      std::fprintf(stderr, "usage: gae [--rounds R] [--json FILE] [--pytorch \"python3\"]\n");
      std::exit(word == "--help" ? 0 : 2);
    }
  }
  return o;
}

template <class T>
void report(settings& o, std::size_t sequences, std::size_t length, std::ofstream& json, bool first) {
  std::vector<sample> const samples = measure<T>(o, sequences, length);
  double const tokens = static_cast<double>(sequences * (length + 1)), bytes = tokens * (4.0 * sizeof(T) + 1.0);
  summary const copy = over(samples, [](sample s) { return s.copy; });
  summary const checks = over(samples, [](sample s) { return s.checks; });
  summary const plain = over(samples, [](sample s) { return s.plain; });
  summary const ours = over(samples, [](sample s) { return s.gae; });
  summary const gain = over(samples, [](sample s) { return s.plain / s.gae; });
  summary const bare_gain = over(samples, [](sample s) { return (s.plain - s.checks) / (s.gae - s.checks); });
  summary const over_copy = over(samples, [](sample s) { return s.gae / s.copy; });
  summary const pytorch = over(samples, [](sample s) { return s.pytorch; });
  summary const over_pytorch = over(samples, [](sample s) { return s.pytorch / s.gae; });
  auto const per_token = [&](summary s) { return s.median / tokens * 1e9; };
  std::printf("%4s %5zu x %-5zu %8.1f %7.2f %7.2f %7.2f %7.2f   %.2f [%.2f..%.2f]   %.2f   %.1f",
              sizeof(T) == 4 ? "f32" : "f64", sequences, length, bytes / 1e3, per_token(copy), per_token(checks),
              per_token(plain), per_token(ours), gain.median, gain.least, gain.most, bare_gain.median,
              over_copy.median);
  if (!o.pytorch.empty())
    std::printf("   %.0f [%.0f..%.0f]", over_pytorch.median, over_pytorch.least, over_pytorch.most);
  std::printf("\n");
  if (!json.is_open()) return;
  json << (first ? "" : ", ") << "{\"dtype\": \"" << (sizeof(T) == 4 ? "f32" : "f64")
       << "\", \"sequences\": " << sequences << ", \"length\": " << length << ", \"bytes\": " << bytes << ", ";
  write_summary(json, "copy_seconds", copy, ", ");
  write_summary(json, "checks_seconds", checks, ", ");
  write_summary(json, "plain_seconds", plain, ", ");
  write_summary(json, "gae_seconds", ours, ", ");
  if (!o.pytorch.empty()) {
    write_summary(json, "pytorch_seconds", pytorch, ", ");
    write_summary(json, "pytorch_over_gae", over_pytorch, ", ");
  }
  write_summary(json, "plain_over_gae", gain, ", ");
  write_summary(json, "plain_over_gae_without_checks", bare_gain, ", ");
  write_summary(json, "gae_over_copy", over_copy, "}");
}

}  // namespace

int main(int count, char** words) {
  settings o = parse(count, words);
  std::ofstream json;
  if (!o.json.empty()) {
    json.open(o.json);
    if (!json) {
      std::fprintf(stderr, "gae: cannot write %s\n", o.json.c_str());
      return 1;
    }
    json << "{\"benchmark\": \"gae\", \"compiler\": \"" << __VERSION__ << "\", \"threads\": 1, \"rounds\": " << o.rounds
         << ", \"cases\": [";
  }
  std::printf("one thread, median of %zu rounds; nanoseconds per token; copy moves the same bytes\n", o.rounds);
  std::printf("%18s %8s %7s %7s %7s %7s   %s\n", "sequences x tokens", "kB", "copy", "checks", "plain", "gae",
              "plain / gae [min..max]   without checks   gae / copy   PyTorch / gae [min..max]");
  report<float>(o, 32, 512, json, true);
  report<float>(o, 512, 53, json, false);
  report<float>(o, 64, 1024, json, false);
  report<double>(o, 32, 512, json, false);
  if (json.is_open()) {
    json << "]}\n";
    json.close();
    if (!json) {
      std::fprintf(stderr, "gae: could not write %s to its end\n", o.json.c_str());
      return 1;
    }
  }
}
