"""What happened to a run, in order: intents, claims, events of the engine, ends of attempts, with their reasons."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optsweep_tui.app import format as fmt
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Floats, Row, Span

SPIKE_KINDS = ("spike", "loss_spike", "grad_spike")
"""Kinds of events that mark a point of a curve."""
_HIDDEN = frozenset({"seq", "time", "kind", "attempt"})


@dataclass(frozen=True, kw_only=True)
class Happening:
    """One line of the history."""

    time: float | None
    """Seconds since the epoch."""
    attempt: int
    kind: str
    facts: str
    """The rest, as words."""
    bad: bool = False


def happenings(attempts: Sequence[Mapping[str, Any]]) -> list[Happening]:
    """The attempts of a run as `flow.everything` gives them, as one history, oldest first."""
    found: list[Happening] = []
    for attempt in attempts:
        number = int(attempt["attempt"])
        intent, claim, ending = (attempt.get(name) or {} for name in ("intent", "claim", "exit"))
        if intent:
            asked = "asked for by you" if intent.get("asked") else "by the controller"
            again = f"attempt {number} queued, {asked}" if number > 1 else "queued"
            facts = _facts(intent, ("host", "device", "threads"))
            found.append(Happening(time=_time(intent.get("submitted_at")), attempt=number, kind=again, facts=facts))
        if claim:
            facts = _facts(claim, ("host", "pid"))
            found.append(Happening(time=_time(claim.get("claimed_at")), attempt=number, kind="claimed", facts=facts))
        for event in attempt.get("events") or ():
            rest = {key: value for key, value in event.items() if key not in _HIDDEN}
            bad = str(event.get("kind")) in ("failed", "diverged", "oom", "checkpoint_rejected", "checkpoint_refused")
            happened = Happening(
                time=_time(event.get("time")),
                attempt=number,
                kind=str(event.get("kind")),
                facts=_facts(rest, tuple(rest)),
                bad=bad,
            )
            found.append(happened)
        if ending:
            signal = f"signal {ending['signal']}  " if ending.get("signal") else ""
            facts = f"{signal}returncode {ending.get('returncode')}  last step {attempt.get('last_step', 0):,}"
            seconds = _time(ending.get("seconds"))
            if seconds is not None:
                facts += f"  {fmt.duration(seconds)}"
            found.append(
                Happening(
                    time=_time(ending.get("ended_at")),
                    attempt=number,
                    kind=f"ended: {ending.get('reason')}",
                    facts=facts,
                    bad=bool(ending.get("returncode")) or bool(ending.get("signal")),
                )
            )
    order = sorted(range(len(found)), key=lambda place: (found[place].attempt, found[place].time or 0.0, place))
    return [found[place] for place in order]


def spikes(attempts: Sequence[Mapping[str, Any]]) -> Floats | None:
    """Steps at which a run reported spikes; None without any."""
    steps = {
        float(event["step"])
        for attempt in attempts
        for event in attempt.get("events") or ()
        if event.get("kind") in SPIKE_KINDS and isinstance(event.get("step"), int | float)
    }
    return np.array(sorted(steps)) if steps else None


def history_rows(history: Sequence[Happening]) -> list[Row]:
    """One row per happening: when, attempt, what, the rest."""
    rows: list[Row] = []
    day = ""
    for one in history:
        at = time.localtime(one.time) if one.time is not None else None
        today = time.strftime("%Y-%m-%d", at) if at else day
        if today != day:
            rows.append((Span(f" {today}", style.GREY),))
            day = today
        clock = time.strftime("%H:%M:%S", at) if at else "--:--:--"
        rows.append(
            (
                Span(f" {clock}  a{one.attempt}  ", style.GREY),
                Span(f"{one.kind}  ", style.BAD if one.bad else None),
                Span(one.facts, style.GREY),
            )
        )
    return rows or [(Span(" no events yet", style.GREY),)]


def _facts(values: Mapping[str, Any], names: Sequence[str]) -> str:
    return "  ".join(f"{name} {fmt.knob(values[name])}" for name in names if values.get(name) is not None)


def _time(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
