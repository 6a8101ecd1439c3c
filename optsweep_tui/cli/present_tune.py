"""A tuning before and while it runs: its rules, its lists, the first runs, each step as it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optsweep_tui.cli import output

if TYPE_CHECKING:
    from optsweep_tui.tune.problem import Step, Tried
    from optsweep_tui.tune.session import Session
    from optsweep_tui.tune.tuning import TunedCell
    from optsweep_tui.tune.whole import Placed

SOURCES = {
    "given": "given", "measured": "measured", "prior": "the prior of large subword models", "start": "from the start's seeds",
}  # fmt: skip


def run_rows(session: Session, placed: list[Placed]) -> list[dict[str, Any]]:
    """Every run of a tuning as `run --json` shows it, with the step that asked for it first and its loss."""
    from optsweep_tui import flow, preview
    from optsweep_tui.tune import account

    found = account.runs(session, placed)
    if not found:
        return []
    plan = flow.Plan(study=session.tuning.study, specs=[spec for spec, _, _, _ in found], fresh_seed_runs=0)
    rows = preview.of(session.workspace, plan)["runs"]
    return [{**row, "step": role, "loss": loss} for row, (_, role, _, loss) in zip(rows, found, strict=True)]


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

    lines = list(session.tuning.notes)
    for entry in session.places():
        position, given = entry.position, session.tuning.rules.threshold
        if entry.cell.phase == 3:
            continue
        width = account.noise_threshold(position)
        noise = f"1.645 sigma sqrt(2), sigma {output.number(position.sigma, 3)} {source_text(position.sigma_source)}"
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


def source_text(source: str) -> str:
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
    from optsweep_tui import rundir
    from optsweep_tui.tune.estimate import to_come

    placed = session.places()
    rows = [row for row in run_rows(session, placed) if row["state"] not in rundir.FINISHED]
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
        print(f"{cell.name}{phase_text(session, cell)}")
        print_lists(cell)
    print("first runs")
    print_runs(rows)
    guess = expected["seconds_estimate"]
    clock = (
        f"~{output.duration_text(guess)} on {session.workspace.run_slots} slots"
        if guess
        else f"no rate measured here with mesh {session.workspace.mesh} yet"
        if session.workspace.mesh
        else "no rate measured here yet"
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
    return cost.total_seconds(singles, session.workspace.run_slots) if singles else None


def phase_text(session: Session, cell: TunedCell) -> str:
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
