# SPDX-License-Identifier: MIT
#
# cmake -DSFT=... -DREWARD_MODEL=... -DDPO=... -DPPO=... -DFOLDER=<scratch> -P programs.cmake
# The four programs one after another on sixteen rows, dpo by each kind of loss; then each is cut off in the middle and
# resumed, dpo by a signal that cannot be caught, and ends in the same bits; dpo by every loss; PPO's relatives and file
# layouts; --help; and what they refuse, by name, leaving nothing behind.
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
  foreach(response IN ITEMS " It is ${next}, of course.;true" " No.;false")
    list(GET response 0 completion)
    list(GET response 1 label)
    file(APPEND "${FOLDER}/feedback.jsonl" "{\"prompt\": \"What is ${number} plus 1?\", "
                                           "\"completion\": \"${completion}\", \"label\": ${label}}\n")
  endforeach()
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
  list(TRANSFORM lines REPLACE "\"rollout/tokens_per_second\":[^,}]+" "")
  set(${result_variable} "${lines}" PARENT_SCOPE)
endfunction()

set(common --batch-size 4 --epochs 3 --save-steps 4 --logging-steps 3)
set(shape --dim 16 --layers 1 --heads 2 --hidden 24 --window 64)
set(sft "${SFT}" --data demonstrations.jsonl --valid demonstrations.jsonl ${shape} ${common})
set(pairs --model sft/model.safetensors --data pairs.jsonl --valid few.jsonl ${common})
set(reward_model "${REWARD_MODEL}" ${pairs} --learning-rate 0.003)
set(dpo "${DPO}" ${pairs} --learning-rate 0.001)
# Losses of single responses, of which there are twice as many. Their stage is called kto.
set(responses --batch-size 8 --epochs 3 --save-steps 4 --logging-steps 3 --learning-rate 0.001)
foreach(loss IN ITEMS kto bco apo_zero_unpaired)
  set(${loss} "${DPO}" --model sft/model.safetensors --data pairs.jsonl --valid few.jsonl ${responses} --loss ${loss})
  set(stage_of_${loss} kto)
endforeach()
set(models --policy sft/model.safetensors --reward reward_model/model.safetensors)
set(short ${models} --batch-size 4 --max-new-tokens 6)
set(ppo "${PPO}" ${models} --prompts pairs.jsonl ${common} --max-new-tokens 6 --normalize-reward 20 --mini-batches 2)

# One after another.
set(programs sft reward_model dpo kto bco apo_zero_unpaired ppo)
foreach(program IN ITEMS sft reward_model dpo ppo)
  set(stage_of_${program} ${program})
endforeach()
foreach(program IN LISTS programs)
  succeeds(${${program}} --output ${program} --threads 2)
  foreach(file IN ITEMS model.safetensors metrics.jsonl checkpoints/step-00000008.checkpoint
                        checkpoints/step-00000012.checkpoint)
    if(NOT EXISTS "${FOLDER}/${program}/${file}")
      message(SEND_ERROR "${program} wrote no ${file}")
    endif()
  endforeach()
  expect_text("${output}" "demonstrations.jsonl: 16 rows, 16 kept|pairs.jsonl: 16 rows, 16 kept" ${program})
  metrics_of(${program} metrics)
  if("${program}" STREQUAL "ppo")
    expect_text("${output}" "reward of 20 responses: mean .*12 steps.*wrote ppo/model.safetensors" ppo)
    string(REGEX MATCHALL "prompt +What is [0-2] plus 1\\?\nresponse +[^\n]+\nscore +-?[0-9.]+\n" samples "${output}")
    list(LENGTH samples count)
    expect_text("${count}" "^3$" "ppo's samples")
    expect_text("${metrics}" "\"stage\":\"ppo\",\"step\":3,.*\"objective/kl\".*\"loss/value_avg\".*\"finish\"" ppo)
  else()
    expect_text("${output}" "12 steps.*eval_loss.*wrote ${program}/model.safetensors" ${program})
    expect_text("${metrics}" "\"stage\":\"${stage_of_${program}}\",\"step\":3,.*\"evaluation\".*\"finish\"" ${program})
  endif()
  # Policy and reference agree at the start, where the losses are ln 2 or one half.
  set(learnt_dpo "loss 0\\.6931 -> 0\\.[0-5].*eval_rewards/accuracies 1\\.0000")
  set(learnt_kto "loss 0\\.5000 -> 0\\.4.*eval_rewards/margins 0\\.[5-9].*eval_kl [1-9]")
  set(learnt_bco "loss 0\\.6931 -> 0\\.5.*eval_rewards/margins 0\\.[5-9].*eval_delta 0\\.1")
  set(learnt_apo_zero_unpaired "loss 0\\.5000 -> 0\\.4.*eval_rewards/margins 0\\.[5-9]")
  expect_text("${output}" "${learnt_${program}}" ${program})
