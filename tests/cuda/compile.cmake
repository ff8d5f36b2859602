# SPDX-License-Identifier: MIT
#
# cmake -DLOG=<file> "-DCOMMAND=<list>" -P compile.cmake
# Runs a compiler and keeps what it says, which is shown only if it fails.
execute_process(COMMAND ${COMMAND} RESULT_VARIABLE result OUTPUT_FILE "${LOG}" ERROR_FILE "${LOG}.errors")
file(READ "${LOG}.errors" errors)
file(APPEND "${LOG}" "${errors}")
file(REMOVE "${LOG}.errors")
if(NOT result EQUAL 0)
  file(READ "${LOG}" text)
  message(FATAL_ERROR "${text}")
endif()
