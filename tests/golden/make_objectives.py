# SPDX-License-Identifier: MIT
"""Writes sft.txt, bradley_terry.txt and dpo.txt beside itself: losses and gradients as PyTorch computes them, fp64.

    pip install torch==2.15.0        # CPU is enough; Python 3.11
    python3 make_objectives.py

Every loss is spelt as its paper or PyTorch's own function has it, never as the library computes it. A file is a list of
cases separated by blank lines; a line of a case is a name and its numbers; # begins a comment. Numbers are decimal and
read back to the same bits.
"""
import pathlib

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
generator = torch.Generator().manual_seed(20240)
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
    lines = ["# SPDX-License-Identifier: MIT", f"# Made by make_objectives.py with PyTorch {version}, fp64."]
    for case in cases:
        lines.append("")
        lines += [f"{key} {text(value)}".rstrip() for key, value in case.items()]
    (here / name).write_text("\n".join(lines) + "\n")


def sequence_batch(count, completion_needed):
    """Offsets and mask of `count` sequences; the first token of each is masked out."""
    offsets, mask = [0], []
    for _ in range(count):
        length = integer(2, 6)
        bits = [0] + [integer(0, 1) for _ in range(length - 1)]
        if completion_needed and sum(bits) == 0:
            bits[-1] = 1
        offsets.append(offsets[-1] + length)
        mask += bits
    return offsets, mask


def sft_case(normalization, label_smoothing):
    vocabulary, sequences = integer(3, 7), integer(1, 3)
    offsets, mask = sequence_batch(sequences, True)
    tokens = [integer(0, vocabulary - 1) for _ in mask]
    logits = (normal(len(tokens), vocabulary) * uniform(0.5, 5.0)).requires_grad_()
    total_tokens = sum(mask) + integer(0, 1) * integer(1, 9)
    total_sequences = sequences + integer(0, 1) * integer(1, 9)
    loss = torch.zeros(())
    for first, last in zip(offsets, offsets[1:]):
        positions = [t for t in range(first + 1, last) if mask[t]]
        rows = logits[[t - 1 for t in positions]]
        targets = torch.tensor([tokens[t] for t in positions])
        nll = F.cross_entropy(rows, targets, reduction="none", label_smoothing=label_smoothing)
        loss = loss + (nll.sum() / total_tokens if normalization == "token" else nll.mean() / total_sequences)
    loss.backward()
    return {"sequence_normalization": int(normalization == "sequence"), "label_smoothing": label_smoothing,
            "total_tokens": total_tokens, "total_sequences": total_sequences, "vocabulary": vocabulary,
            "tokens": tokens, "offsets": offsets, "mask": mask, "logits": logits, "loss": loss, "dlogits": logits.grad}


def bradley_terry_case(coefficient, with_margin):
    pairs = integer(1, 6)
    scale = uniform(0.1, 10.0)
    chosen = (normal(pairs) * scale).requires_grad_()
    rejected = (normal(pairs) * scale).requires_grad_()
    margin = torch.rand(pairs, generator=generator) * 3 if with_margin else torch.zeros(pairs)
    total_pairs = pairs + integer(0, 1) * integer(1, 9)
    loss = (-F.logsigmoid(chosen - rejected - margin) + coefficient * (chosen + rejected) ** 2).sum() / total_pairs
    loss.backward()
    return {"center_rewards_coefficient": coefficient, "total_pairs": total_pairs, "chosen": chosen,
            "rejected": rejected, "margin": margin if with_margin else [], "loss": loss, "dchosen": chosen.grad,
            "drejected": rejected.grad}


def dpo_case(beta, label_smoothing, robust, rpo_alpha=0.0):
    pairs = integer(1, 4)
    offsets, mask = sequence_batch(2 * pairs, True)
    scale = uniform(0.5, 4.0)
    logps = (-normal(len(mask)).abs() * scale).requires_grad_()
    ref_logps = -normal(len(mask)).abs() * scale
    total_pairs = pairs + integer(0, 1) * integer(1, 9)
    keep = torch.tensor(mask, dtype=torch.float64)
    ratios = torch.stack([((logps - ref_logps) * keep)[a:b].sum() for a, b in zip(offsets, offsets[1:])])
    z = beta * (ratios[0::2] - ratios[1::2])
    e = label_smoothing
    if robust:
        each = (-(1 - e) * F.logsigmoid(z) + e * F.logsigmoid(-z)) / (1 - 2 * e)
    else:
        each = -(1 - e) * F.logsigmoid(z) - e * F.logsigmoid(-z)
    if rpo_alpha > 0:
        nll = [-(logps * keep)[a:b].sum() / keep[a:b].sum() for a, b in zip(offsets, offsets[1:])]
        each = each + rpo_alpha * torch.stack(nll[0::2])
    loss = each.sum() / total_pairs
    loss.backward()
    return {"beta": beta, "label_smoothing": e, "robust": int(robust), "rpo_alpha": rpo_alpha, "total_pairs": total_pairs, "offsets": offsets,
            "mask": mask, "logps": logps, "ref_logps": ref_logps, "loss": loss, "dlogps": logps.grad}


write("sft.txt", [sft_case(normalization, e)
                  for _ in range(4) for normalization in ("token", "sequence") for e in (0.0, 0.1, 0.4)])
write("bradley_terry.txt", [bradley_terry_case(coefficient, with_margin)
                            for _ in range(6) for coefficient in (0.0, 0.01, 0.5) for with_margin in (False, True)])
write("dpo.txt", [dpo_case(beta, e, robust)
                  for beta in (0.01, 0.1, 0.5, 2.0) for robust in (False, True) for e in (0.0, 0.1, 0.3, 0.45)]
      + [dpo_case(0.2, e, False, rpo_alpha) for rpo_alpha in (0.005, 0.1, 1.0) for e in (0.0, 0.1)])
