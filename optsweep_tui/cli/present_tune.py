"""A tuning as text and as one JSON document: its rules before it starts, each step as it is made, what it found."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from optsweep_tui.cli import output

if TYPE_CHECKING:
    from optsweep_tui.tune.search import Step, Tried
    from optsweep_tui.tune.session import Session
    from optsweep_tui.tune.tuning import TunedCell
    from optsweep_tui.tune.whole import Placed

SOURCES = {
    "given": "given", "measured": "measured", "prior": "the prior of large subword models", "start": "from the start's seeds",
}  # fmt: skip


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
        "rules": rules(session),
    }


def run_rows(session: Session, placed: list[Placed]) -> list[dict[str, Any]]:
    """Every run of a tuning as `run --json` shows it, with the step that asked for it first and its loss."""
    from optsweep_tui import flow
    from optsweep_tui.cli import run
    from optsweep_tui.tune import account

    found = account.runs(session, placed)
    if not found:
        return []
    plan = flow.Plan(study=session.tuning.study, specs=[spec for spec, _, _, _ in found], fresh_seed_runs=0)
    rows = run.plan_json(session.workspace, plan)["runs"]
    return [{**row, "step": role, "loss": loss} for row, (_, role, _, loss) in zip(rows, found, strict=True)]


def totals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What all runs of a tuning come to."""
    return {
        "runs": len(rows),
        "fresh_seed_runs": sum(row["step"] == "seeds" for row in rows),
        "tokens": sum(row["tokens"] for row in rows),
        "flops": sum(row["flops"] for row in rows),
        "states": dict(Counter(row["state"] for row in rows)),
    }


def rules(session: Session) -> dict[str, Any]:
    """The rules that every step follows."""
    tuning = session.tuning
    own = tuning.rules
    return {
        "threshold": own.threshold,
        "sigma": own.sigma,
        "max_runs": own.max_runs,
        "max_extensions": own.max_extensions,
        "block": own.block,
        "fresh_seeds": own.fresh_seeds,
        "seeds_for_start": own.seeds_for_start,
        "equal_budget": tuning.equal_budget,
        "sampler": own.sampler,
        "sampler_version": tuning.sampler_version,
        "seed": own.seed,
        "cells": [
            {
                "optimizer": cell.optimizer,
                "model": cell.model,
                "chinchilla": cell.chinchilla,
                "phase": cell.phase if tuning.phased else None,
                "lists": dict(cell.axes),
                "sigma": cell.ruled(own).sigma,
                "sigma_source": cell.ruled(own).sigma_source,
            }
            for cell in tuning.cells
        ],
    }


# ---------------------------------------------------------------- before and while it runs


def rule_lines(session: Session) -> list[str]:
    """The rules in words, a line each."""
    tuning, own = session.tuning, session.tuning.rules
    if own.sampler == "optuna":
        lines = [
            f"Optuna {tuning.sampler_version} (TPE) suggests {own.max_runs} configurations inside the lists, 4 at a time;",
            "the smallest loss is the incumbent",
        ]
    else:
        lines = [
            "one knob at a time around the incumbent; at the best end of a list the next value beyond it, "
            f"{own.max_extensions} at most;",
            "passes until one makes no move",
        ]
        if own.block:
            lines.append(f"then one 3 x 3 block of {own.block[0]} x {own.block[1]}")
    if tuning.equal_budget:
        lines.append(
            "equal budgets: an optimizer that needs fewer configurations than another of its cell spends the rest on "
            "half steps around its incumbent, lr first, then the knobs that moved the loss most"
        )
    lines.append(f"then {own.fresh_seeds} fresh seeds for the configuration of the smallest loss")
    return lines


def noise_lines(session: Session) -> list[str]:
    """What a move must gain in each cell, and what is wrong with that; a line per difference."""
    from optsweep_tui.tune import account

    lines = []
    for entry in session.places():
        position, given = entry.position, session.tuning.rules.threshold
        if entry.cell.phase == 3:
            continue
        width = account.noise_threshold(position)
        noise = f"1.645 sigma sqrt(2), sigma {output.number(position.sigma, 3)} {_source(position.sigma_source)}"
        if position.threshold != position.threshold:  # a later phase: not known yet
            continue
        if width is None and session.tuning.rules.seeds_for_start:
            lines.append("the threshold is set when the start's seeds have measured the noise")
        elif width is None:
            lines.append(
                f"a move must gain {position.threshold:.4g} nats; the run-to-run noise is not known here, and small models "
                "are far noisier: --seeds-for-start measures it first, --sigma X gives it"
            )
        elif given is not None and given < width:
            lines.append(
                f"warning: the threshold {given:.4g} is below what noise alone does to two runs, {width:.4g} ({noise}): "
                "moves may be luck"
            )
        elif given is None and width > 1.02 * 3e-3:
            lines.append(f"a move must gain {width:.4g} nats in the place of 0.003: {noise}")
        else:
            lines.append(f"a move must gain {position.threshold:.4g} nats; noise does {width:.4g} ({noise})")
    return list(dict.fromkeys(lines))


def _source(source: str) -> str:
    return SOURCES.get(source, source)


def say_rules(session: Session) -> None:
    """On stderr, before the first run."""
    for line in noise_lines(session):
        output.say(line)
    ended = sum(outcome is not None for entry in session.places() for _, _, outcome in entry.position.runs)
    if ended:
        output.say(f"{output.runs_text(ended)} of it ended before")


def say_step(placed: Placed, step: Step) -> None:
    """One step on stderr, as it is made."""
    what = " ".join([step.kind, " x ".join(step.knobs)]).strip()
    output.say(f" {placed.cell.name}   {what}   {step_text(step)}")


