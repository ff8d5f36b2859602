// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <range/v3/view/transform.hpp>

#include <attune/concepts/dataset.hpp>
#include <attune/core/contract.hpp>
#include <attune/core/function_ref.hpp>
#include <attune/data/jsonl_rows.hpp>
#include <attune/data/load_options.hpp>
#include <attune/data/stepwise_data.hpp>
#include <attune/data/stepwise_rows.hpp>
#include <attune/data/tokenizer.hpp>

namespace attune {

/// The solutions of a file as text, in order, one in memory at a time: a single-pass range of stepwise_text.
[[nodiscard]] inline auto stepwise_texts(std::string path) {
  return jsonl_rows(std::move(path)) | ranges::views::transform(stepwise_row);
}

struct stepwise_options {
  load_options load = {};              ///< eos is put after the last step, which ends before it
  std::string step_separator = "\n";   ///< encoded by itself and put after every step, the last one too; may be empty
};

/// Reads a .jsonl or .jsonl.gz file of solutions in steps (stepwise_row) row by row, and hands each row that fits the
/// window to `keep`; its spans hold for the call. A step ends with its separator's last token, as in TRL's PRMTrainer;
/// one that truncation cuts into is left out with all after it, and a row without a step left is dropped. Memory is one
/// row, whatever the size of the file. data_error "path:line: ..." for a bad row, a file without rows, or one of which
/// nothing is left.
template <Tokenizer Encoder>
void read_stepwise(std::string const& path, Encoder const& tokenizer, stepwise_options const& options,
                   load_report& report, function_ref<void(stepwise_completion const&)> keep) {
  load_options const& load = options.load;
  validate(load);
  report = {};
  std::vector<token_id> prompt, completion, separator;
  std::vector<std::size_t> ends;
  std::vector<std::uint8_t> labels;
  tokenizer.encode(options.step_separator, separator);
  for (stepwise_text const& row : stepwise_texts(path)) {
    ++report.rows;
    prompt.clear();
    completion.clear();
    ends.clear();
    labels.clear();
    if (load.bos >= 0) prompt.push_back(load.bos);
    tokenizer.encode(row.prompt, prompt);
    for (std::size_t i = 0; i < row.steps.size(); ++i) {
      tokenizer.encode(row.steps[i], completion);
      completion.insert(completion.end(), separator.begin(), separator.end());
      ends.push_back(completion.size());
      labels.push_back(row.labels[i] ? 1 : 0);
    }
    if (load.eos >= 0) completion.push_back(load.eos);
    fitted_lengths const fitted = fit(prompt.size(), completion.size(), load);
    bool const prompt_cut = fitted.prompt < prompt.size();
    bool const completion_cut = fitted.completion < completion.size();
    if (load.truncation == truncation_rule::error && (prompt_cut || completion_cut))
      throw data_error(path, row.line,
                       "the row has " + std::to_string(prompt.size() + completion.size()) + " tokens, the window " +
                           std::to_string(load.window));
    cut_prompt(prompt, fitted.prompt, load);
    if (completion_cut) {
      while (!ends.empty() && ends.back() > fitted.completion) ends.pop_back();
      labels.resize(ends.size());
      completion.resize(ends.empty() ? 0 : ends.back());
    }
    if (ends.empty()) {
      report.dropped[static_cast<std::size_t>(drop_reason::no_completion_left)].add(row.line);
    } else {
      ++report.kept;
      report.prompts_cut += prompt_cut;
      report.completions_cut += completion_cut;
      keep({prompt, completion, ends, labels});
    }
    if (report.rows == load.max_rows) break;
  }
  if (report.rows == 0) throw data_error(path + ": an empty dataset: no rows");
  if (report.kept == 0) throw data_error(path + ": no row is left: " + summary(report));
}

/// The same into memory.
template <Tokenizer Encoder>
[[nodiscard]] stepwise_data load_stepwise(std::string const& path, Encoder const& tokenizer,
                                          stepwise_options const& options, load_report& report) {
  stepwise_data data;
  read_stepwise(path, tokenizer, options, report, [&](stepwise_completion const& row) { data.push_back(row); });
  return data;
}

}  // namespace attune
