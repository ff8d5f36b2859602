# SPDX-License-Identifier: MIT
"""Writes kto.txt, bco.txt and process_reward.txt beside itself by running TRL's own code, fp64.

    pip install torch==2.15.0 trl==1.16.0                       # CPU is enough; Python 3.11
    pip download --no-deps trl==0.29.1 && unzip -d trl-0.29.1 trl-0.29.1-py3-none-any.whl
    python3 make_unpaired.py kto                                # KTOTrainer._compute_loss of 1.16.0
    PYTHONPATH=trl-0.29.1 python3 make_unpaired.py bco prm      # experimental.bco and .prm, gone since

A model is a table of token log-probabilities, so that what is measured is the trainer's loss and nothing else; gradients
are autograd's, with respect to that table. TRL casts the running mean of BCO, and transformers the logits of PRM, to
fp32; here Tensor.float() keeps fp64. A file is a list of cases separated by blank lines; a line of a case is a name and
its numbers; # begins a comment. Numbers are decimal and read back to the same bits.
"""
import collections
import os
import pathlib
import sys
import types

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch

torch.set_default_dtype(torch.float64)
torch.Tensor.float = lambda self: self
generator = torch.Generator().manual_seed(20262)
here = pathlib.Path(__file__).parent


def uniform(low, high):
    return round(low + (high - low) * torch.rand((), generator=generator).item(), 3)


