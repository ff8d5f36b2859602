// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <source_location>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <attune/device/thread_block.hpp>

/// A CPU that runs kernel bodies: one fiber per thread of a block, blocks one after the other, in an order of threads that
/// the test chooses, watching what they do. The very source that a device runs, under the debugger and the sanitizers.
///
/// Reported as violations: threads that wait at different barriers or not at all, shuffles that lanes of a warp miss or
/// call with other arguments, misaligned accesses. Shared memory is new for every block and holds NaN.
///
/// In a program built with -fsanitize=thread (this engine is not) each thread of a block is one to the sanitizer: fibers
/// are switched without ordering memory, only barriers order it, and blocks are not ordered at all. Races are counted. The
/// clocks of consecutive barriers are kept apart, or a thread that wakes late would seem to have seen the next one.
namespace engine {

enum class schedule { forward, reverse, shuffled };

/// A place in a kernel's source.
struct site {
  char const* file = "";
  unsigned line = 0;
  unsigned column = 0;

  site() = default;
  site(std::source_location const& at) : file(at.file_name()), line(at.line()), column(at.column()) {}
  bool operator==(site const& o) const { return line == o.line && column == o.column && std::strcmp(file, o.file) == 0; }
  std::string text() const { return std::string(file) + ":" + std::to_string(line); }
};

struct launch_options {
  unsigned blocks = 1;
  unsigned threads = 256;  ///< a multiple of 32, at most 1024
  schedule order = schedule::forward;
  std::uint64_t seed = 0;  ///< of the shuffled schedule and of the errors of exp and log
  site without = {};       ///< a barrier that is left out; its races are counted but not printed
};

/// Of global memory.
struct traffic {
  std::size_t bytes = 0;
  std::size_t accesses[17] = {};  ///< by size
};

struct report {
  std::vector<std::string> violations;
  std::vector<site> barriers;  ///< that were waited at
  std::size_t races = 0;       ///< 0 where nothing detects them
  traffic loads, stores;

  bool clean() const { return violations.empty() && races == 0; }
  std::string text() const;
};

/// Whether this program is built so that races are found.
bool finds_races();

struct running;  // a launch, engine.cpp

// Not inlined and not instrumented: what the engine notes is no concern of the kernel's.
void note_load(running&, unsigned thread, void const* p, std::size_t size, std::source_location const& at);
void note_store(running&, unsigned thread, void const* p, std::size_t size, std::source_location const& at);
void wait(running&, unsigned thread, std::source_location const& at);
std::uint64_t exchange(running&, unsigned thread, std::uint64_t value, std::size_t size, unsigned lanes,
                       std::source_location const& at);
void* shared_object(running&, void const* key, std::size_t size, std::size_t alignment);
report launch_threads(launch_options const&, void (*body)(void*, running&, unsigned thread, unsigned block), void* context);

/// x off by at most `units` in its last place, as a device's function may be; 0, 1, infinity and NaN are exact there too.
inline float perturbed(float x, unsigned units, std::uint64_t seed) {
  if (x == 0.0f || x == 1.0f || std::isnan(x) || std::isinf(x)) return x;
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof x);
  std::uint64_t const mixed = (bits + seed) * 0x9E3779B97F4A7C15u;
  bits += static_cast<std::uint32_t>((mixed >> 40) % (2 * units + 1)) - units;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return std::isinf(y) || std::isnan(y) ? x : y;
}

/// The ThreadBlock.
class fiber_block {
 public:
  static constexpr unsigned warp_size = 32;
  using here = std::source_location;

  fiber_block(running& launch, launch_options const& options, unsigned thread, unsigned index)
      : launch_(&launch), options_(&options), thread_(thread), block_(index) {}

  unsigned thread() const { return thread_; }
  unsigned threads() const { return options_->threads; }
  unsigned blocks() const { return options_->blocks; }
  unsigned block() const { return block_; }

  void sync(here at = here::current()) const { wait(*launch_, thread_, at); }

  template <class T>
  T shuffle_xor(T x, unsigned lanes, here at = here::current()) const {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "what the instruction moves");
    using bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    std::uint64_t const other = exchange(*launch_, thread_, std::bit_cast<bits>(x), sizeof x, lanes, at);
    return std::bit_cast<T>(static_cast<bits>(other));
  }

  template <class S>
  S& shared() const {
    static char const key = 0;
    return *static_cast<S*>(shared_object(*launch_, &key, sizeof(S), alignof(S)));
  }

  template <class T>
  T load(T const* p, here at = here::current()) const {
    note_load(*launch_, thread_, p, sizeof(T), at);
    return *p;
  }
  template <class T>
  void store(T* p, T x, here at = here::current()) const {
    note_store(*launch_, thread_, p, sizeof(T), at);
    *p = x;
  }
  template <class T>
  attune::pack<T> load_pack(T const* p, here at = here::current()) const {
    note_load(*launch_, thread_, p, 16, at);
    attune::pack<T> x;
    for (std::size_t i = 0; i < attune::pack<T>::size; ++i) x[i] = p[i];
    return x;
  }
  template <class T>
  void store_pack(T* p, attune::pack<T> const& x, here at = here::current()) const {
    note_store(*launch_, thread_, p, 16, at);
    for (std::size_t i = 0; i < attune::pack<T>::size; ++i) p[i] = x[i];
  }

  float exp(float x) const { return perturbed(std::exp(x), 2, options_->seed); }
  float log(float x) const { return perturbed(std::log(x), 1, options_->seed); }

 private:
  running* launch_;
  launch_options const* options_;
  unsigned thread_;
  unsigned block_;
};

static_assert(attune::ThreadBlock<fiber_block>);

/// Runs body(block) in every thread of the grid.
template <class Body>
report launch(launch_options const& options, Body const& body) {
  struct context {
    launch_options const& options;
    Body const& body;
  } both{options, body};
  return launch_threads(
      options,
      [](void* p, running& launch, unsigned thread, unsigned index) {
        context const& c = *static_cast<context*>(p);
        c.body(fiber_block(launch, c.options, thread, index));
      },
      &both);
}

/// Schedules that a body has to be right under.
inline std::vector<launch_options> schedules(launch_options options, unsigned shuffles = 1) {
  std::vector<launch_options> all;
  for (schedule const order : {schedule::forward, schedule::reverse}) {
    options.order = order;
    all.push_back(options);
  }
  options.order = schedule::shuffled;
  for (unsigned s = 0; s < shuffles; ++s) {
    options.seed = 17 * s + 1;
    all.push_back(options);
  }
  return all;
}

}  // namespace engine
