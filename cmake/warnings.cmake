# SPDX-License-Identifier: MIT
#
# Warnings for the project's own tests, examples and benchmarks; never part of what a user links. They are errors where
# a preset sets CMAKE_COMPILE_WARNING_AS_ERROR. ATTUNE_WARNINGS=OFF is for -O3 -march=native, where g++ 12 warns of its
# own AVX-512 intrinsics, screens full of it.
add_library(attune_warnings INTERFACE)
if(NOT ATTUNE_WARNINGS)
  return()
endif()
target_compile_options(attune_warnings INTERFACE
  -Wall -Wextra -Wpedantic
  -Wconversion  # float <-> double and signed <-> unsigned are decisions here, and are written down
  -Wshadow      # formulas have short names; one that hides another is a wrong formula
  $<$<CXX_COMPILER_ID:GNU>:-fconcepts-diagnostics-depth=2>)  # the reason why a type does not satisfy a concept
