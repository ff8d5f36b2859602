# SPDX-License-Identifier: MIT
"""Writes sft_terms.txt, row_terms.txt and row_kl.txt beside itself, all fp64.

    pip install torch==2.15.0 trl==1.16.0        # CPU is enough; Python 3.11
    python3 make_row_terms.py

sft_terms.txt   loss and gradient in the logits of supervised fine-tuning. Cases with "trl 1" are what TRL's own
                SFTTrainer.compute_loss makes of log-probabilities that come from the logits in fp64 (its fused head computes
                them in fp32), as a method of a stand-in that has nothing else; the others, which TRL has no words for
                (z-loss, means of sequences, all together), are PyTorch autograd of the papers' formulas, with .detach() where
                DFT stops the gradient.
row_terms.txt   log-normalisers (torch.logsumexp), entropies (torch.distributions.Categorical), means, log sum p^2, and the
                gradient in the logits of a random combination of all but the last; some logits are -inf, written -1e308.
row_kl.txt      torch.nn.functional.kl_div(log_target=True) of whole rows either way round, and its gradient; some of the
                first argument's logits are -inf, of which the divergence has nothing, and in half of those cases the other's.

The format is that of make_objectives.py.
"""
import pathlib
import types
from collections import defaultdict

import torch
import torch.nn.functional as F
import trl
from trl import SFTTrainer
from trl.trainer.utils import FusedCausalLMOutput

torch.set_default_dtype(torch.float64)
generator = torch.Generator().manual_seed(20251)
here = pathlib.Path(__file__).parent
inf = float("inf")
absent_text = -1e308  # how -inf is written


