"""`optsweep optimizers [NAME]`: the catalogue of update rules, or one in full."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from optsweep_tui.cli import options, output


def command(
    name: Annotated[
        str | None, typer.Argument(help="One optimizer, by name or alias.", autocompletion=options.complete_optimizer)
    ] = None,
    json_: options.Json = False,
) -> None:
    """List the optimizers, or show one: rule, knobs, routing, costs and sources.

    Examples: optsweep optimizers | optsweep optimizers muon | optsweep optimizers --json
    """
    from optsweep_engines.optimizers import catalogue
    from optsweep_tui import grid

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
        ["optimizer", "family", "state B/param", "knobs", "what it does"],
        [
            (row["name"], row["family"], output.number(row["state_bytes_per_param"], 3), len(row["knobs"]), row["doc"])
            for row in rows
        ],
        left=(0, 1, 4),
    )


def described(name: str) -> dict[str, Any]:
    """One catalogue entry as plain data; costs are those of the 130m reference shape."""
    from optsweep_engines import models
    from optsweep_engines.engine import engine_names
    from optsweep_engines.optimizers import catalogue

    entry = catalogue.optimizer(name)
    shape = models.model("130m").shape
    tensors = models.parameter_table(shape)
    defaults = {knob.name: knob.default for knob in catalogue.all_knobs(entry)}
    groups: dict[str, list[str]] = {}
    for tensor in tensors:
        groups.setdefault(entry.route(tensor, defaults).rule.name, []).append(tensor.role)
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
                "type": knob.kind,
                "default": knob.default,
                "low": knob.low,
                "high": knob.high,
                "scale": knob.scale,
                "choices": list(knob.choices),
                "aliases": list(knob.aliases),
                "published": list(knob.published),
                "roles": knob.roles,
                "doc": knob.doc,
            }
            for knob in catalogue.all_knobs(entry)
        ],
        "roles": {rule: sorted(set(roles)) for rule, roles in groups.items()},
        "routing": entry.routing,
        "needs": sorted(entry.needs),
        "state_bytes_per_param": 4.0 * entry.state_floats(tensors, defaults) / shape.total_params,
        "flops_per_step": entry.flops_per_step(tensors, defaults),
        "costs_for": "130m",
        "engines": engine_names(),
    }


def _show(data: dict[str, Any]) -> None:
    print(f"{data['name']}   {data['doc']}")
    if data["aliases"]:
        print(f"also called {', '.join(data['aliases'])}")
    print()
    for line in data["formula"].splitlines():
        print(f"    {line}")
    print()
    output.print_table(
        ["knob", "type", "default", "range", "scale", "acts on", "published values", "meaning"],
        [
            (
                knob["name"],
                knob["type"],
                output.number(knob["default"]),
                ", ".join(knob["choices"]) if knob["low"] is None else f"{knob['low']:g} .. {knob['high']:g}",
                knob["scale"],
                knob["roles"],
                " ".join(output.number(value) for value in knob["published"]),
                knob["doc"],
            )
            for knob in data["knobs"]
        ],
        left=(0, 1, 3, 4, 5, 6, 7),
    )
    print(f"\nrouting   {data['routing']}")
    if data["needs"]:
        print(f"needs     {', '.join(data['needs'])}")
    print(
        f"costs     {data['state_bytes_per_param']:.3g} bytes of state per parameter, "
        f"{output.count_text(data['flops_per_step'])} FLOPs per step (shape {data['costs_for']}, default knobs)"
    )
    for paper in data["papers"]:
        print(f"source    {paper['title']}  {paper['link']}")
