# SPDX-License-Identifier: MIT
#
# cmake "-DCOUNTS=<executable>;<n>;..." -P real_data_entries.cmake
# Fails unless each executable holds exactly n test cases named "real data: ...": those that ctest was told of. Without
# this, one whose name ctest could not read (split over lines, made by a macro) would never run.
cmake_minimum_required(VERSION 3.25)

while(COUNTS)
  list(POP_FRONT COUNTS executable expected)
  execute_process(COMMAND "${executable}" "--test-case=real data: *" --count OUTPUT_VARIABLE output
                  RESULT_VARIABLE result)
  if(NOT result EQUAL 0 OR NOT output MATCHES "filters: ([0-9]+)")
    message(SEND_ERROR "${executable} does not count its tests: ${output}")
  elseif(NOT CMAKE_MATCH_1 EQUAL expected)
    message(SEND_ERROR "${executable}: ${CMAKE_MATCH_1} test cases are named \"real data: ...\" and ctest knows "
                       "${expected}: write each as TEST_CASE(\"real data: ...\") with the whole name on one line, "
                       "different from all others")
  endif()
endwhile()
