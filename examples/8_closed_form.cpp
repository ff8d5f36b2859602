// SPDX-License-Identifier: MIT
//
// closed_form: DPO finds the optimum that PPO is after.
//
// Both maximise  E[r(x, y)] - beta KL(pi || pi_ref),  whose maximum is  pi_ref(y|x) exp(r(x, y) / beta) / Z(x)
// (Rafailov et al. 2023, eq. 4). In a world small enough to list every response that formula is a table, to compare with.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <attune/core/atomic_file.hpp>
#include <attune/model/frozen.hpp>
#include <attune/model/tabular.hpp>
#include <attune/objective/pairwise/dpo.hpp>
#include <attune/objective/sequence_sums.hpp>
#include <attune/train/adamw.hpp>
#include <attune/train/ppo_trainer.hpp>
#include <attune/train/reward_functions.hpp>

#include "report/closed_form_report.hpp"

namespace {

using policy = attune::tabular_policy<double>;
using table = std::vector<double>;  // (prompts * responses), responses of a prompt side by side

constexpr std::size_t words = 4, prompts = 3, responses = words * words;
constexpr std::array<char const*, words> spelling{"yes", "no", "well", "maybe"};

struct instruction {
  std::vector<attune::token_id> prompt;
};

/// Place in a table: the words' ids are its digits.
std::size_t place_of(std::span<attune::token_id const> prompt, std::span<attune::token_id const> response) {
  std::size_t place = 0;
  for (auto const part : {prompt, response})
    for (attune::token_id const id : part) place = place * words + static_cast<std::size_t>(id);
  return place;
}

/// Every prompt (one word) with every response (two words); a reference and a reward without a pattern.
struct world {
  std::uint64_t seed;
  std::vector<instruction> instructions;
  attune::sequences all;
  policy reference{{.vocabulary = words, .order = 2}};
  table reward = table(prompts * responses);

  explicit world(std::uint64_t of) : seed(of) {
    attune::random_stream random(seed);
    for (std::size_t c = 0; c < reference.contexts(); ++c)
      for (double& logit : reference.row(c)) logit = random.normal();
    for (double& r : reward) r = random.normal();
    for (std::size_t i = 0; i < prompts * responses; ++i) {
      auto const word = [&](std::size_t place) { return static_cast<attune::token_id>(i / place % words); };
      std::vector const prompt{word(responses)}, response{word(words), word(1)};
      if (i % responses == 0) instructions.push_back({prompt});
      all.push_back(prompt, response);
    }
  }

  table log_probs(policy const& of) const {
    table tokens(all.total_tokens()), sums(all.size());
    of.log_probs(all, tokens);
    attune::sequence_sums<double>(tokens, all, sums);
    return sums;
  }

  std::string spelled(std::size_t i) const {
    auto const sequence = all.view().sequence(i);
    auto const word = [&](std::size_t place) { return spelling[static_cast<std::size_t>(sequence[place])]; };
    return fmt::format("{}: {} {}", word(0), word(1), word(2));
  }

  table probabilities(policy const& of) const {
    table p = log_probs(of);
    for (double& v : p) v = std::exp(v);
    return p;
  }

