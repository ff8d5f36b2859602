// SPDX-License-Identifier: MIT
#include "support/engine.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <numeric>

// What a sanitizer brings along; null in a program without it.
extern "C" {
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_destroy_fiber(void* fiber);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* address);
[[gnu::weak]] void __tsan_release(void* address);
[[gnu::weak]] void AnnotateIgnoreWritesBegin(char const* file, int line);
[[gnu::weak]] void AnnotateIgnoreWritesEnd(char const* file, int line);
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** keep, void const* bottom, std::size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* kept, void const** bottom, std::size_t* size);
[[gnu::weak]] void __asan_unpoison_memory_region(void const volatile* p, std::size_t size);

char const* __tsan_default_options();
char const* __tsan_default_options() {
  // A race is reported every time, and the tests decide what it means.
  return "suppress_equal_stacks=0:suppress_equal_addresses=0:exitcode=0:report_atomic_races=0";
}

static std::size_t races_seen = 0;
void __tsan_on_report(void*);
void __tsan_on_report(void*) { ++races_seen; }
}

namespace engine {
namespace {

constexpr std::size_t stack_size = std::size_t{64} << 10;
constexpr unsigned warp_size = 32;
constexpr unsigned most_threads = 1024;
constexpr unsigned without_ordering = 1;  // a flag of __tsan_switch_to_fiber
constexpr std::size_t most_violations = 4;
constexpr std::size_t most_races = 4;  // a report costs a hundredth of a second

enum class state { ready, at_barrier, at_shuffle, ended };

struct fiber {
  ucontext_t context;
  void* resume[5];  // of __builtin_setjmp
  bool started = false;
  state is = state::ready;
  site where;
  void* to_sanitizer = nullptr;
  void* fake_stack = nullptr;
  std::byte* stack = nullptr;
  std::uint64_t value = 0;
  std::size_t size = 0;
  unsigned lanes = 0;
};

struct shared_entry {
  void const* key;
  void* object;
};

}  // namespace

struct running {
  launch_options const& options;
  void (*body)(void*, running&, unsigned, unsigned);
  void* context;
  report result;
  std::vector<fiber> fibers;
  fiber scheduler;
  unsigned block = 0;
  unsigned current = 0;
  std::size_t epoch = 0;  // barriers passed by this block
  std::vector<shared_entry> shared;
  std::vector<void*> to_free;
  std::vector<std::uint64_t> tags;  // addresses for the sanitizer: two per block, start and end
  std::vector<unsigned> order;
  std::uint64_t random;
  std::size_t races_before = 0;
  bool abandoned = false;
  void const* main_stack = nullptr;
  std::size_t main_stack_size = 0;

  void* start_tag() { return &tags[tags.size() - 2]; }
  void* end_tag() { return &tags[tags.size() - 1]; }
  void violate(std::string text) {
    abandoned = true;
    if (result.violations.size() < most_violations) result.violations.push_back(std::move(text));
  }
};

namespace {

running* entered = nullptr;  // what a new fiber finds its launch by

/// What fibers stand on, kept between launches, since a sanitizer is slow to make them. Where races are found every block of
/// a grid has its own, or one's locals and threads would be the other's.
struct ground {
  std::byte* stacks = nullptr;
  std::vector<void*> to_sanitizer;

