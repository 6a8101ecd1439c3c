"""Every rule of the catalogue at one small cell: `python benchmarks/every_rule.py --workspace DIR [--out FILE]`.

Trains what is missing of `grids/every-rule.toml` in the workspace (some ten minutes on two cores), and writes the table:
final loss, gap to adamw, speedup with its interval, measured time per step and optimizer state of each rule.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GRID = "every-rule"


def trained(workspace: Any) -> None:
    """Run what is not finished yet, fresh seeds included, and collect."""
    from optsweep_tui import flow
    from optsweep_tui.cli import progress

    chosen = flow.plan(workspace, flow.Request(grid=GRID), prepare=True)
    flow.launch(workspace, chosen)
    progress.drive(workspace, chosen.run_ids, f"{len(chosen.specs)} runs of {GRID}")
    flow.collect(workspace)


def rows(workspace: Any) -> list[dict[str, Any]]:
    """One row per rule at the shared budget, best first."""
    from optsweep_tui import ask
    from optsweep_tui.cli import output
    from optsweep_tui.core import Filter

    frame = ask.results(workspace, Filter(study=GRID))
    budgets = frame[frame["optimizer"] != "adamw"]["tokens"].unique()
    (tokens,) = budgets
    cells = output.records(ask.table(frame, baseline="adamw"))
    speeds = {row["optimizer"]: row for row in output.records(ask.speedup(frame, baseline="adamw", unit="tokens"))}
    timed = output.records(ask.speedup(frame, baseline="adamw", unit="time"))
    loaded = {row["optimizer"] for row in timed if "LOADED" in row["flags"] or row["speedup"] is None}
    best = {row["run_id"]: row for row in output.records(frame)}
    found = []
    for cell in cells:
        if cell["tokens"] != tokens:
            continue
        name = cell["optimizer"]
        lrs = sorted({json.loads(text)["lr"] for text in _knobs(frame, name, tokens)})
        chosen = best[cell["run_ids"][0]]["hyperparameters"] if cell["run_ids"] else "{}"
        found.append(
            {
                **cell,
                "speed": speeds.get(name),
                "loaded": name in loaded,
                "lr": json.loads(chosen).get("lr"),
                "lrs": lrs,
            }
        )
    return sorted(found, key=lambda row: (row["loss"] is None, row["loss"]))


def _knobs(frame: Any, optimizer: str, tokens: float) -> list[str]:
    chosen = frame[(frame["optimizer"] == optimizer) & (frame["tokens"] == tokens)]
    return [str(text) for text in chosen["hyperparameters"]]


def report(found: list[dict[str, Any]], device: str) -> str:
    """The table as Markdown."""
    sgd = next(row["loss"] for row in found if row["optimizer"] == "sgd")
    torch = importlib.metadata.version("torch")
    today = datetime.date.today().isoformat()
    command = f"`python benchmarks/every_rule.py --workspace DIR`, grid `grids/{GRID}.toml`."
    cell = f"bench-micro at Chinchilla ratio {found[0]['chinchilla']:g}, embedded corpus, one base seed, lr swept for each rule."
    heads = [
        "rule",
        "loss, nats",
        "lr of (swept)",
        "gap to adamw (95 %)",
        "tokens speedup (95 %)",
        "state",
        "time/step",
    ]
    heads += ["state B/param", "flags"]
    lines = ["# Every rule at one small cell", "", f"{today}, {device}, torch {torch}: {command}", cell, ""]
    lines += [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [_line(row) for row in found]
    worse = [
        row["optimizer"] for row in found if row["loss"] is None or (row["loss"] >= sgd and row["optimizer"] != "sgd")
    ]
    if any(row["loaded"] for row in found):
        lines += [
            "",
            "loaded: equal runs differed by more than 10 % in time, so the machine was busy and the ratio is withheld.",
        ]
    lines += ["", f"Not below sgd's best ({sgd:.3f}): {', '.join(worse) or 'none'}.", ""]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    from optsweep_tui.cli.output import number

    speed = row["speed"] or {}
    gap = "0" if row["gap_low"] is None else f"{row['gap']:+.3f} ({row['gap_low']:+.3f} .. {row['gap_high']:+.3f})"
    if speed.get("speedup") is not None:
        times = f"{speed['speedup']:.2f}x ({speed['low']:.2f} - {speed['high']:.2f})"
    else:
        times = speed.get("bound") or "·"
    overhead = speed.get("step_overhead")
    cells = [
        row["optimizer"],
        "·" if row["loss"] is None else f"{row['loss']:.3f}",
        f"{number(row['lr'])} of {', '.join(number(value) for value in row['lrs'])}",
        gap,
        times,
        speed.get("state", "baseline"),
        "·" if overhead is None else "loaded" if row["loaded"] else f"{1 + overhead:.2f}x",
        number(speed.get("state_bytes_per_param"), 3),
        ", ".join(flag for flag in row["flags"] if flag != "selected-min, n=1"),
    ]
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def main() -> None:
    """Train, ask, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="a Markdown file, beside the printed table")
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / "engines"), str(ROOT)]
    from optsweep_tui import ask, settings
    from optsweep_tui.core import Filter

    workspace = settings.workspace(options.workspace)
    trained(workspace)
    devices = sorted(set(ask.results(workspace, Filter(study=GRID))["device"].dropna()))
    text = report(rows(workspace), ", ".join(devices))
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
