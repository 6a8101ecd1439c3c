"""What an engine provides beside gradients, for the toy problem of `tensors`: probe noise and two Hessian estimates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from array_api_compat import numpy as numpy_namespace

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import noise
from optsweep_engines.optimizers.base import Service
from optsweep_engines.properties.tensors import Floats


def probe(item: Parameter, step: int) -> Floats:
    """Probe noise of a tensor at a step."""
    drawn: Floats = noise.normal(numpy_namespace, 0, step, item, np.zeros(1))
    return drawn


def sampled_gradient(item: Parameter, step: int) -> Floats:
    """Stands for the gradient against labels drawn from the model: its square is the curvature in the mean."""
    return 0.1 * np.sqrt(np.logspace(-2, 0, item.count).reshape(item.shape)) * probe(item, step + 1000)


def hessian_diagonal(item: Parameter, step: int) -> Floats:
    """u (H u) of the quadratic of `tensors.gradient`, with some of the values negative as Hutchinson's are."""
    curvature = np.logspace(-2, 0, item.count).reshape(item.shape)
    return curvature * (probe(item, step + 2000) ** 2 - 0.1)


SOURCES: dict[str, Callable[[Parameter, int], Floats]] = {
    "noise": probe,
    "sampled_gradient": sampled_gradient,
    "hessian_diagonal": hessian_diagonal,
}


def services(
    to_xp: Callable[[npt.NDArray[Any]], Any] = np.asarray,
    dtype: Any = np.float64,
    of: Callable[[Parameter, Callable[[Parameter, int], Floats], int], Floats] = lambda item, source, step: source(
        item, step
    ),
) -> dict[str, Service]:
    """Every service of `base.SERVICES`.

    Args:
        of: (tensor, source, step) -> the numbers; a test of a bank's slice takes the slice of the bank's numbers.
    """

    def service(source: Callable[[Parameter, int], Floats]) -> Service:
        return lambda item, step: to_xp(of(item, source, step).astype(dtype))

    return {name: service(source) for name, source in SOURCES.items()}