endforeach()
succeeds("${SFT}" --data pairs.jsonl --chosen ${shape} --max-steps 2 --output chosen)
expect_text("${output}" "2 steps" "sft --chosen")
succeeds("${SFT}" --data demonstrations.jsonl ${shape} --max-steps 2 --loss-type dft --z-loss 1e-4 --output dft)
expect_text("${output}" "2 steps" "sft --loss-type dft --z-loss")

# As if killed after step 8, on another number of threads. What was reported of later steps is reported once.
foreach(program IN LISTS programs)
  file(COPY "${FOLDER}/${program}/" DESTINATION "${FOLDER}/${program}_cut")
  file(REMOVE "${FOLDER}/${program}_cut/model.safetensors"
              "${FOLDER}/${program}_cut/checkpoints/step-00000012.checkpoint")
  succeeds(${${program}} --output ${program}_cut --resume --threads 1)
  expect_text("${output}" "${stage_of_${program}} 8/12  resumed" "${program} --resume")
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

# Responses that were judged one by one, here those of the pairs, in the same order.
foreach(loss IN ITEMS kto bco apo_zero_unpaired)
  set(arguments ${responses} --loss ${loss} --feedback)
  succeeds("${DPO}" --model sft/model.safetensors --data feedback.jsonl ${arguments} --output ${loss}_feedback)
  expect_text("${output}" "feedback.jsonl: 32 rows, 32 kept" "--loss ${loss} --feedback")
  expect_same_model(${loss} ${loss}_feedback)
endforeach()
# KTO's prompts meet other rows' completions, which lose what the window has no room for.
string(REPEAT "why? " 10 long)
file(WRITE "${FOLDER}/uneven.jsonl"
     "{\"prompt\": \"${long}\", \"completion\": \" No.\", \"label\": false}\n"
     "{\"prompt\": \"why?\", \"completion\": \" ${long}\", \"label\": true}\n")
succeeds("${DPO}" --model sft/model.safetensors --data uneven.jsonl --loss kto --feedback --output uneven)

# dpo by every loss of pairs, by itself. No two end in the same model: each name leads to its own loss.
run(ignored "${DPO}" --model sft/model.safetensors --data pairs.jsonl --loss nothing --output refused)
if(NOT output MATCHES "; names: ([a-z_ ]+); of single responses: kto bco apo_zero_unpaired")
  message(FATAL_ERROR "expected a refusal that lists the losses:\n${output}")
endif()
string(REPLACE " " ";" losses "${CMAKE_MATCH_1}")
list(LENGTH losses count)
if(count LESS 20)
  message(SEND_ERROR "expected 20 losses of pairs or more, got ${losses}")
endif()
set(models_of_losses "")
foreach(loss IN LISTS losses ITEMS kto bco apo_zero_unpaired)
  succeeds("${DPO}" --model sft/model.safetensors --data pairs.jsonl --loss ${loss} --batch-size 4 --max-steps 4
           --learning-rate 0.001 --output loss_${loss})
  expect_text("${output}" "4 steps, [0-9]+ tokens, loss -?[0-9.]+ -> -?[0-9.]+\n" "dpo --loss ${loss}")
  list(APPEND models_of_losses "${FOLDER}/loss_${loss}/model.safetensors")
