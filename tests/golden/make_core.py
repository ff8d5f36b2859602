# SPDX-License-Identifier: MIT
"""Writes stable_math.txt and adamw_update.txt beside itself.

    pip install mpmath==1.3.0 torch==2.15.0        # CPU is enough; Python 3.11
    python3 make_core.py

The first holds functions of one number at 400 digits, rounded to fp64; the second a parameter's path under
torch.optim.AdamW, fp64. The format is that of make_objectives.py.
"""
import pathlib

import mpmath
import torch

here = pathlib.Path(__file__).parent
mpmath.mp.dps = 400  # 1 + e^-708 needs 308
torch.set_default_dtype(torch.float64)


def write(name, made_with, cases):
    lines = ["# SPDX-License-Identifier: MIT", f"# Made by make_core.py with {made_with}."]
    for case in cases:
        lines.append("")
        lines += [f"{key} {' '.join(repr(float(x)) for x in value)}" for key, value in case.items()]
    (here / name).write_text("\n".join(lines) + "\n")


def exp1p(x):
    return 1 + mpmath.exp(x)


magnitudes = [1e-300, 1e-20, 1e-12, 1e-8, 1e-3, 0.1, 0.5, 0.6931471805599452, 0.6931471805599454, 1.0, 2.5, 10.0, 36.7,
              37.5, 100.0, 700.0, 708.0]
points = [0.0] + [sign * m for m in magnitudes for sign in (1, -1)]
negative = [-m for m in magnitudes]
pairs = [(a, b) for a in (-700.0, -3.0, 0.0, 1e-9, 2.0, 800.0) for b in (-900.0, -3.0, 0.5, 801.0)]
exact = [mpmath.mpf(x) for x in points]
write("stable_math.txt", f"mpmath {mpmath.__version__}", [
    {"x": points, "sigmoid": [1 / exp1p(-x) for x in exact], "softplus": [mpmath.log(exp1p(x)) for x in exact],
     "log_sigmoid": [-mpmath.log(exp1p(-x)) for x in exact]},
    {"x": negative, "log1mexp": [mpmath.log(-mpmath.expm1(mpmath.mpf(x))) for x in negative]},
    {"a": [a for a, _ in pairs], "b": [b for _, b in pairs],
     "log_add_exp": [mpmath.log(mpmath.exp(mpmath.mpf(a)) + mpmath.exp(mpmath.mpf(b))) for a, b in pairs]},
])

generator = torch.Generator().manual_seed(7)
cases = []
for rate, beta1, beta2, epsilon, weight_decay in [(1e-3, 0.9, 0.999, 1e-8, 0.0), (1e-2, 0.8, 0.95, 1e-6, 0.1),
                                                  (0.5, 0.0, 0.5, 1e-3, 0.01)]:
    parameter = torch.nn.Parameter(torch.randn(4, generator=generator))
    optimizer = torch.optim.AdamW([parameter], lr=rate, betas=(beta1, beta2), eps=epsilon, weight_decay=weight_decay)
    start = parameter.detach().clone()
    gradients, values = [], []
    for _ in range(8):
        parameter.grad = torch.randn(4, generator=generator)
        gradients += parameter.grad.tolist()
        optimizer.step()
        values += parameter.tolist()
    cases.append({"learning_rate": [rate], "beta1": [beta1], "beta2": [beta2], "epsilon": [epsilon],
                  "weight_decay": [weight_decay], "start": start.tolist(), "gradients": gradients, "values": values})
write("adamw_update.txt", f"PyTorch {torch.__version__.split('+')[0]}, fp64", cases)
