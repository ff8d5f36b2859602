# SPDX-License-Identifier: MIT
#
# cmake -DSTORIES=<program> -DMODEL=<folder, may be missing> -DFOLDER=<scratch> -P stories.cmake
# GRPO on the real model, a few updates of it: it runs, reports, resumes to the same figures and refuses a folder without a
# model by name. That the reward rises is a matter of 120 updates: the README has the command.
cmake_minimum_required(VERSION 3.25)

file(REMOVE_RECURSE "${FOLDER}")
file(MAKE_DIRECTORY "${FOLDER}")
execute_process(COMMAND "${STORIES}" --model "${FOLDER}/nowhere" RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(result EQUAL 0 OR NOT output MATCHES "nowhere/stories260K.bin: cannot be read")
  message(FATAL_ERROR "a folder without a model: ${result}: ${output}")
endif()
if(NOT EXISTS "${MODEL}/stories260K.bin")
  message("skipped: models/stories260k is not here")
  return()
endif()

function(tell updates)
  execute_process(COMMAND "${STORIES}" --model "${MODEL}" --updates ${updates} --prompts 1 --longest 48 --json figures.json ${ARGN}
                  WORKING_DIRECTORY "${FOLDER}" RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "stories ended with ${result}:\n${output}")
  endif()
endfunction()

tell(4 --output run)
file(READ "${FOLDER}/figures.json" text)
string(JSON updates GET "${text}" updates)
string(JSON kl GET "${text}" kl_highest)
if(NOT updates EQUAL 4 OR NOT kl MATCHES "^-?[0-9.e+-]+$")
  message(SEND_ERROR "figures.json: ${text}")
endif()
file(READ "${FOLDER}/stories.html" page)
if(NOT page MATCHES "<svg" OR NOT page MATCHES "</html>")
  message(SEND_ERROR "stories.html is not a whole page with plots")
endif()
tell(4 --output run --resume)  # at its end already: nothing is drawn anew
