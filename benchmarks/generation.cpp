// SPDX-License-Identifier: MIT
// Tokens per second of decoder::generate: prompts of one length are read, then every completion is sampled to its full
// length at temperature 1. Beside it the two limits that the machine sets, both measured in the same rounds: the
// operations of the new tokens' matrix products at the speed of one large product, and the weights' bytes, which must
// come from memory once per step of all prompts. With --pytorch the same model is run by generation_pytorch.py, and its
// first greedy tokens are held against ours.
//
// Every candidate runs once per round, so that a change in the machine's mood meets all of them; ratios are taken within
// a round and their median is reported.
//
//   generation [--dim N] [--layers N] [--heads N] [--hidden N] [--vocabulary N] [--prompts N] [--prompt-tokens N]
//              [--new-tokens N] [--rounds N] [--threads MOST] [--pytorch PYTHON] [--json FILE]
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <attune/backend/eigen_gemm.hpp>
#include <attune/core/aligned_buffer.hpp>
#include <attune/core/parallel.hpp>
#include <attune/io/model_file.hpp>
#include <attune/model/decoder.hpp>

namespace {

using namespace attune;

struct settings {
  decoder_options model{.vocabulary = 4096, .dim = 256, .layers = 6, .heads = 8, .kv_heads = 8, .hidden = 688};
  std::size_t prompts = 64;
  std::size_t prompt_tokens = 32;
  std::size_t new_tokens = 64;
  std::size_t rounds = 5;
  std::size_t threads = 2;  // 1, 2, 4 ... up to this are measured
  std::string python, json;
};

struct sample {
  double ours = 0.0, product = 0.0, bytes = 0.0, pytorch = 0.0;  // seconds; of the limits: for the same work
};

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <class F>
double seconds(F const& f) {
  double const start = now();
  f();
  return now() - start;
}

template <class F>
double median(std::vector<sample> const& samples, F const& f) {
  std::vector<double> x;
  for (sample const& s : samples) x.push_back(f(s));
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

/// generation_pytorch.py in a process of its own; a line in, a line out.
class pytorch_program {
 public:
  pytorch_program(settings const& o, std::string const& weights) {
    std::string const script = (std::filesystem::path(__FILE__).parent_path() / "generation_pytorch.py").string();
    std::vector<std::string> words{o.python, script, weights};
    for (std::size_t const n : {o.model.vocabulary, o.model.dim, o.model.layers, o.model.heads, o.model.kv_heads, o.model.hidden,
                                o.prompts, o.prompt_tokens, o.new_tokens})
      words.push_back(std::to_string(n));
    words.push_back(std::to_string(o.model.rope_theta));
    words.push_back(std::to_string(o.model.norm_epsilon * 1e9) + "e-9");
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    int to[2], from[2];
    if (pipe(to) != 0 || pipe(from) != 0) return;
    child_ = fork();
    if (child_ == 0) {
      dup2(to[0], 0);
      dup2(from[1], 1);
      for (int const end : {to[0], to[1], from[0], from[1]}) close(end);
      execvp(arguments[0], arguments.data());
      _exit(127);
    }
    close(to[0]);
    close(from[1]);
    to_ = fdopen(to[1], "w");
    from_ = fdopen(from[0], "r");
    greeting_ = line();
  }
  pytorch_program(pytorch_program const&) = delete;
  pytorch_program& operator=(pytorch_program const&) = delete;
  ~pytorch_program() {
    if (to_ != nullptr) std::fclose(to_);
    if (from_ != nullptr) std::fclose(from_);
    if (child_ > 0) waitpid(child_, nullptr, 0);
  }

  bool ready() const { return greeting_.starts_with("ready "); }
  std::string name() const { return ready() ? greeting_.substr(6) : greeting_; }

  std::string ask(std::string const& command) {
    std::fprintf(to_, "%s\n", command.c_str());
    std::fflush(to_);
    std::string const answer = line();
    if (answer.empty()) throw std::runtime_error("generation_pytorch.py ended before its time");
    return answer;
  }

 private:
  std::string line() {
    std::string text;
    for (int c; from_ != nullptr && (c = std::fgetc(from_)) != EOF && c != '\n';) text += static_cast<char>(c);
    return text;
  }

  pid_t child_ = -1;
  std::FILE* to_ = nullptr;
  std::FILE* from_ = nullptr;
  std::string greeting_;
};

sequences make_prompts(settings const& o) {
  sequences out;
  for (std::size_t b = 0; b < o.prompts; ++b) {
    std::vector<token_id> text;
    for (std::size_t i = 0; i < o.prompt_tokens; ++i)
      text.push_back(static_cast<token_id>((b * 7919 + i * 104729) % o.model.vocabulary));
    out.push_back(text, {});
  }
  return out;
}

/// Weights that a new token is multiplied with.
double weights_per_token(decoder_options const& o) {
  return static_cast<double>(o.layers * o.dim * (qkv_width(o) + o.dim + 3 * o.hidden) + o.dim * o.vocabulary);
}

/// How long the products of the new tokens would take as one product of 512 rows by 1024 by 1024 after another.
double product_seconds(settings const& o, thread_pool& pool) {
  std::size_t constexpr rows = 512, width = 1024, repeats = 4;
  static aligned_buffer<float> a(rows * width), b(width * width), c(rows * width);
  double const took = seconds([&] {
    pool.for_each(repeats * rows / 64, [&](std::size_t task, std::size_t) {
      std::size_t const first = task % (rows / 64) * 64 * width;
      gemm_nt<float>(as_matrix<float const>(a.data() + first, 64, width), as_matrix<float const>(b.data(), width, width),
                     as_matrix(c.data() + first, 64, width));
    });
  });
  double const work = weights_per_token(o.model) * static_cast<double>(o.prompts * o.new_tokens);
  return took * work / static_cast<double>(repeats * rows * width * width);
}

/// How long it takes to read the weights once per step, from the memory they lie in.
double bytes_seconds(settings const& o, decoder<float>& model, thread_pool& pool) {
  std::vector<std::span<float const>> pieces;
  for (auto const& p : model.parameters())
    for (std::size_t first = 0; first < p.value.size(); first += 65536)
      pieces.push_back(p.value.subspan(first, std::min<std::size_t>(65536, p.value.size() - first)));
  static std::vector<float> sink;
  sink.assign(pieces.size(), 0.0f);
  std::size_t constexpr repeats = 8;
  double const took = seconds([&] {
    for (std::size_t i = 0; i < repeats; ++i)
      pool.for_each(pieces.size(), [&](std::size_t task, std::size_t) {
        lane_group<float> sums = lane_group<float>::filled(0.0f);
        for (std::size_t j = 0; j + lane_group<float>::size <= pieces[task].size(); j += lane_group<float>::size) {
          lane_group<float> const x = lane_group<float>::load(pieces[task].data() + j);
          for (std::size_t r = 0; r < lane_group<float>::registers; ++r) sums.part[r] += x.part[r];
        }
        sink[task] += static_cast<float>(sums.total());
      });
  });
  return took / static_cast<double>(repeats) * static_cast<double>(o.new_tokens);
}

std::vector<sample> measure(settings const& o, std::size_t threads, std::string const& weights, pytorch_program* pytorch) {
  auto const pool = std::make_shared<thread_pool>(threads);
  decoder<float> model(o.model, 1, pool);
  load_parameters(weights, model.parameters());
  sequences const prompts = make_prompts(o);
  sequences out;
  std::vector<sample> samples;
  for (std::size_t round = 0; round < o.rounds + 1; ++round) {
    sample s;
    s.ours = seconds([&] { model.generate(prompts, {.max_new_tokens = o.new_tokens, .seed = round}, out); });
    if (pytorch != nullptr) s.pytorch = std::strtod(pytorch->ask("round " + std::to_string(threads)).c_str(), nullptr);
    s.product = product_seconds(o, *pool);
    s.bytes = bytes_seconds(o, model, *pool);
    if (round > 0) samples.push_back(s);  // the first one warms up
  }
  return samples;
}

/// The share of the first greedy tokens that are the same in both programs: 1 but for ties within rounding.
double agreement(settings const& o, std::string const& weights, pytorch_program& pytorch) {
  std::size_t const steps = std::min<std::size_t>(8, o.new_tokens);
  decoder<float> model(o.model);
  load_parameters(weights, model.parameters());
  sequences out;
  model.generate(make_prompts(o), {.temperature = 0.0, .max_new_tokens = steps}, out);
  std::istringstream theirs(pytorch.ask("greedy " + std::to_string(steps)));
  std::size_t same = 0;
  for (std::size_t b = 0; b < o.prompts; ++b)
    for (std::size_t i = 0; i < steps; ++i) {
      token_id token = -1;
      theirs >> token;
      same += token == out.view().sequence(b)[o.prompt_tokens + i];
    }
  return static_cast<double>(same) / static_cast<double>(o.prompts * steps);
}

settings parse(int count, char** words) {
  settings o;
  std::map<std::string, std::size_t*> const numbers{
      {"--dim", &o.model.dim},       {"--layers", &o.model.layers},         {"--heads", &o.model.heads},
      {"--hidden", &o.model.hidden}, {"--vocabulary", &o.model.vocabulary}, {"--prompts", &o.prompts},
      {"--rounds", &o.rounds},       {"--prompt-tokens", &o.prompt_tokens}, {"--new-tokens", &o.new_tokens},
      {"--threads", &o.threads}};
  for (int i = 1; i < count; i += 2) {
    std::string const word = words[i];
    char const* const value = i + 1 < count ? words[i + 1] : nullptr;
    auto const number = numbers.find(word);
    if (number != numbers.end()) {
      char* end = nullptr;
      long const n = value == nullptr ? 0 : std::strtol(value, &end, 10);
      if (n < 1 || *end != '\0') {
        std::fprintf(stderr, "generation: %s wants a number >= 1\n", word.c_str());
        std::exit(2);
      }
      *number->second = static_cast<std::size_t>(n);
    } else if (word == "--pytorch" && value != nullptr) {
      o.python = value;
    } else if (word == "--json" && value != nullptr) {
      o.json = value;
    } else {
      std::fprintf(stderr,
                   "usage: generation [--dim N] [--layers N] [--heads N] [--hidden N] [--vocabulary N] [--prompts N]\n"
                   "                  [--prompt-tokens N] [--new-tokens N] [--rounds N] [--threads MOST]\n"
                   "                  [--pytorch PYTHON] [--json FILE]\n");
      std::exit(word == "--help" ? 0 : 2);
    }
  }
  o.model.kv_heads = o.model.heads;
  o.model.window = o.prompt_tokens + o.new_tokens;
  return o;
}

void run(settings const& o) {
  std::string const weights =
      (std::filesystem::temp_directory_path() / ("generation_benchmark_" + std::to_string(getpid()) + ".safetensors")).string();
  struct remover {
    std::string path;
    ~remover() { std::filesystem::remove(path); }
  } const removed_at_the_end{weights};
  {
    decoder<float> model(o.model, 1);
    for (auto const& p : model.parameters())  // of the size that training gives: logits far enough apart to compare
      if (p.name == "tok_embeddings.weight")
        for (float& v : p.value) v *= 4.0f;
    save_parameters(weights, model.parameters());
    std::printf("f32, %zu parameters, %zu prompts of %zu tokens, %zu new tokens each, registers of %zu bytes, median of %zu rounds\n",
                model.parameter_count(), o.prompts, o.prompt_tokens, o.new_tokens, register_bytes, o.rounds);
  }
  std::unique_ptr<pytorch_program> pytorch;
  std::string pytorch_name;
  double same = 0.0;
  if (!o.python.empty()) {
    pytorch = std::make_unique<pytorch_program>(o, weights);
    pytorch_name = pytorch->name();
    if (pytorch->ready()) {
      same = agreement(o, weights, *pytorch);
      std::printf("%s; of its first greedy tokens %.1f %% are ours\n", pytorch_name.c_str(), 100.0 * same);
    } else {
      std::printf("skipped: PyTorch, which %s does not run. %s\n", o.python.c_str(), pytorch_name.c_str());
      pytorch.reset();
    }
  }
  std::ofstream json;
  if (!o.json.empty()) {
    json.open(o.json);
    if (!json) throw std::runtime_error("cannot write " + o.json);
    json << "{\"benchmark\": \"generation\", \"dtype\": \"f32\", \"compiler\": \"" << __VERSION__ << "\", \"register_bytes\": "
         << register_bytes << ", \"dim\": " << o.model.dim << ", \"layers\": " << o.model.layers << ", \"vocabulary\": "
         << o.model.vocabulary << ", \"hidden\": " << o.model.hidden << ", \"prompts\": " << o.prompts << ", \"prompt_tokens\": "
         << o.prompt_tokens << ", \"new_tokens\": " << o.new_tokens << ", \"rounds\": " << o.rounds;
    if (pytorch) json << ", \"pytorch\": \"" << pytorch_name << "\", \"greedy_agreement\": " << same;
    json << ", \"cases\": [";
  }
  std::printf("%8s %12s %18s %18s %10s", "threads", "tokens/s", "limit by products", "limit by weights", "of limit");
  if (pytorch) std::printf(" %12s %16s", "PyTorch", "over PyTorch");
  std::printf("\n");
  double const tokens = static_cast<double>(o.prompts * o.new_tokens);
  for (std::size_t threads = 1; threads <= o.threads; threads *= 2) {
    std::vector<sample> const samples = measure(o, threads, weights, pytorch.get());
    double const ours = median(samples, [&](sample s) { return tokens / s.ours; });
    double const product = median(samples, [&](sample s) { return tokens / s.product; });
    double const bytes = median(samples, [&](sample s) { return tokens / s.bytes; });
    double const share = median(samples, [](sample s) { return std::max(s.product, s.bytes) / s.ours; });
    double const theirs = pytorch ? median(samples, [&](sample s) { return tokens / s.pytorch; }) : 0.0;
    double const ratio = pytorch ? median(samples, [](sample s) { return s.pytorch / s.ours; }) : 0.0;
    std::printf("%8zu %12.0f %18.0f %18.0f %9.0f%%", threads, ours, product, bytes, 100.0 * share);
    if (pytorch) std::printf(" %12.0f %16.2f", theirs, ratio);
    std::printf("\n");
    if (json.is_open()) {
      json << (threads == 1 ? "" : ", ") << "{\"threads\": " << threads << ", \"tokens_per_second\": " << ours
           << ", \"limit_by_products\": " << product << ", \"limit_by_weights\": " << bytes << ", \"of_limit\": " << share;
      if (pytorch) json << ", \"pytorch_tokens_per_second\": " << theirs << ", \"over_pytorch\": " << ratio;
      json << "}";
    }
  }
  if (json.is_open()) {
    json << "]}\n";
    json.close();
    if (!json) throw std::runtime_error("could not write " + o.json + " to its end");
  }
}

}  // namespace

int main(int count, char** words) {
  settings const o = parse(count, words);
  std::signal(SIGPIPE, SIG_IGN);  // a program that ended is reported
  try {
    run(o);
  } catch (std::exception const& e) {
    std::fprintf(stderr, "generation: %s\n", e.what());
    return 1;
  }
}
