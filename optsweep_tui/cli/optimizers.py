"""`optsweep optimizers [NAME]`: the catalogue of update rules, one in full, or `check FILE:NAME`: a user's own under test."""

from __future__ import annotations

import dataclasses
import math
import shutil
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optsweep_tui.cli import options, output

if TYPE_CHECKING:
    from optsweep_engines.optimizers.base import Knob, OptimizerEntry

CHECK_SECONDS = 600.0
"""Limit of the whole list of properties on one optimizer."""
LONGEST_NAME = 26
"""Column of a knob's default; after a longer name it follows at once."""
NARROWEST, WIDEST = 60, 140
"""Columns that text is wrapped to."""


def command(
    name: Annotated[
        str | None,
        typer.Argument(
            help="One optimizer, by name, alias, or file (./mine.py:MyOptimizer); or the word check.",
            autocompletion=options.complete_optimizer,
        ),
    ] = None,
    reference: Annotated[
        str | None, typer.Argument(metavar="FILE:NAME", help="After check: your own optimizer's file and name.")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="After check: on torch or on jax.")] = "torch",
    _workspace: options.UnreadWorkspace = None,
    json_: options.Json = False,
) -> None:
    """List the optimizers, or show one: rule, knobs, routing, costs and sources; or check one of your own.

    A file's optimizer is executed in a process of its own, with a time limit. `check` runs the properties that
    the catalogue's own rules are held to, and exits 1 when one does not hold.

    Examples: optsweep optimizers | optsweep optimizers muon --json | optsweep optimizers check ./mine.py:MyOptimizer
    """
    from optsweep_engines.optimizers import catalogue
    from optsweep_tui import grid
    from optsweep_tui.errors import OptsweepError

    if name == "check":
        _check(reference, engine, json_)
        return
    if reference is not None:
        raise OptsweepError(f'"{reference}" is one argument too many', f"optsweep optimizers check {reference}")
    if name is not None:
        data = described(grid.optimizer_name(name))
        if json_:
            output.emit_json(data)
        else:
            _show(data)
        return
    rows = [described(entry) for entry in catalogue.optimizers()]
    if json_:
        output.emit_json(rows)
        return
    output.print_table(
        ["optimizer", "family", "B/param", "lr", "what it does"],
        [
            (
                row["name"],
                row["family"],
                output.number(row["state_bytes_per_param"], 3),
                output.number(row["knobs"][0]["default"]),
                row["doc"],
            )
            for row in rows
        ],
        left=(0, 1, 4),
    )
    print(
        f"\n{len(rows)} optimizers. B/param: bytes of state per parameter of the 130m shape; lr: default peak learning rate"
    )
    print(
        "one in full: optsweep optimizers NAME; your own: -o ./mine.py:MyOptimizer or pytorch_optimizer:NAME, anywhere"
    )


# ---------------------------------------------------------------- one entry


def described(name: str) -> dict[str, Any]:
    """One catalogue entry as plain data; costs are those of the 130m reference shape."""
    from optsweep_engines import models
    from optsweep_engines.engine import engine_names
    from optsweep_engines.optimizers import catalogue
    from optsweep_engines.optimizers.user_plan import OwnEntry

    entry = catalogue.optimizer(name)
    shape = models.model("130m").shape
    tensors = models.parameter_table(shape)
    knobs = tuple(_under(entry.schedule, knob) for knob in catalogue.all_knobs(entry))
    defaults = {knob.name: knob.default for knob in knobs}
    groups: dict[str, list[str]] = {}
    for tensor in tensors:
        groups.setdefault(entry.route(tensor, defaults).rule.name, []).append(tensor.role)
    own = entry if isinstance(entry, OwnEntry) else None
    known_state = own is None or bool(own.state_per_number)
    run_names = {knob.name for knob in catalogue.RUN_KNOBS}
    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "family": entry.family,
        "doc": entry.doc,
        "formula": entry.formula,
        "papers": [{"title": title, "link": link} for title, link in entry.papers],
        "studies": dict(entry.studies),
        "knobs": [
            {
                "name": knob.name,
                "of": "run" if knob.name in run_names else "rule",
                "type": knob.kind,
                "default": knob.default,
                "low": knob.low,
                "high": knob.high,
                "scale": knob.scale,
                "choices": list(knob.choices),
                "aliases": list(knob.aliases),
                "published": list(knob.published),
                "roles": knob.roles,
                "only_with": list(knob.only_with),
                "doc": knob.doc,
            }
            for knob in knobs
        ],
        "roles": {rule: sorted(set(roles)) for rule, roles in groups.items()},
        "routing": entry.routing,
        "weight_decay": _decay(entry),
        "needs": sorted(entry.needs),
        "schedule": entry.schedule,
        "state_bytes_per_param": _state(entry, tensors, defaults) / shape.total_params if known_state else None,
        "flops_per_step": _flops(entry, tensors, defaults),
        "extra_gradients_per_step": entry.extra_gradients(defaults),
        "costs_by_rule": _costs(entry, tensors, defaults) if own is None else [],
        "costs_for": "130m",
        "engines": list(own.engines) if own and own.engines else engine_names(),
        "file_hash": own.file_hash if own else None,
        "fixed": list(own.fixed) if own else [],
    }


