# SPDX-License-Identifier: MIT
#
# cmake -DSFT=... -DREWARD_MODEL=... -DDPO=... -DFOLDER=<scratch> -P programs.cmake
# The three programs one after another on sixteen rows; then each is cut off in the middle and resumed, dpo by a signal
# that cannot be caught, and ends in the same bits; --help; and what they refuse, by name, leaving nothing behind.
cmake_minimum_required(VERSION 3.25)

file(REMOVE_RECURSE "${FOLDER}")
file(MAKE_DIRECTORY "${FOLDER}")
foreach(number RANGE 0 15)
  math(EXPR next "${number} + 1")
  file(APPEND "${FOLDER}/demonstrations.jsonl"
       "{\"instruction\": \"What is ${number} plus 1?\", \"response\": \"It is ${next}, of course.\"}\n")
  set(pair "{\"prompt\": \"What is ${number} plus 1?\", ")
  string(APPEND pair "\"chosen\": \" It is ${next}, of course.\", \"rejected\": \" No.\"}\n")
  file(APPEND "${FOLDER}/pairs.jsonl" "${pair}")
  if(number LESS 4)
    file(APPEND "${FOLDER}/few.jsonl" "${pair}")
  endif()
endforeach()

function(run result_variable)
  execute_process(COMMAND ${ARGN} WORKING_DIRECTORY "${FOLDER}" OUTPUT_VARIABLE text ERROR_VARIABLE text
                  RESULT_VARIABLE result)
  set(output "${text}" PARENT_SCOPE)
  set(${result_variable} "${result}" PARENT_SCOPE)
endfunction()

function(succeeds)
  run(result ${ARGN})
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${ARGN}\nended with ${result}:\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

# refused(<regular expression of the message> <command>...): fails, says why, and makes no folder "refused".
function(refused message)
  run(result ${ARGN})
  if(result EQUAL 0 OR NOT output MATCHES "${message}")
    message(SEND_ERROR "${ARGN}\nended with ${result}, expected a refusal that says ${message}:\n${output}")
  endif()
  if(EXISTS "${FOLDER}/refused")
    message(SEND_ERROR "${ARGN}\nleft a folder behind")
    file(REMOVE_RECURSE "${FOLDER}/refused")
  endif()
endfunction()

function(expect_text text expression what)
  if(NOT text MATCHES "${expression}")
    message(SEND_ERROR "${what}: expected ${expression} in:\n${text}")
  endif()
endfunction()

function(expect_same_model a b)
  file(SHA256 "${FOLDER}/${a}/model.safetensors" first)
  file(SHA256 "${FOLDER}/${b}/model.safetensors" second)
  if(NOT first STREQUAL second)
    message(SEND_ERROR "the models of ${a} and ${b} differ")
  endif()
endfunction()

function(hashes_of files result_variable)
  set(hashes "")
  foreach(path IN LISTS files)
    file(SHA256 "${path}" hash)
    list(APPEND hashes ${hash})
  endforeach()
  set(${result_variable} "${hashes}" PARENT_SCOPE)
endfunction()

# What a metrics file says, but for clocks and starts.
function(metrics_of run result_variable)
  file(STRINGS "${FOLDER}/${run}/metrics.jsonl" lines)
  list(FILTER lines EXCLUDE REGEX "\"kind\":\"start\"")
  list(TRANSFORM lines REPLACE "\"tokens\":[0-9]+,\"seconds\":[^,}]+" "")
  set(${result_variable} "${lines}" PARENT_SCOPE)
endfunction()

set(common --batch-size 4 --epochs 3 --save-steps 4 --logging-steps 3)
set(shape --dim 16 --layers 1 --heads 2 --hidden 24 --window 64)
set(sft "${SFT}" --data demonstrations.jsonl --valid demonstrations.jsonl ${shape} ${common})
set(pairs --model sft/model.safetensors --data pairs.jsonl --valid few.jsonl ${common})
set(reward_model "${REWARD_MODEL}" ${pairs} --learning-rate 0.003)
set(dpo "${DPO}" ${pairs} --learning-rate 0.001)

# One after another.
foreach(program IN ITEMS sft reward_model dpo)
  succeeds(${${program}} --output ${program} --threads 2)
  foreach(file IN ITEMS model.safetensors metrics.jsonl checkpoints/step-00000008.checkpoint
                        checkpoints/step-00000012.checkpoint)
    if(NOT EXISTS "${FOLDER}/${program}/${file}")
      message(SEND_ERROR "${program} wrote no ${file}")
    endif()
  endforeach()
  expect_text("${output}" "demonstrations.jsonl: 16 rows, 16 kept|pairs.jsonl: 16 rows, 16 kept" ${program})
  expect_text("${output}" "12 steps.*eval_loss.*wrote ${program}/model.safetensors" ${program})
  metrics_of(${program} metrics)
  expect_text("${metrics}" "\"stage\":\"${program}\",\"step\":3,.*\"evaluation\".*\"finish\"" ${program})
endforeach()
expect_text("${output}" "loss 0\\.6931 -> 0\\.[0-5].*eval_rewards/accuracies 1\\.0000" "dpo")
succeeds("${SFT}" --data pairs.jsonl --chosen ${shape} --max-steps 2 --output chosen)
expect_text("${output}" "2 steps" "sft --chosen")

