// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include <attune/core/function_ref.hpp>

/// Threads without a runtime: a pool that runs numbered tasks.
///
/// Determinism is the caller's by construction: what a task computes may depend on its number alone, never on the
/// worker that runs it, and the list of tasks may not depend on the number of workers. Then results are the same bits
/// for any number of threads. The worker's index is passed so that scratch memory can be private to it.
namespace attune {

class thread_pool {
 public:
  using task = function_ref<void(std::size_t index, std::size_t worker)>;

  /// `threads` counts the calling thread; 0 means all the machine has.
  explicit thread_pool(std::size_t threads = 0) {
    if (threads == 0) threads = std::thread::hardware_concurrency() > 0 ? std::thread::hardware_concurrency() : 1;
    for (std::size_t worker = 1; worker < threads; ++worker)
      workers_.emplace_back([this, worker] { serve(worker); });
  }

  thread_pool(thread_pool const&) = delete;
  thread_pool& operator=(thread_pool const&) = delete;

  ~thread_pool() {
    {
      std::lock_guard const lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  std::size_t threads() const noexcept { return workers_.size() + 1; }

  /// Runs f(0, w) ... f(count - 1, w) and returns when all are done. The first exception thrown by a task is rethrown
  /// here, the remaining tasks are skipped. One caller at a time; a task may not call for_each on its own pool.
  /// Allocates nothing.
  void for_each(std::size_t count, task f) {
    if (count == 0) return;
    if (count == 1 || workers_.empty()) {
      for (std::size_t i = 0; i < count; ++i) f(i, 0);
      return;
    }
    {
      std::lock_guard const lock(mutex_);
      task_ = &f;
      count_ = count;
      next_.store(0, std::memory_order_relaxed);
      busy_ = workers_.size();
      failure_ = nullptr;
      ++generation_;
    }
    wake_.notify_all();
    drain(f, count, 0);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
    task_ = nullptr;
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void serve(std::size_t worker) {
    std::size_t seen = 0;
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
      if (stopping_) return;
      seen = generation_;
      task const* const f = task_;
      std::size_t const count = count_;
      lock.unlock();
      drain(*f, count, worker);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  void drain(task const& f, std::size_t count, std::size_t worker) {
    for (;;) {
      std::size_t const index = next_.fetch_add(1, std::memory_order_relaxed);
      if (index >= count) return;
      try {
        f(index, worker);
      } catch (...) {
        std::lock_guard const lock(mutex_);
        if (!failure_) failure_ = std::current_exception();
        next_.store(count, std::memory_order_relaxed);
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  task const* task_ = nullptr;
  std::size_t count_ = 0;
  std::atomic<std::size_t> next_{0};
  std::size_t busy_ = 0;
  std::size_t generation_ = 0;
  std::exception_ptr failure_;
  bool stopping_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace attune
