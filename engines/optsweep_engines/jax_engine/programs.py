"""The compiled programs of a run: gradients, update, loss. Cached by everything that is a constant in them.

A knob that is a plain number and that no rule branches on is an argument of the update program, as are lr and step, so that
runs of a sweep over it share one program. Scalars come in as Python floats under 64-bit mode: there they are weakly typed
doubles, so that 1 - beta2^t is as exact as in an engine that computes it on the host, and no array becomes one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from optsweep_engines.jax_engine.device import model_options
from optsweep_engines.jax_engine.layout import Layout, pinned
from optsweep_engines.jax_engine.model import Decoder
from optsweep_engines.jax_engine.optimizer import Events, Optimizer, States
from optsweep_engines.loop import z_loss
from optsweep_engines.models import parameter_table
from optsweep_engines.optimizers.base import OptimizerEntry
from optsweep_engines.spec import ModelShape, RunSpec

# As torch.nn.utils.clip_grad_norm_.
CLIP_EPSILON = 1e-6

Given: TypeAlias = dict[str, float]
"""Traced numbers of an update: knobs by name, "lr of BANK" and "decay of BANK"."""


@dataclass(frozen=True, kw_only=True)
class ModelKey:
    """What decides the gradients program."""

    shape: ModelShape
    seq_len: int
    dtype: str
    accumulation: int
    layout: Layout
    z_loss: float = 0.0


def model_key(spec: RunSpec, layout: Layout) -> ModelKey:
    """The key of a spec."""
    return ModelKey(
        shape=spec.shape,
        seq_len=spec.seq_len,
        dtype=spec.dtype,
        accumulation=spec.accumulation,
        layout=layout,
        z_loss=z_loss(spec),
    )


def compute_type(dtype: str) -> Any:
    """The JAX type of "fp32" or "bf16"."""
    return jnp.bfloat16 if dtype == "bf16" else jnp.float32


@functools.lru_cache(maxsize=64)
def decoder(key: ModelKey) -> Decoder:
    """The model of a key."""
    return Decoder(key.shape, key.seq_len, compute_type(key.dtype), platform=key.layout.platform, z_loss=key.z_loss)


def clipped(grads: Mapping[str, jax.Array], max_norm: Any) -> tuple[dict[str, jax.Array], jax.Array]:
    """Gradients scaled down to the global norm allowed (0: as they are), and the norm before."""
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(grad)) for grad in grads.values()))
    factor = jnp.minimum(max_norm / (norm + CLIP_EPSILON), 1.0)
    factor = jnp.where(max_norm > 0, factor, 1.0).astype(jnp.float32)
    return {name: grad * factor for name, grad in grads.items()}, norm


def gradients(key: ModelKey, params: Mapping[str, jax.Array], x_BT: jax.Array, y_BT: jax.Array, max_norm: Any) -> Any:
    """(mean loss, clipped gradients by name, norm before clipping), accumulated over the micro-batches."""
    model, count = decoder(key), key.accumulation
    with jax.default_matmul_precision("highest" if key.dtype == "fp32" else "default"):
        if count == 1:
            loss, grads = model.loss_and_grads(params, x_BT, y_BT)
        else:
            parts = (x_BT.reshape(count, -1, x_BT.shape[1]), y_BT.reshape(count, -1, y_BT.shape[1]))
            if key.layout.spread:
                rows = jax.sharding.PartitionSpec(None, ("data", "fsdp"))
                parts = pinned(parts, jax.sharding.NamedSharding(key.layout.mesh, rows))

            def more(carry: Any, part: Any) -> Any:
                return jax.tree.map(jnp.add, carry, model.loss_and_grads(params, *part)), None

            zero = jnp.zeros((), jnp.float32), {name: jnp.zeros_like(value) for name, value in params.items()}
            (loss, grads), _ = jax.lax.scan(more, zero, parts)
            loss, grads = loss / count, {name: grad / count for name, grad in grads.items()}
    grads, norm = clipped(grads, max_norm)
    return loss, grads, norm


@functools.lru_cache(maxsize=64)
def gradients_program(key: ModelKey) -> Callable[..., Any]:
    """`gradients`, compiled."""
    shardings = {item.name: key.layout.of(item) for item in parameter_table(key.shape)}

    def program(params: Any, x_BT: jax.Array, y_BT: jax.Array, max_norm: Any) -> Any:
        loss, grads, norm = gradients(key, params, x_BT, y_BT, max_norm)
        return loss, pinned(grads, shardings) if key.layout.spread else grads, norm

    return jax.jit(program, compiler_options=model_options(key.layout.platform))


@functools.lru_cache(maxsize=64)
def loss_program(key: ModelKey) -> Callable[..., Any]:
    """The mean loss of some sequences, compiled."""
    model = decoder(key)

    def program(params: Any, x_BT: jax.Array, y_BT: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest" if key.dtype == "fp32" else "default"):
            return model.loss(params, x_BT, y_BT)

    return jax.jit(program, compiler_options=model_options(key.layout.platform))


# ---------------------------------------------------------------- the update


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """The optimizer of a run with its compiled programs, shared by all runs that differ in traced numbers only."""

    optimizer: Optimizer
    init: Callable[[Any], States]
    """params -> states."""
    step: Callable[..., tuple[dict[str, jax.Array], States]]
    """(params, grads, states, lr, step, extra, given; events) -> (params, states); the first three are donated."""
    evaluated: Callable[[Any, States], dict[str, jax.Array]]
    traced: frozenset[str]
    """Knobs that are arguments; "lr" and "decay" stand for the groups' ratios and decays."""

    def given(self, own: Optimizer) -> Given:
        """The numbers of a run for this program.

        Args:
            own: the optimizer of the run itself.
        """
        return numbers(own, self.traced)


