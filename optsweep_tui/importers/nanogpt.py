"""Logs of the NanoGPT speedrun: `optsweep import nanogpt FOLDER --mapping FILE.toml`; text around `step:` lines is ignored.

A log begins with the source text of the program that wrote it. Nothing of that is read, let alone executed, so the log does
not say which optimizer it is of: the mapping does, in [constants] for all files or in [[runs]] by the file's name.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optsweep_tui.errors import OptsweepError
from optsweep_tui.importers import mapping as mappings
from optsweep_tui.importers.fields import integer, run_of
from optsweep_tui.importers.protocol import Found, Request, opened, required_path

SUFFIXES = (".txt", ".log")
MAX_LINE = 1 << 16
"""Bytes; a `step:` line has about a hundred."""
MAX_POINTS = 1_000_000
_NUMBER = r"([-+]?(?:[0-9]+\.?[0-9]*(?:e[-+]?[0-9]+)?|nan|inf))"
_LINE = re.compile(
    rf"\s*step:([0-9]{{1,12}})/([0-9]{{1,12}})\s+(train_loss|val_loss):{_NUMBER}(?:\s+train_time:([0-9]{{1,15}}(?:\.[0-9]+)?)ms)?\b",
    re.IGNORECASE,
)


class NanogptImporter:
    """Reads speedrun logs."""

    name = "nanogpt"
    doc = "logs of the NanoGPT speedrun (a file or a folder of .txt and .log); --mapping names the optimizers"

    def read(self, request: Request) -> Found:
        """One run per log.

        Raises:
            OptsweepError: there is no log, or the mapping cannot be used.
        """
        path = required_path(request, self.name)
        said = mappings.load(request.mapping)
        if said.columns or said.hyperparameters or said.metrics:
            raise OptsweepError(f"{request.mapping}: such a log has no columns", "use [constants] and [[runs]]")
        study = request.study or said.study or self.name
        files = [path] if path.is_file() else sorted(file for end in SUFFIXES for file in path.rglob(f"*{end}"))
        if not files:
            raise OptsweepError(f"{path}: no {' or '.join(SUFFIXES)} file lies in it", "name the folder of the logs")
        found = Found()
        for file in files:
            name = file.name if file == path else file.relative_to(path).as_posix()
            try:
                self._read_log(file, name, said, study, found)
            except OSError as error:
                found.skip(str(file), f"cannot be read: {error.strerror}")
            except (ValueError, OverflowError) as error:
                found.skip(str(file), str(error))
        return found

    def _read_log(self, file: Path, name: str, said: mappings.ColumnMapping, study: str, found: Found) -> None:
        values: dict[str, Any] = dict(said.constants)
        for rule in said.runs:
            if fnmatch.fnmatchcase(name, rule["match"]):
                values |= {key: value for key, value in rule.items() if key != "match"}
        if not values.get("optimizer"):
            raise ValueError("nothing says which optimizer it is of: name it in [constants] or [[runs]] of a --mapping")
        batch, length = (integer(key, values.get(key)) for key in ("batch_size", "seq_len"))
        per_step = batch * length if batch and length else None
        rows, planned = _points(file, per_step)
        if not rows:
            raise ValueError("it holds no step: line")
        values |= _ending(rows, planned)
        values["steps"] = planned
        metrics = tuple(rows[step] for step in sorted(rows))
        entry = str(values.get("entry") or name)
        found.runs.append(run_of(values, self.name, study, entry, {"file": name}, metrics=metrics))


def _points(file: Path, per_step: int | None) -> tuple[dict[int, dict[str, Any]], int]:
    """Step -> metric line, and the steps that were planned; a step that comes twice has its last values."""
    rows: dict[int, dict[str, Any]] = {}
    planned = 0
    for line in _lines(file):
        match = _LINE.match(line)
        if match is None:
            continue
        step, total, key, loss, milliseconds = match.groups()
        number = int(step)
        planned = max(planned, int(total))
        if len(rows) >= MAX_POINTS and number not in rows:
            raise ValueError(f"it has more than {MAX_POINTS} steps")
        row = rows.setdefault(number, {"step": number})
        if per_step is not None:
            row["tokens"] = number * per_step
        value = float(loss)
        row[key.lower()] = value if math.isfinite(value) else None
        if milliseconds is not None:
            row["train_seconds"] = float(milliseconds) / 1000
    return rows, planned


def _lines(file: Path) -> Iterator[str]:
    """Lines as text; what is longer than MAX_LINE is no `step:` line and never in memory as a whole."""
    with opened(file) as handle:
        whole = True
        while piece := handle.readline(MAX_LINE):
            ended = piece.endswith(b"\n")
            if whole and (ended or len(piece) < MAX_LINE):
                yield piece.decode("utf-8", errors="replace")
            whole = ended


def _ending(rows: dict[int, dict[str, Any]], planned: int) -> dict[str, Any]:
    """State, loss and seconds, from the last validation: only one at the planned end is a final loss."""
    validated = [step for step in sorted(rows) if "val_loss" in rows[step]]
    seconds = next(
        (rows[step]["train_seconds"] for step in sorted(rows, reverse=True) if "train_seconds" in rows[step]), None
    )
    ending: dict[str, Any] = {"train_seconds": seconds}
    if not validated or validated[-1] < planned or planned < 1:
        return ending | {"state": "failed", "loss": None}
    loss = rows[validated[-1]]["val_loss"]
    state = "nan" if loss is None else "done"
    return ending | {"state": state, "loss": "nan" if loss is None else loss}
