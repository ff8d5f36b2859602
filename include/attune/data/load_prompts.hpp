// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <range/v3/view/transform.hpp>

#include <attune/core/contract.hpp>
#include <attune/core/function_ref.hpp>
#include <attune/data/jsonl_rows.hpp>
#include <attune/data/load_options.hpp>
#include <attune/data/prompt_data.hpp>
#include <attune/data/prompt_rows.hpp>
#include <attune/data/tokenizer.hpp>

namespace attune {

/// The prompts of a file as text, in order, one in memory at a time: a single-pass range of prompt_text.
[[nodiscard]] inline auto prompt_texts(std::string path) {
  return jsonl_rows(std::move(path)) |
         ranges::views::transform([format = std::optional<prompt_format>()](jsonl_row const& row) mutable {
           if (!format) format = prompt_format::of(row);
           return (*format)(row);
         });
}

/// Reads a .jsonl or .jsonl.gz file of prompts (layouts: prompt_format) row by row, and hands each prompt that leaves
/// room for a response to `keep`; the span holds for the call. Memory is one row, whatever the size of the file.
///
/// A row counts as its prompt and a response of `max_new_tokens`, and is cut to the window as rows of demonstrations
/// are: in the report, completions_cut are prompts whose responses have to end earlier than max_new_tokens, and a
/// prompt that leaves them no token is dropped. options.eos has no meaning here. data_error "path:line: ..." for a bad
/// row, a file without rows, or one of which nothing is left.
template <Tokenizer Encoder>
void read_prompts(std::string const& path, Encoder const& tokenizer, load_options const& options,
                  std::size_t max_new_tokens, load_report& report, function_ref<void(std::span<token_id const>)> keep) {
  validate(options);
  expects(max_new_tokens >= 1, "read_prompts: max_new_tokens >= 1", max_new_tokens);
  report = {};
  std::vector<token_id> prompt;
  for (prompt_text const& row : prompt_texts(path)) {
    ++report.rows;
    prompt.clear();
    if (options.bos >= 0) prompt.push_back(options.bos);
    tokenizer.encode(row.prompt, prompt);
    fitted_lengths const fitted = fit(prompt.size(), max_new_tokens, options);
    bool const prompt_cut = fitted.prompt < prompt.size();
    bool const completion_cut = fitted.completion < max_new_tokens;
    if (options.truncation == truncation_rule::error && (prompt_cut || completion_cut))
      throw data_error(path, row.line,
                       "the prompt has " + std::to_string(prompt.size()) + " tokens, its response up to " +
                           std::to_string(max_new_tokens) + ", the window " + std::to_string(options.window));
    if (fitted.completion == 0) {
      report.dropped[static_cast<std::size_t>(drop_reason::no_completion_left)].add(row.line);
    } else {
      cut_prompt(prompt, fitted.prompt, options);
      ++report.kept;
      report.prompts_cut += prompt_cut;
      report.completions_cut += completion_cut;
      keep(prompt);
    }
    if (report.rows == options.max_rows) break;
  }
  if (report.rows == 0) throw data_error(path + ": an empty dataset: no rows");
  if (report.kept == 0) throw data_error(path + ": no row is left: " + summary(report));
}

/// The same into memory.
template <Tokenizer Encoder>
[[nodiscard]] prompt_data load_prompts(std::string const& path, Encoder const& tokenizer, load_options const& options,
                                       std::size_t max_new_tokens, load_report& report) {
  prompt_data data;
  read_prompts(path, tokenizer, options, max_new_tokens, report,
               [&](std::span<token_id const> prompt) { data.push_back(prompt); });
  return data;
}

}  // namespace attune
