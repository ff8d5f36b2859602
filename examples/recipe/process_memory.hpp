// SPDX-License-Identifier: MIT
#pragma once

#include <cstdio>

/// The highest resident memory of this process, from Linux's /proc.
namespace recipe {

/// In MB (10^6 bytes); 0 where the system does not say.
inline double peak_memory_mb() {
  double kilobytes = 0.0;
  if (std::FILE* const file = std::fopen("/proc/self/status", "r")) {
    char line[256];
    while (std::fgets(line, sizeof line, file) != nullptr)
      if (std::sscanf(line, "VmHWM: %lf kB", &kilobytes) == 1) break;
    std::fclose(file);
  }
  return kilobytes * 1024.0 / 1e6;
}

/// Starts the peak anew from what is resident now. Where the system refuses, peaks are those of the whole process.
inline void reset_peak_memory() {
  if (std::FILE* const file = std::fopen("/proc/self/clear_refs", "w")) {
    std::fputs("5", file);
    std::fclose(file);
  }
}

}  // namespace recipe
