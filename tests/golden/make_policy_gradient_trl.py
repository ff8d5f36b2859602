# SPDX-License-Identifier: MIT
"""Writes policy_gradient.txt and overlong_penalty.txt beside itself: what TRL's own code says of the policy gradient
family, fp64.

    pip install torch==2.15.0 trl==1.16.0        # CPU is enough; Python 3.11
    python3 make_policy_gradient_trl.py

Each case of policy_gradient.txt is a call of GRPOTrainer._compute_loss, the method itself, with a stub for the trainer
around it whose model answers with given log-probabilities; autograd gives the gradient. overlong_penalty.txt is what
trl.rewards.get_soft_overlong_punishment answers. A file is a list of cases separated by blank lines; a line of a case
is a name and its numbers; # begins a comment. Numbers are decimal and read back to the same bits.
"""
import collections
import pathlib
import types

import torch
import trl
from trl.rewards import get_soft_overlong_punishment
from trl.trainer.grpo_trainer import GRPOTrainer

torch.set_default_dtype(torch.float64)
generator = torch.Generator().manual_seed(2402)
here = pathlib.Path(__file__).parent
aggregations = {"bnpo": 0, "dapo": 0, "cispo": 0, "grpo": 1, "sapo": 1, "luspo": 2, "dr_grpo": 3}


def uniform(low, high):
    return low + (high - low) * torch.rand((), generator=generator).item()


