"""Datasets as planning sees them: looked up once each, prepared in the workspace where that is wanted."""

from __future__ import annotations

from collections.abc import Iterable

from optsweep_engines import data
from optsweep_engines.spec import RunSpec
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.grid import DatasetFacts
from optsweep_tui.settings import Workspace


def require(workspace: Workspace, specs: Iterable[RunSpec]) -> None:
    """Have every dataset that some specs name in the workspace, prepared anew where it is gone.

    Raises:
        OptsweepError: one cannot be prepared here, or what is prepared here today is not what the specs name.
    """
    for name, sha256 in sorted({(spec.dataset, str(spec.dataset_hash)) for spec in specs}):
        if data.is_there(workspace.data, name, sha256):
            continue  # damaged or not: a run that cannot use it says so, and the others go on
        facts = DatasetLookup(workspace, prepare=True)(name)
        if facts.sha256 != sha256:
            raise OptsweepError(
                f"dataset {name} {sha256[:12]}, which runs here need, is gone from {workspace.data}, and what can be "
                f"prepared here now is {str(facts.sha256)[:12]}",
                "bring that folder back, or plan the runs anew with optsweep run",
            )


class DatasetLookup:
    """Looks datasets up once each; prepares them where it may."""

    def __init__(self, workspace: Workspace, prepare: bool) -> None:
        self._workspace, self._prepare = workspace, prepare
        self._found: dict[str, DatasetFacts] = {}

    def __call__(self, name: str) -> DatasetFacts:
        if name not in self._found:
            try:
                entry = data.dataset(name)
            except LookupError:
                raise UnknownName("dataset", name, data.datasets(), hint="(optsweep datasets lists all)") from None
            try:
                prepared = data.find(entry.name, self._workspace.data)
            except ValueError as error:
                hint = "move that folder away: the dataset is then prepared anew"
                raise OptsweepError(f"dataset {entry.name} is damaged: {error}", hint) from None
            if prepared is None and self._prepare:
                if entry.documents is None:
                    raise OptsweepError(
                        f"dataset {entry.name} cannot be prepared here", "--dataset embedded is always there"
                    )
                try:
                    prepared = data.prepare(entry.name, self._workspace.ensure().data)
                except (ValueError, LookupError) as error:
                    raise OptsweepError(
                        f"dataset {entry.name}: {error}", "--dataset embedded is always there"
                    ) from None
                except OSError as error:
                    raise OptsweepError(
                        f"dataset {entry.name} cannot be written to {self._workspace.data}: {error.strerror}",
                        "free some space or name another folder with --workspace DIR",
                    ) from None
            self._found[name] = DatasetFacts(
                name=entry.name,
                sha256=prepared.sha256 if prepared else None,
                vocab_size=entry.vocab_size,
                held_out=prepared.validation_tokens if prepared else None,
            )
        return self._found[name]