  table closed_form(double beta) const {
    table p = log_probs(reference);
    for (std::size_t first = 0; first < p.size(); first += responses) {
      double z = 0.0;
      for (std::size_t i = first; i < first + responses; ++i) z += p[i] = std::exp(p[i] + reward[i] / beta);
      for (std::size_t i = first; i < first + responses; ++i) p[i] /= z;
    }
    return p;
  }
};

/// The expected loss over all pairs whose labels are Bradley-Terry's: a is preferred to b with probability
/// s(r_a - r_b), so each order of a pair enters with its probability as weight, and nothing is sampled.
table dpo(world const& w, double beta) {
  policy trained = w.reference;
  table const ref = w.log_probs(w.reference);
  table sums(ref.size()), slopes(ref.size());
  attune::adamw<double> optimizer;
  constexpr std::size_t steps = 2000;
  constexpr double pairs = prompts * responses * (responses - 1) / 2;
  for (std::size_t step = 0; step < steps; ++step) {
    trained.accumulate_gradient(w.all, [&](std::span<double const> logps, std::span<double> token_slopes) {
      attune::sequence_sums<double>(logps, w.all, sums);
      std::fill(slopes.begin(), slopes.end(), 0.0);
      for (std::size_t a = 0; a < ref.size(); ++a)
        for (std::size_t b = a / responses * responses; b < (a / responses + 1) * responses; ++b) {
          if (a == b) continue;
          double const preferred = 1.0 / (1.0 + std::exp(w.reward[b] - w.reward[a])), weight = preferred / pairs;
          auto const one = attune::dpo_objective(sums[a] - ref[a], sums[b] - ref[b], {.beta = beta});
          slopes[a] += weight * one.chosen;
          slopes[b] += weight * one.rejected;
        }
      attune::broadcast_slopes<double>(slopes, w.all, token_slopes);
    });
    double const share = attune::learning_rate_factor(attune::learning_rate_schedule::cosine, step, 0, steps);
    optimizer.step(trained, {.learning_rate = 0.1 * share});
  }
  return w.probabilities(trained);
}

/// PPO with leave-one-out baselines on sampled responses. It sees marks that scatter about the reward as Gumbel noise
/// does: which of two marks is higher is then Bradley-Terry's choice (Yellott 1977), so both methods have one judge.
/// Without scatter PPO's sampling error dies out: at the optimum r - beta log(pi / pi_ref) is one number for all
/// responses, every advantage is 0, and so is its noise.
table ppo(world const& w, double beta, std::size_t samples, std::size_t updates, std::uint64_t run,
          bool scatter = true) {
  policy trained = w.reference;
  attune::frozen const reference{trained};
  attune::random_stream judge(w.seed, 1000 + run);
  attune::per_response marks{[&](std::span<attune::token_id const> x, std::span<attune::token_id const> y) {
    double const r = w.reward[place_of(x, y)];
    return scatter ? r - std::log(-std::log(1.0 - judge.uniform())) : r;
  }};
  attune::adamw<double> optimizer;
  attune::ppo_trainer trainer{trained, reference, marks, attune::no_critic{}, optimizer,
                              {.loop = {.learning_rate = 0.05, .max_steps = updates, .batch_size = prompts,
                                        .max_grad_norm = 1e6, .seed = w.seed * 1000 + run},
                               .rollout = {.num_generations = samples / prompts, .max_new_tokens = 2},
                               .kl = {.kl_coef = beta},
                               .num_ppo_epochs = 1,
                               .advantages = attune::advantage_estimator::rloo}};
  trainer.fit(w.instructions);
  return w.probabilities(trained);
}

report::standing standing_of(world const& w, table const& p) {
  table const ref = w.log_probs(w.reference);
  report::standing s;
  for (std::size_t i = 0; i < p.size(); ++i) {
    if (p[i] > 0.0) s.kl += p[i] * (std::log(p[i]) - ref[i]) / prompts;
    s.reward += p[i] * w.reward[i] / prompts;
  }
  return s;
}

double total_variation(table const& p, table const& q) {
  double sum = 0.0;
  for (std::size_t i = 0; i < p.size(); ++i) sum += std::abs(p[i] - q[i]) / (2.0 * prompts);
  return sum;
}

report::closed_form_figures figures_of(world const& w, double beta, std::size_t samples, std::size_t updates) {
  table const reference = w.probabilities(w.reference), exact = w.closed_form(beta), by_dpo = dpo(w, beta);
  table by_ppo;
  report::closed_form_figures f{.beta = beta,
                                .tv_reference = total_variation(reference, exact),
                                .tv_dpo = total_variation(by_dpo, exact)};
  constexpr std::uint64_t runs = 4;
  for (std::size_t const n : {samples / 16, samples / 4, samples}) {
    f.tv_ppo.push_back({n / prompts * prompts, 0.0});
    for (std::uint64_t run = 0; run < runs; ++run) {
      by_ppo = ppo(w, beta, n, updates, run);
      f.tv_ppo.back().tv += total_variation(by_ppo, exact) / runs;
    }
  }
  f.tv_ppo_without_scatter = total_variation(ppo(w, beta, samples / 4, updates, 0, false), exact);
  for (std::size_t i = 0; i < responses; ++i)
    f.rows.push_back({w.spelled(i), w.reward[i], reference[i], exact[i], by_dpo[i], by_ppo[i]});
  std::sort(f.rows.begin(), f.rows.end(), [](auto const& a, auto const& b) { return a.exact > b.exact; });
  f.rows.resize(5);
  for (double b = 100.0; b > 0.24; b *= 0.95) f.curve.push_back(standing_of(w, w.closed_form(b)));
  for (double const b : {5.0, 2.5, 1.5, 1.0, 0.7, 0.5, 0.35, 0.25})
    f.frontier.push_back({b, standing_of(w, w.closed_form(b)), standing_of(w, dpo(w, b)),
                          standing_of(w, ppo(w, b, samples / 4, updates, 0))});
  return f;
}

}  // namespace

int main(int count, char** values) {
  std::uint64_t seed = 1;
  double beta = 0.5;
  std::size_t samples = 2400, updates = 800;
  std::string json, page = "closed_form.html";
  CLI::App app("DPO and PPO against the closed form of their common optimum, in a world small enough to list.", "closed_form");
  app.add_option("--seed", seed, "of the world and of PPO's samples")->capture_default_str();
  app.add_option("--beta", beta, "price of a nat of KL")->check(CLI::Range(0.1, 100.0))->capture_default_str();
  app.add_option("--samples", samples, "PPO's responses per update; also run with a quarter and a sixteenth of them")
      ->check(CLI::Range(96, 100000))->capture_default_str();
  app.add_option("--updates", updates, "PPO's")->check(CLI::Range(1, 100000))->capture_default_str();
  app.add_option("--report", page, "HTML page to write; empty writes none")->capture_default_str();
  app.add_option("--json", json, "file for the figures");
  CLI11_PARSE(app, count, values);
  try {
    report::closed_form_figures const f = figures_of(world(seed), beta, samples, updates);
    report::print(f);
    for (auto const& [path, text] : {std::pair(page, report::to_html(f)), std::pair(json, report::to_json(f))}) {
      if (path.empty()) continue;
      attune::write_atomically(path, [&](attune::file_writer& out) { out.write(text); });
      fmt::print("wrote {}\n", path);
    }
  } catch (std::exception const& error) {
    fmt::print(stderr, "closed_form: {}\n", error.what());
    return 1;
  }
  return 0;
}
