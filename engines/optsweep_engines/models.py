"""Parameters of a model and their roles, initial values and memory; numpy only, shared by all engines."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from optsweep_engines.families import CHOICES, FAMILIES, FEATURES, MODELS, ModelEntry, model, varied
from optsweep_engines.shape import ModelShape

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
    """Standard deviation at initialisation; None = ones, 0 = zeros."""
    init_by_layer: bool = False
    """True: the standard deviation of layer l = 1, 2, ... is init_std / sqrt(l)."""
    width_ratio: float | None = None
    """muP: by how much more features come in than in a model of the base width, 1 where they do not grow; None without
    muP. A rule's learning rate gets this to the power that its catalogue entry declares."""

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


def parameter_table(shape: ModelShape) -> tuple[Parameter, ...]:
    """Every tensor of the model, in the order of its use; weights are [..., out, in], the embedding is [vocab, width].

    The table of positions has the embedding's role: rules that treat tokens apart treat positions so.

    Raises:
        ValueError: a feature is not known, or the width does not divide into heads of even size.
    """
    check(shape)
    layers, width, inner, vocab = shape.layers, shape.width, shape.mlp_width, shape.vocab_size
    ratio = width / shape.mup_base_width if shape.mup_base_width else None

    def vector(name: str, role: Role, size: int, stacked: bool) -> Parameter:
        return Parameter(
            name=name,
            shape=(layers, size) if stacked else (size,),
            role=role,
            stacked=stacked,
            in_axis=None,
            out_axis=None,
            heads=None,
            init_std=None if role == "norm" else 0.0,
            width_ratio=ratio and 1.0,
        )

    def norm(name: str, size: int, stacked: bool = True) -> list[Parameter]:
        found = [] if shape.norm == "plain" else [vector(name, "norm", size, stacked)]
        if shape.norm == "layer" and shape.biases:
            found.append(vector(f"{name}_bias", "bias", size, stacked))
        return found

    def linear(role: Role, out_features: int, in_features: int, heads: int | None = None) -> list[Parameter]:
        std, by_layer = output_std(shape, role) if role in OUTPUTS else (shape.init_std, False)
        bank = Parameter(
            name=role,
            shape=(layers, out_features, in_features),
            role=role,
            stacked=True,
            in_axis=-1,
            out_axis=-2,
            heads=heads,
            init_std=std / (ratio**0.5 if ratio else 1.0),
            init_by_layer=by_layer,
            width_ratio=ratio,
        )
        return [bank, *([vector(f"{role}_bias", "bias", out_features, True)] if shape.biases else [])]

    def table(name: str, role: Role, rows: int, in_axis: int, out_axis: int, std: float) -> Parameter:
        return Parameter(
            name=name,
            shape=(rows, width),
            role=role,
            stacked=False,
            in_axis=in_axis,
            out_axis=out_axis,
            heads=None,
            init_std=std,
            width_ratio=ratio and 1.0,
        )

    qk = {"none": 0, "head": width // shape.heads, "width": width}[shape.qk_norm]
    gate = linear("mlp_gate", inner, width) if shape.activation == "swiglu" else []
    parameters = [
        table("embedding", "embedding", vocab, -2, -1, shape.embedding_std),
        *([table("position", "embedding", shape.positions, -2, -1, shape.embedding_std)] if shape.positions else []),
        *norm("attention_norm", width),
        *linear("q", width, width, shape.heads),
        *linear("k", width, width, shape.heads),
        *linear("v", width, width, shape.heads),
        *([*norm("q_norm", qk), *norm("k_norm", qk)] if qk else []),
        *linear("attention_out", width, width),
        *norm("mlp_norm", width),
        *gate,
        *linear("mlp_up", inner, width),
        *linear("mlp_out", width, inner),
        *norm("final_norm", width, stacked=False),
    ]
    if not shape.tied_embeddings:
        parameters.append(table("head", "head", vocab, -1, -2, shape.init_std))
    return tuple(parameters)


def check(shape: ModelShape) -> None:
    """Refuse a shape that no engine can build.

    Raises:
        ValueError: with the reason.
    """
    if shape.family not in FAMILIES:
        raise ValueError(f'model family "{shape.family}" is not known; known: {", ".join(FAMILIES)}')
    known = {**CHOICES, "norm": ("rms", "layer", "plain"), "output_init": ("same", "depth", "layer", "zero")}
    for feature, values in known.items():
        if getattr(shape, feature) not in values:
            raise ValueError(f'{feature} "{getattr(shape, feature)}" is not one of {", ".join(values)}')
    if shape.width % shape.heads or (shape.width // shape.heads) % 2:
        raise ValueError(f"width {shape.width} does not divide into {shape.heads} heads of even size")
    if shape.mup_base_width < 0 or shape.positions < 0:
        raise ValueError("mup_base_width and positions are 0 or more")


OUTPUTS = ("attention_out", "mlp_out")
"""Roles whose products are added to the residual."""


def output_std(shape: ModelShape, role: Role) -> tuple[float, bool]:
    """(standard deviation of the first layer's output matrix, whether it falls as 1 / sqrt(l) over the layers)."""
    if shape.output_init == "zero":
        return 0.0, False
    if shape.output_init == "depth":
        return shape.init_std / math.sqrt(2 * shape.layers), False
    if shape.output_init == "layer":
        by_fan_in = math.sqrt(shape.width / shape.mlp_width) if role == "mlp_out" else 1.0
        return shape.init_std * by_fan_in / math.sqrt(2), True
    return shape.init_std, False


def logit_multiplier(shape: ModelShape) -> float:
    """What the final activations are multiplied with before the head: 1, under muP base width / width."""
    return shape.mup_base_width / shape.width if shape.mup_base_width else 1.0


def attention_scale(shape: ModelShape) -> float:
    """What q k is multiplied with: 1 / sqrt(D), under muP 1 / D; D the size of a head."""
    size = shape.width // shape.heads
    return 1.0 / size if shape.mup_base_width else float(size) ** -0.5


def initial_parameters(shape: ModelShape, seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """Initial values by name, see `initial_parameter`."""
    return {item.name: initial_parameter(shape, seed, item) for item in parameter_table(shape)}


def initial_parameter(shape: ModelShape, seed: int, parameter: Parameter) -> npt.NDArray[np.float32]:
    """Initial values of one bank: normal with the declared standard deviation, ones for norms, zeros where it is 0.

    Each tensor has a Philox stream of its own, keyed by seed and name, so the values do not depend on the order or
    the presence of other tensors, nor on the engine.
    """
    if not parameter.init_std:
        fill = np.ones if parameter.init_std is None else np.zeros
        return fill(parameter.shape, dtype=np.float32)
    digest = hashlib.sha256(f"optsweep init {seed} {parameter.name}".encode()).digest()
    stream = np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype="<u8")))
    value = stream.standard_normal(parameter.shape, dtype=np.float32)
    value *= np.float32(parameter.init_std)
    if parameter.init_by_layer:
        value *= (np.arange(1, shape.layers + 1, dtype=np.float32) ** -0.5)[:, None, None]
    return value


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
    # rotation, attention output (6 width), the two residual additions (2 width), and of the MLP gate, up, and their
    # product (4 inner), or the product before and after the function with one intermediate (3 inner). A norm over q and k
    # keeps its inputs and outputs (4 width); without the rotation q, k and v are kept once (3 width less).
    qk_norm = 0 if shape.qk_norm == "none" else 4
    width_each = 12 + qk_norm - (3 if shape.positions else 0)
    per_layer = width_each * shape.width + (4 if shape.activation == "swiglu" else 3) * shape.mlp_width
    # Attention in blocks keeps the lower half of its weights; the fused kernels (bf16, long sequences) keep none.
    scores = shape.heads * (seq_len + 64) // 2 if dtype == "fp32" and seq_len <= 1024 else 0
    # The logits, their fp32 softmax and its gradient, of as many rows as the engine holds at once.
    logits = min(tokens * shape.vocab_size, LARGEST_LOGITS) * (size + 8)
    activations = tokens * shape.layers * (per_layer + scores) * size
    compute_copy = shape.total_params * 2 if dtype == "bf16" else 0
    return int(shape.total_params * 8 + compute_copy + state_floats * 4 + activations + logits)


__all__ = [
    "FEATURES",
    "HIDDEN_ROLES",
    "LARGEST_LOGITS",
    "MODELS",
    "VECTOR_ROLES",
    "ModelEntry",
    "ModelShape",
    "Parameter",
    "Role",
    "attention_scale",
    "check",
    "initial_parameter",
    "initial_parameters",
    "logit_multiplier",
    "model",
    "parameter_table",
    "training_bytes",
    "varied",
]
