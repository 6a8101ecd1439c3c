"""The one list of properties on JAX: what every optimizer must do, whichever engine runs it."""

from __future__ import annotations

import functools
import os

import pytest

from optsweep_engines.optimizers.catalogue import optimizers
from optsweep_engines.properties.listing import PROPERTIES, Property
from optsweep_engines.properties.subject import Subject
from optsweep_engines.properties.subject_jax import of_rule
from tests.numerics.test_rule_properties import showing

NAMES = sorted(optimizers()) if os.environ.get("OPTSWEEP_JAX_RULES") else ["lion"]


@functools.cache
def subject(name: str) -> Subject:
    """An optimizer of the catalogue on JAX."""
    return showing(name, of_rule)


@pytest.mark.parametrize("item", PROPERTIES, ids=lambda item: item.name)
@pytest.mark.parametrize("name", NAMES)
def test_it_holds_on_jax_for(name: str, item: Property) -> None:
    item.check(subject(name))
