"""Families of models and the shapes of all studies by name: `model("olmo-150m")`, `model("olmo-150m+qk_norm=false")`.

A family is a preset of features of `ModelShape`; each feature can be set apart. A shape of the catalogue with a feature
changed is a model of its own, named by what was changed, so that results of the two never fall into one cell.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optsweep_engines.shape import ModelShape
from optsweep_engines.spec import Scalar

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"norm": "rms", "activation": "swiglu", "norm_eps": 1e-6, "output_init": "same"},
    # nanoGPT's model.py: LayerNorm epsilon 1e-5, GELU by erf, tied head, no biases by default, outputs 0.02 / sqrt(2 layers).
    "gpt2": {
        "norm": "layer", "activation": "gelu", "norm_eps": 1e-5, "output_init": "depth", "tied_embeddings": True,
        "init_std": 0.02, "embedding_std": 0.02,
    },
    # arXiv 2407.07972, configs/base-c4-t5.yaml: LayerNorms with gains and without biases, also over q and k; `mitchell`
    # initialisation (its cut at 3 standard deviations is left out); epsilon 1e-5 is OLMo's default.
    "olmo": {"norm": "layer", "activation": "gelu", "norm_eps": 1e-5, "output_init": "layer", "qk_norm": "width"},
    # Records of October 2024: RMSNorm without parameters (epsilon of fp32), ReLU^2, QK-norm per head, outputs at zero; the
    # spread of torch's default initialisation, which is uniform there and normal here.
    "speedrun": {
        "norm": "plain", "activation": "relu2", "norm_eps": 2.0**-23, "output_init": "zero", "qk_norm": "head",
        "tied_embeddings": True,
    },
}  # fmt: skip
"""Family -> its features; what is not named is neutral. Standard deviations that depend on the width: `family_shape`."""

QK_NORM = {"llama": "head", "gpt2": "head", "olmo": "width", "speedrun": "head"}
"""Family -> the form that `qk_norm = true` stands for."""

FEATURES: dict[str, str] = {
    "family": "a preset of all features: llama, gpt2, olmo, speedrun",
    "qk_norm": "norm over q and k: true (the family's own form), false, head, width",
    "tied_embeddings": "true: the head is the transposed embedding",
    "biases": "true: biases in linear layers and LayerNorms",
    "activation": "swiglu, gelu (by erf), gelu_tanh, relu2",
    "mup_base_width": "muP: width from which the rules of scaling count; 0 = standard parametrisation",
}
"""What a grid, `--set` and `--sweep` may change of a shape; z_loss is a knob of the run."""

CHOICES = {
    "family": tuple(FAMILIES),
    "qk_norm": ("none", "head", "width"),
    "activation": ("swiglu", "gelu", "gelu_tanh", "relu2"),
}


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
    z_loss: float = 0.0
    """The run's z_loss unless another is named."""


def family_shape(
    family: str, *, layers: int, width: int, heads: int, mlp_width: int, vocab_size: int, positions: int, **changes: Any
) -> ModelShape:
    """A shape of a family.

    Args:
        positions: rows of the table, for a family that learns them.
        changes: further fields.
    """
    spread = {"llama": width**-0.5, "olmo": width**-0.5, "speedrun": (3 * width) ** -0.5}.get(family, 0.02)
    embedding = 0.5 if family == "llama" else spread
    features = {"init_std": spread, "embedding_std": embedding, **FAMILIES[family], **changes}
    if family == "gpt2":
        features["positions"] = positions
    return ModelShape(
        family=family, layers=layers, width=width, heads=heads, mlp_width=mlp_width, vocab_size=vocab_size, **features
    )


