// SPDX-License-Identifier: MIT
#include <attune/io/json.hpp>
#include <attune/io/lines.hpp>
#include <attune/model/decoder.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "../../examples/stories/llama2c_file.hpp"

/// A real pretrained model: karpathy's stories260K, against its published text and against figures derived from it.
using namespace attune;

namespace {

std::string model_folder() {
  char const* const shared = std::getenv("ATTUNE_SHARED_DATA");
  if (shared == nullptr) return {};
  std::string const folder = std::string(shared) + "/models/stories260k/";
  return std::filesystem::exists(folder + "stories260K.bin") ? folder : std::string{};
}

#define REQUIRE_STORIES(folder)                                    \
  std::string const folder = model_folder();                       \
  if (folder.empty()) {                                            \
    MESSAGE("skipped: models/stories260k is not here");            \
    return;                                                        \
  }

std::vector<token_id> greedy(decoder<float>& model) {
  sequences prompt, out;
  prompt.push_back(std::vector<token_id>{stories::llama2c_tokenizer::begin_of_sequence}, {});
  model.generate(prompt, {.temperature = 0.0, .max_new_tokens = 256, .stop_tokens = {stories::llama2c_tokenizer::begin_of_sequence}}, out);
  auto const tokens = out.view().sequence(0);
  return {tokens.begin() + 1, tokens.end()};
}

}  // namespace

TEST_CASE("real data: stories260k writes its published greedy text, token for token") {
  REQUIRE_STORIES(folder)
  decoder<float> model = stories::load_llama2c<float>(folder + "stories260K.bin");
  CHECK(model.parameter_count() == 260032);
  std::vector<token_id> const tokens = greedy(model);

  std::vector<token_id> published;
  std::ifstream file(folder + "greedy_tokens.txt");
  for (token_id t; file >> t;) published.push_back(t);
  CHECK(tokens == published);
  stories::llama2c_tokenizer const tokenizer(folder + "tok512.bin", 512);
  CHECK(tokenizer.decode(tokens) == stories::read_whole_file(folder + "greedy.txt"));
}

TEST_CASE("real data: stories260k has its reference logits") {
  REQUIRE_STORIES(folder)
  decoder<double> model = stories::load_llama2c<double>(folder + "stories260K.bin");
  std::vector<token_id> tokens{stories::llama2c_tokenizer::begin_of_sequence};
  std::ifstream ids(folder + "greedy_tokens.txt");
  for (token_id t; ids >> t;) tokens.push_back(t);

  // The file holds logits; log-probabilities are their differences, so rows are compared after normalising.
  std::map<std::size_t, std::vector<double>> rows;
  std::ifstream csv(folder + "greedy_logits.csv");
  std::string line;
  std::getline(csv, line);
  while (std::getline(csv, line)) {
    std::size_t position, input, token;
    double logit;
    REQUIRE(std::sscanf(line.c_str(), "%zu,%zu,%zu,%lf", &position, &input, &token, &logit) == 4);
    CHECK(input == static_cast<std::size_t>(tokens[position]));
    rows[position].push_back(logit);
  }
  REQUIRE(rows.size() == 3);
  for (auto const& [position, logits] : rows) {
    REQUIRE(logits.size() == 512);
    double normalizer = 0.0;
    for (double const z : logits) normalizer += std::exp(z);
    normalizer = std::log(normalizer);
    sequences s;
    std::span<token_id const> const context(tokens.data(), position + 1);
    for (token_id v = 0; v < 512; ++v) s.push_back(context, std::vector<token_id>{v});
    std::vector<double> logps(s.total_tokens());
    model.log_probs(s, logps);
    double worst = 0.0;
    for (std::size_t v = 0; v < 512; ++v)
      worst = std::max(worst, std::abs(logps[s.view().offsets[v + 1] - 1] - (logits[v] - normalizer)));
    CHECK(worst < 2e-5);  // float32 logits of magnitude 10, seven digits
  }
}

TEST_CASE("real data: stories260k has the validation loss derived for the first 300 stories") {
  REQUIRE_STORIES(folder)
  std::string const stories = folder + "../../instructions/tinystories/stories.jsonl.gz";
  if (!std::filesystem::exists(stories)) {
    MESSAGE("skipped: instructions/tinystories is not here");
    return;
  }
  decoder<float> const model = stories::load_llama2c<float>(folder + "stories260K.bin", std::make_shared<thread_pool>(2));
  stories::llama2c_tokenizer const tokenizer(folder + "tok512.bin", 512);
  double sum = 0.0;
  std::size_t predictions = 0;
  std::size_t count = 0;
  line_reader lines(stories);
  for (std::string_view line; count < 300 && lines.next(line); ++count) {
    std::vector<token_id> tokens = tokenizer.encode(parse_json(line, "stories.jsonl.gz").find("text")->as_string());
    if (tokens.size() > 512) tokens.resize(512);
    sequences s;
    s.push_back(std::span(tokens).first(1), std::span(tokens).subspan(1));
    std::vector<float> logps(s.total_tokens());
    model.log_probs(s, logps);
    for (float const logp : logps) sum -= static_cast<double>(logp);
    predictions += tokens.size() - 1;
  }
  CHECK(predictions == 100275);
  CHECK(std::abs(sum / static_cast<double>(predictions) - 1.26639) < 1e-3);
  MESSAGE("mean nats per token: " << sum / static_cast<double>(predictions));
}
