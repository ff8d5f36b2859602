# SPDX-License-Identifier: MIT
#
# cmake -DROOT=<folder that holds attune/> -P layering.cmake
# Reads every #include of every header and fails with a list of those that go the wrong way; likewise for the few other
# house rules that one line of text can break.
cmake_minimum_required(VERSION 3.25)

set(std_headers
  algorithm any array atomic barrier bit bitset cassert cctype cerrno cfenv cfloat charconv chrono cinttypes climits
  clocale cmath codecvt compare complex concepts condition_variable coroutine csetjmp csignal cstdarg cstddef cstdint
  cstdio cstdlib cstring ctime cuchar cwchar cwctype deque exception execution filesystem forward_list fstream
  functional future initializer_list iomanip ios iosfwd iostream istream iterator latch limits list locale map memory
  memory_resource mutex new numbers numeric optional ostream queue random ranges ratio regex scoped_allocator semaphore
  set shared_mutex source_location span sstream stack stdexcept stop_token streambuf string string_view syncstream
  system_error thread tuple type_traits typeindex typeinfo unordered_map unordered_set utility valarray variant vector
  version)
# The operating system's, for what the standard library lacks: fsync, locks, folders, memory maps, the size of a terminal.
set(posix_headers dirent.h fcntl.h unistd.h sys/file.h sys/ioctl.h sys/mman.h sys/resource.h sys/stat.h sys/types.h)

# Folder -> folders it may include. Algorithm wing, tensor wing, services, and what both wings share.
set(may_core core)
set(may_concepts core concepts)
set(may_objective core concepts objective)
set(may_train core concepts objective train)
set(may_eval core concepts objective train eval)
set(may_testing core concepts objective testing)
set(may_kernel core concepts kernel)
set(may_backend core concepts kernel backend)
set(may_model core concepts kernel backend model)
set(may_io core concepts io)
set(may_data core concepts io data)
set(may_device core concepts objective device)
set(may_cuda core concepts objective device cuda)
set(may_torch core concepts objective backend torch)  # LibTorch's graph and models: objectives put to a backend
set(may_distributed core concepts distributed)
set(may_attune core concepts objective train eval)  # the umbrella attune/attune.hpp

# Folder -> third parties, as a regular expression over what stands between the brackets.
set(third_party_backend "^(Eigen/|xtensor/|xtl/|torch/|ATen/|c10/|dlpack/|cuda)")
set(third_party_model "^Eigen/")
set(third_party_io "^(fmt/|zlib\\.h$)")
set(third_party_data "^range/v3/")
set(third_party_torch "^(torch/|ATen/|c10/)")
set(third_party_cuda "^(cuda|cublas)")
set(third_party_distributed "^(mpi\\.h|nccl\\.h)$")

set(problems "")
macro(problem line_number what)
  string(APPEND problems "\n  attune/${header}:${line_number}: ${what}")
endmacro()

file(GLOB_RECURSE headers RELATIVE "${ROOT}/attune" "${ROOT}/attune/*.hpp" "${ROOT}/attune/*.cuh")
if(NOT headers)
  message(FATAL_ERROR "no header below ${ROOT}/attune")
endif()
foreach(header IN LISTS headers)
  string(REGEX REPLACE "/.*" "" folder "${header}")  # objective/unpaired is bound as objective is
  if(header STREQUAL "attune.hpp")
    set(folder attune)
  endif()
  string(REGEX REPLACE "^objective/(pairwise|unpaired)$" "objective" folder "${folder}")  # families, each in one room
  if(NOT DEFINED may_${folder})
    problem(1 "the folder \"${folder}\" has no place in the architecture")
    continue()
  endif()

  if((header MATCHES "[.]cuh$" AND NOT folder STREQUAL "cuda") OR (header MATCHES "[.]hpp$" AND folder STREQUAL "cuda"))
    problem(1 "what needs a CUDA compiler is a .cuh in cuda/, and nothing else is")
  endif()

  # A list of lines; what CMake's lists cannot carry is replaced by what no rule looks at.
  file(READ "${ROOT}/attune/${header}" text)
  string(REGEX REPLACE "[];[\\]" "_" text "${text}")
  string(REPLACE "\n" ";" lines "${text}")
  set(number 0)
  foreach(line IN LISTS lines)
    math(EXPR number "${number} + 1")
    if(number EQUAL 1 AND NOT line STREQUAL "// SPDX-License-Identifier: MIT")
      problem(1 "the first line is not the licence's")
    elseif(number EQUAL 2 AND NOT line STREQUAL "#pragma once")
      problem(2 "the second line is not #pragma once")
    endif()
    if(line MATCHES "^ *# *define +([A-Za-z_0-9]+)")
      if(NOT header STREQUAL "core/host_device.hpp" OR NOT CMAKE_MATCH_1 STREQUAL "ATTUNE_HOST_DEVICE")
        problem(${number} "defines the macro ${CMAKE_MATCH_1}; the library has one, ATTUNE_HOST_DEVICE")
      endif()
    endif()
    if(line MATCHES "^ *using +namespace ")
      problem(${number} "using namespace in a header")
    endif()
    if(line MATCHES "^ *# *include *\"")
      problem(${number} "includes with quotation marks; write <attune/...>")
    elseif(line MATCHES "^ *# *include *<([^>]+)>")
      set(included "${CMAKE_MATCH_1}")
      if(included MATCHES "^attune/([a-z_]+)/")
        if(NOT CMAKE_MATCH_1 IN_LIST may_${folder})
          problem(${number} "${folder} may not include ${CMAKE_MATCH_1}: <${included}>")
        endif()
        if(NOT EXISTS "${ROOT}/${included}")
          problem(${number} "there is no <${included}>")
        endif()
      elseif(included STREQUAL "attune/attune.hpp")
        problem(${number} "a header may not include the umbrella")
      elseif(included IN_LIST std_headers OR included IN_LIST posix_headers)
      elseif(DEFINED third_party_${folder} AND included MATCHES "${third_party_${folder}}")
      else()
        problem(${number} "${folder} may not include <${included}>")
      endif()
    elseif(line MATCHES "^ *# *include")
      problem(${number} "an include that this test cannot read")
    endif()
  endforeach()
endforeach()

# The umbrella is all of the algorithm wing and nothing else.
set(expected "")
foreach(header IN LISTS headers)
  if(header MATCHES "^(core|concepts|objective|train|eval)/")
    list(APPEND expected "${header}")
  endif()
endforeach()
set(header attune.hpp)
if(EXISTS "${ROOT}/attune/attune.hpp")
  file(STRINGS "${ROOT}/attune/attune.hpp" lines REGEX "^#include <attune/")
  list(TRANSFORM lines REPLACE "^#include <attune/(.*)>.*$" "\\1" OUTPUT_VARIABLE actual)
  foreach(wanted IN LISTS expected)
    if(NOT wanted IN_LIST actual)
      problem(1 "lacks #include <attune/${wanted}>")
    endif()
  endforeach()
else()
  problem(1 "the umbrella is missing")
endif()

if(problems)
  message(FATAL_ERROR "broken house rules:${problems}")
endif()
