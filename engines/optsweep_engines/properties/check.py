"""`optsweep optimizers check FILE:NAME`: the list of properties over one user's optimizer, an answer per property."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch

from optsweep_engines.optimizers import catalogue
from optsweep_engines.optimizers.user import Found, OwnOptimizerError, error_line
from optsweep_engines.optimizers.user_rules import entry_of
from optsweep_engines.properties.listing import PROPERTIES, Violated
from optsweep_engines.properties.subject import Subject, of_class, of_rule


def subject_of(found: Found, label: str, engine: str = "torch") -> Subject:
    """A user's optimizer under test.

    Args:
        engine: "torch" or "jax": on whose arrays.

    Raises:
        OwnOptimizerError: its parameters cannot be knobs.
    """
    if found.kind == "class" and engine == "jax":
        raise OwnOptimizerError(f"{label}: {found.name} is a torch.optim class", "check it with --engine torch")
    if found.kind == "class":
        return of_class(found, label)
    entry = entry_of(found, f"{label}:{found.name}", label)
    catalogue.register(entry)
    if engine == "jax":
        from optsweep_engines.properties import subject_jax  # noqa: PLC0415 (JAX, where it is asked for)

        return subject_jax.of_rule(entry.name, own=found.kind == "function")
    return of_rule(entry.name, own=found.kind == "function")


def checked(found: Found, label: str, engine: str = "torch") -> Iterator[dict[str, Any]]:
    """{"property", "passed", "reason", "seconds"} of each property, as they come."""
    torch.set_num_threads(1)
    subject = subject_of(found, label, engine)
    for item in PROPERTIES:
        started = time.monotonic()
        try:
            passed, reason = True, item.check(subject)
        except Violated as violation:
            passed, reason = False, str(violation)
        except OwnOptimizerError as error:
            passed, reason = False, str(error)
        except Exception as error:  # whatever a stranger's code may raise
            passed, reason = False, error_line(error, label, None)
        seconds = round(time.monotonic() - started, 3)
        yield {"property": item.name, "passed": passed, "reason": reason, "seconds": seconds}
