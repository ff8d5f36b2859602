// SPDX-License-Identifier: MIT
#include <attune/train/checkpoint.hpp>

#include "support/temporary_folder.hpp"

#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

using namespace attune;
using attune::test::content_of;
using attune::test::temporary_folder;

namespace {

struct state {
  std::vector<double> weights{1.5, -2.0, 0.0};
  std::uint64_t counter = 7;
  std::vector<float> nothing;

  void visit(state_visitor f) {
    f("weights", std::as_writable_bytes(std::span(weights)));
    f("counter", std::as_writable_bytes(std::span(&counter, 1)));
    f("nothing", std::as_writable_bytes(std::span(nothing)));
  }
  bool operator==(state const&) const = default;
};

run_identity const identity{1, 2, 3};

void save(state& s, std::string const& path, std::uint64_t step = 12) {
  save_checkpoint(path, identity, step, [&](state_visitor f) { s.visit(f); });
}
std::uint64_t load(state& s, std::string const& path, run_identity const& who = identity) {
  return load_checkpoint(path, who, [&](state_visitor f) { s.visit(f); });
}
std::string refusal(std::string const& path, run_identity const& who = identity) {
  state s{{9.0, 9.0, 9.0}, 9, {}};
  state const before = s;
  try {
    load(s, path, who);
  } catch (data_error const& e) {
    CHECK(s == before);  // nothing half-read
    return e.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("checkpoint: what was saved comes back, with its step") {
  temporary_folder const folder;
  state saved, loaded{{0.0, 0.0, 0.0}, 0, {}};
  save(saved, folder / "a");
  CHECK(load(loaded, folder / "a") == 12);
  CHECK(loaded == saved);
}

TEST_CASE("checkpoint: a file cut short anywhere is refused and changes nothing") {
  temporary_folder const folder;
  state s;
  save(s, folder / "a");
  std::string const whole = content_of(folder / "a");
  for (std::size_t length = 0; length < whole.size(); ++length) {
    folder.file("b", whole.substr(0, length));
    std::string const why = refusal(folder / "b");
    CHECK(why != "accepted");
    CHECK(why.find(folder / "b" + ": byte ") == 0);
  }
  folder.file("b", whole + "x");
  CHECK(refusal(folder / "b").find("bytes after the end") != std::string::npos);
}

TEST_CASE("checkpoint: a flipped bit anywhere is refused and changes nothing") {
  temporary_folder const folder;
  state s;
  save(s, folder / "a");
  std::string const whole = content_of(folder / "a");
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 16);
    folder.file("b", damaged);
    CHECK(refusal(folder / "b") != "accepted");
  }
}

TEST_CASE("checkpoint: one of another model, other data or other options says which, with both fingerprints") {
  temporary_folder const folder;
  state s;
  save(s, folder / "a");
  CHECK(refusal(folder / "a", {9, 2, 3}).find(
            "a model of another shape (its fingerprint 0000000000000001, this run's 0000000000000009)") != std::string::npos);
  CHECK(refusal(folder / "a", {1, 9, 3}).find("other training data") != std::string::npos);
  CHECK(refusal(folder / "a", {1, 2, 9}).find("a run with other options") != std::string::npos);
}

TEST_CASE("checkpoint: pieces of another name, size or number are refused by name") {
  temporary_folder const folder;
  state s;
  save(s, folder / "a");
  auto const try_with = [&](std::vector<std::pair<std::string, std::size_t>> const& pieces) {
    std::vector<std::byte> memory(64);
    try {
      load_checkpoint(folder / "a", identity, [&](state_visitor f) {
        for (auto const& [name, size] : pieces) f(name, std::span(memory).first(size));
      });
    } catch (data_error const& e) {
      for (std::byte const b : memory) CHECK(b == std::byte{0});
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  CHECK(try_with({{"weights", 24}, {"counter", 8}, {"nothing", 0}}) == "accepted");
  CHECK(try_with({{"biases", 24}}).find("expected the piece \"biases\", found \"weights\"") != std::string::npos);
  CHECK(try_with({{"weights", 32}}).find("the piece \"weights\" has 24 bytes, expected 32") != std::string::npos);
  CHECK(try_with({{"weights", 24}}).find("a piece too many") != std::string::npos);
  CHECK(try_with({{"weights", 24}, {"counter", 8}, {"nothing", 0}, {"more", 0}}) != "accepted");
}

TEST_CASE("checkpoint: a file that is something else, or is not there, is refused by name") {
  temporary_folder const folder;
  folder.file("text", "once upon a time there was a file that was no checkpoint at all");
  CHECK(refusal(folder / "text").find("not an attune checkpoint") != std::string::npos);
  CHECK(refusal(folder / "absent").find(folder / "absent") == 0);
}

TEST_CASE("checkpoint: the folder keeps the last two and leaves other files alone") {
  temporary_folder const folder;
  checkpoint_folder const checkpoints(folder / "run");
  checkpoint_folder const again(folder / "run");  // may be there already
  folder.file("run/notes.txt", "mine");
  folder.file("run/step-7.checkpoint", "mine too: not a name of ours");
  CHECK(checkpoints.steps().empty());
  state s;
  for (std::uint64_t const step : std::vector<std::uint64_t>{5, 10, 100, 100000000}) {
    s.counter = step;
    checkpoints.save(identity, step, [&](state_visitor f) { s.visit(f); });
  }
  CHECK(checkpoints.steps() == std::vector<std::uint64_t>{100, 100000000});
  state loaded;
  CHECK(load(loaded, checkpoints.file(100)) == 100);
  CHECK(loaded.counter == 100);
  CHECK(content_of(folder / "run/notes.txt") == "mine");
  CHECK(content_of(folder / "run/step-7.checkpoint").size() > 0);
}

TEST_CASE("checkpoint: a save that fails leaves the file that was there") {
  temporary_folder const folder;
  state s;
  save(s, folder / "a");
  std::string const before = content_of(folder / "a");
  CHECK_THROWS_AS(save_checkpoint(folder / "a", identity, 13,
                                  [](state_visitor f) {
                                    f("weights", {});
                                    throw std::runtime_error("out of luck");
                                  }),
                  std::runtime_error);
  CHECK(content_of(folder / "a") == before);
  CHECK_THROWS_AS(checkpoint_folder(folder / "no/such/parent"), data_error);
}