def integer(low, high):
    """In [low, high]."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def uniform(low, high):
    return low + (high - low) * torch.rand((), generator=generator).item()


def normal(*shape):
    return torch.randn(*shape, generator=generator)


def write(name, cases):
    def text(value):
        if isinstance(value, torch.Tensor):
            value = value.detach().reshape(-1).tolist()
        return " ".join(repr(absent_text if x == -inf else x) for x in (value if isinstance(value, (list, tuple)) else [value]))

    version = torch.__version__.split("+")[0]
    lines = ["# SPDX-License-Identifier: MIT",
             f"# Made by make_row_terms.py with PyTorch {version} and TRL {trl.__version__}, fp64."]
    for case in cases:
        lines.append("")
        lines += [f"{key} {text(value)}".rstrip() for key, value in case.items()]
    (here / name).write_text("\n".join(lines) + "\n")


def batch():
    """Offsets, mask and tokens of one to three sequences, each with a masked-in token, and logits of every token."""
    vocabulary, offsets, mask = integer(2, 5), [0], []
    for _ in range(integer(1, 3)):
        bits = [0] + [integer(0, 1) for _ in range(integer(1, 4))]
        if sum(bits) == 0:
            bits[-1] = 1
        mask += bits
        offsets.append(len(mask))
    tokens = [integer(0, vocabulary - 1) for _ in mask]
    logits = (normal(len(tokens), vocabulary) * uniform(0.3, 4.0) + uniform(-3.0, 3.0)).requires_grad_()
    return vocabulary, offsets, mask, tokens, logits


def sft_case(loss_type, normalization, label_smoothing, z_loss_coef, trainer):
    vocabulary, offsets, mask, tokens, logits = batch()
    spans = list(zip(offsets, offsets[1:]))
    total_tokens = sum(mask) + integer(0, 1) * integer(1, 9)
    total_sequences = len(spans) + integer(0, 1) * integer(1, 9)
    if trainer:
        length = max(last - first for first, last in spans)
        log_probs, kept = torch.zeros(len(spans), length - 1), torch.zeros(len(spans), length - 1, dtype=torch.bool)
        for row, (first, last) in enumerate(spans):
            targets = torch.tensor(tokens[first + 1:last])
            scored = logits[first:last - 1].log_softmax(-1).gather(-1, targets[:, None])[:, 0]
            keep = torch.tensor(mask[first + 1:last], dtype=torch.bool)
            log_probs = log_probs.index_put((torch.full_like(targets, row), torch.arange(len(targets))), scored * keep)
            kept[row, :len(targets)] = keep
        zeros = torch.zeros_like(log_probs)
        outputs = FusedCausalLMOutput(log_probs=log_probs, entropy=zeros, is_top1=zeros, label_mask=kept)
        stand_in = types.SimpleNamespace(
            model=types.SimpleNamespace(training=True), aux_loss_enabled=False, compute_loss_func=None, label_smoother=None,
            args=types.SimpleNamespace(loss_type=loss_type, average_tokens_across_devices=True),
            accelerator=types.SimpleNamespace(parallelism_config=None, num_processes=1, gather_for_metrics=lambda x: x),
            get_tp_size=lambda: 1, _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1)
        inputs = {"labels": None, "attention_mask": torch.ones(1)}
        loss = SFTTrainer.compute_loss(stand_in, lambda **_: outputs, inputs, num_items_in_batch=torch.tensor(total_tokens))
    else:
        loss = torch.zeros(())
        for first, last in spans:
            positions = [t for t in range(first + 1, last) if mask[t]]
            rows, targets = logits[[t - 1 for t in positions]], torch.tensor([tokens[t] for t in positions])
            each = F.cross_entropy(rows, targets, reduction="none", label_smoothing=label_smoothing)
            if loss_type == "dft":
                each = each * torch.exp(-each).detach()
            each = each + z_loss_coef * torch.logsumexp(rows, -1) ** 2
            loss = loss + (each.sum() / total_tokens if normalization == "token" else each.mean() / total_sequences)
    loss.backward()
    return {"trl": int(trainer), "dft": int(loss_type == "dft"), "sequence_normalization": int(normalization == "sequence"),
            "label_smoothing": label_smoothing, "z_loss_coef": z_loss_coef, "total_tokens": total_tokens,
            "total_sequences": total_sequences, "vocabulary": vocabulary, "tokens": tokens, "offsets": offsets, "mask": mask,
            "logits": logits, "loss": loss, "dlogits": logits.grad}


def rows_of_logits(vocabulary, spread, absent):
    logits = spread * normal(2, vocabulary) + uniform(-2.0, 2.0)
    for row in range(2):
        for v in torch.randperm(vocabulary, generator=generator)[:absent]:
            logits[row, v] = -inf
    return logits


def terms_case(vocabulary, spread, absent):
    logits = rows_of_logits(vocabulary, spread, absent).requires_grad_()
    present = [[v for v in range(vocabulary) if logits[row, v] > -inf] for row in range(2)]
    targets = torch.tensor([p[integer(0, len(p) - 1)] for p in present])
    log_softmax = [logits[row, p].log_softmax(-1) for row, p in enumerate(present)]
    slopes = {name: normal(2) for name in ("slopes", "mean_slopes", "entropy_slopes", "normalizer_slopes")}
    of = {"logps": torch.stack([logits[row].log_softmax(-1)[targets[row]] for row in range(2)]),
          "mean_logps": logits.log_softmax(-1).mean(-1),
          "entropies": torch.stack([torch.distributions.Categorical(logits=l).entropy() for l in log_softmax]),
          "log_normalizers": torch.logsumexp(logits, -1)}
    if absent:
        slopes["mean_slopes"] = torch.zeros(2)  # the mean is -inf
    used = [(s, o) for s, o in zip(slopes.values(), of.values()) if not (absent and o is of["mean_logps"])]
    sum((s * o).sum() for s, o in used).backward()
    collisions = torch.stack([torch.log((l.exp() ** 2).sum()) for l in log_softmax])
    return {"vocabulary": vocabulary, "logits": logits, "targets": targets, **slopes, **of, "collisions": collisions,
            "gradient": logits.grad}


def kl_case(vocabulary, spread, away, absent, both, direction):
    first = rows_of_logits(vocabulary, spread, absent)
    second = first + away * normal(2, vocabulary) + uniform(-2.0, 2.0)
    if not both:
        second[second == -inf] = uniform(-1.0, 1.0)
    logits, ref_logits = (first, second) if direction == "reverse" else (second, first)
    logits.requires_grad_()
    slopes = normal(2)
    p, q = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    each = []
    for row in range(2):
        there = first[row] > -inf
        a, b = p[row][there], q[row][there]
        # kl_div(input, target) is KL(target || input)
        each.append(F.kl_div(b, a, reduction="sum", log_target=True) if direction == "reverse"
                    else F.kl_div(a, b, reduction="sum", log_target=True))
    kl = torch.stack(each)
    (slopes * kl).sum().backward()
    return {"vocabulary": vocabulary, "forward": int(direction == "forward"), "logits": logits, "ref_logits": ref_logits,
            "slopes": slopes, "kl": kl, "gradient": logits.grad}


write("sft_terms.txt",
      [sft_case(loss_type, "token", 0.0, 0.0, True) for _ in range(20) for loss_type in ("dft", "nll")]
      + [sft_case("dft", normalization, 0.0, z, False)
         for _ in range(5) for normalization in ("token", "sequence") for z in (0.0, 1e-4, 0.3)]
      + [sft_case("nll", normalization, e, z, False)
         for _ in range(5) for normalization in ("token", "sequence") for e in (0.0, 0.2) for z in (1e-4, 0.3)])
write("row_terms.txt", [terms_case(vocabulary, spread, absent)
                        for _ in range(4) for vocabulary in (1, 2, 5, 19) for spread in (0.01, 1.0, 10.0)
                        for absent in ((0, vocabulary // 2) if vocabulary > 1 else (0,))])
write("row_kl.txt", [kl_case(vocabulary, spread, away, absent, both, direction)
                     for direction in ("reverse", "forward") for vocabulary in (1, 2, 5, 19) for spread in (0.1, 3.0)
                     for away in (0.01, 1.0, 5.0)
                     for absent, both in (((0, True), (vocabulary // 2, True), (vocabulary // 2, False))
                                          if vocabulary > 1 else ((0, True),))])
