// SPDX-License-Identifier: MIT
#pragma once

#include <attune/core/sequences.hpp>
#include <attune/model/decoder.hpp>

#include <bit>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

/// The legacy llama2.c formats (version 0): a weights file and its tokenizer. They live with the program that reads them
/// because nothing new is written in them; one model that matters, stories260K, is.
namespace stories {

using namespace attune;

inline std::string read_whole_file(std::string const& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

template <class T>
decoder<T> load_llama2c(std::string const& path, std::shared_ptr<thread_pool> pool = nullptr) {
  static_assert(std::endian::native == std::endian::little);
  std::string const bytes = read_whole_file(path);
  std::int32_t header[7];
  std::memcpy(header, bytes.data(), sizeof header);
  auto const field = [&](int i) { return static_cast<std::size_t>(std::abs(header[i])); };
  decoder<T> model({.vocabulary = field(5), .dim = field(0), .layers = field(2), .heads = field(3), .kv_heads = field(4),
                    .hidden = field(1), .window = field(6), .tied = header[5] > 0},
                   0, std::move(pool));
  std::map<std::string, std::span<T>> values;
  for (auto const& p : model.parameters()) values[std::string(p.name)] = p.value;

  std::size_t position = sizeof header;
  auto const fill = [&](std::span<T> into) {
    if (position + into.size() * 4 > bytes.size()) throw std::runtime_error(path + ": cut short");
    for (T& value : into) {
      float f;
      std::memcpy(&f, bytes.data() + position, 4);
      value = static_cast<T>(f);
      position += 4;
    }
  };
  fill(values.at("tok_embeddings.weight"));
  for (char const* name : {"attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo", "ffn_norm",
                           "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"})
    for (std::size_t l = 0; l < field(2); ++l) fill(values.at("layers." + std::to_string(l) + "." + name + ".weight"));
  fill(values.at("norm.weight"));
  position += 4 * field(6) * (field(0) / field(3));  // two rotary tables, computed here
  if (header[5] < 0) fill(values.at("output.weight"));
  if (position != bytes.size()) throw std::runtime_error(path + ": bytes left over");
  return model;
}

/// sentencepiece-style BPE as llama2.c runs it.
class llama2c_tokenizer {
 public:
  static constexpr token_id begin_of_sequence = 1;

  llama2c_tokenizer(std::string const& path, std::size_t vocabulary) {
    std::string const bytes = read_whole_file(path);
    std::size_t position = 4;
    for (std::size_t i = 0; i < vocabulary; ++i) {
      float score;
      std::int32_t length;
      std::memcpy(&score, bytes.data() + position, 4);
      std::memcpy(&length, bytes.data() + position + 4, 4);
      pieces_.push_back(bytes.substr(position + 8, static_cast<std::size_t>(length)));
      scores_.push_back(score);
      ids_.emplace(pieces_.back(), static_cast<token_id>(i));
      position += 8 + static_cast<std::size_t>(length);
    }
    // Which piece two neighbours make, for all pairs once: encoding asks millions of times.
    merged_.assign(vocabulary * vocabulary, -1);
    for (std::size_t a = 0; a < vocabulary; ++a)
      for (std::size_t b = 0; b < vocabulary; ++b)
        if (auto const found = ids_.find(pieces_[a] + pieces_[b]); found != ids_.end())
          merged_[a * vocabulary + b] = found->second;
  }

  std::vector<token_id> encode(std::string_view text) const {
    std::vector<token_id> out{begin_of_sequence};
    if (!text.empty()) out.push_back(ids_.at(" "));
    for (std::size_t i = 0; i < text.size();) {
      std::size_t length = 1;
      while (i + length < text.size() && length < 4 && (static_cast<unsigned char>(text[i + length]) & 0xC0) == 0x80) ++length;
      std::string const point(text.substr(i, length));
      if (auto const found = ids_.find(point); found != ids_.end())
        out.push_back(found->second);
      else
        for (char const byte : point) out.push_back(static_cast<unsigned char>(byte) + 3);
      i += length;
    }
    for (;;) {
      float best_score = -1e10f;
      std::size_t best = out.size();
      token_id merged = 0;
      for (std::size_t i = 0; i + 1 < out.size(); ++i) {
        token_id const candidate =
            merged_[static_cast<std::size_t>(out[i]) * pieces_.size() + static_cast<std::size_t>(out[i + 1])];
        if (candidate < 0 || scores_[static_cast<std::size_t>(candidate)] <= best_score) continue;
        best_score = scores_[static_cast<std::size_t>(candidate)];
        best = i;
        merged = candidate;
      }
      if (best == out.size()) return out;
      out[best] = merged;
      out.erase(out.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
  }

  std::string decode(std::span<token_id const> tokens) const {
    std::string text;
    token_id previous = begin_of_sequence;
    for (token_id const t : tokens) {
      std::string_view piece = pieces_[static_cast<std::size_t>(t)];
      if (previous == begin_of_sequence && piece.starts_with(' ')) piece.remove_prefix(1);
      if (piece.size() == 6 && piece.starts_with("<0x") && piece.ends_with('>'))
        text.push_back(static_cast<char>(std::stoi(std::string(piece.substr(3, 2)), nullptr, 16)));
      else
        text += piece;
      previous = t;
    }
    return text;
  }

 private:
  std::vector<std::string> pieces_;
  std::vector<float> scores_;
  std::map<std::string, token_id> ids_;
  std::vector<token_id> merged_;  // (vocabulary, vocabulary), -1 where two pieces make none
};

}  // namespace stories
