# SPDX-License-Identifier: MIT
"""Writes ppo.txt, value_loss.txt, token_rewards.txt, gae.txt, whiten.txt and group_advantages.txt beside itself: the
arithmetic of PPO and its family as PyTorch computes it, fp64.

    pip install torch==2.15.0        # CPU is enough; Python 3.11
    python3 make_policy_gradient.py

Every formula is spelt as TRL or VERL has it, over padded tensors and a mask, never as the library computes it. A file is
a list of cases separated by blank lines; a line of a case is a name and its numbers; # begins a comment. Numbers are
decimal and read back to the same bits.
"""
import pathlib

import torch

torch.set_default_dtype(torch.float64)
generator = torch.Generator().manual_seed(1707)
here = pathlib.Path(__file__).parent


def uniform(low, high):
    return low + (high - low) * torch.rand((), generator=generator).item()


def integer(low, high):
    """In [low, high]."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def normal(*shape):
    return torch.randn(*shape, generator=generator)


def write(name, cases):
    def text(value):
        if isinstance(value, torch.Tensor):
            value = value.detach().reshape(-1).tolist()
        return " ".join(repr(x) for x in (value if isinstance(value, (list, tuple)) else [value]))

    version = torch.__version__.split("+")[0]
    lines = ["# SPDX-License-Identifier: MIT", f"# Made by make_policy_gradient.py with PyTorch {version}, fp64."]
    for case in cases:
        lines.append("")
        lines += [f"{key} {text(value)}".rstrip() for key, value in case.items()]
    (here / name).write_text("\n".join(lines) + "\n")


def sequence_batch(count):
    """Offsets and mask of `count` sequences: a prompt, then a completion that may have gaps but ends masked in."""
    offsets, mask = [0], []
    for _ in range(count):
        length = integer(2, 9)
        prompt = integer(1, length - 1)
        bits = [0] * prompt + [int(uniform(0, 1) < 0.8) for _ in range(length - prompt - 1)] + [1]
        offsets.append(offsets[-1] + length)
        mask += bits
    return offsets, torch.tensor(mask, dtype=torch.bool)


def padded(values, offsets, mask):
    """(sequences, longest) of the masked-in values, and the mask of what is not padding."""
    rows = [values[a:b][mask[a:b]] for a, b in zip(offsets, offsets[1:])]
    keep = [torch.ones(len(row), dtype=torch.bool) for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True), pad(keep, batch_first=True)


def masked_mean(values, mask):
    return (values * mask).sum() / mask.sum()


def masked_var(values, mask, unbiased=True):
    centered = values - masked_mean(values, mask)
    variance = masked_mean(centered**2, mask)
    return variance * mask.sum() / (mask.sum() - 1) if unbiased else variance


def masked_whiten(values, mask, shift_mean=True, unbiased=True):
    mean, var = masked_mean(values, mask), masked_var(values, mask, unbiased)
    whitened = (values - mean) * torch.rsqrt(var + 1e-8)
    return whitened if shift_mean else whitened + mean


def as_bits(mask):
    return [int(x) for x in mask]


def ppo_case(aggregation, cliprange_high, dual_clip, kl_loss_coef, estimator):
    sequences = integer(1, 4)
    offsets, mask = sequence_batch(sequences)
    logps = (-normal(len(mask)).abs() * 2).requires_grad_()
    old_logps = logps.detach() + normal(len(mask)) * 0.5
    ref_logps = logps.detach() + normal(len(mask))
    advantages = normal(len(mask))
    cliprange = uniform(0.1, 0.3)
    extra = integer(0, 1)
    total_tokens, total_sequences = int(mask.sum()) + extra * integer(1, 9), sequences + extra * integer(1, 9)
    constant_length = float(integer(8, 16))

    new, keep = padded(logps, offsets, mask)
    old, ref, A = (padded(x, offsets, mask)[0] for x in (old_logps, ref_logps, advantages))
    ratio = torch.exp(new - old)
    losses = -A * ratio
    losses2 = -A * torch.clamp(ratio, 1 - cliprange, 1 + (cliprange_high or cliprange))
    each = torch.max(losses, losses2)
    lower = torch.zeros_like(each)
    if dual_clip:
        losses3 = -A * dual_clip
        lower = ((each > losses3) & (A < 0)).double()
        each = torch.where(A < 0, torch.min(losses3, each), each)
    if estimator == 2:
        kl = 0.5 * (new - ref).square()
    else:
        kl = torch.exp(ref - new) - (ref - new) - 1
    each = torch.where(keep, each + kl_loss_coef * kl, torch.zeros(()))
    lengths = keep.sum(1)
    loss = {0: each.sum() / total_tokens, 1: (each.sum(1) / lengths).sum() / total_sequences,
            2: each.sum() / total_sequences, 3: (each.sum(1) / constant_length).sum() / total_sequences}[aggregation]
    loss.backward()
    return {"aggregation": aggregation, "cliprange": cliprange, "cliprange_high": cliprange_high,
            "dual_clip": dual_clip, "kl_loss_coef": kl_loss_coef, "estimator": estimator,
            "total_tokens": total_tokens, "total_sequences": total_sequences, "constant_length": constant_length,
            "offsets": offsets, "mask": as_bits(mask), "logps": logps, "old_logps": old_logps, "ref_logps": ref_logps,
            "advantages": advantages, "loss": loss, "dlogps": logps.grad,
            "approxkl": 0.5 * masked_mean((new - old) ** 2, keep),
            "clipfrac": masked_mean((losses2 > losses).double(), keep), "clipfrac_lower": masked_mean(lower, keep),
            "ratio": masked_mean(ratio, keep), "ratio_squared": masked_mean(ratio**2, keep),
            "kl": masked_mean(kl, keep)}


def value_case(cliprange_value):
    offsets, mask = sequence_batch(integer(1, 4))
    values = normal(len(mask)).requires_grad_()
    old_values = values.detach() + normal(len(mask)) * 0.4
    returns = normal(len(mask))
    total_tokens = int(mask.sum()) + integer(0, 1) * integer(1, 9)
    V, keep = padded(values, offsets, mask)
    V_old, R = (padded(x, offsets, mask)[0] for x in (old_values, returns))
    losses1 = torch.square(V - R)
    if cliprange_value:
        losses2 = torch.square(torch.clamp(V, V_old - cliprange_value, V_old + cliprange_value) - R)
    else:
        losses2 = losses1
    each = 0.5 * torch.max(losses1, losses2) * keep
    loss = each.sum() / total_tokens
    loss.backward()
    return {"cliprange_value": cliprange_value, "total_tokens": total_tokens, "offsets": offsets,
            "mask": as_bits(mask), "values": values, "old_values": old_values, "returns": returns, "loss": loss,
            "dvalues": values.grad, "clipfrac": masked_mean((losses2 > losses1).double(), keep),
            "error": masked_mean(V - R, keep), "squared_error": masked_mean(losses1, keep)}


def token_rewards_case(estimator):
    offsets, mask = sequence_batch(integer(1, 4))
    logps = -normal(len(mask)).abs()
    ref_logps = logps + normal(len(mask)) * 0.3
    scores = normal(len(offsets) - 1)
    kl_coef = uniform(0.0, 0.5)
    logr = ref_logps - logps
    kl = {1: -logr, 2: 0.5 * logr**2, 3: (logr.exp() - 1) - logr}[estimator]
    rewards = torch.where(mask, -kl_coef * kl, torch.zeros(()))
    for b, last in enumerate(offsets[1:]):
        rewards[last - 1] += scores[b]
    return {"estimator": estimator, "kl_coef": kl_coef, "offsets": offsets, "mask": as_bits(mask), "logps": logps,
            "ref_logps": ref_logps, "scores": scores, "rewards": rewards}


def gae_case(gamma, lam):
    offsets, mask = sequence_batch(integer(1, 5))
    rewards, values = normal(len(mask)), normal(len(mask))
    r, keep = padded(rewards, offsets, mask)
    v, _ = padded(values, offsets, mask)
    r, v = r * keep, v * keep
    lastgaelam, reversed_advantages = 0, []
    length = r.shape[1]
    for t in reversed(range(length)):
        nextvalues = v[:, t + 1] if t < length - 1 else 0.0
        delta = r[:, t] + gamma * nextvalues - v[:, t]
        lastgaelam = delta + gamma * lam * lastgaelam
        reversed_advantages.append(lastgaelam)
    advantages = torch.stack(reversed_advantages[::-1], axis=1)
    flat, flat_returns = torch.zeros(len(mask)), torch.zeros(len(mask))
    flat[mask], flat_returns[mask] = advantages[keep], (advantages + v)[keep]
    return {"gamma": gamma, "lam": lam, "offsets": offsets, "mask": as_bits(mask), "rewards": rewards,
            "values": values, "advantages": flat, "returns": flat_returns}


def whiten_case(shift_mean, bessel_correction):
    count = integer(2, 12)
    mask = torch.rand(count, generator=generator) < 0.7
    mask[:2] = True
    values = normal(count) * uniform(0.1, 5.0) + uniform(-3.0, 3.0)
    whitened = torch.where(mask, masked_whiten(values, mask, shift_mean, bessel_correction), torch.zeros(()))
    return {"shift_mean": int(shift_mean), "bessel_correction": int(bessel_correction), "mask": as_bits(mask),
            "values": values, "whitened": whitened}


def group_case(baseline):
    size, groups = integer(2, 8), integer(2, 5)
    rewards = normal(groups, size) * uniform(0.1, 4.0)
    if integer(0, 1):
        rewards = (rewards > 0).double()  # a verifier's
        rewards[0] = 1.0
    epsilon = [1e-4, 1e-6, 1e-9][integer(0, 2)]
    if baseline == 0:  # TRL's RLOO
        advantages = rewards - (rewards.sum(1, keepdim=True) - rewards) / (size - 1)
    elif baseline == 1:  # TRL's GRPO
        advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + epsilon)
    else:
        advantages = rewards - rewards.mean(1, keepdim=True)
        if baseline == 3:
            advantages = masked_whiten(advantages, torch.ones_like(advantages))
    equal = (rewards == rewards[:, :1]).all(1)
    advantages = torch.where(equal[:, None], torch.zeros(()), advantages)  # rounding aside they are 0
    return {"baseline": baseline, "num_generations": size, "std_epsilon": epsilon, "equal_groups": int(equal.sum()),
            "rewards": rewards, "advantages": advantages}


write("ppo.txt", [ppo_case(aggregation, high, dual, coef, estimator)
                  for aggregation in range(4) for high, dual in ((0.0, 0.0), (0.4, 0.0), (0.28, 1.5), (0.0, 3.0))
                  for coef, estimator in ((0.0, 2), (0.3, 2), (0.3, 3))])
write("value_loss.txt", [value_case(c) for _ in range(6) for c in (0.0, 0.2, 0.5)])
write("token_rewards.txt", [token_rewards_case(estimator) for _ in range(5) for estimator in (1, 2, 3)])
write("gae.txt", [gae_case(gamma, lam)
                  for _ in range(3) for gamma, lam in ((1.0, 0.95), (1.0, 1.0), (0.99, 0.9), (0.9, 0.0), (0.0, 0.5))])
write("whiten.txt", [whiten_case(shift, bessel)
                     for _ in range(5) for shift in (True, False) for bessel in (True, False)])
write("group_advantages.txt", [group_case(baseline) for _ in range(6) for baseline in range(4)])
