#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""attune from Python, by ctypes: no extension is compiled, no array is copied.

    demo.py LIBRARY          the path of libattune_c.so

NumPy arrays, and PyTorch tensors where PyTorch can be imported, go to the functions of attune_c.h as they lie in
memory: an array's __dlpack__() is a capsule, the capsule holds a DLTensor, and its address is what the functions take.
The gradients that come back are held against finite differences and PyTorch's autograd; then a table of logits learns
two preferences by DPO. Ends with 1 if something is not as it should be, with 77 if there is no NumPy.
"""
import ctypes
import math
import sys

try:
    import numpy as np
except ImportError:
    print("skipped: demo.py needs NumPy (Debian: python3-numpy)")
    sys.exit(77)
try:
    import torch
except (ImportError, OSError):  # not there, or without the libraries it was built for
    torch = None


# What dlpack.h says, in ctypes' words.


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class DLManagedTensor(ctypes.Structure):
    _fields_ = [("dl_tensor", DLTensor), ("manager_ctx", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class DLManagedTensorVersioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("dl_tensor", DLTensor),
    ]


READ_ONLY = 1  # a bit of flags

is_capsule = ctypes.pythonapi.PyCapsule_IsValid
is_capsule.restype, is_capsule.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]
pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class Borrowed:
    """The DLTensor of an array. The memory is the array's as long as this lives: a capsule that nobody renamed to
    "used_..." gives it back by itself."""

    def __init__(self, array, writable=False):
        try:
            self.capsule = array.__dlpack__(max_version=(1, 0))
        except TypeError:  # a framework that only knows DLPack before 1.0
            self.capsule = array.__dlpack__()
        if is_capsule(self.capsule, b"dltensor_versioned"):
            managed = DLManagedTensorVersioned.from_address(pointer_of(self.capsule, b"dltensor_versioned"))
            if managed.major != 1:
                raise ValueError(f"expected DLPack version 1, got {managed.major}")
            if writable and managed.flags & READ_ONLY:
                raise ValueError("expected memory that may be written, got a read-only array")
        else:
            managed = DLManagedTensor.from_address(pointer_of(self.capsule, b"dltensor"))
        self.tensor = managed.dl_tensor


class Sequences(ctypes.Structure):
    """attune_sequences. Keeps what it points to."""

    _fields_ = [(name, ctypes.POINTER(DLTensor)) for name in ("tokens", "offsets", "mask")]

    def __init__(self, tokens, offsets, mask):
        self.kept = [Borrowed(array) for array in (tokens, offsets, mask)]
        super().__init__(*(ctypes.pointer(one.tensor) for one in self.kept))


class Attune:
    """The functions of attune_c.h. Arrays of any framework that speaks DLPack; gradient may be logits itself. Each
    returns the loss; ValueError says what is wrong with an argument. ctypes lets go of the interpreter's lock
    meanwhile."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)

    def _call(self, function, *arguments):
        error = ctypes.create_string_buffer(512)
        kept = []

        def as_c(argument):
            if isinstance(argument, Borrowed):
                kept.append(argument)
                return ctypes.byref(argument.tensor)
            if isinstance(argument, float):
                return ctypes.c_double(argument)
            if isinstance(argument, (ctypes.Structure, ctypes.c_double)):
                return ctypes.byref(argument)
            return as_c(Borrowed(argument))

        arguments = [as_c(argument) for argument in arguments]
        status = self.library[function](*arguments, error, ctypes.c_size_t(len(error)))
        if status != 0:
            raise (ValueError if status == 1 else RuntimeError)(error.value.decode())

    def dpo_loss(self, chosen, rejected, ref_chosen, ref_rejected, beta, chosen_slopes, rejected_slopes):
        loss = ctypes.c_double()
        self._call("attune_dpo_loss", chosen, rejected, ref_chosen, ref_rejected, beta, 0.0, loss,
                   Borrowed(chosen_slopes, writable=True), Borrowed(rejected_slopes, writable=True))
        return loss.value

    def logps_on_logits(self, logits, sequences, logps):
        self._call("attune_logps_on_logits", logits, sequences, Borrowed(logps, writable=True))

    def sft_loss_on_logits(self, logits, sequences, gradient, label_smoothing=0.0):
        loss = ctypes.c_double()
        self._call("attune_sft_loss_on_logits", logits, sequences, label_smoothing, loss,
                   Borrowed(gradient, writable=True))
        return loss.value

    def dpo_loss_on_logits(self, logits, sequences, ref_logps, gradient, beta=0.1, label_smoothing=0.0):
        loss = ctypes.c_double()
        self._call("attune_dpo_loss_on_logits", logits, sequences, ref_logps, beta, label_smoothing, loss,
                   Borrowed(gradient, writable=True))
        return loss.value

    def ppo_loss_on_logits(self, logits, sequences, old_logps, advantages, gradient, cliprange=0.2):
        loss = ctypes.c_double()
        self._call("attune_ppo_loss_on_logits", logits, sequences, old_logps, advantages, cliprange, loss,
                   Borrowed(gradient, writable=True))
        return loss.value


