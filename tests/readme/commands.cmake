# SPDX-License-Identifier: MIT
#
# cmake -DREADME=... -DPRESETS=... -P commands.cmake
# Every preset that the README names exists, and its two commands, demo and test, are there in full.
cmake_minimum_required(VERSION 3.25)

if(NOT EXISTS "${README}")
  message(FATAL_ERROR "README.md is missing")
endif()
file(READ "${README}" readme)
file(READ "${PRESETS}" presets)

foreach(kind workflow configure build test)
  set(${kind}_names "")
  string(JSON count LENGTH "${presets}" ${kind}Presets)
  math(EXPR last "${count} - 1")
  foreach(i RANGE ${last})
    string(JSON name GET "${presets}" ${kind}Presets ${i} name)
    list(APPEND ${kind}_names "${name}")
  endforeach()
endforeach()

set(problems "")
foreach(command "cmake --workflow/workflow" "cmake/configure" "cmake --build/build" "ctest/test")
  string(REPLACE "/" ";" command "${command}")
  list(POP_BACK command kind)
  string(REGEX MATCHALL "${command} --preset[ =][A-Za-z0-9_-]+" uses "${readme}")
  foreach(use IN LISTS uses)
    string(REGEX REPLACE "^.*--preset[ =]" "" name "${use}")
    if(NOT name IN_LIST ${kind}_names)
      string(APPEND problems "\n  \"${use}\": there is no ${kind} preset ${name}")
    endif()
  endforeach()
endforeach()
foreach(name demo test)
  if(NOT readme MATCHES "\nsudo apt-get update && sudo apt-get install -y [^\n&;|]+ && cmake --workflow --preset ${name}\n")
    string(APPEND problems "\n  the ${name} command is not there in full, on one line of its own: "
                           "sudo apt-get update && sudo apt-get install -y ... && cmake --workflow --preset ${name}")
  endif()
endforeach()
if(problems)
  message(FATAL_ERROR "README.md:${problems}")
endif()
