"""One contract per seam, run over everything that is registered: engines, dispatchers, optimizers, datasets."""

from __future__ import annotations

import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from optsweep_engines import data, models
from optsweep_engines.engine import ENTRY_POINT_GROUP, Engine, load_engine
from optsweep_engines.optimizers import catalogue
from optsweep_tui import settings
from optsweep_tui.dispatch.protocol import ENTRY_POINT_GROUP as DISPATCHERS
from optsweep_tui.dispatch.protocol import IN_TREE, Dispatcher, load_dispatcher

ENGINES = sorted(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_names_itself_and_its_devices(name: str) -> None:
    engine: Engine = load_engine(name)
    assert engine.name == name
    devices = engine.devices()
    assert devices and all({"device", "name", "memory_bytes"} <= set(device) for device in devices)
    assert callable(engine.train)


def test_an_unknown_engine_is_a_lookup_error_that_names_the_known() -> None:
    with pytest.raises(LookupError, match="torch"):
        load_engine("tourch")


def test_the_back_ends_of_this_package_are_registered_like_a_strangers() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][DISPATCHERS] == IN_TREE


@pytest.mark.parametrize("name", sorted({*IN_TREE, *(entry.name for entry in entry_points(group=DISPATCHERS))}))
def test_a_dispatcher_offers_the_verbs_and_does_nothing_without_runs(name: str, tmp_path: Path) -> None:
    if name != "local":
        named = {"ssh": 'ssh = "nowhere.invalid"\n', "skypilot": f'storage = "file://{tmp_path}/bucket"\n'}
        target = named.get(name, "")
        (tmp_path / "hosts.toml").write_text(f'[hosts.box]\nbackend = "{name}"\n{target}')
    dispatcher: Dispatcher = load_dispatcher("local" if name == "local" else "box", settings.workspace(tmp_path))
    assert dispatcher.host.slots >= 1
    assert dispatcher.poll([]) == {}
    assert dispatcher.submit([]) == []
    dispatcher.cancel([])
    dispatcher.advance()
    assert dispatcher.gc() == 0
    if hasattr(dispatcher, "close"):
        dispatcher.close()


@pytest.mark.parametrize("name", sorted(catalogue.optimizers()))
def test_an_optimizer_entry_is_complete(name: str) -> None:
    entry = catalogue.optimizer(name)
    tensors = models.parameter_table(models.model("bench-micro").shape)
    knobs = catalogue.resolve_knobs(name, {})
    assert entry.name == name and entry.doc and entry.formula and entry.routing
    assert entry.papers and all(link.startswith("https://") for _, link in entry.papers)
    assert entry.knobs[0].name == "lr"
    for knob in catalogue.all_knobs(entry):
        assert knob.doc and knob.checked(knob.default) == knob.default
        assert knob.kind in ("bool", "choice") or (knob.low is not None and knob.high is not None)
        for value in knob.published:
            knob.checked(value)
    assert entry.state_floats(tensors, knobs) >= 0
    assert entry.flops_per_step(tensors, knobs) > 0
    for alias in entry.aliases:
        assert catalogue.optimizer(alias.upper()).name == name


@pytest.mark.parametrize("name", sorted(data.datasets()))
def test_a_dataset_entry_can_be_prepared_or_says_that_it_cannot(name: str, tmp_path: Path) -> None:
    entry = data.dataset(name)
    assert entry.name == name and entry.vocab_size > 0 and entry.source and entry.doc
    assert data.find(name, tmp_path) is None
    if entry.documents is None:
        with pytest.raises(ValueError):
            data.prepare(name, tmp_path)
        return
    prepared = data.prepare(name, tmp_path)
    again = data.find(name, tmp_path)
    assert again is not None and again.sha256 == prepared.sha256
    prepared.verify()
    assert int(prepared.train.max()) < entry.vocab_size
