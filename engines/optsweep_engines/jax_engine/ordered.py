"""jax.numpy for update rules on a CPU: factorisations run one after another.

A batched factorisation of jaxlib hands its matrices to the thread pool that it runs in itself, and waits: as many at once as
there are threads wait for each other for ever (seen with the two QRs of soap on two cores). Each one therefore takes its
matrix times 1 + (x - x), x a number of the one before it, which no compiler may drop and which changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

FACTORISING = frozenset(
    {"cholesky", "det", "eig", "eigh", "eigvalsh", "inv", "lstsq", "pinv", "qr", "slogdet", "solve", "svd"}
)


class Ordered:
    """The namespace for one trace of an update."""

    def __init__(self) -> None:
        self.linalg = _Linalg(self)
        self.last: jax.Array | None = None
        """A number of the newest factorisation."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    def after_the_last(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, called with a first argument that has to wait."""

        def call(matrix: jax.Array, *more: Any, **named: Any) -> Any:
            if self.last is not None:
                matrix = matrix * (1.0 + (self.last - self.last)).astype(matrix.dtype)
            found = function(matrix, *more, **named)
            self.last = jax.tree.leaves(found)[0].ravel()[0].real
            return found

        return call


class _Linalg:
    def __init__(self, owner: Ordered) -> None:
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        found = getattr(jnp.linalg, name)
        return self._owner.after_the_last(found) if name in FACTORISING else found


def namespace(platform: str) -> Any:
    """What a rule computes with on a kind of device."""
    return Ordered() if platform == "cpu" else jnp
