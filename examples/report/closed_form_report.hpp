// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "json_object.hpp"
#include "page.hpp"

/// What closed_form finds out, on the terminal, as JSON and as a page.
namespace report {

/// A policy's place on the plane of the objective; exact, mean over prompts.
struct standing {
  double kl = 0.0;  ///< to the reference, nats
  double reward = 0.0;
};

struct response_row {
  std::string text;
  double reward;
  double reference, exact, dpo, ppo;  ///< probabilities
};

struct sample_error {
  std::size_t samples;  ///< responses per update
  double tv;            ///< mean over runs
};

struct frontier_point {
  double beta;
  standing exact, dpo, ppo;
};

/// Total variations are to the closed form, mean over prompts.
struct closed_form_figures {
  double beta = 0.0;
  std::vector<response_row> rows = {};  ///< the likeliest responses to one prompt
  double tv_reference = 0.0, tv_dpo = 0.0;
  std::vector<sample_error> tv_ppo = {};     ///< marks scatter
  double tv_ppo_without_scatter = 0.0;
  std::vector<standing> curve = {};  ///< of the closed form
  std::vector<frontier_point> frontier = {};
};

inline std::vector<table_row> total_variations(closed_form_figures const& f) {
  std::vector<table_row> rows{{"reference", {fmt::format("{:.4f}", f.tv_reference)}},
                              {"DPO", {fmt::format("{:.1e}", f.tv_dpo)}}};
  for (sample_error const& e : f.tv_ppo)
    rows.push_back({fmt::format("PPO, {} responses per update", e.samples), {fmt::format("{:.4f}", e.tv)}});
  rows.push_back({"PPO, if marks did not scatter", {fmt::format("{:.4f}", f.tv_ppo_without_scatter)}});
  return rows;
}

inline void print(closed_form_figures const& f) {
  fmt::print("beta {}\n\n{:<18}{:>8}{:>12}{:>13}{:>10}{:>10}\n", f.beta, "response", "reward", "reference", "closed form",
             "DPO", "PPO");
  for (response_row const& r : f.rows)
    fmt::print("{:<18}{:>8.3f}{:>12.4f}{:>13.4f}{:>10.4f}{:>10.4f}\n", r.text, r.reward, r.reference, r.exact, r.dpo, r.ppo);
  fmt::print("\nTotal variation to the closed form, mean over prompts\n");
  for (table_row const& row : total_variations(f)) fmt::print("  {:<34}{:>10}\n", row.name, row.cells[0]);
  fmt::print("\n{:<8}{:^20}{:^20}{:^20}\n{:<8}", "", "closed form", "DPO", "PPO", "beta");
  for (int method = 0; method < 3; ++method) fmt::print("{:>10}{:>10}", "KL", "reward");
  for (frontier_point const& p : f.frontier) {
    fmt::print("\n{:<8}", p.beta);
    for (standing const& s : {p.exact, p.dpo, p.ppo}) fmt::print("{:>10.4f}{:>10.4f}", s.kl, s.reward);
  }
  fmt::print("\n");
}

inline std::string to_json(closed_form_figures const& f) {
  std::vector<json_object> errors, points;
  for (sample_error const& e : f.tv_ppo) errors.emplace_back().put("samples", e.samples).put("tv", e.tv);
  for (frontier_point const& p : f.frontier) {
    json_object& point = points.emplace_back().put("beta", p.beta).put("kl", p.exact.kl).put("reward", p.exact.reward);
    point.put("kl_dpo", p.dpo.kl).put("reward_dpo", p.dpo.reward).put("kl_ppo", p.ppo.kl).put("reward_ppo", p.ppo.reward);
  }
  json_object all;
  all.put("beta", f.beta).put("tv_dpo", f.tv_dpo).put("tv_ppo", f.tv_ppo.back().tv);
  all.put("tv_ppo_without_scatter", f.tv_ppo_without_scatter).put("tv_ppo_by_samples", errors).put("frontier", points);
  return all.str() + "\n";
}

inline std::string frontier_chart(closed_form_figures const& f) {
  double kl = 0.0, low = f.curve.front().reward, high = low;
  for (frontier_point const& p : f.frontier)
    for (standing const& s : {p.exact, p.dpo, p.ppo}) {
      kl = std::max(kl, s.kl);
      high = std::max(high, s.reward);
    }
  plot chart({"What a nat buys, beta by beta", "KL to the reference, nats", "expected reward"}, 0.0, 1.03 * kl, low,
             high + 0.05 * (high - low));
  chart.y_ticks();
  chart.x_ticks();
  std::vector<double> x, y;
  for (standing const& s : f.curve) x.push_back(s.kl), y.push_back(s.reward);
  chart.polyline(x, y, 0);
  for (frontier_point const& p : f.frontier) {
    chart.point(p.dpo.kl, p.dpo.reward, 6.0, 1, fmt::format("DPO, beta {}", p.beta));
    chart.point(p.ppo.kl, p.ppo.reward, 3.0, 2, fmt::format("PPO, beta {}", p.beta));
  }
  chart.legend({"closed form", "DPO", "PPO"}, {0, 1, 2});
  return chart.finish();
}

inline std::string to_html(closed_form_figures const& f) {
  std::vector<bar_group> groups;
  for (response_row const& r : f.rows) groups.push_back({r.text, {r.reference, r.dpo, r.ppo, r.exact}});
  std::string const title = fmt::format("Probability of responses to one prompt, beta {}", f.beta);
  std::string const bars = bar_chart({title, "", "probability"},
                                     {"reference", "DPO", "PPO", "closed form"}, groups);
  return html_page("DPO finds the optimum that PPO is after",
                   "Three prompts, sixteen responses to each, a known reward. DPO sees which of two responses a judge marks "
                   "higher, PPO the marks; the optimum of both is pi_ref exp(r / beta) / Z.",
                   html_grid({frontier_chart(f), bars}) + "<h2>Total variation to the closed form</h2>\n" +
                       html_table({"", "mean over prompts"}, total_variations(f)));
}

}  // namespace report
