"""The losses of a run as it goes, and the verdict at its end: done or diverged. Plain Python, shared by all engines."""

from __future__ import annotations

import base64
import math
from array import array
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# A final loss this far above the run's own earlier minimum means that it diverged (nats).
DIVERGED_ABOVE_MINIMUM = 0.5

WINDOW = 10
"""Logged training losses that are averaged before they are compared: single batches are noisy."""


@dataclass(kw_only=True)
class LossHistory:
    """What the verdict needs of all losses so far; small, and saved in every checkpoint."""

    train_loss: float | None = None
    """Last finite logged training loss."""
    val_loss: float | None = None
    """Last finite validation loss."""
    least_val_loss: float | None = None
    """Smallest validation loss before the last one."""
    window: list[float] = field(default_factory=list)
    """The last WINDOW logged training losses."""
    least_window_mean: float | None = None
    """Smallest mean of a full window so far."""
    val_losses: dict[str, float] = field(default_factory=dict)
    """Last finite validation loss by set, where there are several."""
    finite: bool = True
    """False once a loss was not finite."""

    def add_train_loss(self, loss: float) -> None:
        """Note a logged training loss."""
        if not math.isfinite(loss):
            self.finite = False
            return
        self.train_loss = loss
        self.window = [*self.window[-(WINDOW - 1) :], loss]
        if len(self.window) == WINDOW:
            mean = math.fsum(self.window) / WINDOW
            self.least_window_mean = mean if self.least_window_mean is None else min(mean, self.least_window_mean)

    def add_val_loss(self, loss: float) -> None:
        """Note a validation loss."""
        if not math.isfinite(loss):
            self.finite = False
            return
        if self.val_loss is not None:
            earlier = self.val_loss
            self.least_val_loss = earlier if self.least_val_loss is None else min(earlier, self.least_val_loss)
        self.val_loss = loss

    def divergence(self) -> str | None:
        """Why the run counts as diverged if it ends here, in one line; None if it does not."""
        if not self.finite:
            return "the loss is not finite"
        if self.val_loss is not None and self.least_val_loss is not None:
            rise = self.val_loss - self.least_val_loss
            if rise > DIVERGED_ABOVE_MINIMUM:
                return f"the final validation loss is {rise:.3f} above its earlier minimum {self.least_val_loss:.3f}"
        if self.least_window_mean is not None and len(self.window) == WINDOW:
            rise = math.fsum(self.window) / WINDOW - self.least_window_mean
            if rise > DIVERGED_ABOVE_MINIMUM:
                return (
                    f"the last {WINDOW} training losses are {rise:.3f} above their minimum {self.least_window_mean:.3f}"
                )
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


class StepLosses:
    """Every loss of a run that others may branch off: a branch is judged by those that it would have logged itself."""

    def __init__(self) -> None:
        self.train = array("f")
        """Training loss of each step from the first on, as engines compute it; 4 bytes a step."""
        self.val: dict[int, float] = {}
        """Validation loss by steps done, where it was measured."""

    def history(self, logging: Callable[[int], bool], validating: Callable[[int], bool]) -> LossHistory:
        """What a run with the same steps would have seen of its losses.

        Args:
            logging: whether it logs after so many steps.
            validating: whether it measures its validation loss then; measurements that this run lacks are left out.
        """
        found = LossHistory()
        for step, loss in enumerate(self.train, start=1):
            if logging(step):
                found.add_train_loss(loss)
            if step in self.val and validating(step):
                found.add_val_loss(self.val[step])
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"train": base64.b64encode(self.train.tobytes()).decode(), "val": list(self.val.items())}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None, done: int) -> StepLosses | None:
        """The inverse; None where it does not hold the losses of as many steps, as files from before it was there."""
        losses = cls()
        losses.train.frombytes(base64.b64decode((data or {}).get("train", "")))
        losses.val = {int(step): float(loss) for step, loss in (data or {}).get("val", ())}
        return losses if len(losses.train) == done else None