endforeach()
hashes_of("${models_of_losses}" hashes)
list(REMOVE_DUPLICATES hashes)
list(LENGTH hashes different)
list(LENGTH models_of_losses count)
if(NOT different EQUAL count)
  message(SEND_ERROR "${count} losses, but ${different} models")
endif()
# The numbers of single responses' losses reach them.
foreach(arguments IN ITEMS "kto;--beta;0.5" "kto;--desirable-weight;2" "kto;--undesirable-weight;0.5" "bco;--beta;0.5"
                           "apo_zero_unpaired;--beta;0.5" "apo_zero_unpaired;--desirable-weight;2"
                           "apo_zero_unpaired;--undesirable-weight;0.5")
  string(REPLACE ";" "" folder "${arguments}")
  list(GET arguments 0 loss)
  succeeds("${DPO}" --model sft/model.safetensors --data pairs.jsonl --batch-size 4 --max-steps 4
           --learning-rate 0.001 --loss ${arguments} --output ${folder})
  hashes_of("${FOLDER}/${folder}/model.safetensors;${FOLDER}/loss_${loss}/model.safetensors" hashes)
  list(REMOVE_DUPLICATES hashes)
  list(LENGTH hashes different)
  if(NOT different EQUAL 2)
    message(SEND_ERROR "dpo --loss ${arguments}: the number changes nothing")
  endif()
endforeach()

# PPO's relatives, each from prompts in another layout, and what their metrics tell them apart by.
file(APPEND "${FOLDER}/prompts.jsonl" "{\"prompt\": \"What is 1 plus 1?\"}\n{\"prompt\": \"And 2 plus 2?\"}\n")
file(APPEND "${FOLDER}/messages.jsonl" "{\"messages\": [{\"role\": \"user\", \"content\": \"What is 1 plus 1?\"}]}\n")
set(ppo_runs
  "shared|--prompts messages.jsonl --shared-critic|loss/value_avg"
  "from_reward|--prompts prompts.jsonl --critic-learning-rate 0.01 --lam 1 --whiten-rewards|critic_grad_norm"
  "from_policy|--prompts prompts.jsonl --critic-from policy --critic-learning-rate 0.01 --lam 1 --whiten-rewards|critic_grad_norm"
  "rloo|--prompts demonstrations.jsonl --advantage rloo --temperature 0.7 --kl-target 0.1 --kl-horizon 50|frac_reward_zero_std"
  "grpo|--prompts pairs.jsonl --advantage grpo --num-generations 3 --kl-placement loss --aggregation sequence_mean|val/ratio"
  "dr_grpo|--prompts prompts.jsonl --advantage dr_grpo --top-k 20 --top-p 0.9 --aggregation constant|rollout/log_ratio"
  "reinforce|--prompts prompts.jsonl --advantage reinforce_plus_plus --entropy-coef 0.01 --dual-clip 3|policy/entropy_avg"
  "gspo|--prompts prompts.jsonl --advantage grpo --loss gspo --cliprange 0.01 --gspo-token|val/ratio"
  "cispo|--prompts prompts.jsonl --advantage rloo --loss cispo --epsilon-high 2|policy/clipfrac_avg"
  "sapo|--prompts prompts.jsonl --advantage grpo --loss sapo --sapo-temperature-pos 2 --sapo-temperature-neg 3 --kl-placement loss --kl-bias-correction|loss/policy_avg"
  "dapo|--prompts prompts.jsonl --advantage grpo --kl-coef 0 --cliprange-high 0.28 --max-resamples 2 --overlong-buffer 3 --overlong-factor 0.5 --mask-truncated-completions|rollout/dropped_groups"
  "ending|--prompts prompts.jsonl --missing-eos replace --missing-eos-penalty 2 --target-kl 0.01|val/num_eos_tokens")
