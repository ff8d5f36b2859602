# SPDX-License-Identifier: MIT
#
# cmake -DPROJECT=... -DFOLDER=... -DCOMPILER=... -DGENERATOR=... [-DVARIABLES=...] [-DEXPECT=...] -P consumer.cmake
# Configures, builds and runs the project in an empty folder; with EXPECT, configuring must fail with that message.
cmake_minimum_required(VERSION 3.25)

file(REMOVE_RECURSE "${FOLDER}")
execute_process(COMMAND "${CMAKE_COMMAND}" -S "${PROJECT}" -B "${FOLDER}" -G "${GENERATOR}"
                        "-DCMAKE_CXX_COMPILER=${COMPILER}" ${VARIABLES}
                RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(EXPECT)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")
  if(result EQUAL 0 OR NOT output MATCHES "${EXPECT}")
    message(FATAL_ERROR "expected an error with \"${EXPECT}\", got ${result}: ${output}")
  endif()
  return()
endif()
if(NOT result EQUAL 0)
  message(FATAL_ERROR "configuring failed: ${output}")
endif()
execute_process(COMMAND "${CMAKE_COMMAND}" --build "${FOLDER}" COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${FOLDER}/consumer" COMMAND_ERROR_IS_FATAL ANY)
