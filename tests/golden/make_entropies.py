# SPDX-License-Identifier: MIT
"""Writes entropies.txt beside itself.

    pip install torch==2.15.0        # CPU is enough; Python 3.11
    python3 make_entropies.py

Rows of logits, and what torch.distributions.Categorical and autograd make of them in fp64: log-probabilities of targets,
entropies, and the gradient of sum(slopes * logps + entropy_slopes * entropies) in the logits. The format is that of
make_objectives.py.
"""
import pathlib

import torch

here = pathlib.Path(__file__).parent
torch.set_default_dtype(torch.float64)
generator = torch.Generator().manual_seed(11)
lines = ["# SPDX-License-Identifier: MIT",
         f"# Made by make_entropies.py with PyTorch {torch.__version__.split('+')[0]}, fp64."]
rows = 3
for vocabulary, spread in [(1, 1.0), (2, 1.0), (7, 0.01), (7, 20.0), (40, 3.0)]:
    logits = (spread * torch.randn(rows, vocabulary, generator=generator)).requires_grad_()
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    slopes, entropy_slopes = torch.randn(2, rows, generator=generator)
    distribution = torch.distributions.Categorical(logits=logits)
    logps, entropies = distribution.log_prob(targets), distribution.entropy()
    (slopes * logps + entropy_slopes * entropies).sum().backward()
    case = {"vocabulary": torch.tensor([vocabulary]), "logits": logits, "targets": targets, "slopes": slopes,
            "entropy_slopes": entropy_slopes, "logps": logps, "entropies": entropies, "gradient": logits.grad}
    lines.append("")
    lines += [f"{key} {' '.join(repr(float(x)) for x in value.detach().flatten())}" for key, value in case.items()]
(here / "entropies.txt").write_text("\n".join(lines) + "\n")
