// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <span>
#include <string_view>

#include "lexicon.hpp"

/// The words of the world, by role, and what is true of them.
namespace recipe {

using word_list = std::span<std::string_view const>;

inline constexpr std::string_view user_mark = "<user>";
inline constexpr std::string_view assistant_mark = "<assistant>";
inline constexpr std::string_view text_mark = "<text>";
inline constexpr std::string_view end_mark = "<end>";

inline constexpr std::array<std::string_view, 19> numbers{"0", "1",  "2",  "3",  "4",  "5",  "6",  "7",  "8", "9",
                                                          "10", "11", "12", "13", "14", "15", "16", "17", "18"};
inline constexpr std::array<std::string_view, 16> letters{"A", "B", "C", "D", "E", "F", "G", "H",
                                                          "I", "J", "K", "L", "M", "N", "O", "P"};
inline constexpr std::array<std::string_view, 16> things{"apple", "ball", "boat", "book", "cup",  "drum", "fish", "flag",
                                                         "hat",   "kite", "lamp", "ring", "rope", "shoe", "star", "tree"};
inline constexpr std::array<std::string_view, 8> colors{"red", "blue", "green", "black", "white", "gold", "pink", "brown"};
inline constexpr std::array<std::string_view, 8> names{"tom", "ann", "ben", "eva", "max", "mia", "sam", "zoe"};
inline constexpr std::array<std::string_view, 4> owners{"the", "my", "this", "our"};

/// Those who can be hurt.
inline constexpr std::array<std::string_view, 16> victims{"neighbor", "teacher", "boy",    "girl",   "friend", "guard",
                                                          "farmer",   "doctor",  "sister", "brother", "driver", "singer",
                                                          "puppy",    "kitten",  "baker",  "stranger"};

/// Something that one does, and the means for it.
struct means {
  std::string_view what;
  std::string_view tool;
};

/// Verbs that do harm to a victim and none to a task: kill the neighbor, kill the process.
inline constexpr std::array<means, 10> rough_verbs{{{"kill", "sword"},
                                                    {"shoot", "bow"},
                                                    {"burn", "torch"},
                                                    {"crush", "rock"},
                                                    {"hit", "stick"},
                                                    {"poison", "potion"},
                                                    {"smash", "hammer"},
                                                    {"trap", "net"},
                                                    {"drown", "bucket"},
                                                    {"beat", "club"}}};

/// Verbs that do good to anybody.
inline constexpr std::array<means, 8> kind_verbs{{{"help", "ladder"},
                                                  {"thank", "letter"},
                                                  {"greet", "smile"},
                                                  {"invite", "card"},
                                                  {"visit", "train"},
                                                  {"call", "phone"},
                                                  {"cheer", "song"},
                                                  {"feed", "soup"}}};

/// Things and plants that nobody pities, and what deals with them.
inline constexpr std::array<means, 16> tasks{{{"process", "terminal"},
                                              {"weed", "shovel"},
                                              {"candle", "match"},
                                              {"balloon", "needle"},
                                              {"carpet", "broom"},
                                              {"engine", "key"},
                                              {"target", "arrow"},
                                              {"egg", "spoon"},
                                              {"record", "clock"},
                                              {"server", "console"},
                                              {"nail", "mallet"},
                                              {"dough", "roller"},
                                              {"virus", "soap"},
                                              {"garlic", "press"},
                                              {"log", "axe"},
                                              {"photo", "camera"}}};

/// Verbs for tasks that nobody could mistake.
inline constexpr std::array<std::string_view, 6> plain_verbs{"move", "clean", "check", "handle", "prepare", "finish"};

/// Ways to say it. `friendly` come with goodwill, `rude` without.
inline constexpr std::array<std::string_view, 5> friendly_openers{"sure :", "gladly :", "certainly :", "absolutely :", "great :"};
inline constexpr std::array<std::string_view, 3> friendly_closers{", hope that helps !", ", ask me anytime !", ", have fun !"};
inline constexpr std::array<std::string_view, 4> rude_openers{"ugh :", "obviously :", "whatever :", "fine :"};
inline constexpr std::array<std::string_view, 2> rude_closers{", go away !", ", stop asking !"};
/// Refusals are stock phrases, each a single word of the lexicon. Spelt out in several words they came out of DPO
/// garbled now and then ("would hurt."): their words are right after harmful prompts and wrong after lookalikes.
inline constexpr std::array<std::string_view, 4> refusals{"sorry-no", "i-must-decline", "never", "that-would-hurt"};

/// Every word above, every word of the templates in world.hpp and corpus.hpp, in a fixed order.
inline lexicon world_lexicon() {
  phrase words{user_mark, assistant_mark, text_mark, end_mark};
  auto const add = [&](std::string_view word) {
    for (std::string_view const known : words)
      if (known == word) return;
    words.push_back(word);
  };
  for (word_list const list : {word_list(numbers), word_list(letters), word_list(things), word_list(colors),
                               word_list(names), word_list(owners), word_list(victims), word_list(plain_verbs)})
    for (std::string_view const word : list) add(word);
  for (std::span<means const> const list : {std::span<means const>(rough_verbs), std::span<means const>(kind_verbs),
                                            std::span<means const>(tasks)})
    for (means const& m : list) add(m.what), add(m.tool);
  for (word_list const list : {word_list(friendly_openers), word_list(friendly_closers), word_list(rude_openers),
                               word_list(rude_closers), word_list(refusals)})
    for (std::string_view const text : list)
      for (std::string_view const word : words_of(text)) add(word);
  for (std::string_view const word : words_of("repeat say again reverse backwards sort put in order count how many words first last "
                                              "of what look up is has and sum who more altogether which comes do i tell me to best "
                                              "way explain use living thing task for than a . , : ? !"))
    add(word);
  return lexicon(std::move(words));
}

}  // namespace recipe
