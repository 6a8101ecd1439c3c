"""A rule under test on JAX arrays: the same list of properties as on torch, whose tensors the list looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor

from optsweep_engines.jax_engine.programs import exact_scalars
from optsweep_engines.models import Parameter
from optsweep_engines.properties import subject
from optsweep_engines.properties.subject import Arrays
from optsweep_engines.properties.tensors import Floats
from optsweep_engines.properties.training import Training
from optsweep_engines.spec import Scalar

DTYPES: dict[torch.dtype, Any] = {
    torch.float32: jnp.float32,
    torch.float64: jnp.float64,
    torch.bfloat16: jnp.bfloat16,
}


class JaxTraining(Training):
    """A rule in JAX, with what it holds; scalars are weakly typed doubles, as in the engine."""

    def __init__(
        self, name: str, items: Sequence[Parameter], given: Mapping[str, Scalar] | None, **options: Any
    ) -> None:
        with exact_scalars():
            super().__init__(name, items, given, **options)

    def step(self, grads: Mapping[str, Floats], lr: Any = None, step: Any = None) -> None:
        with exact_scalars():
            super().step(grads, lr, float(self.done + 1) if step is None else step)

    def values(self) -> dict[str, Floats]:
        return {name: np.asarray(value).astype(np.float64) for name, value in self.params.items()}

    def evaluated(self) -> dict[str, Floats]:
        with exact_scalars():
            return super().evaluated()

    def arrays(self) -> dict[str, Tensor]:
        state = {f"state {name} {key}": value for name, held in self.states.items() for key, value in held.items()}
        return {
            key: to_torch(value) for key, value in ({f"param {k}": v for k, v in self.params.items()} | state).items()
        }

    def saved(self) -> bytes:
        return safetensors.torch.save(self.arrays())

    def load(self, data: bytes, done: int) -> None:
        loaded = safetensors.torch.load(data)
        self.done = done

        def taken(name: str, like: Any) -> Any:
            with exact_scalars():
                return jnp.asarray(loaded[name].double().numpy()).astype(like.dtype)

        self.params = {name: taken(f"param {name}", value) for name, value in self.params.items()}
        self.states = {
            name: {key: taken(f"state {name} {key}", value) for key, value in held.items()}
            for name, held in self.states.items()
        }


def to_torch(value: Any) -> Tensor:
    """The same numbers in the same type."""
    array = np.array(value)
    if array.dtype == jnp.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def from_numpy(dtype: torch.dtype) -> Callable[[npt.NDArray[Any]], Any]:
    """numpy -> JAX at a type."""

    def convert(array: npt.NDArray[Any]) -> Any:
        with exact_scalars():
            return jnp.asarray(np.asarray(array), DTYPES[dtype])

    return convert


of_rule = partial(subject.of_rule, on=Arrays(training=JaxTraining, xp=jnp, to=from_numpy))
"""As `subject.of_rule`, on JAX."""
