# SPDX-License-Identifier: MIT
"""Writes pairwise.txt and pairwise_extremes.txt beside itself: values and gradients of the pairwise losses, fp64.

    pip install trl==1.16.0 torch==2.15.0 mpmath==1.3.0     # CPU is enough; Python 3.11
    python3 make_pairwise.py

Where TRL has a loss and can compute it in fp64, TRL's own code is run: DPOTrainer._compute_loss and CPOTrainer.cpo_loss, with
stand-ins for the trainer and its model, and PyTorch's autograd for the gradient (oracle 0). The others are the papers'
formulas in mpmath, 60 digits, with mpmath's numerical derivative (oracle 1): the alpha divergence and ORPO, which TRL
computes in single precision, IPO over sums, SPPO's and NCA's kin that TRL lacks, the target margin and CPO's likelihood.

The extremes are single pairs at the edge of what a double can say, by mpmath with 400 digits; what lies beyond a double's
range is its largest number.

A file is a list of cases separated by blank lines; a line of a case is a name and its numbers; # begins a comment. `loss` is
an index into the list of tests/objective/pairwise/golden_test.cpp. Log-probabilities are sums over responses.
"""
import collections
import contextlib
import itertools
import pathlib
import types

import mpmath
import torch
import trl
import trl.trainer.dpo_trainer as dpo_module
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
mpmath.mp.dps = 60
generator = torch.Generator().manual_seed(4242)
here = pathlib.Path(__file__).parent
dpo_module.disable_gradient_checkpointing = lambda *_: contextlib.nullcontext()

