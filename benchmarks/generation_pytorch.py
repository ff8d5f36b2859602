# SPDX-License-Identifier: MIT
"""What generation_benchmark measures, in PyTorch: the same Llama-family decoder in fp32 on a CPU, token by token with a
key/value cache, all prompts as one batch (they are of one length, so nothing is padded).

Started by generation_benchmark --pytorch python3, which writes a line to its standard input and reads one from its
standard output:

    greedy N        ->  the first N greedy tokens of every prompt
    round THREADS   ->  seconds for sampling all new tokens of all prompts, the reading of the prompts included
"""
import json
import sys
import time

try:
    import torch
except ImportError as reason:
    print(reason, flush=True)
    sys.exit(0)

from torch.nn.functional import scaled_dot_product_attention, silu

weights_file, *numbers = sys.argv[1:]
vocabulary, dim, layers, heads, kv_heads, hidden, prompts, prompt_tokens, new_tokens = map(int, numbers[:9])
rope_theta, epsilon = map(float, numbers[9:])
head_dim = dim // heads


def read_weights():
    """A safetensors file: the length of a JSON header, the header, the bytes."""
    with open(weights_file, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = bytearray(file.read())
    header.pop("__metadata__", None)
    return {name: torch.frombuffer(data, dtype=torch.float32, count=(e - b) // 4, offset=b).clone().reshape(shape)
            for name, (shape, (b, e)) in ((n, (t["shape"], t["data_offsets"])) for n, t in header.items())}


w = read_weights()
angles = torch.arange(prompt_tokens + new_tokens)[:, None] * rope_theta ** (-torch.arange(0, head_dim, 2) / head_dim)
turn = torch.polar(torch.ones_like(angles), angles)


def norm(x, gain):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * gain


def rotate(x, position):
    """x (batch, heads, tokens, head_dim); pairs of neighbours are turned."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turn[position:position + x.shape[2]]).flatten(-2)


def forward(tokens, position, cache):
    """Logits after the last of tokens (batch, length), which stand at position and after."""
    batch, length = tokens.shape
    x = w["tok_embeddings.weight"][tokens]
    for l in range(layers):
        p = f"layers.{l}."
        h = norm(x, w[p + "attention_norm.weight"])
        q, k, v = ((h @ w[p + f"attention.w{name}.weight"].T).view(batch, length, -1, head_dim).transpose(1, 2)
                   for name in "qkv")
        keys, values = cache[l]
        keys[:, :, position:position + length] = rotate(k, position)
        values[:, :, position:position + length] = v
        seen = position + length
        a = scaled_dot_product_attention(rotate(q, position), keys[:, :, :seen], values[:, :, :seen],
                                         is_causal=length > 1, enable_gqa=kv_heads != heads)
        x = x + a.transpose(1, 2).reshape(batch, length, dim) @ w[p + "attention.wo.weight"].T
        h = norm(x, w[p + "ffn_norm.weight"])
        h = silu(h @ w[p + "feed_forward.w1.weight"].T) * (h @ w[p + "feed_forward.w3.weight"].T)
        x = x + h @ w[p + "feed_forward.w2.weight"].T
    return norm(x[:, -1], w["norm.weight"]) @ w["tok_embeddings.weight"].T


@torch.inference_mode()
def generate(steps, choose):
    number = torch.arange(prompts)[:, None] * 7919 + torch.arange(prompt_tokens)[None] * 104729
    tokens = number % vocabulary
    cache = [(torch.empty(prompts, kv_heads, prompt_tokens + new_tokens, head_dim),
              torch.empty(prompts, kv_heads, prompt_tokens + new_tokens, head_dim)) for _ in range(layers)]
    out = []
    position = 0
    for _ in range(steps):
        logits = forward(tokens, position, cache)
        position += tokens.shape[1]
        tokens = choose(logits)
        out.append(tokens)
    return torch.cat(out, 1)


def sample(logits):
    return torch.multinomial(torch.softmax(logits, -1), 1)


print(f"ready PyTorch {torch.__version__}", flush=True)
for line in sys.stdin:
    command, number = line.split()
    if command == "greedy":
        print(*generate(int(number), lambda logits: logits.argmax(-1, keepdim=True)).flatten().tolist(), flush=True)
    else:
        torch.set_num_threads(int(number))
        start = time.perf_counter()
        generate(new_tokens, sample)
        print(time.perf_counter() - start, flush=True)
