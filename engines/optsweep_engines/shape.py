"""The shape of one decoder: every number that decides its parameters, its function and its initial values; stdlib only."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Fields(NamedTuple):
    """What is asked of a dataclass ten thousand times per plan."""

    names: tuple[str, ...]
    """All of them, in order."""
    required: tuple[str, ...]
    """Those without a default."""
    neutral: dict[str, Any]
    """Those that came later -> the value at which they are left out of ids."""


_looked_at: dict[type[Any], Fields] = {}


def fields_of(kind: type[Any]) -> Fields:
    """The fields of a dataclass, looked at once."""
    if kind not in _looked_at:
        items = dataclasses.fields(kind)
        missing = dataclasses.MISSING
        _looked_at[kind] = Fields(
            names=tuple(item.name for item in items),
            required=tuple(item.name for item in items if item.default is missing and item.default_factory is missing),
            neutral={item.name: item.metadata["neutral"] for item in items if "neutral" in item.metadata},
        )
    return _looked_at[kind]


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The shape of one decoder; every number that decides its parameters and its initialisation."""

    family: str
    """Preset that the fields below were taken from, in words only: "llama", "gpt2", "olmo", "speedrun" (`shapes.py`)."""
    layers: int
    width: int
    """Hidden size, features."""
    heads: int
    """Attention heads; head size = width / heads."""
    mlp_width: int
    """Inner size of the MLP, features."""
    vocab_size: int
    """Rows of the embedding, tokens."""
    tied_embeddings: bool = False
    """True: the head is the transposed embedding."""
    init_std: float
    """Standard deviation of every matrix at initialisation; for attention and MLP outputs see `output_init`. With muP that
    of a model of the base width."""
    embedding_std: float
    """Standard deviation of the embedding, and of the table of positions, at initialisation."""
    norm_eps: float = 1e-6
    """Inside the inverse square root of every norm."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    norm: str = field(default="rms", metadata={"neutral": "rms"})
    """ "rms" (RMSNorm with a gain), "layer" (LayerNorm with a gain), "plain" (RMSNorm without parameters)."""
    activation: str = field(default="swiglu", metadata={"neutral": "swiglu"})
    """ "swiglu" (three matrices: gate, up, out), or with two matrices "gelu" (by erf), "gelu_tanh", "relu2" (squared)."""
    qk_norm: str = field(default="none", metadata={"neutral": "none"})
    """The norm over q and k before the rotation: "none", "head" (each head apart, one gain for all), "width" (all heads)."""
    biases: bool = field(default=False, metadata={"neutral": False})
    """True: every linear layer but the head adds a bias, and so does every LayerNorm."""
    positions: int = field(default=0, metadata={"neutral": 0})
    """Rows of a learned table of positions; 0 = rotary."""
    output_init: str = field(default="same", metadata={"neutral": "same"})
    """Standard deviation of attention and MLP outputs: "same" (init_std), "depth" (init_std / sqrt(2 layers)), "layer"
    (by fan-in and place: init_std / sqrt(2 l), l = 1, 2, ..., for MLP outputs x sqrt(width / mlp_width)), "zero"."""
    mup_base_width: int = field(default=0, metadata={"neutral": 0})
    """muP: width from which the rules of scaling count; 0 = standard parametrisation."""

    @property
    def mlp_matrices(self) -> int:
        """Matrices of one MLP: 3 with a gate, else 2."""
        return 3 if self.activation == "swiglu" else 2

    @property
    def non_embedding_params(self) -> int:
        """N: attention and MLP matrices, without embedding, positions, head, norms and biases."""
        return self.layers * (4 * self.width * self.width + self.mlp_matrices * self.width * self.mlp_width)

    @property
    def norm_params(self) -> int:
        """Gains of all norms, without their biases."""
        if self.norm == "plain":
            return 0
        one_qk = {"none": 0, "head": self.width // self.heads, "width": self.width}[self.qk_norm]
        return self.layers * (2 * self.width + 2 * one_qk) + self.width

    @property
    def bias_params(self) -> int:
        """Biases of linear layers and of LayerNorms."""
        if not self.biases:
            return 0
        linear = self.layers * (5 * self.width + (self.mlp_matrices - 1) * self.mlp_width)
        return linear + (self.norm_params if self.norm == "layer" else 0)

    @property
    def head_params(self) -> int:
        """Parameters multiplied in the output projection, tied or not."""
        return self.vocab_size * self.width

    @property
    def total_params(self) -> int:
        """Every stored parameter: N, embedding, positions, untied head, norms, biases."""
        tables = self.head_params * (1 if self.tied_embeddings else 2) + self.positions * self.width
        return self.non_embedding_params + tables + self.norm_params + self.bias_params

    def flops_per_token(self, seq_len: int) -> float:
        """Model FLOPs of one trained token, forward and backward: 6 (N + head) + 12 layers width T, in every family."""
        return 6.0 * (self.non_embedding_params + self.head_params) + 12.0 * self.layers * self.width * seq_len

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a field that came later is left out at its neutral value, so that ids and files stay as they were."""
        neutral = fields_of(ModelShape).neutral
        return {key: value for key, value in vars(self).items() if key not in neutral or value != neutral[key]}