def numbers(optimizer: Optimizer, traced: frozenset[str]) -> Given:
    """The values of traced knobs. A knob that some group overrides is a constant, so one value per name will do."""
    found: Given = {}
    for name, hp in optimizer.hps.items():
        found |= {knob: float(hp.knobs[knob] or 0.0) for knob in traced & hp.knobs.keys()}
        if "lr of" in traced:
            found[f"lr of {name}"], found[f"decay of {name}"] = float(hp.lr), float(hp.weight_decay)
    return found


_updates: dict[Any, Update] = {}


def update_of(
    entry: OptimizerEntry, spec: RunSpec, layout: Layout, *, code: str | None = None
) -> tuple[Update, Optimizer]:
    """The programs of a run's optimizer, and the run's own optimizer with its numbers.

    Args:
        code: hash of the file that the entry is from; None for the catalogue's.
    """
    needs_steps, needs_tokens = "total_steps" in entry.needs or code, "tokens_per_step" in entry.needs or code
    # Newton-Schulz in bfloat16 is what its author trains with; a CPU multiplies in float32 sooner.
    dtype = jnp.bfloat16 if spec.dtype == "bf16" and layout.platform != "cpu" else None
    own = Optimizer(
        entry,
        spec.hyperparameters,
        parameter_table(spec.shape),
        total_steps=spec.steps if needs_steps else 0,
        tokens_per_step=spec.tokens_per_step if needs_tokens else 0,
        dtype=dtype,
        platform=layout.platform,
    )
    candidates = frozenset(
        knob.name
        for knob in entry.knobs
        if knob.kind == "float"
        and knob.name not in ("lr", "weight_decay")
        and len({hp.knobs.get(knob.name) for hp in own.hps.values()}) == 1
        and all(hp.knobs.get(knob.name) is not None for hp in own.hps.values())
    ) | {"lr of"}
    rules = tuple(rule.name for rule in own.rules.values())

    def key_of(traced: frozenset[str]) -> Any:
        left = tuple(sorted((k, v) for k, v in spec.hyperparameters.items() if k not in traced and k in own_knobs))
        overrides = tuple(
            (name, tuple(sorted((k, v) for k, v in hp.knobs.items() if v != spec.hyperparameters.get(k))))
            for name, hp in own.hps.items()
        )
        steps = (spec.steps if needs_steps else 0, spec.tokens_per_step if needs_tokens else 0)
        fixed = () if "lr of" in traced else tuple((hp.lr, hp.weight_decay) for hp in own.hps.values())
        return (entry.name, code, spec.shape, rules, left, overrides, steps, str(dtype), layout, traced, fixed)

    own_knobs = {knob.name for knob in entry.knobs} - {"lr"} - ({"weight_decay"} if "lr of" in candidates else set())
    for traced in (candidates, frozenset[str]()):
        if key_of(traced) in _updates:
            return _updates[key_of(traced)], own
    if not traceable(own, spec.shape, candidates):
        candidates = frozenset()
    made = _updates[key_of(candidates)] = compiled(own, spec.shape, layout, candidates)
    return made, own


def traceable(optimizer: Optimizer, shape: ModelShape, traced: frozenset[str]) -> bool:
    """Whether every rule can be traced with these numbers unknown."""
    params = {item.name: jax.ShapeDtypeStruct(item.shape, jnp.float32) for item in parameter_table(shape)}
    with exact_scalars():
        states = jax.eval_shape(optimizer.init, params)
        for events in dict.fromkeys(optimizer.events(step) for step in (1, 2)):
            extra = {
                service: {name: params[name] for name in names} for service, names in optimizer.services(events).items()
            }
            step = functools.partial(optimizer.update, events=events)
            call = lambda p, g, s, lr, t, e, n, step=step: step(p, g, s, lr, t, e, given=n)  # noqa: E731
            try:
                jax.eval_shape(call, params, params, states, 1.0, 1.0, extra, numbers(optimizer, traced))
            except (TypeError, jax.errors.JAXTypeError):
                return False
    return True


def compiled(optimizer: Optimizer, shape: ModelShape, layout: Layout, traced: frozenset[str]) -> Update:
    """The programs of an optimizer."""
    table = {item.name: item for item in parameter_table(shape)}
    places = {name: layout.of(item) for name, item in table.items()}

    def kept(params: Any, states: Any) -> Any:
        if not layout.spread:
            return params, states
        return pinned(params, places), pinned(states, layout.states(table, states))

    def init(params: Any) -> Any:
        return kept(params, optimizer.init(params))[1]

    def step(params: Any, grads: Any, states: Any, lr: Any, number: Any, extra: Any, given: Any, events: Events) -> Any:
        with jax.default_matmul_precision("highest"):
            return kept(*optimizer.update(params, grads, states, lr, number, extra, events, given))

    return Update(
        optimizer=optimizer,
        init=jax.jit(init),
        step=jax.jit(step, static_argnames="events", donate_argnums=(0, 2)),
        evaluated=jax.jit(optimizer.evaluated),
        traced=traced,
    )


def exact_scalars() -> contextlib.AbstractContextManager[Any]:
    """64-bit mode, in which a Python float is a weakly typed double."""
    context: contextlib.AbstractContextManager[Any] = jax.enable_x64(True)
    return context
