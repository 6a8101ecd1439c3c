"""Screen 4: one run in words: where it stands, its spec, how it ended, where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optsweep_tui.app import format as fmt
from optsweep_tui.app.model import RunRow
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span
from optsweep_tui.live.logs import Log


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What was read of one run's folder."""

    run_id: str
    log: Log = field(default_factory=lambda: Log(attempt=0))
    """The newest log."""
    flops_per_token: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """`flow.everything`: spec, record, attempts, origin."""

    @property
    def attempts(self) -> Sequence[Mapping[str, Any]]:
        """Of the run, oldest first."""
        return self.facts.get("attempts") or ()


def facts(row: RunRow, files: RunFiles | None, width: int, height: int, garbage: int = 0, skip: int = 0) -> list[Row]:
    """State, result, spec, record: name left, value right of it.

    Args:
        row: the run.
        files: what was read of its folder.
        width: columns.
        height: rows.
        garbage: metric lines that were none.
        skip: rows that are scrolled away.
    """
    line = row.line
    spec: Mapping[str, Any] = files.facts.get("spec") or {} if files else {}
    record: Mapping[str, Any] = files.facts.get("record") or {} if files else {}
    colour = {"running": style.ALIVE}.get(line.state, style.BAD if style.GLYPHS.get(line.state, "?") in "✗?" else None)
    share = 100 * line.step // max(1, line.steps)
    steps = f"{line.step:,} of {line.steps:,} ({share} %)" if line.steps else fmt.NOTHING
    if line.steps and not line.step and not line.host:
        steps = f"{line.steps:,} planned"  # published without its curve
    attempt = f", attempt {line.attempt}" if line.host else ", imported"
    pairs: list[tuple[str, str, str | None]] = [
        ("state", f"{style.GLYPHS.get(line.state, '?')} {line.state}{attempt}", colour),
        ("step" if line.step or line.host else "steps", steps, None),
        ("loss, nats", fmt.loss(line.loss, 4) + ("" if line.state == "done" else " training"), None),
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
    pairs.append(("seed", fmt.knob(line.seed), None))
    ordered = ["lr", *sorted(key for key in knobs if key != "lr")]
    pairs += [(key, fmt.knob(knobs[key]), None) for key in ordered if key in knobs]
    pairs.append(_BLANK)
    pairs += [(name, _spec_text(name, spec[name]), None) for name in _SPEC if name in spec]
    if record:
        pairs.append(_BLANK)
        pairs += [(name, text, None) for name, text in _record_pairs(record)]
    origin: Mapping[str, Any] = files.facts.get("origin") or {} if files else {}
    if origin:
        pairs.append(_BLANK)
        pairs.append(("imported", f"{origin.get('importer')}: {origin.get('entry')}", None))
        pairs += [(str(key), str(value), None) for key, value in (origin.get("source") or {}).items()]
    if files and len(files.attempts) > 1:
        pairs.append(("attempts", str(len(files.attempts)), None))
    pairs.append(("studies", ", ".join(row.studies), None))
    rows: list[Row] = [
        (
            Span(f" {line.optimizer} ", style.colour_of(line.optimizer), bold=True),
            Span(f"{line.model} {fmt.ratio(line.chinchilla)}", bold=True),
        ),
        (Span(f" {line.run_id}", style.GREY),),
    ]
    block: list[tuple[str, str, str | None]] = []
    for pair in [*pairs, _BLANK]:
        if pair is not _BLANK:
            block.append(pair)
            continue
        wide = max((len(name) for name, _, _ in block), default=0) + 2  # each block is aligned by itself
        wide = min(wide, max(14, width * 5 // 8))
        rows += [(Span(f" {fmt.fit(name, wide - 2)}  ", style.GREY), Span(text, tint)) for name, text, tint in block]
        rows.append(())
        block = []
    while rows and not rows[-1]:
        rows.pop()
    head, rest = rows[:2], rows[2:]
    room = max(0, height - 2)
    skip = max(0, min(skip, len(rest) - room))
    shown = rest[skip : skip + room]
    if skip + room < len(rest) and shown:
        shown[-1] = (Span(f" {len(rest) - skip - room + 1} more below: J", style.GREY),)
    return [fmt.cut(row, width) for row in [*head, *shown]]


_BLANK = ("", "", None)
_SPEC = (
    "tokens", "batch_size", "seq_len", "schedule", "dtype", "dataset", "dataset_hash", "validation_set",
    "validation_tokens", "engine", "accumulation", "params", "total_params", "numerics_version",
)  # fmt: skip


def _spec_text(name: str, value: Any) -> str:
    if name == "dataset_hash" and isinstance(value, str):
        return value[:12]
    counts = ("tokens", "validation_tokens", "params", "total_params")
    return f"{value:,}" if name in counts and isinstance(value, int) else fmt.knob(value)


def _record_pairs(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [("train seconds", fmt.duration(record.get("train_seconds")))]
    for name, title in (("peak_bytes", "peak memory"), ("optimizer_state_bytes", "optimizer state")):
        value = record.get(name)
        if value is not None:
            found.append((title, f"{value / 2**20:,.1f} MiB"))
    found.append(("device", str(record.get("device"))))
    if record.get("mesh"):
        found.append(("mesh", str(record["mesh"])))
    found += [(f"{title} loss", fmt.loss(record.get(name), 4)) for name, title in _LOSSES if record.get(name)]
    digest = record.get("parameters_sha256")
    if digest:
        found.append(("parameters", str(digest)[:12]))
    versions = record.get("versions") or {}
    return found + [(str(name), str(value)) for name, value in versions.items()]


_LOSSES = (("train_loss", "train"), ("val_loss", "validation"))