def _under(schedule_name: str, knob: Knob) -> Knob:
    """A knob as it is under a schedule: its default there, or that the schedule does not read it."""
    from optsweep_engines import schedules

    if knob.name not in ("decay", "min_lr_ratio"):
        return knob
    shape = schedules.schedule(schedule_name)
    default = shape.default_decay if knob.name == "decay" else knob.default
    unread = "" if knob.name in shape.knobs else f"; the schedule {schedule_name} does not read it"
    return dataclasses.replace(knob, default=default, doc=knob.doc + unread)


def _decay(entry: OptimizerEntry) -> str:
    from optsweep_engines.optimizers.user_plan import OwnEntry

    if entry.knob("weight_decay") is None:
        return "none"
    return "own" if isinstance(entry, OwnEntry) and entry.kind == "class" else entry.decay_convention


def _state(entry: OptimizerEntry, tensors: Any, knobs: Any) -> float:
    return 4.0 * entry.state_floats(tensors, knobs)


def _flops(entry: OptimizerEntry, tensors: Any, knobs: Any) -> float | None:
    try:
        return entry.flops_per_step(tensors, knobs)
    except ValueError:  # a user's own
        return None


def _costs(entry: OptimizerEntry, tensors: Any, knobs: Any) -> list[dict[str, Any]]:
    """State and operations of each kind of tensor, as the entry's formulas give them for one tensor of the shape."""
    from optsweep_engines.optimizers.base import hyper

    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for tensor in tensors:
        rule, hp = hyper(entry, tensor, knobs)
        state = rule.state_floats(tensor, hp.knobs) / tensor.count
        flops = rule.flops(tensor, hp.knobs) / tensor.count
        key = (rule.name, f"{state:.6g}", f"{flops:.6g}")
        row = rows.setdefault(
            key,
            {
                "rule": rule.name,
                "roles": [],
                "state_floats_per_number": state,
                "flops_per_number": flops,
            },
        )
        row["roles"] = sorted({*row["roles"], tensor.role})
    return list(rows.values())


def _width() -> int:
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size((120, 24)).columns))


def _lines(label: str, text: str) -> None:
    """A labelled paragraph, wrapped and indented under its label."""
    wrapped = textwrap.wrap(text, _width() - 10, break_long_words=False, break_on_hyphens=False) or [""]
    for index, line in enumerate(wrapped):
        print(f"{label if index == 0 else '':<10}{line}")


def _show(data: dict[str, Any]) -> None:
    for line in textwrap.wrap(f"{data['name']}:  {data['doc']}", _width(), subsequent_indent="  "):
        print(line)
    if data["aliases"] and not data["file_hash"]:
        _lines("also", ", ".join(data["aliases"]))
    for study, name in data["studies"].items():
        _lines("study", f"{study}, there called {name}" if name != data["name"] else study)
    print()
    for line in data["formula"].splitlines():
        print(f"    {line}")
    print()
    for of, title in (("rule", "knobs"), ("run", "knobs of the run, as every optimizer has them")):
        print(title)
        chosen = [knob for knob in data["knobs"] if knob["of"] == of]
        room = min(max(len(knob["name"]) for knob in chosen) + 2, LONGEST_NAME)
        for knob in chosen:
            _show_knob(knob, room)
        print()
    _lines("routing", data["routing"])
    _lines("decay", DECAY[data["weight_decay"]])
    if data["needs"]:
        _lines("needs", needs_text(data["needs"]))
    _lines("schedule", f"{data['schedule']} unless the model or grid names another")
    if data["fixed"]:
        _lines("fixed", f"{', '.join(data['fixed'])}: no number, switch or text, left at the default")
    _lines("engines", ", ".join(data["engines"]))
    _show_costs(data)
    for paper in data["papers"]:
        _lines("source", f"{paper['title']}  {paper['link']}")
    if data["file_hash"]:
        _lines("file", f"sha256 {data['file_hash']}; the run keeps this content, whatever becomes of the file")


DECAY = {
    "lr_wd": "decoupled: a parameter shrinks by lr x weight_decay per step",
    "coupled": "coupled: weight_decay x parameter is part of the gradient or of the update",
    "none": "no knob; where the rule itself shrinks parameters, its formula says so",
    "own": "as the class does it, with what its parameter groups say",
}