def integer(low, high):
    """In [low, high]."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def negative(count, scale):
    """Log-probabilities of few digits, which keeps the files short."""
    return [round(-abs(x) * scale, 3) for x in torch.randn(count, generator=generator).tolist()]


def write(name, cases, source):
    def text(value):
        if isinstance(value, torch.Tensor):
            value = value.detach().reshape(-1).tolist()
        return " ".join(repr(x) for x in (value if isinstance(value, (list, tuple)) else [value]))

    version = torch.__version__.split("+")[0]
    lines = ["# SPDX-License-Identifier: MIT", f"# Made by make_unpaired.py with {source} and PyTorch {version}, fp64."]
    for case in cases:
        lines.append("")
        lines += [f"{key} {text(value)}".rstrip() for key, value in case.items()]
    (here / name).write_text("\n".join(lines) + "\n")


class accelerator:
    device = torch.device("cpu")
    use_distributed = False
    gather_for_metrics = staticmethod(lambda x: x)


class table(torch.nn.Module):
    """A model whose log-probabilities are given: those of the examples, and those of the mismatched pairs."""

    is_gradient_checkpointing = False

    def __init__(self, logps, kl_logps):
        super().__init__()
        self.logps, self.kl_logps = logps, kl_logps

    def forward(self, input_ids, labels, **_):
        chosen = self.kl_logps if int(input_ids[0, 0]) == 1 else self.logps
        seen = torch.where(labels[:, 1:] != -100, chosen, torch.zeros(()))
        return types.SimpleNamespace(log_probs=seen, entropy=torch.zeros_like(seen), mean_logits=torch.zeros_like(seen))


def padded(rows, width):
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


def kto_case(KTOTrainer, loss_type, beta, desirable_weight, undesirable_weight):
    # Autograd's sigmoid' is y (1 - y), whose digits are gone where y is next to 1: rewards stay within about 10.
    count, scale = integer(2, 5), uniform(0.3, 4.0) / max(1.0, 2.0 * beta)
    desirable = [integer(0, 1) for _ in range(count)]
    masks = [[0] + [int(integer(0, 4) > 0) for _ in range(integer(1, 3))] for _ in range(count)]
    width = max(map(len, masks))
    mask = padded(masks, width)
    logps = torch.tensor([negative(width - 1, scale) for _ in range(count)]).requires_grad_()
    ref_logps = torch.tensor([negative(width - 1, scale) for _ in range(count)])
    kl_logps, kl_ref_logps = (torch.tensor([negative(width - 1, scale) for _ in range(count)]) for _ in range(2))
    policy, reference = table(logps, kl_logps), table(ref_logps, kl_ref_logps)
    trainer = types.SimpleNamespace(
        model=policy, ref_model=reference, accelerator=accelerator, args=types.SimpleNamespace(gradient_checkpointing_kwargs=None),
        aux_loss_enabled=False, precompute_ref_logps=False, calculate_KL=loss_type == "kto", loss_type=loss_type, beta=beta,
        desirable_weight=desirable_weight, undesirable_weight=undesirable_weight, _total_train_tokens=0, _tp_size=1,
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)))
    trainer._compute_kl_logps = types.MethodType(KTOTrainer._compute_kl_logps, trainer)
    every = torch.ones_like(mask)
    inputs = {"input_ids": 2 * every, "attention_mask": every, "completion_mask": mask, "KL_input_ids": every,
              "KL_attention_mask": every, "KL_completion_mask": mask, "label": torch.tensor(desirable)}
    loss = KTOTrainer._compute_loss(trainer, policy, inputs, False)
    loss.backward()
    keep = mask[:, 1:].to(torch.float64)
    metrics = trainer._metrics["train"]
    offsets = [0]
    for row in masks:
        offsets.append(offsets[-1] + len(row))

    def flat(table_of):  # the first token of a sequence has no log-probability
        return [x for row, m in zip(table_of.tolist(), masks) for x in [0.0] + row[:len(m) - 1]]

    case = {"apo": int(loss_type != "kto"), "beta": beta, "desirable_weight": desirable_weight,
            "undesirable_weight": undesirable_weight, "offsets": offsets, "mask": sum(masks, []), "desirable": desirable,
            "logps": flat(logps.detach()), "ref_logps": flat(ref_logps), "loss": loss, "dlogps": flat(logps.grad)}
    if loss_type == "kto":
        case |= {"kl_logps": (kl_logps * keep).sum(-1), "kl_ref_logps": (kl_ref_logps * keep).sum(-1), "kl": metrics["kl"]}
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"):
        case[name] = list(metrics[name])
    return case


def bco_run(BCOTrainer, RunningMoments, beta, matched, steps=4):
    """Steps that share one running mean, a case each."""
    trainer = types.SimpleNamespace(beta=beta, running=RunningMoments(accelerator=accelerator), accelerator=accelerator,
                                    match_underlying_distribution=matched,
                                    args=types.SimpleNamespace(min_density_ratio=0.5, max_density_ratio=10.0))
    trainer._get_udm_weight = types.MethodType(BCOTrainer._get_udm_weight, trainer)
    trainer._get_chosen_prob = lambda embeddings: embeddings
    scale, cases = uniform(0.5, 20.0), []
    for _ in range(steps):
        chosen, rejected = integer(0, 4), integer(0, 4)
        if chosen + rejected == 0:
            chosen = 1
        logps = [torch.tensor(negative(n, scale)).requires_grad_() for n in (chosen, rejected)]
        ref_logps = [torch.tensor(negative(n, scale)) for n in (chosen, rejected)]
        probabilities = [uniform(0.0, 1.0) for _ in range(rejected)]
        before = trainer.running.mean, trainer.running.count
        do_train = integer(0, 9) > 0
        losses, _, _, delta = BCOTrainer.bco_loss(trainer, *logps, *ref_logps, None, torch.tensor(probabilities), do_train)
        loss = losses.nanmean()
        loss.backward()
        cases.append({"beta": beta, "mean": before[0], "count": before[1], "train": int(do_train),
                      "desirable": [1] * chosen + [0] * rejected, "logps": torch.cat(logps), "ref_logps": torch.cat(ref_logps),
                      "probabilities": probabilities if matched else [], "delta": delta, "count_after": trainer.running.count,
                      "loss": loss, "dlogps": torch.cat([x.grad for x in logps])})
    return cases


class tokenizer:
    """Text is ids with blanks between them."""

    def __init__(self, bos):
        self.bos_token_id = bos

    def __call__(self, text, add_special_tokens):
        return {"input_ids": self.encode(text, add_special_tokens)}

    def encode(self, text, add_special_tokens):
        return [int(word) for word in text.split()]


def prm_case(PRMTrainer, loss_of_tokens, last_only, bos, separator):
    rows, ids, labels, cases = integer(1, 3), [], [], []
    flat = collections.defaultdict(list)
    for _ in range(rows):
        prompt = [integer(1, 9) for _ in range(integer(1, 3))]
        steps = [[integer(1, 9) for _ in range(integer(1, 3))] for _ in range(integer(1, 3))]
        truth = [bool(integer(0, 1)) for _ in steps]
        spell = lambda tokens: " ".join(map(str, tokens))
        out = PRMTrainer.tokenize_row({"prompt": spell(prompt), "completions": list(map(spell, steps)), "labels": truth},
                                      tokenizer(bos), spell(separator), None, None, last_only, False)
        ids.append(out["input_ids"])
        labels.append(out["labels"])
        flat["prompt_lengths"].append(len(prompt))
        flat["prompts"] += prompt
        flat["step_counts"].append(len(steps))
        flat["step_lengths"] += map(len, steps)
        flat["steps"] += sum(steps, [])
        flat["step_labels"] += map(int, truth)
    width = max(map(len, ids))
    target = torch.tensor([row + [-100] * (width - len(row)) for row in labels])
    scale = uniform(0.3, 4.0)  # autograd's softmax - 1 loses digits next to 0
    logits = torch.tensor([[[uniform(-scale, scale) for _ in range(2)] for _ in range(width)] for _ in range(rows)])
    logits.requires_grad_()
    loss = loss_of_tokens(logits, target, types.SimpleNamespace(num_labels=2))
    loss.backward()
    lengths = list(map(len, ids))
    gather = lambda x, c: [v for row, n in zip(x.tolist(), lengths) for v in (p[c] for p in row[:n])]
    return {"last_step_only": int(last_only), "bos": bos if bos is not None else -1, "separator": separator, **flat,
            "lengths": lengths, "ids": sum(ids, []), "labels": sum(labels, []), "logit0": gather(logits.detach(), 0),
            "logit1": gather(logits.detach(), 1), "loss": loss, "dlogit0": gather(logits.grad, 0),
            "dlogit1": gather(logits.grad, 1)}


if "kto" in sys.argv:
    import trl
    from trl.trainer.kto_trainer import KTOTrainer

    weights = ((1.0, 1.0), (1.33, 1.0), (0.5, 2.0), (1.0, 0.0))
    write("kto.txt", [kto_case(KTOTrainer, loss_type, beta, d, u)
                      for loss_type, repeats in (("kto", 13), ("apo_zero_unpaired", 4))
                      for _ in range(repeats) for beta in (0.01, 0.1, 0.5, 2.0) for d, u in weights],
          f"TRL {trl.__version__}")
if "bco" in sys.argv:
    import trl
    from trl.experimental.bco.bco_trainer import BCOTrainer, RunningMoments

    write("bco.txt", sum((bco_run(BCOTrainer, RunningMoments, beta, matched)
                          for _ in range(4) for beta in (0.01, 0.1, 0.5, 2.0) for matched in (False, True)), []),
          f"TRL {trl.__version__}")
if "prm" in sys.argv:
    import trl
    from transformers.loss.loss_utils import ForTokenClassification
    from trl.experimental.prm.prm_trainer import PRMTrainer

    write("process_reward.txt", [prm_case(PRMTrainer, ForTokenClassification, last_only, bos, separator)
                                 for _ in range(10) for last_only in (False, True) for bos in (None, 11)
                                 for separator in ([], [10])], f"TRL {trl.__version__}")
