"""Datasets as planning sees them: looked up once each, prepared in the workspace where that is wanted."""

from __future__ import annotations

from optsweep_engines import data
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.grid import DatasetFacts
from optsweep_tui.settings import Workspace


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
                name=entry.name, sha256=prepared.sha256 if prepared else None, vocab_size=entry.vocab_size
            )
        return self._found[name]
