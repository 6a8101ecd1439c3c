"""Model shapes by name: parameters and their roles, initial values, FLOPs and memory; numpy only, shared by all engines."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from optsweep_engines.spec import ModelShape

Role: TypeAlias = Literal[
    "embedding", "head", "q", "k", "v", "attention_out", "mlp_gate", "mlp_up", "mlp_out", "norm", "bias"
]

HIDDEN_ROLES: frozenset[str] = frozenset({"q", "k", "v", "attention_out", "mlp_gate", "mlp_up", "mlp_out"})
"""Roles of the matrices inside the layers: what Muon and the other matrix rules work on."""

LARGEST_LOGITS = 1 << 26
"""Logits that an engine holds at once, 256 MB in fp32; below it the plain loss is as good and differentiates twice."""

VECTOR_ROLES: frozenset[str] = frozenset({"norm", "bias"})
"""Roles that take no weight decay."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One named tensor of a model: its shape, what it does, and how its axes are to be read."""

    name: str
    shape: tuple[int, ...]
    """All axes; a stacked bank has the layers first."""
    role: Role
    stacked: bool
    """True: the first axis counts layers, and every update rule sees that many separate tensors."""
    in_axis: int | None
    """Axis of the features that come in, counted from the end; None for a vector. The embedding maps tokens to width."""
    out_axis: int | None
    """Axis of the features that go out, counted from the end; None for a vector."""
    heads: int | None
    """Attention heads that the rows of q, k and v are split into; None elsewhere."""
    init_std: float | None
    """Standard deviation at initialisation; None = ones."""

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def tensors(self) -> int:
        """Separate tensors in the bank: layers when stacked, otherwise 1."""
        return self.shape[0] if self.stacked else 1

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """Shape of one of them."""
        return self.shape[1:] if self.stacked else self.shape

    @property
    def is_hidden_matrix(self) -> bool:
        """True for the matrices of attention and MLP."""
        return self.role in HIDDEN_ROLES

    @property
    def decays(self) -> bool:
        """True where weight decay applies: everywhere but norms and biases."""
        return self.role not in VECTOR_ROLES

    @property
    def fan_in(self) -> int:
        """Features that come in (a matrix only)."""
        assert self.in_axis is not None, f"{self.name} is a vector"
        return self.shape[self.in_axis]

    @property
    def fan_out(self) -> int:
        """Features that go out (a matrix only)."""
        assert self.out_axis is not None, f"{self.name} is a vector"
        return self.shape[self.out_axis]


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One line of the catalogue: a shape with the setting that it is trained in unless a grid says otherwise."""

    name: str
    shape: ModelShape
    seq_len: int
    """Tokens per sequence."""
    batch_size: int
    """Sequences per optimizer step."""
    dataset: str
    """Catalogue name of the dataset."""
    dtype: str
    """Compute type, "fp32" or "bf16"; parameters are fp32."""
    schedule: str
    study: str
    """Which study the shape belongs to."""
    source: str
    """Where its numbers come from."""
    doc: str


def _bench(
    name: str, layers: int, width: int, heads: int, mlp_width: int, seq_len: int, batch_size: int, doc: str
) -> ModelEntry:
    shape = ModelShape(
        family="llama",
        layers=layers,
        width=width,
        heads=heads,
        mlp_width=mlp_width,
        vocab_size=256,
        init_std=width**-0.5,
        embedding_std=0.5,
    )
    return ModelEntry(
        name=name,
        shape=shape,
        seq_len=seq_len,
        batch_size=batch_size,
        dataset="embedded",
        dtype="fp32",
        schedule="linear",
        study="bench",
        source="this project: byte models that train on one CPU core",
        doc=doc,
    )


def _reference(name: str, width: int) -> ModelEntry:
    # arXiv 2509.02046: 32 layers, head dim 64, MLP 4x, sequence 4096, batch 128, Llama 3 vocabulary, untied;
    # std 0.02, norm epsilon 1e-5 and rotary base 10000 are the defaults of the Llama code it was trained with.
    shape = ModelShape(
        family="llama",
        layers=32,
        width=width,
        heads=width // 64,
        mlp_width=4 * width,
        vocab_size=128256,
        init_std=0.02,
        embedding_std=0.02,
        norm_eps=1e-5,
    )
    return ModelEntry(
        name=name,
        shape=shape,
        seq_len=4096,
        batch_size=128,
        dataset="dclm-mix",
        dtype="bf16",
        schedule="cosine",
        study="reference",
        source="https://arxiv.org/abs/2509.02046",
        doc=f"Reference study, width {width}, {shape.non_embedding_params / 1e6:.0f}M non-embedding parameters",
    )


MODELS: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        _bench("bench-micro", 2, 64, 4, 192, 128, 8, "Seconds on one CPU core; the quickstart trains it"),
        _bench("bench-tiny", 4, 128, 4, 352, 256, 4, "Minutes on one CPU core"),
        _bench("bench-small", 6, 384, 6, 1024, 256, 4, "Hours on one CPU core, minutes on a GPU"),
        _reference("130m", 512),
        _reference("300m", 768),
        _reference("520m", 1024),
        _reference("1.2b", 1536),
    )
}


def model(name: str) -> ModelEntry:
    """The entry of a name, matched without case.

    Raises:
        LookupError: no such model; the argument is the name that was asked for.
    """
    by_name = {key.lower(): entry for key, entry in MODELS.items()}
    if name.lower() not in by_name:
        raise LookupError(name)
    return by_name[name.lower()]


def parameter_table(shape: ModelShape) -> tuple[Parameter, ...]:
    """Every tensor of the model, in the order of its use; weights are [..., out, in], the embedding is [vocab, width].

    Raises:
        ValueError: the family is not known, or the width does not divide into heads of even size.
    """
    if shape.family != "llama":
        raise ValueError(f'model family "{shape.family}" is not known; known: llama')
    if shape.width % shape.heads or (shape.width // shape.heads) % 2:
        raise ValueError(f"width {shape.width} does not divide into {shape.heads} heads of even size")
    layers, width, inner, vocab = shape.layers, shape.width, shape.mlp_width, shape.vocab_size

    def norm(name: str, *stack: int) -> Parameter:
        return Parameter(
            name=name,
            shape=(*stack, width),
            role="norm",
            stacked=bool(stack),
            in_axis=None,
            out_axis=None,
            heads=None,
            init_std=None,
        )

    def bank(role: Role, out_features: int, in_features: int, heads: int | None = None) -> Parameter:
        return Parameter(
            name=role,
            shape=(layers, out_features, in_features),
            role=role,
            stacked=True,
            in_axis=-1,
            out_axis=-2,
            heads=heads,
            init_std=shape.init_std,
        )

    def table(role: Role, in_axis: int, out_axis: int, std: float) -> Parameter:
        return Parameter(
            name=role,
            shape=(vocab, width),
            role=role,
            stacked=False,
            in_axis=in_axis,
            out_axis=out_axis,
            heads=None,
            init_std=std,
        )

    parameters = [
        table("embedding", -2, -1, shape.embedding_std),
        norm("attention_norm", layers),
        bank("q", width, width, shape.heads),
        bank("k", width, width, shape.heads),
        bank("v", width, width, shape.heads),
        bank("attention_out", width, width),
        norm("mlp_norm", layers),
        bank("mlp_gate", inner, width),
        bank("mlp_up", inner, width),
        bank("mlp_out", width, inner),
        norm("final_norm"),
    ]
    if not shape.tied_embeddings:
        parameters.append(table("head", -1, -2, shape.init_std))
    return tuple(parameters)


def initial_parameters(shape: ModelShape, seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """Initial values by name: normal with the declared standard deviation, ones for norms.

    Each tensor has a Philox stream of its own, keyed by seed and name, so the values do not depend on the order or
    the presence of other tensors, nor on the engine.
    """
    values: dict[str, npt.NDArray[np.float32]] = {}
    for parameter in parameter_table(shape):
        if parameter.init_std is None:
            values[parameter.name] = np.ones(parameter.shape, dtype=np.float32)
            continue
        digest = hashlib.sha256(f"optsweep init {seed} {parameter.name}".encode()).digest()
        stream = np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype="<u8")))
        value = stream.standard_normal(parameter.shape, dtype=np.float32)
        value *= np.float32(parameter.init_std)
        values[parameter.name] = value
    return values


def training_bytes(shape: ModelShape, batch_size: int, seq_len: int, dtype: str, state_floats: float) -> int:
    """Estimated bytes that training holds at once: weights, gradients, optimizer state, activations of one micro-batch.

    Args:
        batch_size: sequences in one forward pass (the batch divided by the accumulation).
        dtype: "fp32" or "bf16": size of the activations.
        state_floats: fp32 numbers that the optimizer keeps, over all parameters.
    """
    size = 2 if dtype == "bf16" else 4
    tokens = batch_size * seq_len
    # Kept for backward per token and layer: two norms with their inputs (4 width), q k v before and after the
    # rotation, attention output (6 width), the two residual additions (2 width), gate, up, and their product (4 inner).
    per_layer = 12 * shape.width + 4 * shape.mlp_width
    # Attention in blocks keeps the lower half of its weights; the fused kernels (bf16, long sequences) keep none.
    scores = shape.heads * (seq_len + 64) // 2 if dtype == "fp32" and seq_len <= 1024 else 0
    # The logits, their fp32 softmax and its gradient, of as many rows as the engine holds at once.
    logits = min(tokens * shape.vocab_size, LARGEST_LOGITS) * (size + 8)
    activations = tokens * shape.layers * (per_layer + scores) * size
    compute_copy = shape.total_params * 2 if dtype == "bf16" else 0
    return int(shape.total_params * 8 + compute_copy + state_floats * 4 + activations + logits)
