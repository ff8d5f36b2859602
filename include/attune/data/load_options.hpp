// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <attune/core/contract.hpp>
#include <attune/core/sequences.hpp>

/// What loaders do with rows that are longer than the model's window, and how they tell.
namespace attune {

enum class truncation_rule {
  keep_end,    ///< the prompt loses its beginning, down to min_prompt tokens; then completions lose their end
  keep_start,  ///< the row keeps its first `window` tokens: completions lose their end, and may vanish
  error,       ///< a row that does not fit is a data_error
};

struct load_options {
  std::size_t window = 0;                                  ///< most tokens of prompt and one completion; 0 is no limit
  truncation_rule truncation = truncation_rule::keep_end;  ///< what a row loses that is longer than the window
  std::size_t min_prompt = 0;  ///< keep_end: a prompt is not cut below it; 0 is half the window
  token_id bos = -1;           ///< put before every prompt, and never cut; -1 is none
  token_id eos = -1;           ///< put after every completion (and cut with it); -1 is none
  std::size_t max_rows = 0;    ///< stop after so many rows of the file; 0 reads all
};

inline void validate(load_options const& o) {
  expects(o.window == 0 || o.window >= 2, "load_options.window >= 2, or 0 for no limit", o.window);
  expects(o.window == 0 || o.min_prompt < o.window, "load_options.min_prompt < window", o.min_prompt);
  expects(o.bos >= -1, "load_options.bos >= -1", o.bos);
  expects(o.eos >= -1, "load_options.eos >= -1", o.eos);
}

/// Why a row was left out.
enum class drop_reason {
  no_completion_left,      ///< truncation would leave a completion without a token
  equal_after_truncation,  ///< chosen and rejected differ only in what truncation removes
};

struct dropped_rows {
  std::size_t count = 0;
  std::vector<std::size_t> first_lines;  ///< of the file, at most 5

  void add(std::size_t line) {
    ++count;
    if (first_lines.size() < 5) first_lines.push_back(line);
  }
};

/// What became of a file.
struct load_report {
  std::size_t rows = 0;  ///< read
  std::size_t kept = 0;
  std::size_t prompts_cut = 0;            ///< kept rows whose prompt was shortened
  std::size_t completions_cut = 0;        ///< kept rows with a shortened completion (either one, for pairs)
  std::size_t early_prompts = 0;          ///< implicit pairs whose transcripts part before the last reply
  std::array<dropped_rows, 2> dropped{};  ///< by drop_reason

  dropped_rows const& of(drop_reason reason) const noexcept { return dropped[static_cast<std::size_t>(reason)]; }
  std::size_t dropped_total() const noexcept { return dropped[0].count + dropped[1].count; }
};

/// One line for people: "1800 rows, 1797 kept, 3 dropped: no completion token left 3 (lines 7, 90, 1204); 210 prompts
/// cut"
[[nodiscard]] inline std::string summary(load_report const& r) {
  auto const number = [](std::size_t n) { return std::to_string(n); };
  std::string out = number(r.rows) + " rows, " + number(r.kept) + " kept, " + number(r.dropped_total()) + " dropped";
  constexpr std::array<std::string_view, 2> reasons{"no completion token left in the window",
                                                    "chosen and rejected equal after truncation"};
  for (std::size_t i = 0; i < reasons.size(); ++i) {
    if (r.dropped[i].count == 0) continue;
    out += ": ";
    out += reasons[i];
    out += ' ' + number(r.dropped[i].count) + " (lines ";
    for (std::size_t j = 0; j < r.dropped[i].first_lines.size(); ++j)
      out += (j > 0 ? ", " : "") + number(r.dropped[i].first_lines[j]);
    out += r.dropped[i].count > r.dropped[i].first_lines.size() ? ", ...)" : ")";
  }
  if (r.prompts_cut > 0) out += "; " + number(r.prompts_cut) + " prompts cut";
  if (r.completions_cut > 0) out += "; " + number(r.completions_cut) + " completions cut";
  if (r.early_prompts > 0) out += "; " + number(r.early_prompts) + " prompts end before the last reply";
  return out;
}

/// How much of a row of `prompt` and, at most, `completion` tokens stays in the window.
struct fitted_lengths {
  std::size_t prompt;      ///< tokens of the prompt that stay
  std::size_t completion;  ///< at most so many tokens of every completion
};

/// The rule of truncation_rule. A prompt always keeps one token.
[[nodiscard]] constexpr fitted_lengths fit(std::size_t prompt, std::size_t completion, load_options const& o) noexcept {
  if (o.window == 0 || prompt + completion <= o.window) return {prompt, completion};
  if (o.truncation == truncation_rule::keep_start) {
    std::size_t const kept = (std::min)(prompt, o.window);
    return {kept, o.window - kept};
  }
  std::size_t const floor =
      (std::min)(prompt, o.min_prompt > 0 ? o.min_prompt : (std::max<std::size_t>)(1, o.window / 2));
  std::size_t const spare = o.window > completion ? o.window - completion : 0;
  std::size_t const kept = (std::min)({prompt, (std::max)(floor, spare), o.window});
  return {kept, o.window - kept};
}

/// Shortens a prompt to `keep` tokens as the options say; bos, where there is one, stays in front.
inline void cut_prompt(std::vector<token_id>& prompt, std::size_t keep, load_options const& o) {
  if (prompt.size() <= keep) return;
  auto const first = prompt.begin() + (o.bos >= 0 ? 1 : 0);
  if (o.truncation == truncation_rule::keep_end)
    prompt.erase(first, first + static_cast<std::ptrdiff_t>(prompt.size() - keep));
  else
    prompt.resize(keep);
}

}  // namespace attune
