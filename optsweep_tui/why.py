"""What a printed number rests on, and which numbers a run enters: run ids, data hashes, code, sources."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from optsweep_tui import ask
from optsweep_tui.core import Filter
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from optsweep_tui.analysis.number_ids import Address


def number(workspace: Workspace, text: str) -> dict[str, Any]:
    """Compute a number again from its address and list every run behind it.

    Returns:
        number_id; kind; number: the row; curve: of a speedup, the row of `fit` that it was read from; noise: the rows of
        the ledger for its group; runs: one entry per run with its roles, data hash, code digest and source; selected_from:
        the runs among which the cell's configuration was chosen.

    Raises:
        OptsweepError: no such number, or several; the message suggests the nearest.
    """
    from optsweep_tui.analysis import number_ids
    from optsweep_tui.analysis.audits import provenance
    from optsweep_tui.analysis.audits.rows import group_key, records

    address = number_ids.parsed(text)
    frame = ask.results(workspace, _filter(address))
    if len(frame) == 0:
        raise OptsweepError(f'"{text}": its filters leave no run', "optsweep table lists what there is")
    options = _options(address, frame, workspace)
    row = _the_row(text, address, list(records(_answer(address.kind, frame, options))))
    own = frame[frame["model"] == row["model"]]  # groups of other models have no part in its runs
    shared = {name: options[name] for name in ("baseline", "sigma", "max_chinchilla") if name in options}
    noise = records(ask.noise(own, **shared))
    filters = {name: address.options[name] for name in _FILTERS if name in address.options}
    return {
        "number_id": number_ids.with_options(row["number_id"], **filters),
        "kind": address.kind,
        "baseline": options["baseline"],
        "number": row,
        "curve": _curve(row, frame, own, options) if address.kind == "speedup" else None,
        "noise": [each for each in noise if group_key(each) == group_key(row)],
        "runs": _described(workspace, provenance.behind(own, address.kind, row, **shared, knob_info=ask.knob_info())),
        "selected_from": provenance.selected_from(own, row, ask.knob_info()) if address.kind != "fit" else [],
    }


def _curve(
    row: Mapping[str, Any], frame: pd.DataFrame, own: pd.DataFrame, options: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The row of `fit` that a speedup was read from; a shared exponent is that of all models."""
    from optsweep_tui.analysis.audits.rows import group_key, records

    read = frame if options["shared_exponent"] else own
    fits = records(_answer("fit", read, {name: options[name] for name in _OF_KIND["fit"]}))
    return next((each for each in fits if group_key(each) == group_key(row)), None)


def run(workspace: Workspace, run_id: str) -> dict[str, Any]:
    """Where one run comes from, and the cells and numbers that it enters.

    Returns:
        run_id, state, error, studies, spec, origin, attempts, record; provenance: its row of the store, None before it is
        collected; cells: per study what it is in its cell and the numbers that rest on it.
    """
    from optsweep_tui.analysis.audits import provenance
    from optsweep_tui.dispatch import detail
    from optsweep_tui.store import queries

    known = detail.everything(workspace, run_id)
    stored = queries.run_provenance(workspace.store, [run_id]) if workspace.store.exists() else None
    collected = stored is not None and len(stored) > 0
    cells = []
    for study in known["studies"] if collected else []:
        frame = ask.results(workspace, Filter(study=study))
        if run_id in set(frame["run_id"]):
            baseline = ask.baseline_of(workspace, study)
            cells += provenance.memberships(frame, run_id, baseline=baseline, knob_info=ask.knob_info())
    return {
        "run_id": run_id,
        "state": known["line"]["state"],
        "error": known["line"]["error"],
        "studies": known["studies"],
        "spec": known["spec"],
        "origin": known["origin"],
        "attempts": known["attempts"],
        "record": known["record"],
        "provenance": _code_and_data(next(_rows(stored))) if stored is not None and collected else None,
        "cells": [dataclasses.asdict(cell) for cell in cells],
    }


_LISTS: Mapping[str, str] = {
    "optimizer": "optimizers", "chinchilla": "chinchillas", "engine": "engines", "dataset": "datasets",
}  # fmt: skip
_FILTERS = (*_LISTS, "where")


