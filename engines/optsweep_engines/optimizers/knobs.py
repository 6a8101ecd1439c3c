"""Knobs that many optimizers share, and those of the run itself: warmup, decay, min_lr_ratio, max_grad_norm, z_loss."""

from __future__ import annotations

from optsweep_engines.optimizers.base import CAUTIOUS, Knob
from optsweep_engines.spec import Scalar

# The swept values ("published") are those of arXiv 2509.02046, over all of its sizes.


def learning_rate(default: float, published: tuple[Scalar, ...] = (), high: float = 10.0) -> Knob:
    """Peak learning rate."""
    return Knob(
        name="lr",
        kind="float",
        default=default,
        doc="peak learning rate",
        low=1e-7,
        high=high,
        scale="log",
        aliases=("learning_rate",),
        published=published,
    )


def weight_decay(default: float, published: tuple[Scalar, ...] = (), roles: str = "all but norms and biases") -> Knob:
    """Decoupled weight decay."""
    return Knob(
        name="weight_decay",
        kind="float",
        default=default,
        doc="parameters shrink by lr x weight_decay per step",
        low=0.0,
        high=10.0,
        scale="log",
        aliases=("wd",),
        published=published,
        roles=roles,
    )


def cautious_weight_decay(roles: str = "all that is decayed") -> Knob:
    """Cautious weight decay, for any rule whose decay is decoupled: `base.cautiously_decayed`."""
    return Knob(
        name=CAUTIOUS,
        kind="bool",
        default=False,
        doc="decay only numbers that the update itself does not push away from zero (arXiv 2510.12402)",
        scale="categorical",
        aliases=("cwd", "cautious_wd"),
        roles=roles,
        only_with=("weight_decay",),
    )


def switch(name: str, default: bool, doc: str, roles: str = "all", aliases: tuple[str, ...] = ()) -> Knob:
    """A knob that is on or off."""
    return Knob(name=name, kind="bool", default=default, doc=doc, scale="categorical", roles=roles, aliases=aliases)


def beta(name: str, default: float, doc: str, published: tuple[Scalar, ...] = (), roles: str = "all") -> Knob:
    """Decay of a moving average, in [0, 1)."""
    return Knob(
        name=name, kind="float", default=default, doc=doc, low=0.0, high=0.999999, published=published, roles=roles
    )


def epsilon(name: str, default: float, doc: str, published: tuple[Scalar, ...], alias: str, roles: str = "all") -> Knob:
    """A small number that keeps a division finite."""
    return Knob(
        name=name,
        kind="float",
        default=default,
        doc=doc,
        low=1e-30,
        high=1.0,
        scale="log",
        aliases=(alias,),
        published=published,
        roles=roles,
    )


RUN_KNOBS: tuple[Knob, ...] = (
    Knob(
        name="warmup",
        kind="float",
        default=0.1,
        doc="steps of linear warmup; below 1 a fraction of all steps",
        low=0.0,
        high=1e7,
        scale="log",
        aliases=("warmup_steps",),
        published=(500, 1000, 2000, 4000),
    ),
    Knob(
        name="decay",
        kind="float",
        default=1.0,
        doc="fraction of all steps spent decaying, at the end; 1 = everything after warmup",
        low=0.0,
        high=1.0,
        published=(0, 0.2, 0.4, 0.6, 0.8, 1),
    ),
    Knob(
        name="min_lr_ratio",
        kind="float",
        default=0.0,
        doc="where the decay ends, as a fraction of the peak",
        low=0.0,
        high=1.0,
    ),
    Knob(
        name="max_grad_norm",
        kind="float",
        default=1.0,
        doc="gradients are scaled down to this global norm; 0 = off",
        low=0.0,
        high=1e6,
        scale="log",
        aliases=("grad_clip",),
        published=(0, 1, 2),
    ),
    Knob(
        name="z_loss",
        kind="float",
        default=0.0,
        doc="weight of the mean squared log-normaliser in what is trained on; losses are reported without it; 0 = off",
        low=0.0,
        high=1.0,
        scale="log",
    ),
)
"""Knobs of every run, whatever its optimizer. `decay` and `min_lr_ratio` belong to the schedule."""

FIELD_ALIASES: dict[str, str] = {"train_batch_size": "batch_size", "lr_schedule": "schedule"}
"""Published keys that are fields of a RunSpec here, not knobs."""