def _bench(
    name: str, layers: int, width: int, heads: int, mlp_width: int, seq_len: int, batch: int, doc: str
) -> ModelEntry:
    return ModelEntry(
        name=name,
        shape=family_shape(
            "llama", layers=layers, width=width, heads=heads, mlp_width=mlp_width, vocab_size=256, positions=seq_len
        ),
        seq_len=seq_len,
        batch_size=batch,
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


def _olmo(size: str, width: int, heads: int, layers: int) -> ModelEntry:
    # arXiv 2407.07972: sequences of 512, batch 256, T5 tokenizer, softmax auxiliary loss on (1e-4 in OLMo's code).
    return ModelEntry(
        name=f"olmo-{size}",
        shape=family_shape(
            "olmo", layers=layers, width=width, heads=heads, mlp_width=4 * width, vocab_size=32100, positions=512
        ),
        seq_len=512,
        batch_size=256,
        dataset="c4",
        dtype="bf16",
        schedule="cosine",
        study="olmo",
        source="https://arxiv.org/abs/2407.07972, code https://github.com/rosieyzh/optimizers-llm",
        doc=f"OLMo-based study, {layers} layers, width {width}: LayerNorm, QK-LayerNorm, GELU, z-loss, untied",
        z_loss=1e-4,
    )


def _gpt2(
    name: str, layers: int, heads: int, width: int, seq_len: int, batch: int, dataset: str, vocab: int, dtype: str
) -> ModelEntry:
    # nanoGPT: config/train_shakespeare_char.py (block 256, batch 64), config/train_gpt2.py (block 1024, batch 480),
    # GPT-2 vocabulary padded to 50304.
    return ModelEntry(
        name=name,
        shape=family_shape(
            "gpt2", layers=layers, width=width, heads=heads, mlp_width=4 * width, vocab_size=vocab, positions=seq_len
        ),
        seq_len=seq_len,
        batch_size=batch,
        dataset=dataset,
        dtype=dtype,
        schedule="cosine",
        study="minimal",
        source="https://github.com/karpathy/nanoGPT; sizes of the minimal benchmark on it",
        doc=f"nanoGPT shape, {layers} layers, {heads} heads, width {width}: LayerNorm, learned positions, GELU, tied",
    )


def _scaled(family: str) -> ModelEntry:
    inner = 192 if family == "llama" else 256
    return ModelEntry(
        name=f"{family}-scaled",
        shape=family_shape(family, layers=2, width=64, heads=4, mlp_width=inner, vocab_size=256, positions=128),
        seq_len=128,
        batch_size=8,
        dataset="embedded",
        dtype="fp32",
        schedule="cosine",
        study="scaled",
        source="this project: what --scale tiny makes of the family's larger shapes",
        doc=f"The {family} family at 2 layers x 64, bytes: a study's plan tried out on one CPU core",
        z_loss=1e-4 if family == "olmo" else 0.0,
    )


_SPEEDRUN = ModelEntry(
    name="speedrun-124m",
    shape=family_shape("speedrun", layers=12, width=768, heads=6, mlp_width=3072, vocab_size=50304, positions=1024),
    seq_len=1024,
    batch_size=512,
    dataset="fineweb",
    dtype="bf16",
    schedule="wsd",
    study="speedrun",
    source="https://github.com/KellerJordan/modded-nanogpt, records of October 2024",
    doc="NanoGPT speedrun: RMSNorm without parameters, rotary, QK-norm, squared ReLU, outputs at zero, tied",
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
        _olmo("150m", 1024, 16, 12),
        _olmo("300m", 1024, 16, 24),
        _olmo("600m", 1408, 22, 24),
        _olmo("1.2b", 2048, 32, 24),
        _gpt2("gpt2-tiny", 4, 4, 128, 256, 64, "shakespeare", 65, "fp32"),
        _gpt2("gpt2-small", 6, 6, 384, 256, 64, "shakespeare", 65, "fp32"),
        _gpt2("gpt2-medium", 8, 8, 512, 256, 64, "tinystories", 50304, "bf16"),
        _gpt2("gpt2-124m", 12, 12, 768, 1024, 480, "openwebtext", 50304, "bf16"),
        _gpt2("gpt2-350m", 24, 16, 1024, 1024, 480, "openwebtext", 50304, "bf16"),
        _SPEEDRUN,
        *(_scaled(family) for family in FAMILIES),
    )
}


# ---------------------------------------------------------------- variants


def feature_value(feature: str, value: Scalar, family: str) -> Any:
    """What a field of the shape gets from a setting.

    Raises:
        ValueError: the feature cannot have that value.
    """
    if feature == "qk_norm" and (isinstance(value, bool) or value in (0, 1)):
        return QK_NORM[family] if value else "none"
    if feature in CHOICES:
        text = str(value).lower()
        if text not in CHOICES[feature]:
            near = difflib.get_close_matches(text, CHOICES[feature], 1)
            guess = f'; did you mean "{near[0]}"?' if near else ""
            more = "true, false, " if feature == "qk_norm" else ""
            raise ValueError(f'{feature} = "{value}" is not one of {more}{", ".join(CHOICES[feature])}{guess}')
        return text
    if feature == "mup_base_width":
        number = int(value) if isinstance(value, float) and value.is_integer() else value
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ValueError(f"{feature} = {value!r} is not a width: a whole number, 0 = off")
        return number
    if value not in (0, 1):
        raise ValueError(f"{feature} = {value!r} is neither true nor false")
    return bool(value)


