# SPDX-License-Identifier: MIT
#
# cmake -DCLOSED_FORM=... -DFOLDER=<scratch> -P closed_form.cmake
# On smaller samples than its own: DPO ends at the closed form, PPO within its sampling error, which falls as samples
# grow; all over the frontier; the same seed gives the same figures.
cmake_minimum_required(VERSION 3.25)

file(REMOVE_RECURSE "${FOLDER}")
file(MAKE_DIRECTORY "${FOLDER}")

function(figures_of variable name)
  execute_process(COMMAND "${CLOSED_FORM}" --json ${name}.json ${ARGN}
                  WORKING_DIRECTORY "${FOLDER}" RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "closed_form ended with ${result}:\n${output}")
  endif()
  file(READ "${FOLDER}/${name}.json" text)
  set(${variable} "${text}" PARENT_SCOPE)
endfunction()

# at_most(<bound> <JSON path>...): the figure there, and that it is at most the bound.
function(at_most bound)
  string(JSON value ERROR_VARIABLE error GET "${figures}" ${ARGN})
  if(error OR value GREATER bound)
    message(SEND_ERROR "${ARGN}: expected at most ${bound}, got ${value}")
  endif()
  set(value "${value}" PARENT_SCOPE)
endfunction()

# close(<room> <point> <key> <key>): two figures of a point of the frontier, apart by at most the room.
function(close room point one other)
  string(JSON a GET "${figures}" frontier ${point} ${one})
  string(JSON b GET "${figures}" frontier ${point} ${other})
  execute_process(COMMAND awk "BEGIN { d = ${a} - ${b}; exit !(d * d <= ${room} * ${room}) }" RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(SEND_ERROR "frontier ${point}: ${one} is ${a}, ${other} is ${b}")
  endif()
endfunction()

figures_of(figures a --samples 960 --updates 400 --seed 1 --report page.html)
at_most(1e-4 tv_dpo)
at_most(0.03 tv_ppo)
at_most(0.01 tv_ppo_without_scatter)
at_most(0.06 tv_ppo_by_samples 0 tv)
foreach(sample IN ITEMS 1 2)
  at_most(${value} tv_ppo_by_samples ${sample} tv)
endforeach()
foreach(point RANGE 7)
  close(1e-4 ${point} kl kl_dpo)
  close(1e-4 ${point} reward reward_dpo)
  close(0.15 ${point} kl kl_ppo)
  close(0.05 ${point} reward reward_ppo)
endforeach()

set(brief --samples 96 --updates 10)
figures_of(once b ${brief} --seed 1)
figures_of(again c ${brief} --seed 1)
figures_of(another_seed d ${brief} --seed 2)
if(NOT once STREQUAL again OR once STREQUAL another_seed)
  message(SEND_ERROR "a seed does not settle the figures:\n${once}\n${again}\n${another_seed}")
endif()

file(READ "${FOLDER}/page.html" page)
if(NOT page MATCHES "<svg.*<circle.*</html>" OR page MATCHES "(src|href)=.?(https?:|//)|@import|url\\(")
  message(SEND_ERROR "page.html is not a whole, self-contained page with a chart")
endif()