# As if killed after step 8, on another number of threads. What was reported of later steps is reported once.
foreach(program IN ITEMS sft reward_model dpo)
  file(COPY "${FOLDER}/${program}/" DESTINATION "${FOLDER}/${program}_cut")
  file(REMOVE "${FOLDER}/${program}_cut/model.safetensors"
              "${FOLDER}/${program}_cut/checkpoints/step-00000012.checkpoint")
  succeeds(${${program}} --output ${program}_cut --resume --threads 1)
  expect_text("${output}" "${program} 8/12  resumed" "${program} --resume")
  expect_same_model(${program} ${program}_cut)
  metrics_of(${program} whole)
  metrics_of(${program}_cut resumed)
  if(NOT whole STREQUAL resumed)
    message(SEND_ERROR "${program}: metrics of the whole run\n${whole}\nand of the resumed one\n${resumed}")
  endif()
endforeach()

# Really killed, as soon as there is a checkpoint, wherever it is by then.
list(APPEND dpo --max-steps 60)
succeeds(${dpo} --output long)
run(ignored sh -c "
  \"$@\" & program=$!
  until ls killed/checkpoints/step-*.checkpoint || ! kill -0 $program
  do sleep 0.01
  done
  kill -KILL $program" sh ${dpo} --output killed)
succeeds(${dpo} --output killed --resume)
expect_text("${output}" "dpo [1-9][0-9]*/60  resumed" "dpo, killed")
expect_same_model(long killed)

# --help.
foreach(program IN ITEMS SFT REWARD_MODEL DPO)
  succeeds("${${program}}" --help)
  foreach(option IN ITEMS --model --data --valid --output --resume --seed --threads --learning-rate --max-length)
    expect_text("${output}" " ${option} " "${program} --help")
  endforeach()
endforeach()

# The command line.
set(sft "${SFT}" --data demonstrations.jsonl ${shape} --output refused)
set(dpo "${DPO}" --model sft/model.safetensors --data pairs.jsonl --output refused)
refused("--output is required" "${SFT}" --data demonstrations.jsonl)
refused("--model is required" "${DPO}" --data pairs.jsonl --output refused)
refused("--learning-rate = fast" ${sft} --learning-rate fast)
refused("sft: expected loop_options.learning_rate > 0 and finite, got -1" ${sft} --learning-rate -1)
refused("--lr-scheduler-type: sine not in" ${sft} --lr-scheduler-type sine)
refused("--batch-size: a number below 0: -4" ${sft} --batch-size -4)
refused("expected decoder_options.dim a multiple of 2 \\* heads, got 128"
        "${SFT}" --data demonstrations.jsonl --heads 3 --output refused)
refused("excludes" ${sft} --model sft/model.safetensors)
refused("dpo: expected dpo_options.beta > 0 and finite, got 0" ${dpo} --beta 0)
refused("dpo_options.label_smoothing in \\[0, 0.5\\) \\(robust\\), got 0.5"
        ${dpo} --loss-type robust --label-smoothing 0.5)
refused("expected --max-length at most the model's window, got 65" ${dpo} --max-length 65)

# Files.
file(WRITE "${FOLDER}/row.jsonl" "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n"
                                 "{\"prompt\": \"a\", \"chosen\": \"b\"}\n")
succeeds(sh -c "head -c 2000 sft/model.safetensors > short.safetensors")
refused("sft: nowhere.jsonl: cannot open" "${SFT}" --data nowhere.jsonl ${shape} --output refused)
refused("dpo: row.jsonl:2: .*rejected" "${DPO}" --model sft/model.safetensors --data row.jsonl --output refused)
refused("dpo: nowhere.safetensors: cannot open"
        "${DPO}" --model nowhere.safetensors --data pairs.jsonl --output refused)
refused("dpo: pairs.jsonl: " "${DPO}" --model pairs.jsonl --data pairs.jsonl --output refused)
refused("dpo: short.safetensors: " "${DPO}" --model short.safetensors --data pairs.jsonl --output refused)
refused("reward_model/model.safetensors: a reward model; a language model is needed"
        "${DPO}" --model reward_model/model.safetensors --data pairs.jsonl --output refused)

# An earlier run, which must stay as it is.
file(GLOB_RECURSE before "${FOLDER}/sft/*" "${FOLDER}/dpo/*")
hashes_of("${before}" hashes)
set(sft "${SFT}" ${shape} ${common} --output sft)
set(dpo "${DPO}" --model sft/model.safetensors ${common} --output dpo)
refused("sft: holds metrics.jsonl of an earlier run: give --resume" ${sft} --data demonstrations.jsonl)
refused("step-00000012.checkpoint: byte [0-9]+: the checkpoint belongs to a run with other options"
        ${sft} --data demonstrations.jsonl --resume --learning-rate 0.5)
file(WRITE "${FOLDER}/other.jsonl" "{\"instruction\": \"a\", \"response\": \"b\"}\n")
refused("step-00000012.checkpoint: byte [0-9]+: the checkpoint belongs to other training data"
        ${sft} --data other.jsonl --resume)
file(WRITE "${FOLDER}/other_pairs.jsonl" "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n")
refused("dpo/reference.cache: made for other data" ${dpo} --data other_pairs.jsonl --resume)
file(GLOB_RECURSE after "${FOLDER}/sft/*" "${FOLDER}/dpo/*")
hashes_of("${after}" hashes_after)
if(NOT "${after} ${hashes_after}" STREQUAL "${before} ${hashes}")
  message(SEND_ERROR "a refused run changed the files of an earlier one")
endif()