def changed(shape: ModelShape, features: Mapping[str, Scalar]) -> ModelShape:
    """A shape with features set.

    Raises:
        ValueError: a feature that is not known, or a value that it cannot have.
    """
    for feature in features:
        if feature not in FEATURES:
            raise ValueError(f'"{feature}" is no feature of a model; known: {", ".join(FEATURES)}')
    rest = dict(features)
    if "family" in rest:
        family = feature_value("family", rest.pop("family"), shape.family)
        if family != shape.family:
            shape = family_shape(
                family,
                layers=shape.layers,
                width=shape.width,
                heads=shape.heads,
                mlp_width=shape.mlp_width,
                vocab_size=shape.vocab_size,
                positions=shape.positions or 1,
            )
    base = int(feature_value("mup_base_width", rest.pop("mup_base_width", shape.mup_base_width), shape.family))
    fields = {name: feature_value(name, value, shape.family) for name, value in rest.items()}
    return _from_base_width(dataclasses.replace(shape, **fields), base)


def _from_base_width(shape: ModelShape, base: int) -> ModelShape:
    """muP's rules count from a model of the base width: a standard deviation that follows the width becomes that one's."""
    before = shape.mup_base_width or shape.width
    own = {(scale * before) ** -0.5: (scale * (base or shape.width)) ** -0.5 for scale in (1, 3)}

    def at_base(std: float) -> float:
        return next((new for old, new in own.items() if math.isclose(std, old)), std)

    return dataclasses.replace(
        shape, mup_base_width=base, init_std=at_base(shape.init_std), embedding_std=at_base(shape.embedding_std)
    )


def varied(entry: ModelEntry, features: Mapping[str, Scalar]) -> ModelEntry:
    """An entry with features set, under a name that says what differs from the catalogue's: `olmo-150m+qk_norm=false`.

    Raises:
        ValueError: a feature that is not known, or a value that it cannot have.
    """
    first = entry.name.split("+", 1)[0]
    origin = MODELS.get(first, dataclasses.replace(entry, name=first))
    shape = changed(entry.shape, features)
    if shape.positions:
        shape = dataclasses.replace(shape, positions=entry.seq_len)
    told = []
    plain = origin.shape
    if shape.family != plain.family:
        told.append(f"family={shape.family}")
        plain = changed(plain, {"family": shape.family})
    for feature in ("activation", "biases", "mup_base_width", "qk_norm", "tied_embeddings"):
        value = getattr(shape, feature)
        if value != getattr(plain, feature):
            told.append(f"{feature}={_text(feature, value, shape.family)}")
    if not told:
        return origin
    return dataclasses.replace(
        origin,
        name="+".join([first, *told]),
        shape=shape,
        doc=f"{origin.doc}; with {', '.join(part.replace('=', ' = ') for part in told)}",
    )


def _text(feature: str, value: Any, family: str) -> str:
    if feature == "qk_norm":
        return {QK_NORM[family]: "true", "none": "false"}.get(value, str(value))
    return str(value).lower()


class NoSuchFeature(LookupError):
    """A model of the catalogue with something behind its name that no model can have."""


@functools.lru_cache(maxsize=1024)
def model(name: str) -> ModelEntry:
    """The entry of a name, matched without case; after "+" features that are changed: "olmo-150m+qk_norm=false".

    Raises:
        LookupError: no such model; the argument is the name that was asked for.
        NoSuchFeature: a feature behind it that is not known, or a value that it cannot have.
    """
    base, *parts = name.strip().lower().split("+")
    by_name = {key.lower(): entry for key, entry in MODELS.items()}
    if base not in by_name:
        raise LookupError(name)
    features: dict[str, Scalar] = {}
    for part in parts:
        feature, equals, value = part.partition("=")
        if not equals or feature in features:
            raise NoSuchFeature(f'"{part}" is not one FEATURE=VALUE')
        features[feature] = {"true": True, "false": False}.get(value, int(value) if value.isdigit() else value)
    try:
        return varied(by_name[base], features) if features else by_name[base]
    except ValueError as error:
        raise NoSuchFeature(str(error)) from None


__all__ = [
    "CHOICES",
    "FAMILIES",
    "FEATURES",
    "MODELS",
    "ModelEntry",
    "NoSuchFeature",
    "changed",
    "family_shape",
    "model",
    "varied",
]