# What is checked.


def require(holds, what):
    if not holds:
        print(f"WRONG: {what}")
        sys.exit(1)


def compare(what, gradient, expected, tolerance):
    gradient, expected = np.asarray(gradient, float), np.asarray(expected, float)
    worst = float(np.abs(gradient - expected).max() / np.abs(expected).max())
    print(f"  {what}: worst difference {worst:.1e} of the largest")
    require(np.isfinite(worst) and worst <= tolerance, f"{what}: expected a difference of at most {tolerance}")


# Two pairs: chosen and rejected responses (mask 1) to a prompt, in turn, end to end.
TOKENS = np.array([1, 2, 3, 4, 0, 1, 2, 5, 0, 3, 3, 0, 3, 5, 5, 0])
OFFSETS = np.array([0, 5, 9, 12, 16])
MASK = np.array([0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1], np.uint8)
VOCABULARY = 6


class World:
    """Random logits of one dtype, and what the objectives read beside them. Losses as functions of logits."""

    def __init__(self, attune, dtype):
        random = np.random.default_rng(7)
        self.attune = attune
        self.sequences = Sequences(TOKENS, OFFSETS, MASK)
        self.logits = random.normal(size=(len(TOKENS), VOCABULARY)).astype(dtype)
        self.advantages = random.normal(size=len(TOKENS)).astype(dtype)
        self.ref_logps = np.empty(len(TOKENS), dtype)
        attune.logps_on_logits((self.logits + random.normal(size=self.logits.shape) / 4).astype(dtype), self.sequences,
                               self.ref_logps)

    def losses(self):
        return {
            "SFT": lambda x, g: self.attune.sft_loss_on_logits(x, self.sequences, g, label_smoothing=0.1),
            "DPO": lambda x, g: self.attune.dpo_loss_on_logits(x, self.sequences, self.ref_logps, g, beta=0.5),
            "PPO": lambda x, g: self.attune.ppo_loss_on_logits(x, self.sequences, self.ref_logps, self.advantages, g),
        }


def against_finite_differences(attune):
    print("NumPy, float64, against central differences:")
    world = World(attune, np.float64)
    scratch = np.empty_like(world.logits)
    for name, loss in world.losses().items():
        gradient = np.empty_like(world.logits)
        loss(world.logits, gradient)
        expected = np.empty_like(gradient)
        for at in np.ndindex(gradient.shape):
            sides = []
            for h in (1e-5, -1e-5):
                moved = world.logits.copy()
                moved[at] += h
                sides.append(loss(moved, scratch))
            expected[at] = (sides[0] - sides[1]) / 2e-5
        compare(name, gradient, expected, 1e-7)

        table = np.zeros((len(TOKENS), 2 * VOCABULARY + 1))  # rows further apart, and the gradient over the logits
        inside = table[:, 3:3 + VOCABULARY]
        inside[:] = world.logits
        loss(inside, inside)
        require((inside == gradient).all(), f"{name}: in place, the same bits")
        inside[:] = 0
        require((table == 0).all(), f"{name}: nothing beside is touched")
        require((gradient[OFFSETS[1:] - 1] == 0).all(), f"{name}: the last row of a sequence has no target")


