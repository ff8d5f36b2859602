# SPDX-License-Identifier: MIT
#
# cmake -DSCRATCH=<folder> -P blocks_selftest.cmake [called again by itself with -DMARKDOWN=<file>]
cmake_minimum_required(VERSION 3.25)
include("${CMAKE_CURRENT_LIST_DIR}/blocks.cmake")

if(MARKDOWN)
  attune_extract_blocks("${MARKDOWN}" "${SCRATCH}" "${SCRATCH}" programs fragments)
  return()
endif()

function(expect_file name expected)
  file(READ "${SCRATCH}/${name}" text)
  if(NOT text STREQUAL expected)
    message(SEND_ERROR "${name} holds\n${text}\nnot\n${expected}")
  endif()
endfunction()

file(REMOVE_RECURSE "${SCRATCH}")
file(WRITE "${SCRATCH}/mine.hpp" "")
set(markdown "${SCRATCH}/blocks.md")
file(WRITE "${markdown}" [==[
# Title; with [brackets] and a ${variable}

```cpp
#include <vector>
int main() { std::vector<int> v{1}; return v[0] - 1; }
```
Text.
```sh
cmake --workflow
```
<!-- prelude: mine -->
```cpp
#include <span>
int a[] = {1, 2}; // "quoted;" \ @x@ ${x}

f(a[0]);
```
<!-- prelude: mine, declarations -->
```cpp
struct s {};
```
```cpp
g();
```
<!-- prelude: mine -->
```cpp
#include <vector>

int main() { return h(); }
```
]==])
attune_extract_blocks("${markdown}" "${SCRATCH}" "${SCRATCH}" programs fragments)
if(NOT programs STREQUAL "${SCRATCH}/line_3.cpp;${SCRATCH}/line_26.cpp")
  message(SEND_ERROR "programs: ${programs}")
endif()
if(NOT fragments STREQUAL "${SCRATCH}/line_12.cpp;${SCRATCH}/line_19.cpp;${SCRATCH}/line_22.cpp")
  message(SEND_ERROR "fragments: ${fragments}")
endif()
expect_file(line_3.cpp [==[
#line 4 "blocks.md"
#include <vector>
int main() { std::vector<int> v{1}; return v[0] - 1; }
]==])
expect_file(line_12.cpp [==[
#include <span>
#include "mine.hpp"
void line_12() {
#line 13 "blocks.md"

int a[] = {1, 2}; // "quoted;" \ @x@ ${x}

f(a[0]);
}
]==])
expect_file(line_19.cpp [==[

#include "mine.hpp"
#line 20 "blocks.md"
struct s {};
]==])
expect_file(line_22.cpp [==[

#include "fragment.hpp"
void line_22() {
#line 23 "blocks.md"
g();
}
]==])
expect_file(line_26.cpp [==[
#include <vector>
#include "mine.hpp"
#line 27 "blocks.md"


int main() { return h(); }
]==])

function(expect_error content expected)
  file(WRITE "${SCRATCH}/bad.md" "${content}")
  execute_process(COMMAND "${CMAKE_COMMAND}" "-DSCRATCH=${SCRATCH}" "-DMARKDOWN=${SCRATCH}/bad.md"
                          -P "${CMAKE_CURRENT_LIST_DIR}/blocks_selftest.cmake"
                  RESULT_VARIABLE result ERROR_VARIABLE errors)
  string(REGEX REPLACE "[ \n]+" " " errors "${errors}")
  string(FIND "${errors}" "${expected}" said)
  if(result EQUAL 0 OR said EQUAL -1)
    message(SEND_ERROR "expected \"${expected}\", got ${result}: ${errors}")
  endif()
endfunction()
expect_error("text\n```cpp\nint x;\n" "bad.md:2: the block has no end")
expect_error("```c++\nint x;\n```\n" "1 blocks look like C++ and 0 are fenced")
expect_error("- item\n  ```cpp\n  int x;\n  ```\n" "1 blocks look like C++ and 0 are fenced")
expect_error("<!-- prelude: absent -->\n```cpp\nint x;\n```\n" "there is no prelude absent.hpp")
expect_error("<!-- prelude mine -->\n```cpp\nint x;\n```\n" "write <!-- prelude: NAME -->")
file(REMOVE_RECURSE "${SCRATCH}")