def needs_text(needs: list[str]) -> str:
    """What an entry asks of the engine, in words."""
    from optsweep_engines.optimizers.base import NEEDS

    return "; ".join(f"{need}: {NEEDS[need]}" for need in needs)


def _show_knob(knob: dict[str, Any], room: int) -> None:
    """Name, default and range on the first line, then meaning, tensors and published values, wrapped."""
    head = f"  {knob['name'] + '  ':<{room}}{output.number(knob['default'], 6):<10} {_range(knob)}"
    print(head.rstrip())
    notes = [knob["doc"]]
    if knob["roles"] not in ("all", ""):
        notes.append(f"on {knob['roles']}")
    if knob["only_with"]:
        notes.append(f"only with {' or '.join(knob['only_with'])}")
    if knob["aliases"]:
        notes.append(f"also {', '.join(knob['aliases'])}")
    if knob["published"]:
        notes.append(f"published {' '.join(output.number(value) for value in knob['published'])}")
    for line in textwrap.wrap("; ".join(notes), _width() - 6, break_long_words=False, break_on_hyphens=False):
        print(f"      {line}")


def _range(knob: dict[str, Any]) -> str:
    if knob["type"] == "bool":
        return "true or false"
    if knob["low"] is None:
        return " | ".join(knob["choices"]) or "any text"
    if math.isinf(knob["low"]):
        return f"any {knob['type']}"
    kind = "whole number, " if knob["type"] == "int" else ""
    scale = ", log scale" if knob["scale"] == "log" else ""
    return f"{kind}{knob['low']:g} to {knob['high']:g}{scale}"


def _show_costs(data: dict[str, Any]) -> None:
    state, flops = data["state_bytes_per_param"], data["flops_per_step"]
    parts = ["state not measured yet" if state is None else f"{state:.3g} bytes of state per parameter"]
    parts.append("FLOPs not known" if flops is None else f"{output.count_text(flops)} FLOPs per step")
    if data["extra_gradients_per_step"]:
        parts.append(f"{data['extra_gradients_per_step']:g} further gradients of the batch per step")
    _lines("costs", f"{', '.join(parts)} (shape {data['costs_for']}, default knobs)")
    for row in data["costs_by_rule"]:
        numbers = f"{row['state_floats_per_number']:.4g} floats, {output.count_text(row['flops_per_number'])} FLOPs"
        _lines("", f"{numbers} per number by {row['rule']}: {', '.join(row['roles'])}")


# ---------------------------------------------------------------- check


def _check(reference: str | None, engine: str, json_: bool) -> None:
    from optsweep_engines.optimizers import user
    from optsweep_engines.optimizers.user_plan import planned
    from optsweep_engines.optimizers.user_probe import ask
    from optsweep_tui import flow, grid
    from optsweep_tui.errors import OptsweepError, UnknownName

    if engine not in flow.ENGINE_LIBRARY:
        raise UnknownName("engine", engine, flow.ENGINE_LIBRARY)
    flow.require_engine(engine)
    if reference is None:
        raise OptsweepError("no optimizer is named", "optsweep optimizers check ./mine.py:MyOptimizer")
    if user.split_reference(reference) is None and not user.is_package(reference):
        hint = "name a file, ./mine.py:MyOptimizer; make test checks the catalogue"
        raise OptsweepError(f'"{reference}" is no optimizer file', hint)
    entry_name = grid.optimizer_name(reference)
    found: list[dict[str, Any]] = []
    with grid.own_errors():
        entry = planned(reference, grid.HERE)
        request = {"action": "check", "engine": engine, **entry.request}
        for row in ask(request, reference, CHECK_SECONDS, talk=True):
            found.append(row)
            if not json_:
                output.say(f"{'pass' if row['passed'] else 'FAIL'}  {row['property']}")
    failed = [row for row in found if not row["passed"]]
    if json_:
        hash_ = entry.file_hash
        output.emit_json({"optimizer": entry_name, "file_hash": hash_, "passed": not failed, "properties": found})
    else:
        print(f"{entry_name}   {entry.doc}\n")
        room = max(len(row["property"]) for row in found) + 2
        for row in found:
            lines = textwrap.wrap(row["reason"], max(30, _width() - room - 6)) or [""]
            print(f"{'pass' if row['passed'] else 'FAIL'}  {row['property']:<{room}}{lines[0]}".rstrip())
            for line in lines[1:]:
                print(" " * (room + 6) + line)
        print(f"\n{len(found) - len(failed)} of {len(found)} properties hold")
    if failed:
        raise typer.Exit(1)
