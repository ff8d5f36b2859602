# SPDX-License-Identifier: MIT
#
# cmake -DPROGRAM=... -DEXPECTED=<file> -DFOLDER=<scratch> -P run.cmake
# The program exits with 0 and prints what the file holds, to the byte; else both are shown.
cmake_minimum_required(VERSION 3.25)

file(REMOVE_RECURSE "${FOLDER}")
file(MAKE_DIRECTORY "${FOLDER}")
execute_process(COMMAND "${PROGRAM}" WORKING_DIRECTORY "${FOLDER}" OUTPUT_FILE "${FOLDER}/actual"
                RESULT_VARIABLE result)
file(READ "${FOLDER}/actual" actual)
file(READ "${EXPECTED}" expected)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${PROGRAM} ended with ${result}, having printed:\n${actual}")
endif()
if(NOT actual STREQUAL expected)
  message(FATAL_ERROR "${PROGRAM} printed:\n${actual}\nand not:\n${expected}")
endif()