NAMES = ["sigmoid", "robust", "hinge", "ipo", "ipo_sum", "sigmoid_norm", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot",
         "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "cpo", "simpo", "alphapo", "orpo"]
DIVERGENCES = ["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
FIELDS = {"beta": 0.1, "label_smoothing": 0.0, "target_margin": 0.0, "tau": 0.05, "gamma": 0.0, "alpha": 0.0, "cpo_alpha": 0.0,
          "divergence": 0, "f_alpha": 0.5, "reference_free": 0, "ld_alpha": 1.0, "weighted": 0}


def integer(low, high):
    return int(torch.randint(low, high + 1, (), generator=generator))


def batch(pairs, scale):
    """Token log-probabilities of ragged responses, policy and reference, as TRL pads them."""
    lengths = torch.tensor([integer(1, 5) for _ in range(2 * pairs)])
    width = int(lengths.max())
    mask = (torch.arange(width)[None] < lengths[:, None]).long()
    logps = -torch.rand(2 * pairs, width, generator=generator) * scale * mask
    ref = -torch.rand(2 * pairs, width, generator=generator) * scale * mask
    collisions = -torch.rand(2 * pairs, width, generator=generator) * 3.0 * mask
    return lengths, mask, logps, ref, collisions


class Trainer:
    """What DPOTrainer._compute_loss asks of self."""

    def __init__(self, options, loss_types, weights, ref):
        self.beta = options["beta"]
        self.label_smoothing = options["label_smoothing"]
        self.args = types.SimpleNamespace(discopop_tau=options["tau"], gradient_checkpointing_kwargs=None)
        self.f_divergence_type = DIVERGENCES[options["divergence"]]
        self.f_alpha_divergence_coef = options["f_alpha"]
        self.ld_alpha = None if options["ld_alpha"] == 1.0 else options["ld_alpha"]
        self.use_weighting = bool(options["weighted"])
        self.loss_types, self.loss_weights = loss_types, weights
        self.aux_loss_enabled = False
        self.precompute_ref_logps = False
        self._metrics = {"train": collections.defaultdict(list)}
        self._total_train_tokens, self._tp_size = 0, 1
        identity = lambda x: x
        self.accelerator = types.SimpleNamespace(device="cpu", gather=identity, gather_for_metrics=identity)
        self.model = types.SimpleNamespace(training=True)
        self.ref_model = lambda **_: types.SimpleNamespace(log_probs=ref)


def run_trl(options, loss_types, weights, data):
    lengths, mask, logps, ref, collisions = data
    leaf = logps.clone().requires_grad_()
    completion = torch.cat([torch.zeros_like(mask[:, :1]), mask], dim=1)
    outputs = types.SimpleNamespace(log_probs=leaf * mask, log_sum_sq_probs=collisions, entropy=logps.detach(),
                                    mean_logits=logps.detach(), is_top1=mask.bool())
    # TRL's batch is all chosen, then all rejected.
    inputs = {"input_ids": completion, "attention_mask": completion, "completion_mask": completion}
    trainer = Trainer(options, loss_types, weights, ref)
    loss = DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)
    loss.backward()
    return loss.item(), leaf.grad


def sums(values):
    return values.sum(dim=1)


def log_sigmoid(x):
    return x - mpmath.log1p(mpmath.exp(x)) if x < 0 else -mpmath.log1p(mpmath.exp(-x))


def sigmoid(x):
    return mpmath.exp(x) / (1 + mpmath.exp(x)) if x < 0 else 1 / (1 + mpmath.exp(-x))


def score(d, o):
    kind = DIVERGENCES[o["divergence"]]
    if kind == "reverse_kl":
        return d
    if kind == "forward_kl":
        return 1 - mpmath.exp(-d)
    if kind == "js_divergence":
        return mpmath.log(2) + log_sigmoid(d)
    return (mpmath.exp((o["f_alpha"] - 1) * d) - 1) / (mpmath.mpf(o["f_alpha"]) - 1)


def paper(name, o, c, r, rc, rr, nc, nr):
    """One pair's loss as its paper has it; c, r policy, rc, rr reference, nc, nr lengths."""
    beta, e = mpmath.mpf(o["beta"]), mpmath.mpf(o["label_smoothing"])
    if o["reference_free"]:
        rc = rr = mpmath.mpf(0)
    dc, dr = c - rc, r - rr
    sc, sr = score(dc, o), score(dr, o)
    z = beta * (sc - sr) - o["target_margin"]
    if name == "sigmoid":
        return -(1 - e) * log_sigmoid(z) - e * log_sigmoid(-z)
    if name == "robust":
        return (-(1 - e) * log_sigmoid(z) + e * log_sigmoid(-z)) / (1 - 2 * e)
    if name == "hinge":
        return max(mpmath.mpf(0), 1 - beta * (sc - sr))
    if name == "ipo":
        return (sc / nc - sr / nr - 1 / (2 * beta)) ** 2
    if name == "ipo_sum":
        return (sc - sr - 1 / (2 * beta)) ** 2
    if name == "sigmoid_norm":
        return -log_sigmoid(beta * (sc / nc - sr / nr) - o["target_margin"])
    if name == "exo_pair":
        z = beta * (sc - sr)
        return (sigmoid(z) * (log_sigmoid(z) - mpmath.log(1 - e)) + sigmoid(-z) * (log_sigmoid(-z) - mpmath.log(e)))
    if name == "nca_pair":
        return (-log_sigmoid(beta * dc) - log_sigmoid(-beta * dc) / 2 - log_sigmoid(-beta * dr) / 2)
    if name == "bco_pair":
        return -log_sigmoid(beta * dc - o["gamma"]) - log_sigmoid(o["gamma"] - beta * dr)
    if name == "sppo_hard":
        return (dc - 1 / (2 * beta)) ** 2 + (dr + 1 / (2 * beta)) ** 2
    if name == "apo_zero":
        return 1 - sigmoid(beta * dc) + sigmoid(beta * dr)
    if name == "apo_down":
        return sigmoid(beta * dc) + 1 - sigmoid(beta * (dc - dr))
    if name == "discopop":
        z = beta * (sc - sr)
        m = sigmoid(z / o["tau"])
        return (1 - m) * -log_sigmoid(z) + m * mpmath.exp(-z)
    if name == "cpo":
        z = beta * (c - r)
        return -(1 - e) * log_sigmoid(z) - e * log_sigmoid(-z) - o["cpo_alpha"] * c / nc
    if name == "simpo":
        return -log_sigmoid(beta * (c / nc - r / nr) - o["gamma"])
    if name == "alphapo":
        bent = lambda x: (1 - mpmath.exp(-o["alpha"] * x)) / mpmath.mpf(o["alpha"])
        return -log_sigmoid(beta * (bent(c / nc) - bent(r / nr)) - o["gamma"])
    if name == "orpo":
        odds = lambda x: x - mpmath.log(-mpmath.expm1(x))
        return -c / nc - beta * log_sigmoid(odds(c / nc) - odds(r / nr))
    raise KeyError(name)


def run_paper(name, o, data):
    lengths, mask, logps, ref, _ = data
    pairs = len(lengths) // 2
    policy, reference = sums(logps).tolist(), sums(ref).tolist()
    loss, slopes = mpmath.mpf(0), [0.0] * (2 * pairs)
    for i in range(pairs):
        c, r, rc, rr = (mpmath.mpf(x) for x in (policy[i], policy[pairs + i], reference[i], reference[pairs + i]))
        rest = (rc, rr, int(lengths[i]), int(lengths[pairs + i]))
        loss += paper(name, o, c, r, *rest) / pairs
        slopes[i] = float(mpmath.diff(lambda x: paper(name, o, x, r, *rest), c) / pairs)
        slopes[pairs + i] = float(mpmath.diff(lambda x: paper(name, o, c, x, *rest), r) / pairs)
    return float(loss), slopes


def text(values):
    values = values if isinstance(values, (list, tuple)) else [values]
    return " ".join(repr(x) for x in values)


lines = ["# SPDX-License-Identifier: MIT",
         f"# Made by make_pairwise.py with TRL {trl.__version__}, PyTorch {torch.__version__.split('+')[0]}, mpmath {mpmath.__version__}, fp64."]


def write(oracle, losses, weights, o, data, loss, slopes):
    lengths, mask, logps, ref, collisions = data
    case = {"oracle": oracle, "loss": [NAMES.index(n) for n in losses], "weights": weights}
    case |= {k: v for k, v in o.items() if v != FIELDS[k]}
    case |= {"lengths": lengths.tolist()}
    if o["ld_alpha"] != 1.0 or o["weighted"]:  # what is made of tokens is given by tokens, of responses end to end
        keep = mask.bool()
        case |= {"logps": logps[keep].tolist(), "ref_logps": ref[keep].tolist()}
        if o["weighted"]:
            case |= {"collisions": collisions[keep].tolist()}
    else:
        case |= {"logps": sums(logps).tolist(), "ref_logps": sums(ref).tolist()}
    case |= {"value": loss, "slopes": slopes}
    lines.append("")
    lines.extend(f"{k} {text(v)}" for k, v in case.items())


def trl_case(losses, weights, data, **options):
    o = FIELDS | options
    loss, gradient = run_trl(o, losses, weights, data)
    per_token = o["ld_alpha"] != 1.0
    slopes = gradient[data[1].bool()].tolist() if per_token else gradient[:, 0].tolist()
    write(0, losses, weights, o, data, loss, slopes)


def paper_case(name, data, **options):
    o = FIELDS | options
    loss, slopes = run_paper(name, o, data)
    write(1, [name], [1.0], o, data, loss, slopes)


def data():
    return batch(integer(1, 4), [0.3, 3.0, 20.0][integer(0, 2)])


BETAS = [0.01, 0.1, 0.5, 2.0]
TRL_NAME = {name: name for name in NAMES} | {"ipo_sum": None}
plain = ["sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "sft", "sigmoid_norm"]
for name, beta in itertools.product(plain, BETAS):
    for _ in range(12):
        trl_case([name], [1.0], data(), beta=beta)
for name, smoothings in {"robust": [0.0, 0.1, 0.4], "exo_pair": [1e-3, 0.1, 0.5], "aot": [0.0, 0.1, 0.5],
                         "aot_unpaired": [0.0, 0.1, 0.5]}.items():
    for beta, e in itertools.product(BETAS[:3], smoothings):
        for _ in range(6):
            trl_case([name], [1.0], data(), beta=beta, label_smoothing=e)
for beta, tau in itertools.product([0.05, 0.5], [0.05, 0.5, 2.0]):
    for _ in range(10):
        trl_case(["discopop"], [1.0], data(), beta=beta, tau=tau)
for name, divergence in itertools.product(["sigmoid", "hinge", "ipo", "exo_pair", "discopop", "sigmoid_norm", "robust"], [1, 2]):
    for _ in range(8):
        trl_case([name], [1.0], data(), beta=0.1, divergence=divergence,
                 label_smoothing=0.1 if name in ("exo_pair", "robust") else 0.0)
for losses, weights in [(["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0]), (["sigmoid", "sft"], [1.0, 0.005]),
                        (["ipo", "hinge"], [0.5, 2.0]), (["aot", "sft"], [1.0, 0.1]),
                        (["apo_zero", "sigmoid_norm", "nca_pair"], [1.0, 2.0, 3.0])]:
    for _ in range(10):
        trl_case(losses, weights, data(), beta=0.1)
for name, ld_alpha in itertools.product(["sigmoid", "hinge", "ipo", "bco_pair"], [0.0, 0.5, 0.9]):
    for _ in range(6):
        trl_case([name], [1.0], data(), beta=0.1, ld_alpha=ld_alpha)
for name in ["sigmoid", "ipo", "nca_pair", "sppo_hard"]:  # with sft TRL multiplies an expanded tensor in place, which fails
    for _ in range(10):
        trl_case([name], [1.0], data(), beta=0.1, weighted=1)

for beta, e in itertools.product(BETAS, [0.1, 0.5]):
    for _ in range(4):
        paper_case("sigmoid", data(), beta=beta, label_smoothing=e)
for name in ["sigmoid", "robust", "sigmoid_norm"]:
    for margin in [-0.5, 0.7]:
        for _ in range(6):
            paper_case(name, data(), beta=0.5, target_margin=margin, label_smoothing=0.2 if name == "robust" else 0.0)
for name, beta in itertools.product(["ipo_sum", "bco_pair"], BETAS):
    for _ in range(6):
        paper_case(name, data(), beta=beta, gamma=0.3 if name == "bco_pair" else 0.0)
for name, a in itertools.product(["sigmoid", "hinge", "ipo", "exo_pair"], [-0.5, 0.0, 0.5, 2.0]):
    for _ in range(5):
        paper_case(name, data(), beta=0.1, divergence=3, f_alpha=a, label_smoothing=0.1 if name == "exo_pair" else 0.0)
for name in ["sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero"]:
    for _ in range(5):
        paper_case(name, data(), beta=0.1, reference_free=1)
for beta, e, a in itertools.product([0.1, 0.5], [0.0, 0.1], [0.0, 1.0]):
    for _ in range(5):
        paper_case("cpo", data(), beta=beta, label_smoothing=e, cpo_alpha=a)
for beta, gamma in itertools.product([0.1, 2.5], [0.0, 0.5, 1.375]):
    for _ in range(5):
        paper_case("simpo", data(), beta=beta, gamma=gamma)
for beta, a in itertools.product([0.1, 2.5], [-0.5, 0.25, 1.0]):
    for _ in range(6):
        paper_case("alphapo", data(), beta=beta, alpha=a, gamma=0.1)
for beta in [0.05, 0.1, 1.0]:
    for scale in [1e-6, 0.3, 3.0, 20.0]:
        for _ in range(5):
            paper_case("orpo", batch(integer(1, 4), scale), beta=beta)


def cpo_case(name, loss_type, d, **options):
    """TRL's CPOTrainer.cpo_loss, which takes sums or, for losses per token, means."""
    o = FIELDS | options
    lengths, mask, logps, ref, _ = d
    leaf = sums(logps).requires_grad_()
    pairs = len(lengths) // 2
    of = leaf / lengths if loss_type in ("ipo", "simpo") else leaf
    trainer = types.SimpleNamespace(alpha=o["alpha"], beta=o["beta"], label_smoothing=o["label_smoothing"], loss_type=loss_type,
                                    simpo_gamma=o["gamma"], accelerator=types.SimpleNamespace(device="cpu"))
    losses, _, _ = CPOTrainer.cpo_loss(trainer, of[:pairs], of[pairs:])
    losses.mean().backward()
    write(0, [name], [1.0], o, d, losses.mean().item(), leaf.grad.tolist())


for beta, e in itertools.product([0.1, 0.5], [0.0, 0.1]):
    for _ in range(5):
        cpo_case("cpo", "sigmoid", data(), beta=beta, label_smoothing=e)
for name, beta in itertools.product(["hinge", "ipo"], [0.1, 0.5]):
    for _ in range(5):
        cpo_case(name, name, data(), beta=beta, reference_free=1)
for beta, gamma in itertools.product([0.1, 2.5], [0.5, 1.375]):
    for _ in range(5):
        cpo_case("simpo", "simpo", data(), beta=beta, gamma=gamma)
        cpo_case("alphapo", "simpo", batch(integer(1, 4), 3.0), beta=beta, gamma=gamma, alpha=0.25)

# Extremes: one pair, the reference at 0.
mpmath.mp.dps = 400
PAPERS = {"sigmoid": {}, "robust": {"label_smoothing": 0.1}, "hinge": {}, "ipo": {}, "ipo_sum": {}, "sigmoid_norm": {},
          "exo_pair": {"label_smoothing": 1e-3}, "nca_pair": {"beta": 0.01}, "bco_pair": {"beta": 0.01}, "sppo_hard": {"beta": 1e-3},
          "apo_zero": {}, "apo_down": {}, "discopop": {"beta": 0.05}, "cpo": {"cpo_alpha": 1.0},
          "simpo": {"beta": 2.5, "gamma": 1.375}, "alphapo": {"beta": 2.5, "gamma": 0.1, "alpha": 0.25}, "orpo": {}}
NO_REFERENCE = {"cpo", "simpo", "alphapo", "orpo"}
POINTS = [(0.0, 0.0), (5e-324, -5e-324), (1e-300, 1e-300), (1e-8, -1e-8), (1e4, 0.0), (-1e4, 0.0), (0.0, 1e4), (0.0, -1e4), (1e4, 1e4),
          (-1e4, -1e4), (1e4, -1e4), (-1e4, 1e4), (3e38, 0.0), (-3e38, 0.0), (0.0, 3e38), (0.0, -3e38), (3e38, -3e38), (-3e38, 3e38),
          (-3e38, -3e38), (8e307, -8e307), (-8e307, 8e307), (700.0, -40.0), (-740.0, 5.0)]
LOGPS = [(-5e-324, -1.0), (-1.0, -5e-324), (-1e-300, -1e-300), (-1e-8, -1e-8), (-1e-8, -30.0), (-30.0, -1e-8), (-1.0, -1e4), (-1e4, -1.0),
         (-1e4, -1e4), (-3e38, -1.0), (-1.0, -3e38), (-3e38, -3e38), (-745.0, -0.5), (-0.5, -745.0), (-900.0, -3.0), (-3.0, -900.0), (-1e-15, -36.0)]
LARGEST = 1.7976931348623157e308


def clamped(x):
    return float(max(min(x, mpmath.mpf(LARGEST)), -mpmath.mpf(LARGEST)))


extremes = [lines[0], lines[1]]
for name, standard in PAPERS.items():
    for changed in [{}, {"beta": 1e6}, {"beta": 1e-6}]:
        if changed and name == "exo_pair" and changed["beta"] > 1:
            changed = {"beta": 1e3}
        o = FIELDS | standard | changed
        for c, r in LOGPS if name in NO_REFERENCE else POINTS:
            a, b, zero = mpmath.mpf(c), mpmath.mpf(r), mpmath.mpf(0)
            if o["beta"] > 1 and max(abs(c), abs(r)) > 1e300:
                continue  # the margin itself is beyond a double's range
            if name == "alphapo" and min(c, r) < -1e3:
                continue  # r(x) of 1e4 is 1e1085
            # A step that leaves the domain, or vanishes next to the value, is no derivative.
            step = {"h": mpmath.mpf(10) ** (-340 if max(c, r) > -1e-100 and name == "orpo" else -150)}
            value = paper(name, o, a, b, zero, zero, 1, 1)
            da = mpmath.diff(lambda x: paper(name, o, x, b, zero, zero, 1, 1), a, **step)
            db = mpmath.diff(lambda x: paper(name, o, a, x, zero, zero, 1, 1), b, **step)
            case = {"loss": [NAMES.index(name)]} | {k: v for k, v in o.items() if v != FIELDS[k]}
            case |= {"logps": [c, r], "value": clamped(value), "slopes": [clamped(da), clamped(db)]}
            extremes.append("")
            extremes.extend(f"{k} {text(v)}" for k, v in case.items())
(here / "pairwise_extremes.txt").write_text("\n".join(extremes) + "\n")
print(sum(line.startswith("value") for line in extremes), "extremes")

(here / "pairwise.txt").write_text("\n".join(lines) + "\n")
print(sum(line.startswith("oracle 0") for line in lines), "cases of TRL,", sum(line.startswith("oracle 1") for line in lines), "of mpmath")