def integer(low, high):
    """In [low, high]."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def normal(*shape, digits=4):
    return torch.round(torch.randn(*shape, generator=generator), decimals=digits)


def write(name, comment, cases):
    def text(value):
        if isinstance(value, torch.Tensor):
            value = value.detach().reshape(-1).tolist()
        values = value if isinstance(value, (list, tuple)) else [value]
        return " ".join(repr(int(x)) if float(x).is_integer() else repr(float(x)) for x in values)

    versions = f"TRL {trl.__version__} on PyTorch {torch.__version__.split('+')[0]}, fp64"
    lines = ["# SPDX-License-Identifier: MIT", f"# Made by make_policy_gradient_trl.py with {versions}."]
    lines += [f"# {line}" for line in comment]
    for case in cases:
        lines.append("")
        lines += [f"{key} {text(value)}".rstrip() for key, value in case.items()]
    (here / name).write_text("\n".join(lines) + "\n")


def trainer_stub(logps, loss_type, level, beta, bias_correction, epsilon, epsilon_high, delta, temperatures,
                 max_length):
    accelerator = types.SimpleNamespace(num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x,
                                        reduce=lambda x, reduction: x)
    args = types.SimpleNamespace(delta=delta, use_bias_correction_kl=bias_correction, steps_per_generation=1,
                                 sapo_temperature_pos=temperatures[0], sapo_temperature_neg=temperatures[1])
    return types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros_like(logps.detach()), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        importance_sampling_level=level, beta=beta, args=args, loss_type=loss_type, epsilon_low=epsilon,
        epsilon_high=epsilon_high, use_vllm=False,
        model=types.SimpleNamespace(training=True), current_gradient_accumulation_steps=1, accelerator=accelerator,
        max_completion_length=max_length, _entropy_bonus_enabled=False,
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)))


def case(loss_type, level="token", beta=0.0, bias_correction=False, epsilon=0.2, epsilon_high=0.2, delta=None,
         temperatures=(1.0, 1.05), token_advantages=False, step=0.4):
    rows, longest = integer(1, 3), integer(2, 4)
    mask = torch.zeros(rows, longest)
    for row in mask:
        length = integer(1, longest)
        row[:length] = 1
        if length > 2 and integer(0, 2) == 0:
            row[1] = 0  # a tool's answer inside the completion
    logps = -normal(rows, longest).abs()
    old = torch.round(logps + step * torch.randn(rows, longest, generator=generator), decimals=7)
    reference = torch.round(logps + 0.5 * normal(rows, longest), decimals=4)
    advantages = normal(rows, longest) if token_advantages else normal(rows)
    logps.requires_grad_()
    extra = integer(0, 1) * integer(1, 9) if loss_type in ("dapo", "cispo") else 0
    total_tokens = int(mask.sum()) + extra  # the step's; the others know only their own batch
    max_length = integer(4, 9)
    stub = trainer_stub(logps, loss_type, level, beta, bias_correction, epsilon, epsilon_high, delta, temperatures,
                        max_length)
    ids = torch.zeros(rows, longest, dtype=torch.long)
    loss = GRPOTrainer._compute_loss(stub, None, {
        "prompt_ids": ids[:, :1], "prompt_mask": torch.ones(rows, 1), "completion_ids": ids,
        "completion_mask": torch.ones(rows, longest), "tool_mask": mask, "advantages": advantages,
        "old_per_token_logps": old, "ref_per_token_logps": reference,
        "num_items_in_batch": torch.tensor(float(total_tokens))})
    loss.backward()
    metrics = stub._metrics["train"]
    clipped = metrics["clip_ratio/region_mean"] or [-1.0]
    keep = mask.bool()
    if advantages.dim() == 1:
        advantages = advantages[:, None].expand(rows, longest)
    surrogate = {"cispo": 2, "sapo": 3}.get(loss_type, 1 if level == "sequence" else 0)
    return {"options": [surrogate, aggregations[loss_type], beta, int(bias_correction), epsilon, epsilon_high,
                        delta or 0.0, *temperatures],
            "totals": [total_tokens, rows, max_length], "longest": longest, "mask": mask, "logps": logps[keep],
            "old_logps": old[keep], "ref_logps": reference[keep], "advantages": advantages[keep], "loss": loss,
            "dlogps": logps.grad[keep], "clipped": clipped[0], "kl": (metrics["kl"] or [-1.0])[0]}


cases = []
kls = ((0.0, False), (0.1, False), (0.1, True))
for beta, bias in kls:
    for loss_type in ("grpo", "dapo", "dr_grpo", "bnpo"):
        for epsilon_high in (0.2, 0.28):
            for delta in (None, 1.5):
                for i in range(3):
                    cases.append(case(loss_type, beta=beta, bias_correction=bias, epsilon_high=epsilon_high,
                                      delta=delta, token_advantages=i == 0))
        for epsilon, epsilon_high, step in ((3e-4, 4e-4, 4e-4), (0.1, 0.2, 0.3)):
            for i in range(4):
                cases.append(case(loss_type, level="sequence", beta=beta, bias_correction=bias, epsilon=epsilon,
                                  epsilon_high=epsilon_high, step=step, token_advantages=i == 0))
    for i in range(8):
        for epsilon_high in (1.5, 5.0):
            cases.append(case("cispo", beta=beta, bias_correction=bias, epsilon_high=epsilon_high, step=1.0,
                              token_advantages=i < 2))
        for temperatures in ((1.0, 1.05), (2.0, 0.3)):
            cases.append(case("sapo", beta=beta, bias_correction=bias, temperatures=temperatures, step=0.7,
                              token_advantages=i < 2))
for beta, bias in kls:
    for i in range(8):
        cases.append(case("luspo", level="sequence", beta=beta, bias_correction=bias, epsilon=0.1, epsilon_high=0.2,
                          step=0.3, token_advantages=i == 0))
write("policy_gradient.txt",
      ["options: 0 ppo, 1 gspo, 2 cispo, 3 sapo; loss_aggregation; beta; use_bias_correction_kl; epsilon;",
       "epsilon_high; delta, 0 for None; sapo_temperature_pos; sapo_temperature_neg. totals: tokens and sequences of",
       "the step, longest completion allowed. mask: rows of `longest`; numbers per token are given where it is 1.",
       "clipped, kl: TRL's metrics clip_ratio/region_mean and kl, -1 where it has none."], cases)

overlong = []
for _ in range(40):
    limit = integer(1, 40)
    buffer = integer(1, limit)
    lengths = sorted({0, 1, limit - buffer, limit - buffer + 1, limit - 1, limit, limit + 1, 3 * limit,
                      integer(0, limit)})
    overlong.append({"limit": limit, "buffer": buffer, "lengths": lengths,
                     "rewards": get_soft_overlong_punishment(limit, buffer)([[0] * length for length in lengths])})
write("overlong_penalty.txt", [], overlong)
