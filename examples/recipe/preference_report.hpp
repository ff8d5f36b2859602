// SPDX-License-Identifier: MIT
#pragma once

#include "preference_run.hpp"
#include "world_report.hpp"

/// The figures of a run on real preference pairs for people and programs.
namespace recipe {

inline std::string to_json(preference_figures const& f) {
  auto const judged = [](judge_figures const& j) {
    report::json_object one;
    one.put("accuracy", j.accuracy);
    if (j.per_token) one.put("accuracy_per_token", j.accuracy_per_token);
    one.put("train_loss", j.train_loss).put("held_out_loss", j.held_out_loss);
    return one;
  };
  report::json_object arms, all;
  for (judge_figures const* const j : {&f.pretrained, &f.sft, &f.dpo})
    arms.put(j == &f.pretrained ? "pretrained" : j->name, judged(*j).put("kl_to_sft", j->kl.mean).put("kl_to_sft_standard_error", j->kl.standard_error).append(json_of(j->training)));
  all.put("seed", static_cast<std::size_t>(f.seed)).put("parameters", f.parameters).put("pairs", f.pairs);
  all.put("held_out_pairs", f.held_out).put("arms", arms);
  report::json_object reward = judged(f.reward_model);
  if (f.cross_validated.trials > 0) reward.put("cross_validated_accuracy", f.cross_validated);
  all.put("reward_model", reward.append(json_of(f.reward_model.training))).put("seconds", f.seconds);
  return all.str() + "\n";
}

inline std::vector<table_row> table_of(preference_figures const& f) {
  std::vector<table_row> rows;
  auto const add = [&](char const* name, auto const& cell) {
    table_row row{name, {}};
    for (judge_figures const* const j : {&f.pretrained, &f.sft, &f.reward_model, &f.dpo}) row.cells.push_back(cell(*j));
    rows.push_back(std::move(row));
  };
  auto const language_model = [](judge_figures const& j) { return j.name != "reward_model"; };
  add("pairs ranked as labelled", [](judge_figures const& j) { return percent_with_interval(j.accuracy); });
  add("the same, log-prob per token",
      [](judge_figures const& j) { return j.per_token ? percent_with_interval(j.accuracy_per_token) : std::string("-"); });
  add("the same, cross-validated over training pairs", [&](judge_figures const& j) {
    return &j == &f.reward_model && f.cross_validated.trials > 0 ? percent_with_interval(f.cross_validated) : std::string("-");
  });
  add("loss, last training step", [](judge_figures const& j) { return number_text(j.train_loss, 4); });
  add("loss, held out", [](judge_figures const& j) { return number_text(j.held_out_loss, 4); });
  add("KL to SFT, nats per response",
      [&](judge_figures const& j) { return language_model(j) ? number_text(j.kl.mean) : std::string("-"); });
  add("training, seconds", [](judge_figures const& j) { return number_text(j.training.seconds); });
  add("training, FLOPs", [](judge_figures const& j) { return number_text(j.training.flops); });
  add("peak memory, MB", [](judge_figures const& j) { return number_text(j.training.peak_rss_mb); });
  return rows;
}

inline void print_table(preference_figures const& f) {
  std::printf("\n%-46s%24s%24s%24s%24s\n%s\n", "held-out pairs", "pretrained", "sft", "reward_model", "dpo", std::string(142, '-').c_str());
  for (table_row const& row : table_of(f)) {
    std::printf("%-46s", row.name.c_str());
    for (std::string const& cell : row.cells) std::printf("%24s", cell.c_str());
    std::printf("\n");
  }
  std::printf("\nBrackets: 95 %% intervals (Wilson). Everything: %.1f seconds.\n", f.seconds);
}

/// A sample of raw bytes may not be UTF-8; what is not becomes a dot.
inline std::string shown(std::string_view bytes) {
  std::string text;
  for (std::size_t at = 0; at < bytes.size();) {
    std::size_t const length = attune::utf8_length(bytes, at);
    text += length == 0 ? std::string_view("\xC2\xB7") : bytes.substr(at, length);
    at += length == 0 ? 1 : length;
  }
  return text;
}

inline std::string preference_report(preference_figures const& f) {
  std::string body = html_table({"held-out pairs", "pretrained", "sft", "reward_model", "dpo"}, table_of(f));
  body += "<p class=\"note\">" + escaped(f.data) + "</p>\n<h2>Learning curves</h2>\n";
  std::vector<std::string> charts = loss_charts(f.loss_curves);
  charts.push_back(line_chart({"Training pairs ranked as labelled", "step", "share"}, f.accuracy_curves));
  charts.push_back(histogram({"Margin of the preferred response, held-out pairs", "log-probability of chosen less rejected, nats",
                              "share of pairs"}, f.margins));
  body += html_grid(charts) + "<h2>Replies</h2>\n<div class=\"card\"><table class=\"talk\"><thead><tr><th>prompt (its end)</th><th>sft</th><th>dpo</th></tr></thead><tbody>\n";
  for (conversation const& talk : f.conversations) {
    std::string_view prompt = talk.prompt;
    if (prompt.size() > 240) prompt.remove_prefix(prompt.size() - 240);
    body += "<tr><td>" + escaped(shown(prompt)) + "</td>";
    for (std::string const& said : talk.said) body += "<td>" + escaped(shown(said)) + "</td>";
    body += "</tr>\n";
  }
  body += "</tbody></table></div>\n";
  return html_page("Preference pairs, byte by byte",
                   "A byte-level decoder of " + std::to_string(f.parameters) + " parameters, from random parameters on " +
                       std::to_string(f.pairs) + " preference pairs: SFT on the chosen replies, a reward model, DPO. Judged on " +
                       std::to_string(f.held_out) + " held-out pairs. Seed " + std::to_string(f.seed) + ".",
                   body);
}

}  // namespace recipe
