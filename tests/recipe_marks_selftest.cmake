# SPDX-License-Identifier: MIT
#
# cmake -DSCRATCH=<folder> -P recipe_marks_selftest.cmake
# recipe_marks.cmake accepts figures that meet every mark exactly, and refuses the same with any one figure past it.
cmake_minimum_required(VERSION 3.25)

# check(<expected: pass or a piece of the message> [<path> <value>]...) with the paths of string(JSON SET), "/" between.
function(check expected)
  set(arm [[{"instruction_accuracy": 0.5, "refusal_rate": 0.1, "over_refusal_rate": 9.5e-05, "helpful_tone_rate": 0.2,
             "kl_to_sft": 0, "win_rate_vs_sft": 0.75, "seconds": 1.5, "flops": 1e12, "peak_rss_mb": 100}]])
  set(text "{\"arms\": {\"pretrained\": ${arm}, \"sft\": ${arm}, \"dpo\": ${arm}, \"ppo\": ${arm},
            \"ppo_no_kl\": ${arm}}, \"reward_model\": {\"accuracy\": 0.9},
            \"claims\": [{\"name\": \"dpo_memory\", \"in_words\": \"0.5 times\", \"holds\": true}]}")
  set(changes arms/sft/instruction_accuracy 0.9 arms/dpo/instruction_accuracy 0.89 arms/dpo/refusal_rate 0.95
              arms/dpo/over_refusal_rate 0.05 arms/dpo/helpful_tone_rate 0.95 arms/ppo/refusal_rate 0.95
              arms/ppo/over_refusal_rate 0.05 arms/ppo/helpful_tone_rate 0.95 ${ARGN})
  while(changes)
    list(POP_FRONT changes path value)
    string(REPLACE "/" ";" path "${path}")
    string(JSON text SET "${text}" ${path} "${value}")
  endwhile()
  file(WRITE "${SCRATCH}/recipe.json" "${text}")
  execute_process(COMMAND "${CMAKE_COMMAND}" "-DJSON=${SCRATCH}/recipe.json" -P
                          "${CMAKE_CURRENT_LIST_DIR}/recipe_marks.cmake"
                  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")  # messages are wrapped
  if(expected STREQUAL "pass")
    if(NOT result EQUAL 0)
      message(SEND_ERROR "refused: ${ARGN}: ${output}")
    endif()
  else()
    string(FIND "${output}" "${expected}" said)
    if(result EQUAL 0 OR said EQUAL -1)
      message(SEND_ERROR "expected \"${expected}\" for ${ARGN}; got ${result}: ${output}")
    endif()
  endif()
endfunction()

check(pass)
check(pass arms/dpo/over_refusal_rate 9.5e-05)
check(pass arms/sft/instruction_accuracy 1 arms/dpo/instruction_accuracy 1.0)
check("arms.sft.instruction_accuracy = 0.875" arms/sft/instruction_accuracy 0.875)
check("arms.dpo.instruction_accuracy = 0.875" arms/dpo/instruction_accuracy 0.875)
check("arms.dpo.refusal_rate = 0.9375" arms/dpo/refusal_rate 0.9375)
check("arms.dpo.over_refusal_rate = 0.0625" arms/dpo/over_refusal_rate 0.0625)
check("arms.dpo.helpful_tone_rate = 0.9375" arms/dpo/helpful_tone_rate 0.9375)
check("arms.pretrained.instruction_accuracy = 0.9375" arms/pretrained/instruction_accuracy 0.9375)
check("reward_model.accuracy = 0.5" reward_model/accuracy 0.5)
check("arms.ppo.refusal_rate = 0.9375" arms/ppo/refusal_rate 0.9375)
check("arms.ppo.over_refusal_rate = 0.0625" arms/ppo/over_refusal_rate 0.0625)
check("arms.ppo.helpful_tone_rate = 0.9375" arms/ppo/helpful_tone_rate 0.9375)
check("arms.ppo.win_rate_vs_sft = 0.5" arms/ppo/win_rate_vs_sft 0.5)
check("the claim dpo_memory does not hold: 0.5 times" claims/0/holds false)
check("no claims" claims [])
check("is not a number" arms/dpo/helpful_tone_rate null)
check("arms.dpo.kl_to_sft is not a number" arms/dpo/kl_to_sft null)
check("there is no reward_model.accuracy" reward_model {})
file(REMOVE_RECURSE "${SCRATCH}")
