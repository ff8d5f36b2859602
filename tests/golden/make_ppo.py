# SPDX-License-Identifier: MIT
"""Writes ppo_advantages.txt beside itself: from a padded rollout to rewards, advantages, returns and losses, by TRL's
PPO loop over padded tensors as PyTorch computes it, fp64.

    pip install torch==2.15.0        # CPU is enough; Python 3.11
    python3 make_ppo.py

after_end 1 is TRL's: the score lies on the first padding position (p1), or on the last token of a response without
padding, and values count up to p1. after_end 0 is VERL's: the score lies on the last token, values end there. A response
that an end token closed is shorter than `response_length`. Numbers per token come out without the padding: `rewards`,
`values`, `returns` over the positions where values count, everything else over the response's tokens.

A file is a list of cases separated by blank lines; a line of a case is a name and its numbers; # begins a comment.
Numbers are decimal and read back to the same bits.
"""
import pathlib

import torch

torch.set_default_dtype(torch.float64)
generator = torch.Generator().manual_seed(2203)
here = pathlib.Path(__file__).parent
INVALID_LOGPROB = 1.0  # TRL's, on padding


def normal(*shape):
    return torch.randn(*shape, generator=generator)


def uniform(low, high):
    return low + (high - low) * torch.rand((), generator=generator).item()


def masked_mean(values, mask):
    return (values * mask).sum() / mask.sum()


def masked_var(values, mask):
    centered = values - masked_mean(values, mask)
    return masked_mean(centered**2, mask) * mask.sum() / (mask.sum() - 1)


def masked_whiten(values, mask, shift_mean=True):
    mean, var = masked_mean(values, mask), masked_var(values, mask)
    whitened = (values - mean) * torch.rsqrt(var + 1e-8)
    return whitened if shift_mean else whitened + mean


def case(after_end, kl_estimator, whiten_rewards, whiten_advantages):
    responses = int(torch.randint(2, 7, (), generator=generator))
    response_length = int(torch.randint(2, 8, (), generator=generator))
    lengths = torch.randint(1, response_length + 1, (responses,), generator=generator)
    lengths[0] = response_length  # one without padding
    lengths[1] = torch.randint(1, response_length, (), generator=generator)  # one with
    kl_coef, gamma, lam = uniform(0.0, 0.5), uniform(0.9, 1.0), uniform(0.8, 1.0)
    cliprange, cliprange_value, vf_coef = uniform(0.1, 0.3), uniform(0.1, 0.6), uniform(0.05, 0.5)
    index = torch.arange(response_length).repeat(responses, 1)
    sequence_lengths = lengths - 1  # of the last token, as TRL has it
    sequence_lengths_p1 = sequence_lengths + 1
    padding_mask = index > sequence_lengths.unsqueeze(1)
    padding_mask_p1 = index > (sequence_lengths_p1 if after_end else sequence_lengths).unsqueeze(1)

    logprobs = torch.masked_fill(-normal(responses, response_length).abs(), padding_mask, INVALID_LOGPROB)
    ref_logprobs = torch.masked_fill(logprobs + 0.3 * normal(responses, response_length), padding_mask, INVALID_LOGPROB)
    values = torch.masked_fill(normal(responses, response_length), padding_mask_p1, 0)
    scores = 2 * normal(responses)

    logr = ref_logprobs - logprobs
    kl = -logr if kl_estimator == 1 else (logr.exp() - 1) - logr
    non_score_reward = -kl_coef * kl
    rewards = non_score_reward.clone()
    at = torch.where(sequence_lengths_p1 < response_length, sequence_lengths_p1, sequence_lengths) if after_end else sequence_lengths
    rewards[torch.arange(responses), at] += scores
    if whiten_rewards:
        rewards = torch.masked_fill(masked_whiten(rewards, ~padding_mask_p1, shift_mean=False), padding_mask_p1, 0)

    lastgaelam, reversed_advantages = 0, []
    for t in reversed(range(response_length)):
        nextvalues = values[:, t + 1] if t < response_length - 1 else 0.0
        delta = rewards[:, t] + gamma * nextvalues - values[:, t]
        lastgaelam = delta + gamma * lam * lastgaelam
        reversed_advantages.append(lastgaelam)
    advantages = torch.stack(reversed_advantages[::-1], axis=1)
    returns = advantages + values
    if whiten_advantages:
        advantages = masked_whiten(advantages, ~padding_mask)
    advantages = torch.masked_fill(advantages, padding_mask, 0)

    new_logprobs = torch.masked_fill(logprobs + 0.2 * normal(responses, response_length), padding_mask, INVALID_LOGPROB)
    vpred = torch.masked_fill(values + 0.4 * normal(responses, response_length), padding_mask_p1, 0)
    vpredclipped = torch.clamp(vpred, values - cliprange_value, values + cliprange_value)
    vf_losses1, vf_losses2 = torch.square(vpred - returns), torch.square(vpredclipped - returns)
    vf_loss = 0.5 * masked_mean(torch.max(vf_losses1, vf_losses2), ~padding_mask_p1)
    ratio = torch.exp(new_logprobs - logprobs)
    pg_losses = -advantages * ratio
    pg_losses2 = -advantages * torch.clamp(ratio, 1.0 - cliprange, 1.0 + cliprange)
    pg_loss = masked_mean(torch.max(pg_losses, pg_losses2), ~padding_mask)

    tokens, positions = ~padding_mask, ~padding_mask_p1
    return {"after_end": after_end, "kl_estimator": kl_estimator, "whiten_rewards": whiten_rewards,
            "whiten_advantages": whiten_advantages, "response_length": response_length, "lengths": lengths,
            "kl_coef": kl_coef, "gamma": gamma, "lam": lam, "cliprange": cliprange, "cliprange_value": cliprange_value,
            "vf_coef": vf_coef, "logps": logprobs[tokens], "ref_logps": ref_logprobs[tokens], "scores": scores,
            "new_logps": new_logprobs[tokens], "values": values[positions], "new_values": vpred[positions],
            "rewards": rewards[positions], "advantages": advantages[tokens], "returns": returns[positions],
            "kl": -logr.sum(1).mean(), "non_score_reward": non_score_reward.sum(1).mean(),
            "rlhf_reward": non_score_reward.sum(1).mean() + scores.mean(), "policy_loss": pg_loss, "value_loss": vf_loss,
            "loss": pg_loss + vf_coef * vf_loss,
            "clipfrac": masked_mean((pg_losses2 > pg_losses).double(), tokens),
            "value_clipfrac": masked_mean((vf_losses2 > vf_losses1).double(), positions)}


def text(value):
    if isinstance(value, torch.Tensor):
        value = value.reshape(-1).tolist()
    return " ".join(repr(x) for x in (value if isinstance(value, list) else [value]))


lines = ["# SPDX-License-Identifier: MIT", f"# Made by make_ppo.py with PyTorch {torch.__version__.split('+')[0]}, fp64."]
for after_end in (1, 0):
    for estimator in (1, 3):
        for whiten_rewards in (0, 1):
            for whiten_advantages in (1, 0):
                for _ in range(3):
                    lines.append("")
                    one = case(after_end, estimator, whiten_rewards, whiten_advantages)
                    lines += [f"{key} {text(value)}" for key, value in one.items()]
(here / "ppo_advantages.txt").write_text("\n".join(lines) + "\n")