def step_text(step: Step) -> str:
    """What was tried with its losses, and what came of it: 0.001 2.6350, 0.002 2.4528; moved: gains more than 0.003."""
    from optsweep_tui.tune import account

    def value(tried: Tried) -> str:
        return "/".join(account.value_text(tried.config[knob]) for knob in step.knobs)

    tries = list(step.tried)
    if len(step.knobs) == 1 and all(isinstance(tried.config[step.knobs[0]], int | float) for tried in tries):
        tries.sort(key=lambda tried: float(str(tried.config[step.knobs[0]])))
    if step.kind == "start":
        parts = [_ending(tries[0]), *([f"other seeds {', '.join(map(_ending, tries[1:]))}"] if tries[1:] else [])]
    elif step.kind == "settle":
        parts = [account.text_of(step.best)] if step.best else []
    elif step.kind == "seeds":
        parts = [", ".join(_ending(tried) for tried in tries)]
    else:
        parts = [", ".join(f"{value(tried)} {_ending(tried)}".strip() for tried in tries)]
    verdict = "moved: " if step.moved else "no move: " if step.gain is not None or "incumbent" in step.why else ""
    return "; ".join(part for part in [*parts, f"{verdict}{step.why}" if step.why else ""] if part)


def _ending(tried: Tried) -> str:
    """A run's loss, or how it ended without one."""
    loss = tried.outcome.loss
    return tried.outcome.state if loss is None else f"{loss:.4f}"


# ---------------------------------------------------------------- before: --dry-run


def plan(session: Session, json_: bool) -> None:
    """The rules, the lists, the first runs and what they come to."""
    from optsweep_tui.tune.estimate import to_come

    placed = session.places()
    rows = [row for row in run_rows(session, placed) if row["loss"] is None]
    count = sum(to_come(entry, session.tuning.rules) for entry in placed)
    each = [(session.start_spec(entry.cell), to_come(entry, session.tuning.rules)) for entry in placed]
    expected = {
        "runs": count,
        "tokens": sum(spec.tokens * runs for spec, runs in each),
        "flops": sum(spec.flops * runs for spec, runs in each),
        "seconds_estimate": seconds(session, each),
    }
    if json_:
        own = {"study": session.tuning.name, "incumbent": None, "history": [], "runs": rows, "totals": expected}
        output.emit_json({**own, "rules": rules(session)})
        return
    print(f"tuning {session.tuning.name}")
    for line in [*rule_lines(session), *noise_lines(session)]:
        print(f"  {line}")
    for cell in session.tuning.cells:
        print(f"{cell.name}{_phase(session, cell)}")
        print_lists(cell)
    print("first runs")
    print_runs(rows)
    guess = expected["seconds_estimate"]
    clock = (
        f"~{output.duration_text(guess)} on {session.workspace.slots} slots" if guess else "no rate measured here yet"
    )
    print(
        f"{output.runs_text(count)} if nothing moves and no list is extended   {output.count_text(expected['tokens'])} "
        f"tokens   {output.count_text(expected['flops'])} FLOPs   {clock}"
    )
    most = session.tuning.rules.max_runs
    print(f"at most {most} configurations per cell" if most else "--max-runs N bounds it: each move adds a pass")
    if any(row["provisional"] for row in rows):
        print("run ids are provisional: the dataset is not prepared here, so its hash is not known")


def seconds(session: Session, each: list[tuple[Any, int]]) -> float | None:
    """Wall seconds of so many runs of each spec at the rates measured here; None without."""
    from optsweep_tui import cost, flow

    rates = flow.rates(session.workspace)
    singles = [cost.predicted(spec, rates).seconds_estimate for spec, runs in each for _ in range(runs)]
    return cost.total_seconds(singles, session.workspace.slots) if singles else None


def _phase(session: Session, cell: TunedCell) -> str:
    texts = {
        1: "all knobs",
        2: "the sensitive knobs of phase 1, decided when it has ended",
        3: "predicted from 1 and 2",
    }
    return f"   phase {cell.phase}: {texts[cell.phase]}" if session.tuning.phased else ""


def print_lists(cell: TunedCell) -> None:
    """Each knob with the values that it will be tried at, the start's marked."""
    from optsweep_tui.tune import account
    from optsweep_tui.tune.axes import same

    rows = []
    for knob, values in cell.axes.items() if cell.phase == 1 else []:
        texts = [
            f"[{account.value_text(each)}]" if same(each, cell.start[knob]) else account.value_text(each)
            for each in values
        ]
        rows.append((f"  {knob}", "  ".join(texts)))
    if rows:
        output.print_table(["  knob", "values, the start's in brackets"], rows, left=(0, 1))


def print_runs(rows: list[dict[str, Any]]) -> None:
    """Runs that are to come, a line each."""
    output.print_table(
        ["run", "optimizer", "model", "ratio", "steps", "seed", "step", "lr", "state"],
        [
            (
                *(
                    row["run_id"][:8],
                    row["optimizer"],
                    row["model"],
                    f"{row['chinchilla']:g}",
                    row["steps"],
                    row["seed"],
                ),
                *(row["step"], output.number(row["hyperparameters"].get("lr")), row["state"]),
            )
            for row in rows
        ],
        left=(0, 1, 2, 6),
    )


# ---------------------------------------------------------------- after


def found(session: Session) -> None:
    """What each cell's tuning led to, on stdout."""
    from optsweep_tui.tune import account

    data = document(session)
    placed = session.places()
    for entry, row in zip(placed, data["incumbents"], strict=True):
        print(f"{entry.cell.name}{_phase(session, entry.cell)}")
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
    return f"{text} ({limits}), {verdict}; sigma {row['sigma']:.4f} ({_source(row['sigma_source'])}, {dof})"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
