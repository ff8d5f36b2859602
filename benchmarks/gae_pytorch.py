# SPDX-License-Identifier: MIT
"""GAE as PyTorch programs for RLHF have it: padded (sequences, length) tensors, a loop over time, one thread.

    python3 gae_pytorch.py <sequences> <length> <float32|float64> <seconds to spend>

Prints the seconds of one call (median) and the sum of all advantages, by which gae_benchmark sees that both programs
compute the same. Exits with 3 where there is no torch.
"""
import statistics
import sys
import time

try:
    import torch
except ImportError:
    sys.exit(3)

sequences, length, dtype, budget = int(sys.argv[1]), int(sys.argv[2]), getattr(torch, sys.argv[3]), float(sys.argv[4])
gamma, lam = 1.0, 0.95
torch.set_num_threads(1)
index = torch.arange(sequences * length, dtype=torch.float64).reshape(sequences, length)
rewards, values = torch.sin(index).to(dtype), torch.cos(0.7 * index).to(dtype)


def gae():
    lastgaelam, reversed_advantages = 0, []
    for t in reversed(range(length)):
        nextvalues = values[:, t + 1] if t < length - 1 else 0.0
        delta = rewards[:, t] + gamma * nextvalues - values[:, t]
        lastgaelam = delta + gamma * lam * lastgaelam
        reversed_advantages.append(lastgaelam)
    advantages = torch.stack(reversed_advantages[::-1], axis=1)
    return advantages, advantages + values


with torch.no_grad():
    gae()
    seconds, end = [], time.perf_counter() + budget
    while len(seconds) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        advantages, returns = gae()
        seconds.append(time.perf_counter() - start)
print(repr(statistics.median(seconds)), repr(advantages.double().sum().item()))
