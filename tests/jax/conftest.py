"""Eight simulated devices, quick compiles, and compiled programs that are kept between sessions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from optsweep_engines.data import PreparedDataset
from tests.numerics.toy import toy_dataset

# Before JAX starts: programs of tests run a few times each, so that compiling well costs more than it gives.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true",
)


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(request: pytest.FixtureRequest) -> None:
    """The cache of compiled programs, in pytest's own; it is also that of the processes that tests start."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(request.config.cache.mkdir("jax-programs")))
    import jax

    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return toy_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def data_root(dataset: PreparedDataset) -> Path:
    return dataset.folder.parent