foreach(line IN LISTS ppo_runs)
  string(REGEX REPLACE "^([^|]+)\\|([^|]+)\\|([^|]+)$" "\\1;\\2;\\3" parts "${line}")
  list(GET parts 0 folder)
  list(GET parts 1 arguments)
  list(GET parts 2 figure)
  separate_arguments(arguments)
  succeeds("${PPO}" ${short} ${arguments} --updates 2 --save-steps 0 --output ppo_${folder})
  metrics_of(ppo_${folder} metrics)
  expect_text("${metrics}" "\"step\":2,.*\"${figure}\":" "ppo ${arguments}")
endforeach()
metrics_of(ppo_from_reward from_reward)
metrics_of(ppo_from_policy from_policy)
if(from_reward STREQUAL from_policy)
  message(SEND_ERROR "--critic-from changes nothing:\n${from_reward}")
endif()
# What it wrote is a language model again.
# Weighted pairs, a reference that follows, and pairs that are drawn: each its own model, resumed in the same bits.
set(short_dpo "${DPO}" --model sft/model.safetensors --data pairs.jsonl --batch-size 4 --save-steps 2 --learning-rate 0.001)
set(online --reward reward_model/model.safetensors --num-generations 3 --max-new-tokens 8)
set(wpo --wpo)
set(tr_dpo --sync-reference --sync-alpha 0.5 --sync-steps 2)
set(hashes_of_dpo "")
foreach(way IN ITEMS wpo tr_dpo online)
  succeeds(${short_dpo} ${${way}} --valid few.jsonl --max-steps 6 --output ${way})
  file(SHA256 "${FOLDER}/${way}/model.safetensors" hash)
  list(APPEND hashes_of_dpo ${hash})
  run(result ${short_dpo} ${${way}} --valid few.jsonl --max-steps 6 --output ${way} --resume)
  if(NOT result EQUAL 0)
    message(SEND_ERROR "${way} is not gone on with: ${output}")
  endif()
endforeach()
list(REMOVE_DUPLICATES hashes_of_dpo)
list(LENGTH hashes_of_dpo count)
if(NOT count EQUAL 3)
  message(SEND_ERROR "wpo, tr_dpo and online end in ${count} different models, not 3")
endif()
file(READ "${FOLDER}/online/metrics.jsonl" text)
expect_text("${text}" "\"objective/scores\":" "the online run's metrics")

succeeds("${DPO}" --model ppo_shared/model.safetensors --data pairs.jsonl --max-steps 1 --output dpo_after_ppo)

# --help.
foreach(program IN ITEMS SFT REWARD_MODEL DPO PPO)
  succeeds("${${program}}" --help)
  set(inputs --model --data --valid --max-steps --eval-steps)
  if("${program}" STREQUAL "PPO")
    set(inputs --policy --reward --prompts --updates --advantage)
  elseif("${program}" STREQUAL "DPO")
    list(APPEND inputs --loss --feedback --beta --desirable-weight --undesirable-weight)
  endif()
  foreach(option IN ITEMS ${inputs} --output --resume --seed --threads --learning-rate --max-length)
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
refused("--loss-type: ft not in" ${sft} --loss-type ft)
refused("sft: expected sft_options.label_smoothing == 0 with loss_type dft"
        ${sft} --loss-type dft --label-smoothing 0.1)
refused("sft: expected sft_options.z_loss_coef >= 0 and finite, got -1" ${sft} --z-loss -1)
refused("expected decoder_options.dim a multiple of 2 \\* heads, got 128"
        "${SFT}" --data demonstrations.jsonl --heads 3 --output refused)
refused("excludes" ${sft} --model sft/model.safetensors)
refused("dpo: expected dpo_options.beta > 0 and finite, got 0" ${dpo} --beta 0)
refused("dpo_options.label_smoothing in \\[0, 0.5\\) \\(robust\\), got 0.5"
        ${dpo} --loss robust --label-smoothing 0.5)
