"""Screen 4: one run in words: where it stands, its spec, its attempts, its log and events."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optsweep_tui.app import format as fmt
from optsweep_tui.app.model import RunRow
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What was read of one run's folder."""

    run_id: str
    log: tuple[str, ...] = ()
    """Last lines of the newest log."""
    events: tuple[Mapping[str, Any], ...] = ()
    """Last events of all attempts, oldest first."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """`flow.everything`: spec, record, attempts."""


def facts(row: RunRow, files: RunFiles | None, width: int, height: int, garbage: int = 0) -> list[Row]:
    """State, result, spec, attempts: name left, value right of it."""
    line = row.line
    spec: Mapping[str, Any] = files.facts.get("spec") or {} if files else {}
    record: Mapping[str, Any] = files.facts.get("record") or {} if files else {}
    colour = {"running": style.ALIVE}.get(line.state, style.BAD if style.GLYPHS.get(line.state, "?") in "✗?" else None)
    share = 100 * line.step // max(1, line.steps)
    pairs: list[tuple[str, str, str | None]] = [
        ("state", f"{style.GLYPHS.get(line.state, '?')} {line.state}, attempt {line.attempt}", colour),
        ("step", f"{line.step:,} of {line.steps:,} ({share} %)", None),
        ("loss, nats/token", fmt.loss(line.loss, 4) + ("" if line.state == "done" else " training"), None),
        ("tokens/s", fmt.short(line.tokens_per_second), None),
    ]
    if line.eta_seconds is not None:
        pairs.append(("to go", fmt.duration(line.eta_seconds), style.ALIVE))
    if line.error:
        pairs.append(("error", line.error, style.BAD))
    if garbage:
        pairs.append(("bad metric lines", f"{garbage}, skipped", style.BAD))
    pairs.append(_BLANK)
    knobs = spec.get("hyperparameters") or {}
    ordered = ["lr", *sorted(key for key in knobs if key != "lr")]
    pairs += [(key, fmt.knob(knobs[key]), None) for key in ordered if key in knobs]
    pairs.append(_BLANK)
    pairs += [(name, _spec_text(name, spec[name]), None) for name in _SPEC if name in spec]
    if record:
        pairs.append(_BLANK)
        pairs += [(name, text, None) for name, text in _record_pairs(record)]
    pairs.append(("studies", ", ".join(row.studies), None))
    rows: list[Row] = [
        (
            Span(f" {line.optimizer} ", style.colour_of(line.optimizer), bold=True),
            Span(f"{line.model} {fmt.ratio(line.chinchilla)} seed {fmt.knob(line.seed)}", bold=True),
        ),
        (Span(f" {line.run_id}", style.GREY),),
    ]
    block: list[tuple[str, str, str | None]] = []
    for pair in [*pairs, _BLANK]:
        if pair is not _BLANK:
            block.append(pair)
            continue
        wide = max((len(name) for name, _, _ in block), default=0) + 2  # each block is aligned by itself
        rows += [(Span(" " + name.ljust(wide), style.GREY), Span(text, tint)) for name, text, tint in block]
        rows.append(())
        block = []
    return [fmt.cut(row, width) for row in rows[:height]]


_BLANK = ("", "", None)
_SPEC = ("tokens", "batch_size", "seq_len", "schedule", "dtype", "dataset", "validation_tokens", "engine")


def _spec_text(name: str, value: Any) -> str:
    return f"{value:,}" if name in ("tokens", "validation_tokens") and isinstance(value, int) else fmt.knob(value)


def _record_pairs(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [("train seconds", fmt.duration(record.get("train_seconds")))]
    for name, title in (("peak_bytes", "peak memory"), ("optimizer_state_bytes", "optimizer state")):
        value = record.get(name)
        if value is not None:
            found.append((title, f"{value / 2**20:,.1f} MiB"))
    found.append(("device", str(record.get("device"))))
    return found


def event_rows(events: Sequence[Mapping[str, Any]], width: int, height: int) -> list[Row]:
    """The last events: when, attempt, kind, the rest."""
    rows: list[Row] = []
    for event in events[-height:]:
        at = event.get("time")
        clock = time.strftime("%H:%M:%S", time.localtime(at)) if isinstance(at, int | float) else "--:--:--"
        rest = "  ".join(
            f"{key} {value}" for key, value in event.items() if key not in ("seq", "time", "kind", "attempt")
        )
        spans = (
            Span(f" {clock}  a{event.get('attempt')}  ", style.GREY),
            Span(f"{event['kind']}  "),
            Span(rest, style.GREY),
        )
        rows.append(fmt.cut(spans, width))
    return rows or [(Span(" no events yet", style.GREY),)]


def log_rows(lines: Sequence[str], width: int, height: int) -> list[Row]:
    """The last lines of the log."""
    rows: list[Row] = [fmt.cut((Span(f" {line}"),), width) for line in lines[-height:]]
    return rows or [(Span(" the log is empty", style.GREY),)]
