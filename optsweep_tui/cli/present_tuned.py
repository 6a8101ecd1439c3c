"""What a tuning found, as text and as one JSON document: each step, the incumbent with its interval, every run."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from optsweep_tui.cli import output, present_tune
from optsweep_tui.cli.present_tune import phase_text, run_rows, source_text, step_text

if TYPE_CHECKING:
    from optsweep_tui.tune.session import Session


def document(session: Session) -> dict[str, Any]:
    """The document of `tune --json`."""
    from optsweep_tui.tune import account

    placed = session.places()
    incumbents = [account.incumbent(session, entry) for entry in placed]
    rows = run_rows(session, placed)
    return {
        "study": session.tuning.name,
        "incumbent": incumbents[0] if len(incumbents) == 1 else None,
        "incumbents": incumbents,
        "history": account.history(placed),
        "runs": rows,
        "totals": totals(rows),
        "rules": present_tune.rules(session),
    }


def totals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What all runs of a tuning come to."""
    return {
        "runs": len(rows),
        "fresh_seed_runs": sum(row["step"] == "seeds" for row in rows),
        "tokens": sum(row["tokens"] for row in rows),
        "flops": sum(row["flops"] for row in rows),
        "states": dict(Counter(row["state"] for row in rows)),
    }


def found(session: Session) -> None:
    """What each cell's tuning led to, on stdout."""
    from optsweep_tui.tune import account

    data = document(session)
    placed = session.places()
    for entry, row in zip(placed, data["incumbents"], strict=True):
        print(f"{entry.cell.name}{phase_text(session, entry.cell)}")
        if entry.why:
            print(f"  {entry.why}")
        steps = account.history([entry])
        if steps:
            output.print_table(
                ["step", "knobs", "new", "loss", "gain", "tried, and what came of it"],
                [
                    (
                        *(step.kind, " x ".join(step.knobs) if len(step.knobs) < 4 else "all", step.new),
                        *(
                            output.loss_text(step.loss),
                            "" if step.gain is None else f"{step.gain:+.4f}",
                            step_text(step),
                        ),
                    )
                    for step in entry.position.steps
                ],
                left=(0, 1, 5),
            )
        print_incumbent(row)
        print()
    total = data["totals"]
    states = ", ".join(f"{count} {state}" for state, count in sorted(total["states"].items()))
    print(
        f"{output.runs_text(total['runs'])} ({states})   {output.count_text(total['tokens'])} tokens   "
        f"{output.count_text(total['flops'])} FLOPs"
    )
    print(f"study {session.tuning.name}: optsweep table --study {session.tuning.name}")


def print_incumbent(row: dict[str, Any]) -> None:
    """The configuration that a cell's tuning led to, with all that says how far it can be trusted."""
    from optsweep_tui.tune import account

    if row["state"] != "ended":
        what = {"stuck": "stuck", "waiting": "waiting", "running": "not over"}[row["state"]]
        hint = "; optsweep retry RUN and the same command again, or --skip-failed" if row["state"] == "stuck" else ""
        print(f"  {what}: {row['reason'] or 'runs are to come'}{hint}")
        return
    if row["loss"] is None:
        print("  no configuration has a loss: lower the learning rate of the start")
        return
    changed = ", ".join(
        f"{knob} {account.value_text(now)} (was {account.value_text(then)})"
        for knob, (then, now) in row["changed"].items()
    )
    kept = "as predicted" if row["decided"] else "the start: nothing beat it"
    print(f"  incumbent  {changed or kept}")
    fresh = f"mean of {_counted(row['n'], 'fresh seed')}" if row["n"] and row["selected_loss"] != row["loss"] else ""
    picked = f"{row['selected_loss']:.4f} under the base seed, the smallest of {row['tuning_runs']}"
    print(f"  loss       {row['loss']:.4f} nats, {fresh + '; ' if fresh else 'selected-min, n=1: '}{picked}")
    if row["start_loss"] is not None:
        print(f"  start      {row['start_loss']:.4f} nats, {_counted(row['start_n'], 'seed')}")
    else:
        print("  start      no loss")
    print(f"  gain       {_gain_text(row)}")
    ends = ", ".join(f"{knob} ({side} end)" for knob, side in row["edges"].items())
    print(f"  edges      {ends or 'none: every best value is interior or at a bound'}")
    if row["reason"]:
        print(f"  note       {row['reason']}")
    for reason in row["refused"]:
        print(f"  left out   {reason}")


def _gain_text(row: dict[str, Any]) -> str:
    if row["improvement"] is None:
        return "none: the start is the winner" if not row["changed"] else "unknown: the start has no loss"
    text = f"{row['improvement']:+.4f} nats"
    if row["resolved"] is None:
        return f"{text}; NO-SIGMA, its interval is not known"
    dof = "known" if row["sigma_dof"] is None else f"{row['sigma_dof']:g} dof"
    limits = f"95 %: {row['improvement_low']:.4f} .. {row['improvement_high']:.4f}"
    verdict = "resolved" if row["resolved"] else "not resolved"
    return f"{text} ({limits}), {verdict}; sigma {row['sigma']:.4f} ({source_text(row['sigma_source'])}, {dof})"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