refused("no loss is called \"sigmoidal\"; names: sigmoid robust hinge" ${dpo} --loss sigmoidal)
refused("\"0\" is no weight above 0, in \"sft:0\"" ${dpo} --loss sigmoid,sft:0)
refused("--label-smoothing: no loss in --loss hinge has it" ${dpo} --loss hinge --label-smoothing 0.1)
refused("an f-divergence has no effect on the loss nca_pair" ${dpo} --loss nca_pair --f-divergence forward_kl)
refused("--f-alpha: only with --f-divergence alpha_divergence" ${dpo} --f-alpha 0.3)
refused("reference_free only with a loss that has a reference" ${dpo} --loss simpo --reference-free)
refused("--sync-steps: only with --sync-reference" ${dpo} --sync-steps 3)
refused("--num-generations: only with --reward" ${dpo} --num-generations 3)
refused("reference_sync_options.mixup_alpha in \\(0, 1\\], got 0" ${dpo} --sync-reference --sync-alpha 0)
refused("ld_alpha in \\[0, 1\\], got 2" ${dpo} --ld-alpha 2)
refused("expected --max-length at most the model's window, got 65" ${dpo} --max-length 65)
foreach(losses IN ITEMS kto:1 bco:0.5 apo_zero_unpaired:2 kto,sft:1 sigmoid,bco sft:1,apo_zero_unpaired:1 kto,bco)
  refused("dpo: --loss ${losses}: [a-z_]+ is a loss of single responses, not of pairs: it stands alone"
          ${dpo} --loss ${losses})
endforeach()
refused("\"ktoo\"; names: .* orpo; of single responses: kto bco apo_zero_unpaired" ${dpo} --loss ktoo)
foreach(loss IN ITEMS kto bco apo_zero_unpaired)
  foreach(option IN ITEMS --label-smoothing --target-margin --delta --discopop-tau --simpo-gamma --alphapo-alpha
                          --cpo-alpha)
    refused("dpo: ${option}: no loss in --loss ${loss} has it" ${dpo} --loss ${loss} ${option} 0.1)
  endforeach()
  refused("dpo: --sft-normalization: no loss in --loss ${loss} has it" ${dpo} --loss ${loss} --sft-normalization token)
  foreach(option IN ITEMS "--f-divergence;forward_kl" "--f-alpha;0.3" --reference-free "--ld-alpha;0.5")
    list(GET option 0 name)
    refused("dpo: ${name}: only with a loss of pairs, not --loss ${loss}" ${dpo} --loss ${loss} ${option})
  endforeach()
  refused("dpo: expected ${loss}_options.beta > 0 and finite, got 0" ${dpo} --loss ${loss} --beta 0)
endforeach()
foreach(loss IN ITEMS sigmoid sft bco)
  foreach(option IN ITEMS --desirable-weight --undesirable-weight)
    refused("dpo: ${option}: no loss in --loss ${loss} has it" ${dpo} --loss ${loss} ${option} 2)
  endforeach()
endforeach()
refused("kto_options.desirable_weight >= 0 and finite, got -1" ${dpo} --loss kto --desirable-weight -1)
refused("kto_options.undesirable_weight >= 0 and finite, got -1" ${dpo} --loss kto --undesirable-weight -1)
refused("apo_zero_unpaired_options.desirable_weight > 0 or undesirable_weight > 0"
        ${dpo} --loss apo_zero_unpaired --desirable-weight 0 --undesirable-weight 0)
refused("dpo: --feedback: only with a loss of single responses, not --loss sigmoid" ${dpo} --feedback)
refused("batch_size >= 2 for KTO: a single example has no mismatched pair, got 1" ${dpo} --loss kto --batch-size 1)
# A step of one response; the folder of such a run would stand in the way of the next.
refused("the epoch's last step has one: examples, got 32" ${dpo} --loss kto --batch-size 31)
refused("evaluation batch.*the last one has one: examples, got 8" ${dpo} --loss kto --valid few.jsonl --batch-size 7)
refused("expected --max-length at most the model's window, got 65" ${dpo} --loss kto --max-length 65)

