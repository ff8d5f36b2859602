# SPDX-License-Identifier: MIT
"""Losses and gradients as PyTorch programs have them: eager, f32, one thread, forward and backward of the loss alone.

    python3 objectives_pytorch.py        reads lines "dpo 64", "bradley_terry 64", "ppo 16384"

Answers each with the seconds of one call (median over a twentieth of a second) and the loss, by which objectives_benchmark
sees that both programs compute the same. Exits with 3 where there is no torch.
"""
import statistics
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit(3)

torch.set_num_threads(1)


def wave(n, scale, shift, frequency):
    return (shift + scale * torch.sin(frequency * torch.arange(n, dtype=torch.float64))).float()


def dpo(n):
    chosen, rejected = wave(n, 3, -40, 1.0).requires_grad_(), wave(n, 3, -42, 0.7).requires_grad_()
    ref_chosen, ref_rejected = wave(n, 3, -41, 1.3), wave(n, 3, -41, 0.3)

    def call():
        chosen.grad = rejected.grad = None
        logits = (chosen - rejected) - (ref_chosen - ref_rejected)
        loss = -F.logsigmoid(0.1 * logits).mean()
        loss.backward()
        return loss

    return call


def bradley_terry(n):
    chosen, rejected = wave(n, 2, 0.5, 1.0).requires_grad_(), wave(n, 2, 0, 0.7).requires_grad_()

    def call():
        chosen.grad = rejected.grad = None
        loss = -F.logsigmoid(chosen - rejected).mean()
        loss.backward()
        return loss

    return call


def ppo(n):
    logps = wave(n, 1, -2, 1.0).requires_grad_()
    old_logps, ref_logps = logps.detach() + wave(n, 0.1, 0, 0.7), wave(n, 1, -2.1, 1.1)
    advantages, mask = wave(n, 1, 0, 0.3), torch.ones(n)

    def call():
        logps.grad = None
        ratio = torch.exp(logps - old_logps)
        surrogate = torch.max(-advantages * ratio, -advantages * torch.clamp(ratio, 0.8, 1.2))
        d = ref_logps - logps
        loss = ((surrogate + 0.05 * (torch.exp(d) - d - 1)) * mask).sum() / mask.sum()
        loss.backward()
        return loss

    return call


calls = {}
for line in sys.stdin:
    name, count = line.split()
    call = calls.setdefault(line, {"dpo": dpo, "bradley_terry": bradley_terry, "ppo": ppo}[name](int(count)))
    call()
    seconds, end = [], time.perf_counter() + 0.05
    while len(seconds) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        loss = call()
        seconds.append(time.perf_counter() - start)
    print(repr(statistics.median(seconds)), repr(loss.item()), flush=True)
