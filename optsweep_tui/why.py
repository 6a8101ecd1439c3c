"""What a printed number rests on, and which numbers a run enters: run ids, data hashes, code, sources."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
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
        number_id; kind; baseline; number: the row; curve: of a speedup and what is planned with one, the row of `fit` that
        it was read from; noise: the rows of the ledger for its groups, where the kind has a sigma; rests_on: number ids of
        other answers that it was computed from; runs: one entry per run with its roles, data hash, code digest and
        source; selected_from: the runs among which the configurations, or a knob's lines, were chosen.

    Raises:
        OptsweepError: no such number, or several; the message suggests the nearest.
    """
    from optsweep_tui import answers
    from optsweep_tui.analysis import number_ids
    from optsweep_tui.analysis.audits import behind
    from optsweep_tui.analysis.audits.ground import Ground

    address = number_ids.parsed(text)
    chosen = _filter(address)
    frame = ask.results(workspace, chosen)
    if len(frame) == 0:
        raise OptsweepError(f'"{text}": its filters leave no run', "optsweep table lists what there is")
    apart = address.kind == "sensitivity"  # whose noise is measured on runs that its filters leave out
    whole = ask.results(workspace, dataclasses.replace(chosen, optimizers=(), chinchillas=())) if apart else frame
    options = _options(address, whole, workspace)
    asked = answers.Question(workspace=workspace, frame=frame, whole=whole, names=address.names, options=options)
    rows = answers.ANSWERS[address.kind](asked)
    row = _the_row(text, address, rows)
    ground = Ground.of(frame, rows, options, ask.knob_info(), noise_from=whole if apart else None)
    filters = {name: value for name, value in address.options.items() if name in _FILTERS}
    everywhere = {name: filters[name] for name in number_ids.FILTERS if name in filters}
    row["number_id"] = number_ids.with_options(row["number_id"], **filters)
    parts = behind.behind(ground, address.kind, row)
    return {
        "number_id": row["number_id"],
        "kind": address.kind,
        "baseline": options.get("baseline"),
        "number": row,
        "curve": _curve(row, frame, options) if address.kind in ("speedup", "power") else None,
        "noise": _ledger(whole, options, behind.group_keys(ground, address.kind, row)) if "sigma" in options else [],
        "rests_on": [
            number_ids.with_options(name, **everywhere) for name in answers.rests_on(address.kind, asked, ground, row)
        ],
        "runs": _described(workspace, parts),
        "selected_from": behind.selected_from(ground, address.kind, row),
    }


def _ledger(whole: pd.DataFrame, options: Mapping[str, Any], keys: Collection[Any]) -> list[dict[str, Any]]:
    """The rows of the noise ledger for some groups."""
    from optsweep_tui.analysis.audits.rows import group_key, records
    from optsweep_tui.analysis.columns import GROUP

    given = {name: options[name] for name in ("baseline", "sigma", "max_chinchilla") if name in options}
    models = {key[GROUP.index("model")] for key in keys}
    ledger = records(ask.noise(whole[whole["model"].isin(models)], **given))
    return [each for each in ledger if group_key(each) in keys]


def _curve(row: Mapping[str, Any], frame: pd.DataFrame, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row of `fit` that a speedup was read from; a shared exponent is that of all models."""
    from optsweep_tui.analysis.audits.rows import group_key, records

    shared = options.get("shared_exponent", False)
    read = frame if shared else frame[frame["model"] == row["model"]]
    given = {name: options[name] for name in ("baseline", "sigma", "max_chinchilla")}
    fits = records(ask.fit(read, shared_exponent=shared, **given))
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
    "optimizer": "optimizers", "model": "models", "chinchilla": "chinchillas", "engine": "engines", "dataset": "datasets",
}  # fmt: skip
_FILTERS = (*_LISTS, "where")


def _filter(address: Address) -> Filter:
    """The runs that the number was computed from."""
    chosen: dict[str, Any] = {"study": address.study, "where": address.options.get("where")}
    for name, of_filter in _LISTS.items():
        if name in address.options:
            values = _parts(address.options[name])
            chosen[of_filter] = tuple(_number(name, part) for part in values) if name == "chinchilla" else values
    return Filter(**chosen)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


_NUMBERS = ("sigma", "max_chinchilla", "target_loss", "target", "within", "threshold", "level", "tau_max", "after")
_COUNTS = ("draws", "rng_seed")


def _read(name: str, text: str) -> Any:
    """The value of an option."""
    if name in _NUMBERS:
        return _number(name, text)
    if name in _COUNTS:
        return int(_number(name, text))
    if name == "shared_exponent":
        return text == "yes"
    if name == "among":
        return _parts(text)
    return tuple(_number(name, part) for part in _parts(text)) if name == "ratios" else text


def _options(address: Address, frame: pd.DataFrame, workspace: Workspace) -> dict[str, Any]:
    """What the answer was computed with. A baseline that is not named is adamw, or the study's own where adamw never ran."""
    from optsweep_tui.analysis.number_ids import DEFAULTS, KINDS

    options = {
        name: _read(name, address.options[name]) if name in address.options else DEFAULTS[name]
        for name in KINDS[address.kind].options
    }
    if options.get("target_loss", 0.0) is None:
        raise OptsweepError(f"a number id of {address.kind} names its target", "end it with ?target_loss=LOSS")
    known = sorted(set(frame["optimizer"].dropna()))
    named = address.names.get("baseline") or address.options.get("baseline")
    if named is not None:
        found = next((name for name in known if name.lower() == named.lower()), None)
        if found is None:
            raise UnknownName("baseline", named, known, where=address.kind, hint="it has no runs in that study")
        options["baseline"] = found
    elif "baseline" in options and options["baseline"] not in known:
        options["baseline"] = ask.baseline_of(workspace, str(frame["study"].iloc[0]))
    return options


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OptsweepError(f'{name}={text} in a number id: "{text}" is no number', "copy the id as printed") from None


def _the_row(text: str, address: Address, rows: list[dict[str, Any]]) -> dict[str, Any]:
    from optsweep_tui.analysis.number_ids import matching, verb_of

    found = matching(address, rows)
    if len(found) == 1:
        return dict(found[0])
    if found:
        names = ", ".join(str(row["number_id"]) for row in found[:6])
        raise OptsweepError(f'"{text}" names {len(found)} numbers: {names}', "give one of these")
    raise UnknownName(
        "number",
        text,
        [row["number_id"] for row in rows],
        hint=f"optsweep {verb_of(address.kind)} --json lists number ids",
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