set(ppo "${PPO}" ${short} --prompts pairs.jsonl --output refused)
refused("--reward is required" "${PPO}" --policy sft/model.safetensors --prompts pairs.jsonl --output refused)
refused("--advantage: ppo2 not in" ${ppo} --advantage ppo2)
foreach(option IN ITEMS "--gamma;1" "--lam;1" "--whiten-rewards" "--cliprange-value;0.1" "--vf-coef;1" "--critic-from;reward"
                        "--critic-learning-rate;0.1" "--shared-critic")
  list(GET option 0 name)
  refused("ppo: ${name}: only with --advantage gae" ${ppo} --advantage grpo ${option})
endforeach()
refused("ppo: --critic-from: only without --shared-critic" ${ppo} --shared-critic --critic-from policy)
refused("ppo: --entropy-coef: only without --shared-critic" ${ppo} --shared-critic --entropy-coef 0.1)
refused("ppo: --missing-eos-penalty: only with --missing-eos" ${ppo} --missing-eos-penalty 2)
refused("ppo: --kl-horizon: only with --kl-target" ${ppo} --kl-horizon 100)
refused("ppo: --kl-estimator: only with --kl-coef above 0" ${ppo} --kl-coef 0 --kl-estimator k1)
refused("kl_options.estimator k2 or k3 with placement loss" ${ppo} --kl-placement loss --kl-estimator k1)
refused("rollout_options.num_generations >= 2" ${ppo} --advantage rloo --num-generations 1)
refused("num_mini_batches in \\[1, batch_size \\* num_generations\\], got 5" ${ppo} --mini-batches 5)
refused("--loss: grpo not in" ${ppo} --loss grpo)
refused("ppo: --dual-clip: only with --loss ppo" ${ppo} --loss gspo --dual-clip 3)
refused("ppo: --cliprange: only with --loss ppo or gspo" ${ppo} --loss sapo --cliprange 0.1)
refused("ppo: --cliprange-high: only with --loss ppo or gspo" ${ppo} --loss cispo --cliprange-high 0.1)
refused("ppo: --gspo-token: only with --loss gspo" ${ppo} --gspo-token)
refused("ppo: --epsilon-high: only with --loss cispo" ${ppo} --epsilon-high 5)
refused("ppo: --sapo-temperature-pos: only with --loss sapo" ${ppo} --sapo-temperature-pos 2)
refused("ppo: --sapo-temperature-neg: only with --loss sapo" ${ppo} --loss cispo --sapo-temperature-neg 2)
refused("ppo: --max-resamples: only without --advantage gae" ${ppo} --max-resamples 2)
refused("ppo: --overlong-factor: only with --overlong-buffer" ${ppo} --overlong-factor 2)
refused("ppo: --kl-bias-correction: only with --kl-placement loss" ${ppo} --kl-bias-correction)
refused("gspo_options.cliprange in \\(0, 1\\], got 2" ${ppo} --loss gspo --cliprange 2)
refused("cispo_options.epsilon_high >= 1 and finite, got 0.5" ${ppo} --loss cispo --epsilon-high 0.5)
refused("ppo: --normalize-reward: only 0, or 2 and more" ${ppo} --normalize-reward 1)
refused("a policy's temperature in .*, got 0" ${ppo} --temperature 0)
refused("separate_critic.learning_rate >= 0 and finite, got -1" ${ppo} --critic-learning-rate -1)
refused("expected --max-length at most the model's window, got 65" ${ppo} --max-length 65)

# Files.
file(WRITE "${FOLDER}/row.jsonl" "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n"
                                 "{\"prompt\": \"a\", \"chosen\": \"b\"}\n")
file(WRITE "${FOLDER}/bad.jsonl" "{\"prompt\": \"a\"}\n{\"text\": \"a\"}\n")
succeeds(sh -c "head -c 2000 sft/model.safetensors > short.safetensors")
refused("sft: nowhere.jsonl: cannot open" "${SFT}" --data nowhere.jsonl ${shape} --output refused)
refused("dpo: row.jsonl:2: .*rejected" "${DPO}" --model sft/model.safetensors --data row.jsonl --output refused)
refused("dpo: pairs.jsonl:1: field \"label\": missing"
        "${DPO}" --model sft/model.safetensors --data pairs.jsonl --loss kto --feedback --output refused)
