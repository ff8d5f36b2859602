// SPDX-License-Identifier: MIT
#pragma once

#include <tuple>
#include <utility>

#include <attune/concepts/report_sink.hpp>

namespace attune {

/// Several sinks as one, called in the order given. A sink passed by name is borrowed, a temporary is kept:
///   jsonl_sink file("metrics.jsonl");
///   trainer.fit(pairs, tee_sink(terminal_sink(), file));
template <class... Sinks>
class tee_sink {
 public:
  explicit tee_sink(Sinks... sinks) : sinks_(std::forward<Sinks>(sinks)...) {}

  void operator()(report const& r) {
    std::apply([&](auto&... sink) { (static_cast<void>(sink(r)), ...); }, sinks_);
  }

 private:
  std::tuple<Sinks...> sinks_;
};

template <class... Sinks>
tee_sink(Sinks&&...) -> tee_sink<Sinks...>;

}  // namespace attune