  ground() {
    void* const memory = mmap(nullptr, most_threads * stack_size, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    stacks = static_cast<std::byte*>(memory);
  }
  void* thread(unsigned t) {
    while (__tsan_create_fiber && to_sanitizer.size() <= t) to_sanitizer.push_back(__tsan_create_fiber(0));
    return __tsan_create_fiber ? to_sanitizer[t] : nullptr;
  }
  /// After an abandoned block: what its threads were in the midst of is forgotten.
  void forget(unsigned threads) {
    for (void* const fiber : to_sanitizer) __tsan_destroy_fiber(fiber);
    to_sanitizer.clear();
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(stacks, threads * stack_size);
  }
};

std::deque<ground> grounds;  // never given back

#if defined(__clang__)
void change(running& r, fiber& from, fiber& to) {
  entered = &r;
  swapcontext(&from.context, &to.context);
}
#else
/// As swapcontext, without its system call for the signal mask: a quarter of the tests' time. Not so with clang, whose
/// __builtin_longjmp does not find its way to another stack.
[[gnu::noinline, noreturn, gnu::no_sanitize_address]] void jump(void** to) { __builtin_longjmp(to, 1); }

[[gnu::noinline, gnu::no_sanitize_address]] void change(running& r, fiber& from, fiber& to) {
  if (__builtin_setjmp(from.resume) != 0) return;
  if (&to == &r.scheduler || to.started) jump(to.resume);
  to.started = true;
  entered = &r;
  setcontext(&to.context);
}
#endif

[[gnu::noinline, gnu::no_sanitize_address]] void switch_to(running& r, fiber& from, fiber& to, bool last) {
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(to.to_sanitizer, without_ordering);
  bool const back = &to == &r.scheduler;
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack, back ? r.main_stack : to.stack,
                                   back ? r.main_stack_size : stack_size);
  change(r, from, to);
}

/// The rest of a switch, on the other side.
[[gnu::noinline, gnu::no_sanitize_address]] void arrived(running& r, fiber& here) {
  if (!__sanitizer_finish_switch_fiber) return;
  bool const from_scheduler = &here != &r.scheduler;
  __sanitizer_finish_switch_fiber(here.fake_stack, from_scheduler ? &r.main_stack : nullptr,
                                  from_scheduler ? &r.main_stack_size : nullptr);
}

void yield(running& r, fiber& f) {
  switch_to(r, f, r.scheduler, false);
  arrived(r, f);
}

[[gnu::no_sanitize_address]] void enter() {
  running& r = *entered;
  unsigned const thread = r.current;
  fiber& f = r.fibers[thread];
  arrived(r, f);
  if (__tsan_acquire) __tsan_acquire(r.start_tag());
  r.body(r.context, r, thread, r.block);
  if (__tsan_release) __tsan_release(r.end_tag());
  f.is = state::ended;
  switch_to(r, f, r.scheduler, true);
  std::abort();  // never resumed
}

std::string thread_text(running const& r, unsigned thread) {
  return "thread " + std::to_string(thread) + " of block " + std::to_string(r.block);
}

std::string place_text(fiber const& f) {
  switch (f.is) {
    case state::at_barrier: return "waits at the barrier " + f.where.text();
    case state::at_shuffle: return "waits in the shuffle " + f.where.text();
    case state::ended: return "has ended";
    default: return "runs";
  }
}

/// Every warp whose lanes are all in one shuffle goes on.
bool exchange_lanes(running& r) {
  bool progress = false;
  for (unsigned first = 0; first < r.options.threads; first += warp_size) {
    fiber* const warp = &r.fibers[first];
    if (!std::all_of(warp, warp + warp_size, [](fiber const& f) { return f.is == state::at_shuffle; })) continue;
    for (unsigned lane = 0; lane < warp_size; ++lane)
      if (!(warp[lane].where == warp[0].where) || warp[lane].lanes != warp[0].lanes || warp[lane].size != warp[0].size)
        return r.violate("lanes of a warp are in different shuffles: " + thread_text(r, first) + " " + place_text(warp[0]) +
                         ", " + thread_text(r, first + lane) + " " + place_text(warp[lane]) + " with " +
                         std::to_string(warp[0].lanes) + " and " + std::to_string(warp[lane].lanes)),
               false;
    if (warp[0].lanes == 0 || warp[0].lanes >= warp_size)
      return r.violate("a shuffle with lanes outside the warp: " + std::to_string(warp[0].lanes) + " at " +
                       warp[0].where.text()),
             false;
    std::uint64_t values[warp_size];
    for (unsigned lane = 0; lane < warp_size; ++lane) values[lane] = warp[lane].value;
    for (unsigned lane = 0; lane < warp_size; ++lane) {
      warp[lane].value = values[lane ^ warp[0].lanes];
      warp[lane].is = state::ready;
    }
    progress = true;
  }
  return progress;
}

/// Lets a block on that waits as a whole; what keeps it from going on is a violation.
bool advance(running& r) {
  bool const exchanged = exchange_lanes(r);
  if (exchanged || r.abandoned) return exchanged;
  for (unsigned t = 0; t < r.options.threads; ++t)
    if (r.fibers[t].is == state::at_shuffle) {
      unsigned const first = t / warp_size * warp_size;
      for (unsigned other = first; other < first + warp_size; ++other)
        if (r.fibers[other].is != state::at_shuffle)
          return r.violate("a lane does not take part in a shuffle: " + thread_text(r, t) + " " + place_text(r.fibers[t]) +
                           ", " + thread_text(r, other) + " " + place_text(r.fibers[other])),
                 false;
    }
  fiber const& first = r.fibers[0];
  for (unsigned t = 1; t < r.options.threads; ++t)
    if (r.fibers[t].is != first.is || (first.is == state::at_barrier && !(r.fibers[t].where == first.where)))
      return r.violate("threads wait at different barriers: " + thread_text(r, 0) + " " + place_text(first) + ", " +
                       thread_text(r, t) + " " + place_text(r.fibers[t])),
             false;
  if (first.is == state::ended) return false;
  if (std::find(r.result.barriers.begin(), r.result.barriers.end(), first.where) == r.result.barriers.end())
    r.result.barriers.push_back(first.where);
  for (fiber& f : r.fibers) f.is = state::ready;
  ++r.epoch;
  return true;
}

[[gnu::noinline]] void prepare(ucontext_t& start, std::byte* stack) {
  getcontext(&start);
  start.uc_stack.ss_sp = stack;
  start.uc_stack.ss_size = stack_size;
  start.uc_link = nullptr;
  makecontext(&start, enter, 0);
}

void run_block(running& r, ground& on) {
  unsigned const threads = r.options.threads;
  r.shared.clear();
  r.epoch = 0;
  for (unsigned t = 0; t < threads; ++t) {
    fiber& f = r.fibers[t];
    f.stack = on.stacks + t * stack_size;
    f.is = state::ready;
    f.started = false;
    f.fake_stack = nullptr;
    prepare(f.context, f.stack);
    f.to_sanitizer = on.thread(t);
  }
  std::iota(r.order.begin(), r.order.end(), 0u);
  if (r.options.order == schedule::reverse) std::reverse(r.order.begin(), r.order.end());
  do {
    if (r.options.order == schedule::shuffled)
      for (std::size_t i = r.order.size(); i > 1; --i) {
        r.random = r.random * 6364136223846793005u + 1442695040888963407u;
        std::swap(r.order[i - 1], r.order[static_cast<std::size_t>((r.random >> 33) % i)]);
      }
    for (unsigned const t : r.order) {
      if (r.fibers[t].is != state::ready) continue;
      r.current = t;
      switch_to(r, r.scheduler, r.fibers[t], false);
      arrived(r, r.scheduler);
      if (races_seen - r.races_before > most_races) r.abandoned = true;
      if (r.abandoned) break;
    }
  } while (!r.abandoned && advance(r));
  if (!r.abandoned) return;
  for (fiber& f : r.fibers)  // what they did comes before whatever the test does now
    if (__tsan_release && f.is != state::ended) {
      __tsan_switch_to_fiber(f.to_sanitizer, without_ordering);
      __tsan_release(r.end_tag());
      __tsan_switch_to_fiber(r.scheduler.to_sanitizer, without_ordering);
    }
  on.forget(r.options.threads);
}

/// Nothing on the terminal while a race is wanted.
class silence {
 public:
  explicit silence(bool wanted) {
    if (!wanted) return;
    std::fflush(stderr);
    kept_ = dup(STDERR_FILENO);
    int const nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, STDERR_FILENO);
    close(nowhere);
  }
  silence(silence const&) = delete;
  silence& operator=(silence const&) = delete;
  ~silence() {
    if (kept_ < 0) return;
    dup2(kept_, STDERR_FILENO);
    close(kept_);
  }