def against_autograd(attune, dtype, tolerance):
    print(f"PyTorch, {dtype}, against autograd:")
    world = World(attune, str(dtype).split(".")[1])
    ref_logps, advantages = torch.from_numpy(world.ref_logps), torch.from_numpy(world.advantages)
    last = np.isin(np.arange(len(TOKENS)), OFFSETS[1:] - 1)
    rows = np.flatnonzero(~last & np.append(MASK[1:] == 1, False))  # those that predict a masked-in token
    targets = torch.from_numpy(TOKENS[rows + 1])
    of = np.searchsorted(OFFSETS, rows, side="right") - 1  # the sequence of each

    def logps(x):
        return torch.log_softmax(x, -1)[rows, targets]

    def sft(x):
        return torch.nn.functional.cross_entropy(x[rows], targets, label_smoothing=0.1)

    def dpo(x):
        ratios = torch.zeros(len(OFFSETS) - 1, dtype=dtype).index_add(0, torch.from_numpy(of),
                                                                      logps(x) - ref_logps[rows + 1])
        return -torch.nn.functional.logsigmoid(0.5 * (ratios[0::2] - ratios[1::2])).mean()

    def ppo(x):
        ratio, advantage = (logps(x) - ref_logps[rows + 1]).exp(), advantages[rows + 1]
        return -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()

    for (name, loss), theirs in zip(world.losses().items(), (sft, dpo, ppo)):
        logits = torch.from_numpy(world.logits.copy()).requires_grad_()
        value = theirs(logits)
        value.backward()
        gradient = torch.empty_like(logits, requires_grad=False)  # PyTorch's memory
        ours = loss(logits.detach(), gradient)
        compare(name, gradient, logits.grad, tolerance)
        require(abs(ours - value.item()) <= tolerance * max(1.0, abs(ours)), f"{name}: loss {ours}, autograd {value}")


def mistakes(attune):
    print("Mistakes are named:")
    world = World(attune, np.float32)
    logits, gradient, sequences = world.logits, np.empty_like(world.logits), world.sequences

    def refused(call, expected):
        try:
            call()
        except ValueError as e:
            print(f"  {e}")
            require(expected in str(e), f"expected a message with: {expected}")
        else:
            require(False, f"accepted, expected: {expected}")

    def on_logits(x, g=gradient):
        return lambda: attune.sft_loss_on_logits(x, sequences, g)

    def on_device():
        there = Borrowed(logits)
        there.tensor.device_type, there.tensor.device_id = 2, 1
        attune.sft_loss_on_logits(there, sequences, gradient)

    read_only = np.zeros_like(logits)
    read_only.flags.writeable = False
    refused(on_logits(logits.astype(np.float16)), "expected logits: DLPack dtype float32 or float64, got float16")
    refused(on_logits(logits.astype(np.float64)), "expected gradient: DLPack dtype float64, got float32")
    if torch is not None:
        refused(on_logits(torch.zeros(16, 6, dtype=torch.bfloat16)), "got bfloat16")
    refused(on_device, "expected logits: memory that the host can read, got DLPack device CUDA 1")
    refused(on_logits(logits[0]), "expected logits: rank 2, got 1")
    refused(on_logits(logits.T), "expected logits: adjacent elements (stride 1 in dimension 1;")
    refused(on_logits(logits[::-1]), "got stride -6")
    refused(on_logits(logits[:, ::2]), "got stride 2")
    refused(on_logits(logits[1:], logits[:-1]), "expected gradient: the logits themselves, or memory apart from them")
    refused(on_logits(logits[1:], gradient[1:]), "loss_on_logits: logits.rows == batch.total_tokens(), got 15")
    try:
        attune.sft_loss_on_logits(logits, sequences, read_only)
        require(False, "a read-only gradient was accepted")
    except (ValueError, BufferError) as e:  # NumPy's own, where it only knows DLPack before 1.0
        print(f"  {e}")
    wide = np.where(TOKENS == 4, 2**40 + 4, TOKENS)
    refused(lambda: attune.sft_loss_on_logits(logits, Sequences(wide, OFFSETS, MASK), gradient),
            "expected tokens[3]: a number in [-2147483648, 2147483647], got 1099511627780")
    refused(lambda: attune.sft_loss_on_logits(logits, Sequences(TOKENS + 1, OFFSETS, MASK), gradient),
            "expected a token id inside the vocabulary")
    refused(lambda: attune.dpo_loss_on_logits(logits, sequences, world.ref_logps, gradient, beta=-1.0),
            "dpo_options.beta > 0 and finite, got -1")
    require((read_only == 0).all(), "a read-only array was written")


