// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <map>

#include <attune/model/decoder.hpp>

#include "corpus.hpp"
#include "figures.hpp"
#include "scoring.hpp"

/// Held-out questions, a model's sampled responses to them, and marks.
namespace recipe {

struct exam_options {
  std::size_t per_instruction_kind = 400;  ///< questions of each of the ten kinds: a share near 96 % to 0.3 points
  std::size_t harmful = 500;               ///< questions
  std::size_t lookalikes = 500;            ///< questions
  std::size_t longest_response = 16;       ///< tokens; what has not ended by then fails
};

inline std::vector<question> draw_exam(exam_options const& o, std::uint64_t seed) {
  std::vector<question> questions;
  for (std::size_t k = 0; k < kind_names.size(); ++k) {
    kind const about = static_cast<kind>(k);
    std::size_t const count = about == kind::harmful ? o.harmful : about == kind::lookalike ? o.lookalikes : o.per_instruction_kind;
    for (std::size_t i = 0; i < count; ++i) {
      attune::random_stream random = stream_of(seed, purpose::held_out_questions, (k << 24) | i);
      questions.push_back(question_maker(about, split::held_out, random)());
    }
  }
  return questions;
}

/// One response per question, as sampled.
struct answer_sheet {
  std::vector<phrase> responses;
  std::vector<bool> finished;
  attune::demonstration_data tokens;  ///< prompt and response of each question
};

/// Samples at temperature 1: the figures are about the model's distribution and not about its mode. Question i draws
/// from its own stream, so every arm meets the same questions with the same luck.
inline answer_sheet sit_exam(attune::decoder<float>& model, lexicon const& words, std::vector<question> const& questions,
                             exam_options const& o, std::uint64_t seed) {
  answer_sheet sheet;
  attune::sequences prompts, spoken;
  for (std::size_t first = 0; first < questions.size(); first += rows_at_once) {
    prompts.clear();
    for (std::size_t i = first; i < std::min(first + rows_at_once, questions.size()); ++i)
      prompts.push_back(prompt_tokens(words, questions[i]), {});
    model.generate(prompts, {.max_new_tokens = o.longest_response, .stop_tokens = {words.id(end_mark)}, .seed = seed,
                             .first_stream = first}, spoken);
    for (std::size_t b = 0; b < prompts.size(); ++b) {
      std::size_t const asked = prompts.view().length(b);
      auto const all = spoken.view().sequence(b);
      std::vector<attune::token_id> said(all.begin() + static_cast<std::ptrdiff_t>(asked), all.end());
      sheet.tokens.push_back({.prompt = all.first(asked), .completion = all.subspan(asked)});
      bool const finished = said.back() == words.id(end_mark);
      if (finished) said.pop_back();
      sheet.responses.push_back(words.decode(said));
      sheet.finished.push_back(finished);
    }
  }
  return sheet;
}

inline arm_figures mark(std::string name, std::vector<question> const& questions, answer_sheet const& sheet) {
  struct tally {
    std::size_t hits = 0, trials = 0;
    void add(bool hit) { hits += hit ? 1 : 0, ++trials; }
    attune::proportion share() const { return attune::wilson_interval(hits, trials); }
  };
  tally instruction, refusal, over_refusal, tone, lookalike;
  std::vector<tally> kinds(instruction_kinds);
  for (std::size_t i = 0; i < questions.size(); ++i) {
    question const& q = questions[i];
    verdict const v = judge(q, sheet.responses[i], sheet.finished[i]);
    if (is_instruction(q)) {
      instruction.add(v.correct);
      kinds[static_cast<std::size_t>(q.about)].add(v.correct);
    }
    if (q.about == kind::harmful) refusal.add(v.refused);
    if (q.about == kind::lookalike) over_refusal.add(v.refused), lookalike.add(v.correct);
    if (answerable(q)) tone.add(v.friendly);
  }
  arm_figures figures;
  figures.name = std::move(name);
  figures.instruction = instruction.share();
  figures.refusal = refusal.share();
  figures.over_refusal = over_refusal.share();
  figures.helpful_tone = tone.share();
  figures.lookalike = lookalike.share();
  for (tally const& t : kinds) figures.by_kind.push_back(t.share());
  return figures;
}

/// Marks that need other responses to compare with: SFT's to the same questions.
inline void compare(arm_figures& arm, std::vector<question> const& questions, answer_sheet const& sheet, answer_sheet const& sft) {
  double reward = 0.0, wins = 0.0, answers = 0.0;
  std::map<phrase, double> frames;
  for (std::size_t i = 0; i < questions.size(); ++i) {
    int const own = quality(questions[i], sheet.responses[i], sheet.finished[i]);
    int const other = quality(questions[i], sft.responses[i], sft.finished[i]);
    reward += own;
    wins += own > other ? 1.0 : own == other ? 0.5 : 0.0;
    reading const read = read_response(sheet.responses[i]);
    if (!answerable(questions[i]) || !sheet.finished[i] || read.refusal) continue;
    frames[read.frame] += 1.0;
    answers += 1.0;
  }
  double entropy = 0.0;
  for (auto const& [frame, count] : frames) entropy -= count / answers * std::log(count / answers);
  double const asked = static_cast<double>(questions.size());
  arm.true_reward = reward / asked;
  arm.win_rate_vs_sft = wins / asked;
  arm.phrasings = answers > 0.0 ? std::exp(entropy) : 0.0;
}

}  // namespace recipe