 private:
  int kept_ = -1;
};

void check_aligned(running& r, unsigned thread, void const* p, std::size_t size, std::source_location const& at) {
  if (reinterpret_cast<std::uintptr_t>(p) % size != 0)
    r.violate("misaligned access of " + std::to_string(size) + " bytes by " + thread_text(r, thread) + " at " +
              site(at).text());
}

void count(traffic& t, std::size_t size) {
  t.bytes += size;
  ++t.accesses[size];
}

/// A fiber of an abandoned block stops where it is.
void stop_if_abandoned(running& r, unsigned thread) {
  if (r.abandoned) yield(r, r.fibers[thread]);
}

}  // namespace

bool finds_races() { return __tsan_create_fiber != nullptr; }

void note_load(running& r, unsigned thread, void const* p, std::size_t size, std::source_location const& at) {
  check_aligned(r, thread, p, size, at);
  count(r.result.loads, size);
  stop_if_abandoned(r, thread);
}

void note_store(running& r, unsigned thread, void const* p, std::size_t size, std::source_location const& at) {
  check_aligned(r, thread, p, size, at);
  count(r.result.stores, size);
  stop_if_abandoned(r, thread);
}

void wait(running& r, unsigned thread, std::source_location const& at) {
  site const here(at);
  if (here == r.options.without) return;
  fiber& f = r.fibers[thread];
  void* const tag = &r.tags[2 * r.block + r.epoch % 2];
  if (__tsan_release) __tsan_release(tag);
  f.is = state::at_barrier;
  f.where = here;
  yield(r, f);
  if (__tsan_acquire) __tsan_acquire(tag);
}