def _filter(address: Address) -> Filter:
    """The runs that the number was computed from."""
    chosen: dict[str, Any] = {"study": address.study, "where": address.options.get("where")}
    for name, of_filter in _LISTS.items():
        if name in address.options:
            values = [part for part in address.options[name].split(",") if part]
            chosen[of_filter] = tuple(_number(name, part) for part in values) if name == "chinchilla" else tuple(values)
    return Filter(**chosen)


_READ: Mapping[str, Callable[[str, str], Any]] = {
    "sigma": lambda name, text: _number(name, text),
    "max_chinchilla": lambda name, text: _number(name, text),
    "draws": lambda name, text: int(_number(name, text)),
    "rng_seed": lambda name, text: int(_number(name, text)),
    "shared_exponent": lambda name, text: text == "yes",
}
_OF_KIND = {
    "table": ("baseline", "sigma"),
    "fit": ("baseline", "sigma", "max_chinchilla", "shared_exponent"),
    "speedup": (
        "baseline", "unit", "ci", "sigma", "max_chinchilla", "shared_exponent", "draws", "rng_seed",
    ),
}  # fmt: skip


def _options(address: Address, frame: pd.DataFrame, workspace: Workspace) -> dict[str, Any]:
    """What the answer was computed with. A baseline that is not named is adamw, or the study's own where adamw never ran."""
    from optsweep_tui.analysis.number_ids import DEFAULTS

    given = {
        name: _READ[name](name, text) if name in _READ else text
        for name, text in address.options.items()
        if name in _OF_KIND[address.kind]
    }
    options = {name: given.get(name, DEFAULTS[name]) for name in _OF_KIND[address.kind]}
    if address.kind == "fit":
        options["baseline"] = next(
            (name for name in set(frame["optimizer"]) if name.lower() == address.names["baseline"].lower()),
            address.names["baseline"],
        )
    elif "baseline" not in given and options["baseline"] not in set(frame["optimizer"]):
        options["baseline"] = ask.baseline_of(workspace, str(frame["study"].iloc[0]))
    known = sorted(set(frame["optimizer"].dropna()))
    if options["baseline"] not in known:
        raise UnknownName(
            "baseline", options["baseline"], known, where=address.kind, hint="it has no runs in that study"
        )
    return options


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OptsweepError(f'{name}={text} in a number id: "{text}" is no number', "copy the id as printed") from None


def _answer(kind: str, frame: pd.DataFrame, options: Mapping[str, Any]) -> pd.DataFrame:
    return {"table": ask.table, "fit": ask.fit, "speedup": ask.speedup}[kind](frame, **options)


def _the_row(text: str, address: Address, rows: list[dict[str, Any]]) -> dict[str, Any]:
    from optsweep_tui.analysis.number_ids import matching

    found = matching(address, rows)
    if len(found) == 1:
        return dict(found[0])
    if found:
        names = ", ".join(str(row["number_id"]) for row in found[:6])
        raise OptsweepError(f'"{text}" names {len(found)} numbers: {names}', "give one of these")
    raise UnknownName(
        "number", text, [row["number_id"] for row in rows], hint=f"optsweep {address.kind} --json lists number ids"
    )


def _described(workspace: Workspace, parts: list[Any]) -> list[dict[str, Any]]:
    """One entry per run in the order of the parts."""
    from optsweep_tui.store import queries

    roles: dict[str, list[str]] = {}
    cells: dict[str, str] = {}
    for part in parts:
        roles.setdefault(part.run_id, []).append(part.role)
        cells.setdefault(part.run_id, part.cell)
    stored = {entry["run_id"]: entry for entry in _rows(queries.run_provenance(workspace.store, list(roles)))}
    return [
        {"run_id": run_id, "roles": names, "cell": cells[run_id], **_code_and_data(stored.get(run_id, {}))}
        for run_id, names in roles.items()
    ]


def _rows(frame: pd.DataFrame) -> Any:
    from optsweep_tui.analysis.audits.rows import records

    return records(frame)


def _code_and_data(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `queries.run_provenance` with its JSON texts read and its nulls as None."""
    import pandas as pd

    plain: dict[str, Any] = {
        name: None if pd.isna(value) else value
        for name, value in entry.items()
        if name not in ("run_id", "source", "versions")
    }
    for name in ("source", "versions"):
        text = entry.get(name)
        plain[name] = json.loads(text) if isinstance(text, str) else None
    return plain
