// SPDX-License-Identifier: MIT
#pragma once

#include <cstdio>

#include "figures.hpp"
#include "../report/page.hpp"
#include "world.hpp"

/// The figures of a world run for people: a table in the terminal, and report.html.
namespace recipe {

inline std::string percent(double share) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %%", 100.0 * share);
  return text;
}

inline std::string percent(attune::proportion const& p) { return percent(p.value); }

inline std::string percent_with_interval(attune::proportion const& p) {
  char text[64];
  std::snprintf(text, sizeof text, "%.1f %% (%.1f to %.1f)", 100.0 * p.value, 100.0 * p.low, 100.0 * p.high);
  return text;
}

/// Rows of the table: one figure each, over the arms.
inline std::vector<table_row> table_of(world_figures const& f) {
  std::vector<table_row> rows;
  auto const add = [&](char const* name, auto const& cell) {
    table_row row{name, {}};
    for (arm_figures const& arm : f.arms) row.cells.push_back(cell(arm));
    rows.push_back(std::move(row));
  };
  add("instruction accuracy", [](arm_figures const& a) { return percent(a.instruction); });
  add("refusal of harmful requests", [](arm_figures const& a) { return percent(a.refusal); });
  add("over-refusal of benign ones", [](arm_figures const& a) { return percent(a.over_refusal); });
  add("helpful tone", [](arm_figures const& a) { return percent(a.helpful_tone); });
  add("KL to SFT, nats per response", [](arm_figures const& a) { return number_text(a.kl_to_sft); });
  add("true reward", [](arm_figures const& a) { return number_text(a.true_reward); });
  add("learned reward", [](arm_figures const& a) { return number_text(a.learned_reward); });
  add("win rate against SFT", [](arm_figures const& a) { return percent(a.win_rate_vs_sft); });
  add("phrasings in use", [](arm_figures const& a) { return number_text(a.phrasings); });
  add("models in memory", [](arm_figures const& a) { return std::to_string(a.model_copies); });
  add("training, seconds", [](arm_figures const& a) { return number_text(a.training.seconds); });
  add("training, FLOPs", [](arm_figures const& a) { return number_text(a.training.flops); });
  add("peak memory, MB", [](arm_figures const& a) { return number_text(a.training.peak_rss_mb); });
  return rows;
}

inline void print_table(world_figures const& f) {
  std::printf("\n%-32s", "held-out prompts, sampled");
  for (arm_figures const& arm : f.arms) std::printf("%14s", arm.name.c_str());
  std::printf("\n%s\n", std::string(32 + 14 * f.arms.size(), '-').c_str());
  for (table_row const& row : table_of(f)) {
    std::printf("%-32s", row.name.c_str());
    for (std::string const& cell : row.cells) std::printf("%14s", cell.c_str());
    std::printf("\n");
  }
  reward_figures const& r = f.reward_model;
  std::printf("\nReward model: ranks %s of held-out pairs as the truth does, %s as labels as noisy as its own;\n"
              "%.3g seconds, %.3g FLOPs, peak %.3g MB.\nEverything: %.1f seconds.\n",
              percent(r.accuracy).c_str(), percent(r.noisy_accuracy).c_str(), r.training.seconds, r.training.flops,
              r.training.peak_rss_mb, f.seconds);
  std::printf("\nWhat is said, and what was measured:\n");
  for (claim const& c : f.claims)
    std::printf("  %-5s %s: %s\n", c.holds ? "holds" : "FAILS", c.source.c_str(), c.measured.c_str());
}

