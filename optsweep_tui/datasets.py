"""Datasets as planning sees them: looked up once each, prepared in the workspace where that is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from optsweep_engines import data
from optsweep_engines.spec import RunSpec
from optsweep_tui.core import DatasetFacts, read_by
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace


def require(workspace: Workspace, specs: Iterable[RunSpec]) -> None:
    """Have every dataset that some specs name in the workspace, prepared anew where it is gone.

    Raises:
        OptsweepError: one cannot be prepared here, or what is prepared here today is not what the specs name.
    """
    for name, sha256 in sorted(read_by(specs)):
        if data.is_there(workspace.data, name, sha256):
            continue  # damaged or not: a run that cannot use it says so, and the others go on
        try:
            facts = DatasetLookup(workspace, prepare=True)(name)
        except UnknownName:
            raise OptsweepError(
                f"dataset {name} {sha256[:12]}, which runs here need, is gone from {workspace.data}",
                f"bring that folder back, or make it again: optsweep data prepare {name} --from PATH",
            ) from None
        if facts.sha256 != sha256:
            raise OptsweepError(
                f"dataset {name} {sha256[:12]}, which runs here need, is gone from {workspace.data}, and what can be "
                f"prepared here now is {str(facts.sha256)[:12]}",
                "bring that folder back, or plan the runs anew with optsweep run",
            )


def used(workspace: Workspace, name: str) -> Path | None:
    """The folder that `--dataset NAME` means now; None where there is none, or it is damaged."""
    try:
        found = data.find(name, workspace.data)
    except (LookupError, ValueError):
        return None
    return found.folder if found else None


class DatasetLookup:
    """Looks datasets up once each; prepares them where it may."""

    def __init__(self, workspace: Workspace, prepare: bool) -> None:
        self._workspace, self._prepare = workspace, prepare
        self._found: dict[str, DatasetFacts] = {}

    def __call__(self, name: str) -> DatasetFacts:
        if name not in self._found:
            root = self._workspace.data
            try:
                entry = data.dataset(name, root)
            except LookupError:
                known = [*data.datasets(), *(entry.name for entry in data.own(root))]
                hint = f"optsweep datasets lists all; optsweep data prepare {name} --from PATH makes one of your own"
                raise UnknownName("dataset", name, known, hint=hint) from None
            prepared = self._there(entry)
            if prepared is None and self._prepare:
                prepared = self._made(entry)
            self._found[name] = DatasetFacts(
                name=entry.name,
                sha256=prepared.sha256 if prepared else None,
                vocab_size=prepared.vocab_size if prepared else entry.vocab_size,
                held_out=prepared.validation_tokens if prepared else None,
                train_tokens=prepared.train_tokens if prepared else None,
                tokenizer=prepared.tokenizer if prepared else "",
                tokenizer_sha256=prepared.tokenizer_sha256 if prepared else "",
            )
        return self._found[name]

    def _there(self, entry: data.DatasetEntry) -> data.PreparedDataset | None:
        """What is prepared here; every token is hashed before a launch, once after each change of the files."""
        try:
            prepared = data.find(entry.name, self._workspace.data)
            if prepared is not None and self._prepare:
                prepared.verify_once()
        except ValueError as error:
            again = " --from PATH" if entry.documents is None else ""
            hint = f"optsweep data prepare {entry.name}{again} mends it"
            raise OptsweepError(f"dataset {entry.name} is damaged: {error}", hint) from None
        return prepared

    def _made(self, entry: data.DatasetEntry) -> data.PreparedDataset:
        if entry.documents is None:
            raise OptsweepError(
                f"dataset {entry.name} is not here and cannot be prepared by itself",
                f"optsweep data prepare {entry.name} [--from PATH] makes it; --dataset embedded is always there",
            )
        try:
            return data.prepare(entry.name, self._workspace.ensure().data)
        except (ValueError, LookupError) as error:
            raise OptsweepError(f"dataset {entry.name}: {error}", "--dataset embedded is always there") from None
        except OSError as error:
            raise OptsweepError(
                f"dataset {entry.name} cannot be written to {self._workspace.data}: {error.strerror}",
                "free some space or name another folder with --workspace DIR",
            ) from None
