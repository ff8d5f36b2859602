# SPDX-License-Identifier: MIT
#
# cmake -DCOMPILER=... -DFLAGS=-I<include> -DFOLDER=... -P consumer.cmake
# cmake -DCOMPILER=... -DPKG_CONFIG_PATH=<folder of attune.pc> -DFOLDER=... -P consumer.cmake
# One compiler command, nothing else: no system include path hides a warning.
cmake_minimum_required(VERSION 3.25)

if(PKG_CONFIG_PATH)
  set(ENV{PKG_CONFIG_PATH} "${PKG_CONFIG_PATH}")
  execute_process(COMMAND pkg-config --cflags "attune >= 0.1" OUTPUT_VARIABLE FLAGS OUTPUT_STRIP_TRAILING_WHITESPACE
                  COMMAND_ERROR_IS_FATAL ANY)
  separate_arguments(FLAGS UNIX_COMMAND "${FLAGS}")
endif()
file(MAKE_DIRECTORY "${FOLDER}")
execute_process(COMMAND "${COMPILER}" -std=c++20 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror ${FLAGS}
                        "${CMAKE_CURRENT_LIST_DIR}/../main.cpp" -o "${FOLDER}/consumer"
                COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${FOLDER}/consumer" COMMAND_ERROR_IS_FATAL ANY)
