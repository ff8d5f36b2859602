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
#include <attune/data/feedback_data.hpp>
#include <attune/data/feedback_rows.hpp>
#include <attune/data/jsonl_rows.hpp>
#include <attune/data/load_options.hpp>
#include <attune/data/tokenizer.hpp>

namespace attune {

/// The judged completions of a file as text, in order, one in memory at a time: a single-pass range of feedback_text.
[[nodiscard]] inline auto feedback_texts(std::string path) {
  return jsonl_rows(std::move(path)) |
         ranges::views::transform([format = std::optional<feedback_format>()](jsonl_row const& row) mutable {
           if (!format) format = feedback_format::of(row);
           return (*format)(row);
         });
}

/// Reads a .jsonl or .jsonl.gz file of judged completions (layouts: feedback_format) row by row, and hands each row
/// that fits the window to `keep`; its spans hold for the call. Memory is one row, whatever the size of the file.
/// data_error "path:line: ..." for a bad row, a file without rows, or one of which nothing is left.
template <Tokenizer Encoder>
void read_feedback(std::string const& path, Encoder const& tokenizer, load_options const& options, load_report& report,
                   function_ref<void(judged_completion const&)> keep) {
  validate(options);
  report = {};
  std::vector<token_id> prompt;
  std::vector<token_id> completion;
  for (feedback_text const& row : feedback_texts(path)) {
    ++report.rows;
    prompt.clear();
    completion.clear();
    if (options.bos >= 0) prompt.push_back(options.bos);
    tokenizer.encode(row.prompt, prompt);
    tokenizer.encode(row.completion, completion);
    if (options.eos >= 0) completion.push_back(options.eos);
    fitted_lengths const fitted = fit(prompt.size(), completion.size(), options);
    bool const prompt_cut = fitted.prompt < prompt.size();
    bool const completion_cut = fitted.completion < completion.size();
    if (options.truncation == truncation_rule::error && (prompt_cut || completion_cut))
      throw data_error(path, row.line,
                       "the row has " + std::to_string(prompt.size() + completion.size()) + " tokens, the window " +
                           std::to_string(options.window));
    cut_prompt(prompt, fitted.prompt, options);
    completion.resize((std::min)(completion.size(), fitted.completion));
    if (completion.empty()) {
      report.dropped[static_cast<std::size_t>(drop_reason::no_completion_left)].add(row.line);
    } else {
      ++report.kept;
      report.prompts_cut += prompt_cut;
      report.completions_cut += completion_cut;
      keep({prompt, completion, row.desirable});
    }
    if (report.rows == options.max_rows) break;
  }
  if (report.rows == 0) throw data_error(path + ": an empty dataset: no rows");
  if (report.kept == 0) throw data_error(path + ": no row is left: " + summary(report));
}

/// The same into memory.
template <Tokenizer Encoder>
[[nodiscard]] feedback_data load_feedback(std::string const& path, Encoder const& tokenizer,
                                          load_options const& options, load_report& report) {
  feedback_data data;
  read_feedback(path, tokenizer, options, report, [&](judged_completion const& row) { data.push_back(row); });
  return data;
}

}  // namespace attune