refused("dpo: feedback.jsonl:1: .*chosen"
        "${DPO}" --model sft/model.safetensors --data feedback.jsonl --loss kto --output refused)
refused("dpo: nowhere.safetensors: cannot open"
        "${DPO}" --model nowhere.safetensors --data pairs.jsonl --output refused)
refused("dpo: pairs.jsonl: " "${DPO}" --model pairs.jsonl --data pairs.jsonl --output refused)
refused("dpo: short.safetensors: " "${DPO}" --model short.safetensors --data pairs.jsonl --output refused)
refused("ppo: bad.jsonl:2: field \"prompt\": missing"
        "${PPO}" ${short} --prompts bad.jsonl --output refused)
refused("ppo: nowhere.jsonl: cannot open" "${PPO}" ${short} --prompts nowhere.jsonl --output refused)
refused("ppo: sft/model.safetensors: no reward model"
        "${PPO}" --policy sft/model.safetensors --reward sft/model.safetensors --prompts pairs.jsonl --output refused)
refused("ppo: reward_model/model.safetensors: a reward model; a language model is needed"
        "${PPO}" --policy reward_model/model.safetensors --reward reward_model/model.safetensors --prompts pairs.jsonl
        --output refused)
succeeds("${SFT}" --data demonstrations.jsonl --dim 16 --layers 1 --heads 2 --hidden 24 --window 96 --max-steps 1 --output wide)
refused("ppo: reward_model/model.safetensors: its window is 64, the policy's 96"
        "${PPO}" --policy wide/model.safetensors --reward reward_model/model.safetensors --prompts pairs.jsonl --output refused)
refused("reward_model/model.safetensors: a reward model; a language model is needed"
        "${DPO}" --model reward_model/model.safetensors --data pairs.jsonl --output refused)

# An earlier run, which must stay as it is.
file(GLOB_RECURSE before "${FOLDER}/sft/*" "${FOLDER}/dpo/*" "${FOLDER}/kto/*" "${FOLDER}/ppo/*")
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
set(dpo "${DPO}" --model sft/model.safetensors --data pairs.jsonl --valid few.jsonl ${responses} --resume)
refused("checkpoint: byte [0-9]+: the checkpoint belongs to " ${dpo} --output dpo --loss kto)
refused("the checkpoint belongs to a run with other options" ${dpo} --output kto --loss apo_zero_unpaired)
refused("the checkpoint belongs to a run with other options" ${dpo} --output kto --loss kto --undesirable-weight 2)
refused("the checkpoint belongs to a run with other options" ${dpo} --output kto --loss kto --max-length 63)
set(ppo "${PPO}" ${models} ${common} --max-new-tokens 6 --mini-batches 2 --output ppo)
succeeds("${REWARD_MODEL}" --model sft/model.safetensors --data pairs.jsonl --max-steps 1 --output other_reward)
refused("ppo: holds metrics.jsonl of an earlier run: give --resume" ${ppo} --prompts pairs.jsonl)
refused("the checkpoint belongs to other training data" ${ppo} --prompts prompts.jsonl --normalize-reward 20 --updates 12 --resume)
refused("the checkpoint belongs to a run with other options" ${ppo} --prompts pairs.jsonl --normalize-reward 21 --resume)
list(TRANSFORM ppo REPLACE "^reward_model/" "other_reward/" OUTPUT_VARIABLE judged_otherwise)
refused("the checkpoint belongs to a run with other options" ${judged_otherwise} --prompts pairs.jsonl --resume)
refused("the checkpoint belongs to a run with other options"
        ${ppo} --prompts pairs.jsonl --normalize-reward 20 --temperature 0.9 --resume)
file(GLOB_RECURSE after "${FOLDER}/sft/*" "${FOLDER}/dpo/*" "${FOLDER}/kto/*" "${FOLDER}/ppo/*")
hashes_of("${after}" hashes_after)
if(NOT "${after} ${hashes_after}" STREQUAL "${before} ${hashes}")
  message(SEND_ERROR "a refused run changed the files of an earlier one")
endif()
