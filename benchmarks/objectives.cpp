// SPDX-License-Identifier: MIT
// Batch losses with their gradients, f32, one thread, beside the least that memory allows (copying what is read and
// written) and, with --pytorch, beside PyTorch eager: forward and backward of the loss alone. Small batches show what a call
// costs, large ones the arithmetic.
//
//   objectives [--rounds R] [--json FILE] [--pytorch "python3"]
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include <attune/objective/bradley_terry.hpp>
#include <attune/objective/pairwise/dpo.hpp>
#include <attune/objective/ppo.hpp>

#include "peer.hpp"
#include "rounds.hpp"

namespace {

using namespace attune;

std::vector<float> wave(std::size_t n, double scale, double shift, double frequency) {
  std::vector<float> x(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<float>(shift + scale * std::sin(frequency * static_cast<double>(i)));
  return x;
}

struct subject {
  std::string name;
  std::size_t count;
  double bytes;                // read and written
  std::function<float()> run;  // the loss
};

subject dpo(std::size_t n) {
  auto const chosen = wave(n, 3, -40, 1.0), rejected = wave(n, 3, -42, 0.7), ref_chosen = wave(n, 3, -41, 1.3),
             ref_rejected = wave(n, 3, -41, 0.3);
  return {"dpo", n, 24.0 * static_cast<double>(n),
          [=, dchosen = std::vector<float>(n), drejected = std::vector<float>(n)]() mutable {
            return dpo_loss<float>({.chosen = chosen, .rejected = rejected, .ref_chosen = ref_chosen, .ref_rejected = ref_rejected},
                                   {.chosen = dchosen, .rejected = drejected}, {.beta = 0.1});
          }};
}

subject bradley_terry(std::size_t n) {
  auto const chosen = wave(n, 2, 0.5, 1.0), rejected = wave(n, 2, 0, 0.7);
  return {"bradley_terry", n, 16.0 * static_cast<double>(n),
          [=, dchosen = std::vector<float>(n), drejected = std::vector<float>(n)]() mutable {
            return bradley_terry_loss<float>({.chosen = chosen, .rejected = rejected}, {.chosen = dchosen, .rejected = drejected});
          }};
}

subject ppo(std::size_t n) {
  // Responses of 64 tokens, each behind one token of prompt, which the loss skips.
  std::size_t const responses = n / 64;
  sequences batch;
  std::vector<float> logps, old_logps, ref_logps, advantages;
  auto const l = wave(n, 1, -2, 1.0), shift = wave(n, 0.1, 0, 0.7), r = wave(n, 1, -2.1, 1.1), a = wave(n, 1, 0, 0.3);
  for (std::size_t b = 0; b < responses; ++b) {
    batch.push_back(std::vector<token_id>(1), std::vector<token_id>(64));
    for (auto* const values : {&logps, &old_logps, &ref_logps, &advantages}) values->push_back(0.0f);
    for (std::size_t i = b * 64; i < (b + 1) * 64; ++i) {
      logps.push_back(l[i]);
      old_logps.push_back(l[i] + shift[i]);
      ref_logps.push_back(r[i]);
      advantages.push_back(a[i]);
    }
  }
  return {"ppo", n, 20.0 * static_cast<double>(n), [=, slopes = std::vector<float>(logps.size())]() mutable {
            return ppo_loss<float>({.logps = logps, .old_logps = old_logps, .advantages = advantages, .ref_logps = ref_logps},
                                   batch, slopes, aggregation_totals_of(batch), loss_aggregation::token_mean,
                                   {}, nullptr, {.kl_loss_coef = 0.05, .kl_loss_estimator = kl_estimator::k3});
          }};
}

}  // namespace

int main(int count, char** words) {
  std::size_t number_of_rounds = 9;
  std::string json_path, pytorch;
  for (int i = 1; i < count; i += 2) {
    std::string const word = words[i];
    char const* const value = i + 1 < count ? words[i + 1] : nullptr;
    if (word == "--rounds" && value != nullptr && std::atol(value) > 0) {
      number_of_rounds = static_cast<std::size_t>(std::atol(value));
    } else if (word == "--json" && value != nullptr) {
      json_path = value;
    } else if (word == "--pytorch" && value != nullptr) {
      pytorch = value;
    } else {
      std::fprintf(stderr, "usage: objectives [--rounds R] [--json FILE] [--pytorch \"python3\"]\n");
      return word == "--help" ? 0 : 2;
    }
  }
  std::ofstream json;
  if (!json_path.empty()) {
    json.open(json_path);
    if (!json) {
      std::fprintf(stderr, "objectives: cannot write %s\n", json_path.c_str());
      return 1;
    }
    json << "{\"benchmark\": \"objectives\", \"compiler\": \"" << __VERSION__ << "\", \"threads\": 1, \"rounds\": " << number_of_rounds
         << ", \"cases\": [";
  }
  std::string const script = (std::filesystem::path(__FILE__).parent_path() / "objectives_pytorch.py").string();
  peer torch(pytorch.empty() ? std::string() : "exec " + pytorch + " \"" + script + "\"");

  std::printf("f32, one thread, median of %zu rounds; copy moves the same bytes\n", number_of_rounds);
  std::printf("%-14s %6s %12s %10s %10s   %s\n", "loss", "count", "microseconds", "ns each", "of copy", "of PyTorch [min..max]");
  bool first = true;
  for (subject const& s : {dpo(8), dpo(64), dpo(4096), bradley_terry(8), bradley_terry(64), bradley_terry(4096), ppo(16384)}) {
    std::vector<char> from(static_cast<std::size_t>(s.bytes / 2)), to(from.size());
    std::vector<double> ours, copies, ratios, of_copy, theirs;
    float loss = 0.0f;
    for (std::size_t round = 0; round < number_of_rounds + 1; ++round) {
      double const time = rounds::seconds([&] { loss = s.run(); }, 2e-2);
      double const copy = rounds::seconds([&] {
        from[0] = static_cast<char>(round);
        std::copy(from.begin(), from.end(), to.begin());
        if (to[0] != static_cast<char>(round)) std::abort();
      });
      double peer_time = 0.0, peer_loss = 0.0;
      bool const asked = torch.runs();
      bool const answered = torch.ask(s.name + " " + std::to_string(s.count), peer_time, peer_loss);
      if (asked && !answered) std::printf("PyTorch is left out: \"%s\" did not run objectives_pytorch.py (is torch installed?)\n", pytorch.c_str());
      if (answered && !(std::abs(peer_loss - static_cast<double>(loss)) <= 1e-4 * (1e-3 + std::abs(peer_loss)))) {
        std::fprintf(stderr, "objectives: the programs disagree: the loss is %.9g, PyTorch's %.9g\n", static_cast<double>(loss), peer_loss);
        return 1;
      }
      if (round == 0) continue;  // warms up
      ours.push_back(time);
      copies.push_back(copy);
      of_copy.push_back(time / copy);
      if (answered) {
        theirs.push_back(peer_time);
        ratios.push_back(time / peer_time);
      }
    }
    rounds::summary const time = rounds::of(ours);
    std::printf("%-14s %6zu %12.3f %10.2f %10.1f", s.name.c_str(), s.count, time.median * 1e6,
                time.median * 1e9 / static_cast<double>(s.count), rounds::of(of_copy).median);
    if (!ratios.empty()) {
      rounds::summary const r = rounds::of(ratios);
      std::printf("   %.4f [%.4f..%.4f]", r.median, r.least, r.most);
    }
    std::printf("\n");
    if (!json.is_open()) continue;
    json << (first ? "" : ", ") << "{\"loss\": \"" << s.name << "\", \"count\": " << s.count << ", ";
    rounds::write(json, "seconds", time);
    json << ", ";
    rounds::write(json, "over_copy", rounds::of(of_copy));
    if (!ratios.empty()) {
      json << ", ";
      rounds::write(json, "pytorch_seconds", rounds::of(theirs));
      json << ", ";
      rounds::write(json, "over_pytorch", rounds::of(ratios));
    }
    json << "}";
    first = false;
  }
  if (json.is_open()) {
    json << "]}\n";
    json.close();
    if (!json) {
      std::fprintf(stderr, "objectives: could not write %s to its end\n", json_path.c_str());
      return 1;
    }
  }
}