// No copying of bytes here: a sanitizer would see memcpy.
std::uint64_t exchange(running& r, unsigned thread, std::uint64_t value, std::size_t size, unsigned lanes,
                       std::source_location const& at) {
  fiber& f = r.fibers[thread];
  f.value = value;
  f.size = size;
  f.lanes = lanes;
  f.is = state::at_shuffle;
  f.where = at;
  yield(r, f);
  return f.value;
}

void* shared_object(running& r, void const* key, std::size_t size, std::size_t alignment) {
  for (shared_entry const& e : r.shared)
    if (e.key == key) return e.object;
  if (AnnotateIgnoreWritesBegin) AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  void* const object = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  std::memset(object, 0xFF, size);
  r.shared.push_back({key, object});
  r.to_free.push_back(object);
  if (AnnotateIgnoreWritesEnd) AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  return object;
}

report launch_threads(launch_options const& options, void (*body)(void*, running&, unsigned, unsigned), void* context) {
  if (options.threads == 0 || options.threads % warp_size != 0 || options.threads > most_threads) {
    report refused;
    refused.violations.push_back("a block is of 32 to 1024 threads, in whole warps");
    return refused;
  }
  running r{.options = options, .body = body, .context = context, .result = {}, .fibers = {}, .scheduler = {}, .shared = {},
            .to_free = {}, .tags = {}, .order = {}, .random = options.seed * 2 + 1};
  r.fibers = std::vector<fiber>(options.threads);
  r.order.resize(options.threads);
  r.tags.resize(2 * std::size_t{options.blocks} + 2);
  if (__tsan_get_current_fiber) r.scheduler.to_sanitizer = __tsan_get_current_fiber();
  silence const quiet(options.without.line != 0 && finds_races());
  r.races_before = races_seen;
  if (__tsan_release) __tsan_release(r.start_tag());
  for (r.block = 0; r.block < options.blocks && !r.abandoned; ++r.block) {
    std::size_t const own = finds_races() ? r.block : 0;
    while (grounds.size() <= own) grounds.emplace_back();
    run_block(r, grounds[own]);
  }
  if (__tsan_acquire) __tsan_acquire(r.end_tag());
  for (void* const p : r.to_free) std::free(p);
  r.result.races = races_seen - r.races_before;
  return std::move(r.result);
}

std::string report::text() const {
  std::string all = races == 0 ? "" : std::to_string(races) + " races\n";
  for (std::string const& v : violations) all += v + "\n";
  return all;
}

}  // namespace engine
