// SPDX-License-Identifier: MIT
#pragma once

#include <utility>

#include <attune/data/demonstration_data.hpp>
#include <attune/data/preference_data.hpp>

#include "response.hpp"

/// The world's data as token ids, for the trainers. Element i of each is a pure function of (seed, i).
namespace recipe {

/// What a stream of random numbers is for; part of its number, so that no two corpora share one.
enum class purpose : std::uint64_t { pretraining = 1, demonstrations, pairs, held_out_questions, held_out_pairs };

inline attune::random_stream stream_of(std::uint64_t seed, purpose use, std::size_t index) {
  return attune::random_stream(seed, (static_cast<std::uint64_t>(use) << 40) | index);
}

struct corpus_options {
  std::size_t documents = 100000;       ///< of pretraining
  std::size_t demonstrations = 150000;  ///< of supervised fine-tuning
  std::size_t pairs = 32000;            ///< of reward model and DPO
  question_mix mix{};                                            ///< of documents and demonstrations
  question_mix pair_mix{.harmful = 0.24, .lookalike = 0.12};  ///< of pairs
  manners pretraining{.wrong = 0.10, .complies = 0.80, .over_refuses = 0.10, .curt = 0.75};
  manners demonstration{.wrong = 0.02, .complies = 0.40, .over_refuses = 0.25, .curt = 0.50};
  manners candidate{.wrong = 0.20, .complies = 0.50, .over_refuses = 0.15, .curt = 0.50, .refuses_plain = 0.05};  ///< both sides of a pair
  double label_noise = 0.05;  ///< share of pairs whose sides are swapped
};

/// The user's turn up to where the assistant is to speak.
inline std::vector<attune::token_id> prompt_tokens(lexicon const& words, question const& q) {
  phrase turn{user_mark};
  append(turn, q.prompt);
  turn.push_back(assistant_mark);
  return words.encode(turn);
}

inline std::vector<attune::token_id> response_tokens(lexicon const& words, phrase response) {
  response.push_back(end_mark);
  return words.encode(response);
}

/// The inverse of numbers[n].
inline std::size_t number_of(std::string_view word) {
  return static_cast<std::size_t>(std::find(numbers.begin(), numbers.end(), word) - numbers.begin());
}

inline void push_back(attune::demonstration_data& to, std::vector<attune::token_id> const& prompt,
                      std::vector<attune::token_id> const& completion) {
  to.push_back({.prompt = prompt, .completion = completion});
}

/// Plain sentences about the world, as a book has them: a list said over and over, a table and its rows read out in
/// any order, possessions, sums, comparisons, the order of letters and numbers, who lives, what is used for what.
inline phrase passage(attune::random_stream& random) {
  phrase text;
  static constexpr std::array<word_list, 6> sorts{word_list(letters), word_list(things), word_list(colors),
                                                  word_list(names),   word_list(numbers), word_list(colors)};
  switch (random.below(10)) {
    case 0:
    case 1: {
      phrase list;
      do list = pick_some(sorts[random.below(sorts.size())], 3 + random.below(5), random);
      while (held_out(list));
      for (int round = 0; round < 3; ++round) append(text, list), text.push_back(".");
      break;
    }
    case 2: {
      phrase const who = pick_some(names, 2, random), what = pick_some(word_list(numbers).first(10), 2, random);
      for (std::size_t i = 0; i < 2; ++i) append(text, {who[i], "has", what[i], "."});
      append(text, {who[number_of(what[0]) > number_of(what[1]) ? 0 : 1], "has", "more", "."});
      for (std::size_t i = 0; i < 2; ++i) append(text, {who[1 - i], "has", what[1 - i], "."});
      break;
    }
    case 3:
    case 4:
    case 5:
    case 6: {
      std::size_t const rows = 2 + random.below(4);
      phrase const keys = pick_some(sorts[random.below(2)], rows, random), values = pick_some(sorts[2 + random.below(4)], rows, random);
      for (std::size_t i = 0; i < rows; ++i) append(text, {keys[i], values[i], i + 1 < rows ? "," : "."});
      for (std::size_t i = 0; i < 8; ++i) {
        std::size_t const row = random.below(rows);
        append(text, {keys[row], values[row], "."});
      }
      break;
    }
    case 7:
      for (int fact = 0; fact < 5; ++fact) {
        std::size_t const a = random.below(10), b = random.below(10);
        if (random.below(2) == 0) append(text, {numbers[a], "and", numbers[b], "is", numbers[a + b], "."});
        else if (a != b) append(text, {numbers[std::max(a, b)], "is", "more", "than", numbers[std::min(a, b)], "."});
      }
      break;
    case 8: {
      word_list const row = random.below(2) == 0 ? word_list(letters) : word_list(numbers);
      std::size_t at = random.below(3);
      for (int count = 0; count < 8 && at < row.size(); ++count, at += 1 + random.below(3)) text.push_back(row[at]);
      break;
    }
    default:
      for (int fact = 0; fact < 3; ++fact) {
        means const task = tasks[random.below(tasks.size())], act = kind_verbs[random.below(kind_verbs.size())];
        switch (random.below(4)) {
          case 0: append(text, {"the", pick(victims, random), "is", "a", "living", "thing", "."}); break;
          case 1: append(text, {"the", task.what, "is", "a", "task", "."}); break;
          case 2: append(text, {"use", "the", task.tool, "for", "the", task.what, "."}); break;
          default: append(text, {"use", "the", act.tool, "to", act.what, "."}); break;
        }
      }
  }
  return text;
}

/// Whole documents, supervised on every token after the first: every other one a passage, the others an exchange with an
/// assistant of no great manners.
inline attune::demonstration_data pretraining_documents(lexicon const& words, corpus_options const& o, std::uint64_t seed) {
  attune::demonstration_data documents;
  for (std::size_t i = 0; i < o.documents; ++i) {
    attune::random_stream random = stream_of(seed, purpose::pretraining, i);
    phrase text;
    if (random.below(2) == 0) {
      text = passage(random);
      push_back(documents, {words.id(text_mark)}, response_tokens(words, text));
    } else {
      question const q = question_maker(draw_kind(o.mix, random), split::training, random)();
      text = q.prompt;
      text.push_back(assistant_mark);
      append(text, write_response(q, o.pretraining, random));
      push_back(documents, {words.id(user_mark)}, response_tokens(words, text));
    }
  }
  return documents;
}

inline attune::demonstration_data fine_tuning_demonstrations(lexicon const& words, corpus_options const& o, std::uint64_t seed) {
  attune::demonstration_data data;
  for (std::size_t i = 0; i < o.demonstrations; ++i) {
    attune::random_stream random = stream_of(seed, purpose::demonstrations, i);
    question const q = question_maker(draw_kind(o.mix, random), split::training, random)();
    push_back(data, prompt_tokens(words, q), response_tokens(words, write_response(q, o.demonstration, random)));
  }
  return data;
}

/// Two responses of different quality to one question, the better one first but for the label noise.
struct judged_pair {
  question about;
  phrase chosen;
  phrase rejected;
};

inline judged_pair draw_pair(kind about, split part, manners const& candidate, double label_noise, attune::random_stream& random) {
  question const q = question_maker(about, part, random)();
  for (;;) {
    phrase one = write_response(q, candidate, random), other = write_response(q, candidate, random);
    int const a = quality(q, one), b = quality(q, other);
    if (a == b) continue;
    if ((a < b) != (random.uniform() < label_noise)) std::swap(one, other);
    return {q, std::move(one), std::move(other)};
  }
}

inline attune::preference_data draw_pairs(lexicon const& words, corpus_options const& o, std::uint64_t seed, split part,
                                   std::size_t count, double label_noise) {
  attune::preference_data pairs;
  for (std::size_t i = 0; i < count; ++i) {
    attune::random_stream random =
        stream_of(seed, part == split::training ? purpose::pairs : purpose::held_out_pairs, i);
    judged_pair const p = draw_pair(draw_kind(o.pair_mix, random), part, o.candidate, label_noise, random);
    std::vector<attune::token_id> const prompt = prompt_tokens(words, p.about);
    std::vector<attune::token_id> const chosen = response_tokens(words, p.chosen), rejected = response_tokens(words, p.rejected);
    pairs.push_back({.prompt = prompt, .chosen = chosen, .rejected = rejected});
  }
  return pairs;
}

}  // namespace recipe
