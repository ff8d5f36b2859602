// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string>

#include <doctest/doctest.h>

#include "support/cuda_evidence.hpp"
#include "support/engine.hpp"

/// What the tests of all kernel bodies ask of a launch.
namespace engine {

/// A launch without a violation and without a race.
template <class Body>
report run(launch_options const& options, Body const& body) {
  report r = launch(options, body);
  INFO("blocks ", options.blocks, ", threads ", options.threads, ", schedule ", static_cast<int>(options.order), ", seed ",
       options.seed);
  CHECK_MESSAGE(r.clean(), r.text());
  return r;
}

/// Every barrier that the launch comes to is there for a reason: without it there is a race, in a program that finds them.
/// The sanitizer remembers a few accesses to a word, so it is asked under several schedules.
template <class Body>
void check_barriers_needed(launch_options const& options, Body const& body, std::size_t expected_barriers) {
  report const whole = run(options, body);
  CHECK(whole.barriers.size() == expected_barriers);
  if (!finds_races()) return;
  for (site const& barrier : whole.barriers) {
    std::size_t races = 0;
    for (launch_options one : schedules(options, 6)) {
      one.without = barrier;
      races += launch(one, body).races;
      if (races > 0) break;
    }
    CHECK_MESSAGE(races > 0, "no race without the barrier ", barrier.text());
    std::string const place = barrier.text();
    say_cuda_evidence("{\"barrier\": \"" + place.substr(place.rfind('/') + 1) +
                      "\", \"left_out\": \"" + (races > 0 ? "caught" : "missed") + "\"}");
  }
}

}  // namespace engine
