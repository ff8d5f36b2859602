// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <range/v3/view/transform.hpp>

#include <attune/concepts/dataset.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/function_ref.hpp>
#include <attune/data/jsonl_rows.hpp>
#include <attune/data/load_options.hpp>
#include <attune/data/preference_data.hpp>
#include <attune/data/preference_rows.hpp>
#include <attune/data/tokenizer.hpp>

namespace attune {

/// The preference rows of a file as text, in order, one in memory at a time: a single-pass range of preference_text.
[[nodiscard]] inline auto preference_texts(std::string path) {
  return jsonl_rows(std::move(path)) |
         ranges::views::transform([format = std::optional<preference_format>()](jsonl_row const& row) mutable {
           if (!format) format = preference_format::of(row);
           return (*format)(row);
         });
}

/// Reads a .jsonl or .jsonl.gz file of preference pairs (layouts: preference_format) row by row, and hands each row
/// that fits the window to `keep`; the pair's spans hold for the call. Memory is one row, whatever the size of the
/// file. data_error "path:line: ..." for a bad row, a file without rows, or one of which nothing is left.
template <Tokenizer Encoder>
void read_preferences(std::string const& path, Encoder const& tokenizer, load_options const& options,
                      load_report& report, function_ref<void(preference_pair const&)> keep) {
  validate(options);
  report = {};
  std::vector<token_id> prompt;
  std::vector<token_id> chosen;
  std::vector<token_id> rejected;
  auto const drop = [&](drop_reason reason, std::size_t line) {
    report.dropped[static_cast<std::size_t>(reason)].add(line);
  };
  for (preference_text const& row : preference_texts(path)) {
    ++report.rows;
    prompt.clear();
    if (options.bos >= 0) prompt.push_back(options.bos);
    tokenizer.encode(row.prompt, prompt);
    for (auto const& [text, ids] : {std::pair(&row.chosen, &chosen), std::pair(&row.rejected, &rejected)}) {
      ids->clear();
      tokenizer.encode(*text, *ids);
      if (options.eos >= 0) ids->push_back(options.eos);
    }
    std::size_t const longest = (std::max)(chosen.size(), rejected.size());
    fitted_lengths const fitted = fit(prompt.size(), longest, options);
    bool const prompt_cut = fitted.prompt < prompt.size();
    bool const completion_cut = fitted.completion < longest;
    if (options.truncation == truncation_rule::error && (prompt_cut || completion_cut))
      throw data_error(path, row.line,
                       "the row has " + std::to_string(prompt.size() + longest) + " tokens, the window " +
                           std::to_string(options.window));
    cut_prompt(prompt, fitted.prompt, options);
    chosen.resize((std::min)(chosen.size(), fitted.completion));
    rejected.resize((std::min)(rejected.size(), fitted.completion));
    if (chosen.empty() || rejected.empty()) {
      drop(drop_reason::no_completion_left, row.line);
    } else if (completion_cut && chosen == rejected) {
      drop(drop_reason::equal_after_truncation, row.line);
    } else {
      ++report.kept;
      report.prompts_cut += prompt_cut;
      report.completions_cut += completion_cut;
      report.early_prompts += row.early_prompt;
      keep({prompt, chosen, rejected, row.margin});
    }
    if (report.rows == options.max_rows) break;
  }
  if (report.rows == 0) throw data_error(path + ": an empty dataset: no rows");
  if (report.kept == 0) throw data_error(path + ": no row is left: " + summary(report));
}

/// The same into memory.
template <Tokenizer Encoder>
[[nodiscard]] preference_data load_preferences(std::string const& path, Encoder const& tokenizer,
                                               load_options const& options, load_report& report) {
  preference_data data;
  read_preferences(path, tokenizer, options, report, [&](preference_pair const& pair) { data.push_back(pair); });
  return data;
}

}  // namespace attune
