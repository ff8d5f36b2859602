# SPDX-License-Identifier: MIT
#
# cmake -DRECIPE=... -DFOLDER=<scratch> -P recipe_smoke.cmake
# The main job at its smallest: it runs, writes its page and its figures, and the same seed gives the same figures on
# any number of threads, seconds and memory aside. What the figures are worth at full size is recipe_marks.cmake's.
cmake_minimum_required(VERSION 3.25)

file(REMOVE_RECURSE "${FOLDER}")
file(MAKE_DIRECTORY "${FOLDER}")

# figures_of(<variable> <name> <arguments>...): runs, and reads the JSON without what may differ from run to run.
function(figures_of variable name)
  execute_process(COMMAND "${RECIPE}" --smoke --json ${name}.json --report ${name}.html ${ARGN}
                  WORKING_DIRECTORY "${FOLDER}" RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "recipe ended with ${result}:\n${output}")
  endif()
  file(READ "${FOLDER}/${name}.json" text)
  string(JSON arms ERROR_VARIABLE error LENGTH "${text}" arms)
  if(error OR NOT arms EQUAL 5)
    message(FATAL_ERROR "not the figures of five arms: ${error}\n${text}")
  endif()
  string(REGEX REPLACE "\"(seconds|peak_rss_mb)\": *[0-9.e+-]+" "" text "${text}")
  string(REGEX REPLACE "\"dpo_memory\"[^}]*" "" text "${text}")
  set(${variable} "${text}" PARENT_SCOPE)
endfunction()

execute_process(COMMAND "${RECIPE}" --smoke --only sft,dpo --json only.json --report only.html WORKING_DIRECTORY "${FOLDER}"
                RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
file(READ "${FOLDER}/only.json" text)
string(JSON arms ERROR_VARIABLE error LENGTH "${text}" arms)
if(NOT result EQUAL 0 OR error OR NOT arms EQUAL 3)
  message(FATAL_ERROR "--only sft,dpo is not the figures of three arms: ${error}\n${text}\n${output}")
endif()

# Killed after any stage, a run is gone on with and ends in the figures of one that was not.
figures_of(whole whole --seed 3 --output whole)
file(MAKE_DIRECTORY "${FOLDER}/part")
foreach(stage pretraining sft reward_model)
  file(COPY "${FOLDER}/whole/${stage}" DESTINATION "${FOLDER}/part")
endforeach()
figures_of(resumed resumed --seed 3 --output part --resume)
string(REGEX REPLACE "\"flops\": *[0-9.e+-]+" "" whole "${whole}")  # of this process
string(REGEX REPLACE "\"flops\": *[0-9.e+-]+" "" resumed "${resumed}")
string(REGEX REPLACE "\"claims\".*" "" whole "${whole}")  # made of FLOPs, among others
string(REGEX REPLACE "\"claims\".*" "" resumed "${resumed}")
if(NOT whole STREQUAL resumed)
  message(SEND_ERROR "resumed after the reward model, a run ends in\n${resumed}\nand not in\n${whole}")
endif()

figures_of(two_threads a --seed 3 --threads 2)
figures_of(one_thread b --seed 3 --threads 1)
figures_of(another_seed c --seed 4 --threads 2)
if(NOT two_threads STREQUAL one_thread)
  message(SEND_ERROR "the same seed gave\n${two_threads}\nand\n${one_thread}")
endif()
string(REPLACE "\"seed\": 4" "\"seed\": 3" another_seed "${another_seed}")
if(two_threads STREQUAL another_seed)
  message(SEND_ERROR "another seed gave the same figures")
endif()

file(READ "${FOLDER}/a.html" page)
if(NOT page MATCHES "<svg" OR NOT page MATCHES "</html>")
  message(SEND_ERROR "report.html is not a whole page with plots")
endif()
if(page MATCHES "(src|href)=.?(https?:|//)|@import|url\\(")
  message(SEND_ERROR "report.html is not self-contained")
endif()
