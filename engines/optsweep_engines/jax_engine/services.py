"""What some rules call for beside the gradient, on the steps that need it: noise, sampled gradients, Hessian products."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optsweep_engines.jax_engine.model import Decoder
from optsweep_engines.jax_engine.programs import ModelKey, compute_type, decoder, exact_scalars
from optsweep_engines.models import parameter_table
from optsweep_engines.optimizers import noise
from optsweep_engines.spec import RunSpec


class Services:
    """The services of one run; every number is a pure function of the spec, the step and the parameters."""

    def __init__(self, spec: RunSpec, key: ModelKey) -> None:
        self.spec = spec
        self.key = dataclasses.replace(key, z_loss=0.0)  # estimates are of the loss that is reported
        self.table = {item.name: item for item in parameter_table(spec.shape)}

    def at(
        self,
        asked: Mapping[str, list[str]],
        step: int,
        params: Mapping[str, jax.Array],
        x_BT: jax.Array,
        y_BT: jax.Array,
    ) -> dict[str, dict[str, jax.Array]]:
        """Service -> bank -> array, of what is asked on a step, counted from 1."""
        found: dict[str, dict[str, jax.Array]] = {}
        if "noise" in asked:
            found["noise"] = self.normal(asked["noise"], step)
        if "sampled_gradient" in asked:
            uniforms = self.uniforms(step, x_BT.shape)
            with exact_scalars():
                found["sampled_gradient"] = self.mean_over_parts(sampled_program(self.key), params, x_BT, uniforms)
        if "hessian_diagonal" in asked:
            probes = self.normal(list(self.table), step)
            program = hessian_program(self.key)
            found["hessian_diagonal"] = self.mean_over_parts(
                lambda values, x, y: program(values, probes, x, y), params, x_BT, y_BT
            )
        return {service: {name: found[service][name] for name in names} for service, names in asked.items()}

    def normal(self, names: list[str], step: int) -> dict[str, jax.Array]:
        """Standard normal numbers of the shapes of these banks."""
        words = {name: np.array(noise.keys(self.spec.seed, step, name), np.int32) for name in names}
        drawn: dict[str, jax.Array] = normal_program(self.key, tuple(names))(words)
        return drawn

    def uniforms(self, step: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """One number in [0, 1) for each token of the batch, float64."""
        key = hashlib.sha256(f"optsweep labels {self.spec.seed}".encode()).digest()[:16]
        stream = np.random.Philox(key=np.frombuffer(key, dtype="<u8"), counter=[0, 0, 0, step])
        words = stream.random_raw(int(np.prod(shape))) >> np.uint64(11)
        return np.asarray((words * 2.0**-53).reshape(shape))

    def mean_over_parts(
        self, of: Callable[..., dict[str, jax.Array]], params: Mapping[str, jax.Array], x_BT: Any, y_BT: Any
    ) -> dict[str, jax.Array]:
        """The mean of a quantity over the micro-batches."""
        count = self.spec.accumulation
        if count == 1:
            return of(params, x_BT, y_BT)
        rows = len(x_BT) // count
        parts = [slice(start, start + rows) for start in range(0, len(x_BT), rows)]
        found = [of(params, x_BT[part], y_BT[part]) for part in parts]
        mean: dict[str, jax.Array] = jax.tree.map(lambda *values: sum(value / count for value in values), *found)
        return mean


@functools.lru_cache(maxsize=64)
def normal_program(key: ModelKey, names: tuple[str, ...]) -> Callable[..., dict[str, jax.Array]]:
    """Noise of these banks from their four words each."""
    table = {item.name: item for item in parameter_table(key.shape)}

    def program(words: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        like = jnp.zeros((), jnp.float32)
        return {name: noise.of_words(jnp, words[name], table[name], like) for name in names}

    return jax.jit(program, out_shardings={name: key.layout.of(table[name]) for name in names})


def drawn_labels(model: Decoder, params: Any, x_BT: jax.Array, uniform_BT: jax.Array) -> jax.Array:
    """Tokens drawn from the model's own distribution: where the cumulative probability passes the uniform number."""
    logits_BTV = (model.hidden(params, x_BT) @ model.head(params).T).astype(jnp.float64)
    cumulative_BTV = jnp.cumsum(jax.nn.softmax(logits_BTV, axis=-1), axis=-1)
    found = jnp.sum(cumulative_BTV < uniform_BT[..., None], axis=-1)
    return jnp.minimum(found, logits_BTV.shape[-1] - 1).astype(jnp.int32)


@functools.lru_cache(maxsize=16)
def sampled_program(key: ModelKey) -> Callable[..., dict[str, jax.Array]]:
    """Gradient of the mean loss against drawn labels, by name."""
    model = decoder(key)

    def program(params: Any, x_BT: jax.Array, uniform_BT: jax.Array) -> dict[str, jax.Array]:
        with jax.default_matmul_precision("highest" if key.dtype == "fp32" else "default"):
            return model.loss_and_grads(params, x_BT, drawn_labels(model, params, x_BT, uniform_BT))[1]

    return jax.jit(program)


@functools.lru_cache(maxsize=16)
def hessian_program(key: ModelKey) -> Callable[..., dict[str, jax.Array]]:
    """u * (H u) by name, u standard normal: the diagonal of the Hessian of the mean loss, in expectation."""
    model = Decoder(key.shape, key.seq_len, compute_type(key.dtype), platform=key.layout.platform, smooth=True)

    def program(params: Any, probes: Any, x_BT: jax.Array, y_BT: jax.Array) -> dict[str, jax.Array]:
        with jax.default_matmul_precision("highest" if key.dtype == "fp32" else "default"):
            gradient = jax.grad(lambda values: model.smooth_loss(values, x_BT, y_BT))
            _, products = jax.jvp(gradient, (params,), (probes,))
        return {name: products[name] * probes[name] for name in params}

    return jax.jit(program)