inline std::string conversation_table(world_figures const& f) {
  std::string out = "<div class=\"card\"><table class=\"talk\"><thead><tr><th>sort</th><th>prompt</th>";
  for (arm_figures const& arm : f.arms) out += "<th>" + escaped(arm.name) + "</th>";
  out += "</tr></thead><tbody>\n";
  for (conversation const& talk : f.conversations) {
    out += "<tr><td>" + escaped(talk.sort) + "</td><td>" + escaped(talk.prompt) + "</td>";
    for (std::size_t i = 0; i < talk.said.size(); ++i)
      out += "<td>" + escaped(talk.said[i]) + "<br><span class=\"badge " + (talk.good[i] ? "good" : "bad") + "\">" +
             escaped(talk.verdict[i]) + "</span></td>";
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

/// Loss over steps, a chart for every stage in its own colour.
inline std::vector<std::string> loss_charts(std::vector<series> const& curves) {
  std::vector<std::string> charts;
  for (series const& curve : curves) charts.push_back(line_chart({curve.name + ": loss", "step", "loss"}, {{curve}}));
  return charts;
}

inline std::string world_report(world_figures const& f) {
  std::string body;
  std::vector<std::string> head{"held-out prompts, responses sampled at temperature 1"};
  for (arm_figures const& arm : f.arms) head.push_back(arm.name);
  body += html_table(head, table_of(f));
  reward_figures const& r = f.reward_model;
  body += "<p class=\"note\">The reward model ranks " + percent_with_interval(r.accuracy) +
          " of held-out pairs as the truth does (95 % interval in brackets), and " + percent_with_interval(r.noisy_accuracy) +
          " as labels do that are as noisy as the ones it learnt from; " + number_text(r.training.seconds) + " s, " +
          number_text(r.training.flops) + " FLOPs. Everything took " + number_text(f.seconds) + " s.</p>\n";

  std::vector<std::string> arms;
  std::vector<bar_group> marks{{"instructions", {}}, {"refusal", {}}, {"over-refusal", {}}, {"helpful tone", {}}}, kinds;
  for (std::size_t k = 0; k < (f.arms.empty() ? 0 : f.arms[0].by_kind.size()); ++k) kinds.push_back({std::string(kind_names[k]), {}});
  for (arm_figures const& a : f.arms) {
    arms.push_back(a.name);
    marks[0].values.push_back(a.instruction.value);
    marks[1].values.push_back(a.refusal.value);
    marks[2].values.push_back(a.over_refusal.value);
    marks[3].values.push_back(a.helpful_tone.value);
    for (std::size_t k = 0; k < kinds.size(); ++k) kinds[k].values.push_back(a.by_kind[k].value);
  }
  body += "<h2>Before and after</h2>\n";
  body += html_grid({bar_chart({"Behaviour on held-out prompts", "", "share"}, arms, marks),
                     bar_chart({"Right answers by kind of instruction", "", "share"}, arms, kinds),
                     histogram({"Margin of the better response, held-out pairs", "log-probability of chosen less rejected, nats", "share of pairs"}, f.margins),
                     histogram({"What the reward model gives sampled responses", "reward", "share of responses"}, f.rewards)});
  if (!f.claims.empty()) {
    body += "<h2>What is said, and what was measured</h2>\n";
    std::vector<table_row> rows;
    for (claim const& c : f.claims) rows.push_back({c.source, {c.measured, c.holds ? "holds" : "fails"}});
    body += html_table({"claim", "measured here", ""}, rows);
  }
  if (!f.reward_curves.empty()) {
    body += "<h2>Reinforcement learning with and without the KL penalty</h2>\n";
    body += html_grid({line_chart({"Learned reward of sampled responses", "update", "deviations from SFT's mean"}, f.reward_curves),
                       line_chart({"KL to SFT", "update", "nats per response"}, f.kl_curves)});
  }
  body += "<h2>Learning curves</h2>\n";
  std::vector<std::string> charts = loss_charts(f.loss_curves);
  charts.push_back(line_chart({"Training pairs ranked as labelled (one in twenty labels is wrong)", "step", "share"}, f.accuracy_curves));
  body += html_grid(charts);
  body += "<h2>Conversations</h2>\n" + conversation_table(f);
  return html_page("From random parameters to an aligned assistant",
                   "A decoder of " + std::to_string(f.parameters) + " parameters learns a small world of " +
                       std::to_string(f.vocabulary) + " words: pretraining, supervised fine-tuning, a reward model, DPO and PPO. "
                       "The truth about every prompt is known by program. Seed " + std::to_string(f.seed) + ".",
                   body);
}

}  // namespace recipe
