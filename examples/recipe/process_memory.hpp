// SPDX-License-Identifier: MIT
#pragma once

#include <cstdio>

#include <malloc.h>

/// Memory of this process: the highest resident set, from Linux's /proc, and what is allocated now, from glibc.
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

/// Bytes allocated and not freed, in MB. Unlike resident memory it does not remember what was freed before.
inline double heap_in_use_mb() {
  struct mallinfo2 const info = ::mallinfo2();
  return static_cast<double>(info.uordblks + info.hblkhd) / 1e6;
}

}  // namespace recipe
