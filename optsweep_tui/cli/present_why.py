"""Provenance as text: a number with the runs, data and code behind it; a run with the numbers it enters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optsweep_tui.cli import output
from optsweep_tui.cli.present import headline

DIGITS = 12
SHORT = 8
MOST_NUMBERS = 8
MOST_RESTED = 4


def print_number(data: dict[str, Any]) -> None:
    """One number: its value, what is wrong with it, the noise, the curve, and every run."""
    data = output.clean(data)
    row = data["number"]
    print(f"{data['number_id']}   {headline(row, model_too=row.get('model') is not None)}")
    if data["kind"] in _OWN:
        _OWN[data["kind"]](row, data)
        if row["flags"]:
            print(f" flags      {', '.join(row['flags'])}")
        print(f" sigma      {_sigma(row, data)}")
    else:
        _print_as_the_verb(data["kind"], row, data["baseline"])
    if data["rests_on"]:
        more = len(data["rests_on"]) - MOST_RESTED
        print(f" rests on   {len(data['rests_on'])} number{'s'[: len(data['rests_on']) != 1]} of other answers:")
        for address in data["rests_on"][:MOST_RESTED]:
            print(f"            {address}")
        if more > 0:
            print(f"            and {more} more (--json lists all)")
    if data["selected_from"]:
        print(f" chosen     among {output.runs_text(len(data['selected_from']))} (optsweep why RUN tells of one)")
    print()
    _print_runs(data["runs"])


def _print_as_the_verb(kind: str, row: dict[str, Any], baseline: str) -> None:
    """A row as its own verb prints it."""
    import pandas as pd

    from optsweep_tui.cli import (
        present_audits,
        present_flips,
        present_hyperparameters,
        present_power,
        present_profile,
        present_projection,
        present_rules,
        present_speedups,
        present_stops,
    )

    frame = pd.DataFrame([row])
    printers: Mapping[str, Callable[[], None]] = {
        "stable": lambda: present_hyperparameters.print_stable(frame),
        "edges": lambda: present_hyperparameters.print_edges(frame),
        "sensitivity": lambda: (
            present_hyperparameters.print_sensitivity(frame, row["knob"])
            if row["level"] == "cell"
            else present_hyperparameters.print_summaries([row])
        ),
        "hp": lambda: present_rules.print_rules(frame),
        "predict": lambda: present_rules.print_prediction(row),
        "fairness": lambda: present_audits.print_fairness(frame, baseline),
        "flips": lambda: present_flips.print_pairs([row], row["over"]),
        "noise": lambda: present_audits.print_ledger(frame, baseline),
        "power": lambda: present_power.print_power(frame, baseline, row["target"]),
        "profile": lambda: present_profile.print_profile(frame, baseline),
        "ttest": lambda: present_audits.print_ttest(frame, row["target_loss"], row["level"]),
        "project": lambda: present_projection.print_projection(frame),
        "crossings": lambda: present_speedups.print_crossings(frame, baseline, row["x"]),
        "stop-audit": lambda: present_stops.print_row(row),
    }
    printers[kind]()


def _print_loss(row: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    loss = "no final loss" if row["loss"] is None else f"{row['loss']:.6g} nats, n {row['n']}"
    gap = "" if row["gap"] is None else f"   gap {row['gap']:+.4f} to {data['baseline']}"
    print(f" loss       {loss}{gap}   rank {output.number(row['rank'])}")


def _print_curve(row: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    if row["state"] != "FIT":
        print(f" curve      REFUSE: {row['reason']}")
        return
    print(
        f" curve      L(c) = {row['alpha']:.6g} c^-{row['b']:.5g} + {row['beta']:.6g}   {row['n_points']} budgets "
        f"{row['chinchilla_low']:g} to {row['chinchilla_high']:g}"
    )


def _print_speedup(row: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    if row["state"] == "REFUSE":
        print(f" speedup    REFUSE: {row['reason']}")
    else:
        limits = "" if row["low"] is None else f" ({row['low']:.4g} to {output.number(row['high'])})"
        print(f" speedup    {row['speedup']:.6g}x{limits} in {row['unit']} over {data['baseline']}   {row['state']}")
        if row["reason"]:
            print(f"            {row['reason']}")
    loss = "none" if row["loss"] is None else f"{row['loss']:.6g} nats, n {row['n_seeds']}"
    print(f" loss       {loss}")
    if data["curve"] is not None:
        _print_curve(data["curve"], data)


_OWN: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], None]] = {
    "table": _print_loss, "fit": _print_curve, "speedup": _print_speedup,
}  # fmt: skip


def _sigma(row: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    if row["sigma"] is None:
        why = next((entry["reason"] for entry in data["noise"] if entry["source"] == "none"), "not known")
        return f"NO-SIGMA: {why}"
    used = [entry["reason"] for entry in data["noise"] if entry["used"]]
    curve = row if data["kind"] == "fit" else data["curve"]
    scale = curve["sigma_scale"] if curve else next((entry["misfit_scale"] for entry in data["noise"]), None)
    misfit = f", MISFIT factor {scale:.3g} in intervals" if scale and scale > 1 else ""
    return f"{row['sigma']:.4f} nats, {row['sigma_source']}{misfit} ({'; '.join(dict.fromkeys(used)) or 'given'})"


def _print_runs(runs: list[dict[str, Any]]) -> None:
    from optsweep_tui.analysis.audits.ground import ROLES

    if not runs:
        print(" no run is behind it")
        return
    output.print_table(
        ["run", "cell", "seed", "loss", "data", "code", "parameters", "role"],
        [
            (
                run["run_id"][:DIGITS],
                run["cell"],
                output.number(run.get("seed")),
                "·" if run.get("loss") is None else f"{run['loss']:.5f}",
                _data(run),
                _code(run),
                (run.get("parameters_sha256") or "·")[:SHORT],
                "; ".join(ROLES[role] for role in run["roles"]),
            )
            for run in runs
        ],
        left=(0, 1, 4, 5, 6, 7),
    )
    print(
        " first digits of sha256: data, of the shards; code, numerics version / engines' source; parameters, the final ones"
    )
    _print_sources(runs)


def _data(run: Mapping[str, Any]) -> str:
    digest = run.get("dataset_hash")
    return f"{run.get('dataset') or '·'} {digest[:SHORT] if digest else 'no hash published'}"


def _code(run: Mapping[str, Any]) -> str:
    """Version of the arithmetic, hash of the engines' source where the record has it, and of a user's own optimizer."""
    if run.get("numerics_version") is None:
        return "not published"
    digest = (run.get("versions") or {}).get("code")
    own = f" own {run['optimizer_file_hash'][:SHORT]}" if run.get("optimizer_file_hash") else ""
    return f"v{run['numerics_version']}/{digest[:SHORT] if digest else '·'}{own}"


def _print_sources(runs: list[dict[str, Any]]) -> None:
    """Where imported runs were published, once per publication, with their entries."""
    places: dict[str, list[str]] = {}
    for run in runs:
        source = run.get("source")
        if source:
            text = "   ".join(str(source[key]) for key in ("published", "url") if source.get(key))
            places.setdefault(f"{run.get('origin')}: {text}", []).append(
                str(source.get("entry") or run["run_id"][:DIGITS])
            )
    for place, entries in places.items():
        print(f" imported   {place}")
        for entry in entries:
            print(f"            {entry}")


def print_run(data: dict[str, Any]) -> None:
    """One run: what it was, with which data and code, where, and the numbers that rest on it."""
    data = output.clean(data)
    spec, known = data["spec"], data["provenance"] or {}
    print(f"{data['run_id']}   {data['state']}   studies {' '.join(data['studies']) or '·'}")
    if data["error"]:
        print(f" error      {data['error']}")

    def part(name: str) -> str:
        return "·" if spec.get(name) is None else f"{spec[name]:,}" if name == "tokens" else str(spec[name])

    cell = f"{part('optimizer')} {part('model')}   {part('tokens')} tokens"
    print(f" spec       {cell}   engine {part('engine')}   seed {part('seed')}")
    knobs = spec.get("hyperparameters")
    text = "not published" if knobs is None else "   ".join(f"{k} {output.number(v, 6)}" for k, v in knobs.items())
    print(f" knobs      {text}")
    digest = spec.get("dataset_hash") or "not published"
    print(f" data       {part('dataset')}   sha256 {digest}   validation {known.get('validation_set') or '·'}")
    if data["origin"]:
        _print_sources([{**known, "run_id": data["run_id"]}])
    else:
        print(
            f" code       numerics v{spec.get('numerics_version')}   parameters {known.get('parameters_sha256') or '·'}"
        )
        if spec.get("optimizer_file_hash"):
            print(f"            own optimizer file {spec['optimizer_file_hash']}")
        versions = known.get("versions") or {}
        print(
            f"            {'  '.join(f'{name} {version}' for name, version in versions.items()) or 'no versions on record'}"
        )
        for attempt in data["attempts"]:
            host = (attempt["claim"] or {}).get("host") or "·"
            ended = (attempt["exit"] or {}).get("reason") or "not ended"
            device = known.get("device") or "·"
            print(f" a{attempt['attempt']:<9} host {host}   {device}   {ended}   last step {attempt['last_step']}")
    if not data["provenance"]:
        print(" not in the store: it enters no number before optsweep collect")
    for cell in data["cells"]:
        _print_cell(cell)


def _print_cell(cell: Mapping[str, Any]) -> None:
    print(f" cell       {cell['cell']} of study {cell['study']}: {cell['part']}")
    from optsweep_tui.analysis.audits.ground import ROLES

    by_role: dict[str, list[str]] = {}
    for number, role in cell["numbers"]:
        by_role.setdefault(role, []).append(number)
    if not by_role:
        print("            no number of table, fit or speedup rests on it")
    for role, numbers in by_role.items():
        print(f" enters     {len(numbers)} number{'s'[: len(numbers) != 1]}: {ROLES[role]}")
        for number in numbers[:MOST_NUMBERS]:
            print(f"            {number}")
        if len(numbers) > MOST_NUMBERS:
            print(f"            and {len(numbers) - MOST_NUMBERS} more (--json lists all)")
