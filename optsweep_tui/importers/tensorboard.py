"""TensorBoard event files: `optsweep import tensorboard FOLDER --mapping FILE.toml`; each folder with event files is a run.

Their scalars become curves, hyperparameters of the hparams plugin its configuration. Event files do not say that a run has
ended (unless the hparams plugin does), so its steps or its state come from there or from the mapping; else it is `failed`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from optsweep_tui.errors import OptsweepError
from optsweep_tui.formats import tfevents, tfrecord
from optsweep_tui.importers import mapping as mappings
from optsweep_tui.importers.curves import Curves
from optsweep_tui.importers.logged import NO_END, LoggedRun, add_all
from optsweep_tui.importers.protocol import Complaints, Found, Request, opened, required_path

CHECKED_BYTES = 1 << 20
"""Larger records are pictures or graphs: their checksum is only computed when scalars come out of them."""
_SESSION = re.compile(r"[0-9]+(\.[0-9]+)?")
"""torch's SummaryWriter puts hyperparameters and their metrics into a run of their own below, named by the time."""


class TensorboardImporter:
    """Reads event files."""

    name = "tensorboard"
    doc = "TensorBoard event files (a folder per run, at any depth); --mapping names optimizers, metrics and steps"

    def read(self, request: Request) -> Found:
        """One run per folder that holds event files.

        Raises:
            OptsweepError: there is no event file, or the mapping cannot be used.
        """
        path = required_path(request, self.name)
        said = mappings.load(request.mapping)
        found = Found()
        folders = _folders(path, found)
        if not folders:
            raise OptsweepError(
                f"{path}: no event file lies in it ({tfevents.NAME}...)", "name the folder that tensorboard is given"
            )
        logs = {folder: _logged(folder, files, path, said, found) for folder, files in folders.items()}
        _adopt_sessions(logs)
        study = request.study or said.study or self.name
        add_all(found, logs.values(), said, self.name, study)
        return found


def _folders(path: Path, found: Found) -> dict[Path, list[Path]]:
    """Folder -> its event files, sorted by name, which holds the time; links to folders are not followed."""
    if path.is_file():
        return {path.parent: [path]} if tfevents.NAME in path.name else {}

    def complain(error: OSError) -> None:
        found.skip(str(error.filename), f"cannot be read: {error.strerror}")

    folders: dict[Path, list[Path]] = {}
    for folder, names, files in os.walk(path, onerror=complain):
        names.sort()
        events = [Path(folder, name) for name in sorted(files) if tfevents.NAME in name]
        if events:
            folders[Path(folder)] = events
    return folders


def _logged(folder: Path, files: list[Path], root: Path, said: mappings.ColumnMapping, found: Found) -> LoggedRun:
    """The run of one folder; a later file goes on where an earlier one stopped."""
    inside = folder.relative_to(root).as_posix() if folder != root and root.is_dir() else folder.name
    log = LoggedRun(entry=inside, names=(inside, folder.name), where=str(folder))
    log.curves = Curves(said.metrics.values())
    log.source = {"file": inside}
    others: Counter[str] = Counter()
    for file in files:
        try:
            _read_file(file, log, others, found)
        except OSError as error:
            found.skip(str(file), f"cannot be read: {error.strerror}")
    log.others = {f"{count} x {kind}": None for kind, count in others.most_common()}
    return log


def _read_file(file: Path, log: LoggedRun, others: Counter[str], found: Found) -> None:
    complaints = Complaints(found, str(file))
    with opened(file) as handle:
        for record in tfrecord.records(handle):
            if record.problem is not None:
                complaints.add(record.problem)
                continue
            try:
                event = tfevents.parse(record.data)
                useful = bool(event.scalars or event.hparams or event.restart)
                if (useful or len(record.data) <= CHECKED_BYTES) and not record.sound:
                    raise ValueError("its checksum is wrong")
            except ValueError as error:
                complaints.add(f"the record at byte {record.offset} cannot be used: {error}")
                continue
            if event.restart and event.step > 0:
                log.curves.restart(event.step)
            for tag, value in event.scalars:
                log.curves.add(event.step, tag, value)
            log.config |= event.hparams or {}
            if event.ended is not None:
                log.ended = event.ended
                log.ending = "its session failed" if event.ended is False else NO_END
            others.update(event.others)
    complaints.close()


def _adopt_sessions(logs: dict[Path, LoggedRun]) -> None:
    """Give a run the hyperparameters, the end and the final figures that a session below it holds."""
    for folder in list(logs):
        session, parent = logs[folder], logs.get(folder.parent)
        if parent is None or not session.config or parent.config or not _SESSION.fullmatch(folder.name):
            continue
        parent.config, parent.ended, parent.ending = session.config, session.ended, session.ending
        lasts = {key: session.curves.last(key) for key in session.curves.keys}
        parent.summary |= {key.removeprefix("hparam/"): last[1] for key, last in lasts.items() if last is not None}
        del logs[folder]