def door_1(attune):
    chosen, rejected = np.array([-3.0, -5.0]), np.array([-4.0, -4.5])
    ref_chosen, ref_rejected = np.array([-3.5, -5.0]), np.array([-4.0, -4.0])
    slopes = np.empty((2, 2))
    loss = attune.dpo_loss(chosen, rejected, ref_chosen, ref_rejected, 0.5, slopes[0], slopes[1])
    print(f"DPO from log-probabilities: loss {loss:.6f}, slopes {slopes[0]} and {slopes[1]}")
    require(abs(loss - math.log1p(math.exp(-0.25))) < 1e-14, "both margins are 0.5: -log sigmoid(0.25)")
    require(np.allclose(slopes, [[-0.25 / (1 + math.exp(0.25))] * 2, [0.25 / (1 + math.exp(0.25))] * 2], 1e-14),
            "slopes -/+ beta sigmoid(-0.25) / pairs")


def train(attune):
    """The policy is a table: logits of the next token by the token before."""
    print("DPO on a table of logits, the gradient written over the logits of each step:")
    table = np.zeros((VOCABULARY, VOCABULARY), np.float32)
    sequences = Sequences(TOKENS, OFFSETS, MASK)
    ref_logps = np.empty(len(TOKENS), np.float32)
    attune.logps_on_logits(table[TOKENS], sequences, ref_logps)
    losses = []
    for step in range(9):
        logits = table[TOKENS]  # (tokens, vocabulary), a copy of rows
        losses.append(attune.dpo_loss_on_logits(logits, sequences, ref_logps, logits, beta=0.5))
        print(f"  step {step}: loss {losses[-1]:.4f}")
        of_table = np.zeros_like(table)
        np.add.at(of_table, TOKENS, logits)
        table -= 4.0 * of_table
    require(losses[0] == np.float32(math.log(2)), "the first loss is ln 2: policy and reference are equal")
    require(all(b < a for a, b in zip(losses, losses[1:])), "the loss falls at every step")
    logps = np.empty_like(ref_logps)
    attune.logps_on_logits(table[TOKENS], sequences, logps)
    ratios = np.add.reduceat(logps - ref_logps, OFFSETS[:-1])
    print(f"  log-ratios of chosen responses {ratios[0::2]}, of rejected ones {ratios[1::2]}")
    require((ratios[0::2] > 0).all() and (ratios[1::2] < 0).all(), "chosen responses gain, rejected ones lose")


def main():
    if len(sys.argv) != 2:
        print(__doc__)
        return 1
    try:
        attune = Attune(sys.argv[1])
    except OSError as e:
        print(f"demo.py: {e}\nBuild it first: cmake --build build/demo --target attune_c")
        return 1
    print(f"NumPy {np.__version__}, PyTorch {torch.__version__ if torch is not None else 'is not there: no autograd'}")
    door_1(attune)
    against_finite_differences(attune)
    if torch is not None:
        against_autograd(attune, torch.float64, 1e-13)
        against_autograd(attune, torch.float32, 1e-5)
    mistakes(attune)
    train(attune)
    print("All as it should be.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
