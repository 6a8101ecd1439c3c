"""The lines below the matrix of screen 1: the cell under the cursor, what the analysis says of it, the next launch, the marks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from optsweep_tui.app import format as fmt
from optsweep_tui.app.model import Block, CellView, RunRow
from optsweep_tui.app.verdicts import CellVerdict, Verdicts
from optsweep_tui.app.views.sweep import AHEAD, BETTER, Cursor, cell_at, verdict_of
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span


def cell_lines(
    blocks: Sequence[Block], cursor: Cursor, baseline: str, width: int, verdicts: Verdicts | None = None
) -> list[Row]:
    """Two lines on the selected cell: its runs by lr, and what is best."""
    spot = cell_at(blocks, cursor)
    if spot is None:
        return [(), ()]
    _, optimizer, ratio, cell = spot
    name = [Span(f" {optimizer} ", style.colour_of(optimizer), bold=True), Span(f"{fmt.ratio(ratio)}  ", bold=True)]
    if cell is None:
        return [(*name, Span("no runs planned here", style.GREY)), ()]
    count = len(cell.rows)
    runs: list[Span] = [*name, Span(f"{count} run{'s' if count != 1 else ''}: lr ", style.GREY)]
    by_lr: dict[float | None, list[RunRow]] = {}
    for row in cell.rows:
        by_lr.setdefault(row.line.lr, []).append(row)
    for rows in by_lr.values():
        runs += _runs(rows, cell.best)
    verdict = _verdict(ratio, cell, baseline, verdicts or Verdicts())
    return [fmt.shortened(tuple(runs), width), fmt.shortened(verdict, width)]


def _runs(rows: Sequence[RunRow], best: RunRow | None) -> list[Span]:
    """The runs of one lr: its best one, and how many there are."""
    row = min(rows, key=lambda row: (row.line.state != "done", row.line.loss is None, row.line.loss or 0.0))
    if best in rows:
        row = best or row
    line = row.line
    glyph = style.GLYPHS.get(line.state, "·" if line.state == "new" else "?")
    colour = {"running": style.ALIVE}.get(line.state, style.BAD if glyph in "✗?" else None)
    value = f" {fmt.loss(line.loss)}" if line.loss is not None else ""
    live = f" {100 * line.step // max(1, line.steps)}%" if line.state == "running" else ""
    several = f" x{len(rows)}" if len(rows) > 1 else ""
    return [
        Span(f"{fmt.knob(line.lr)} ", style.GREY),
        Span(f"{glyph}{value}{live}", colour, bold=row is best),
        Span(f"{several}   ", style.GREY),
    ]


def _verdict(ratio: float, cell: CellView, baseline: str, verdicts: Verdicts) -> Row:
    best = cell.best
    if best is None:
        if cell.state == "new":
            return (Span(" not launched yet: enter shows what it would cost", style.GREY),)
        states = sorted({row.line.state for row in cell.rows})
        return (Span(f" no loss yet: {', '.join(states)}", style.GREY),)
    found = verdict_of(cell, ratio, verdicts)
    if found is not None and not math.isnan(found.loss):
        fresh = not found.selected
        kind = f"mean of {found.seeds} fresh seeds" if fresh else f"smallest of {cell.tried}"
        loss = found.loss
    else:
        kind, loss = "best training loss so far", cell.loss or math.nan
        if cell.final:
            kind = f"mean of {cell.seeds} fresh seeds" if cell.fresh else f"smallest of {cell.tried}"
    spans = [Span(f" {fmt.loss(loss, 4)}", bold=True), *_gap(found, cell, baseline, verdicts)]
    edge = ", at the edge of the lr's tried" if cell.lr_edge else ""
    spans.append(Span(f"   {kind}, lr {fmt.knob(best.line.lr)}{edge}", style.GREY))
    return tuple(spans)


def _gap(found: CellVerdict | None, cell: CellView, baseline: str, verdicts: Verdicts) -> Row:
    """Gap to the baseline with its interval and ties, as `optsweep table` has them; else why there is none."""
    if not cell.final:
        return ()
    if found is None:
        since = "runs have ended since the last collect: x collects"
        why = verdicts.why or (since if verdicts.cells else "not collected yet: x collects")
        return (Span(f"   no gap: {why}", style.GREY),)
    spans: list[Span] = []
    if cell.rows[0].line.optimizer != baseline:
        if math.isnan(found.gap):
            spans.append(Span(f"   no {baseline} loss at this budget", style.GREY))
        else:
            interval = "no sigma" if math.isnan(found.low) else f"{found.low:+.3f} .. {found.high:+.3f}"
            spans += [Span(f"   gap {found.gap:+.3f}", bold=True), Span(f" ({interval}) to {baseline}", style.GREY)]
    if found.tied_with:
        spans.append(Span(f"   = {', '.join(found.tied_with)}"))
    elif found.rank == 1 and not found.known_noise:
        spans.append(Span("   smallest; no sigma, so no winner", style.GREY))
    return tuple(spans)


def selection_line(
    count: int, totals: Mapping[str, object] | None, said: str, wrong: bool, width: int, edits: str = ""
) -> Row:
    """What enter would launch: "4 cells selected   12 runs to train   3.1M tokens   ~0:48 on 2 slots"; or why nothing.

    Args:
        count: selected cells; 0 = the one under the cursor.
        totals: of the plan; None while it is worked out.
        said: in the place of the totals.
        wrong: it is a mistake.
        width: columns.
        edits: what differs from the grid.
    """
    many = f"{count} cell{'s' if count != 1 else ''}"
    changed = f"   {edits}" if edits else ""
    for head in (f" {many} selected" if count else " this cell", f" {many}" if count else " this cell"):
        room = width - len(head) - len(changed) - 3
        text = said or totals_text(totals or {}, room)
        if len(text) <= room:
            break
    parts = (
        Span(head, bold=bool(count)),
        Span(changed, style.ALIVE),
        Span("   " + text, style.BAD if wrong else style.GREY),
    )
    return fmt.shortened(tuple(part for part in parts if part.text), width)


def totals_text(totals: Mapping[str, object], width: int) -> str:
    """Runs, tokens, time, memory and FLOPs of a plan; in fewer words where there is less room."""
    if not totals:
        return "..."
    total, left, fresh = _int(totals["runs"]), _int(totals["left"]), _int(totals["fresh_seed_runs"])
    if not left:
        return f"nothing to train: {'its run is' if total == 1 else f'all {total:,} runs are'} over"
    seconds = totals["seconds_estimate"]
    known = isinstance(seconds, int | float)
    time = f"~{fmt.duration(seconds)}" if isinstance(seconds, int | float) else "time unknown"
    tokens, flops = fmt.short(_float(totals["tokens"])), fmt.short(_float(totals["flops"]))
    memory = gib(_float(totals["bytes_estimate"]))
    runs = f"{left:,} run{'s' if left != 1 else ''}"
    of = f" of {total:,}" if left < total else ""
    long = (
        f"{runs} to train{of}" + (f" + {fresh} fresh seeds" if fresh else ""),
        f"{tokens} tokens",
        f"{time} on {totals['slots']} slots" if known else "no rate measured here",
        f"{memory} GiB",
        f"{flops} FLOPs",
    )
    some = (*long[:2], time, *long[3:])
    short = (runs + (f" + {fresh} seeds" if fresh else ""), f"{tokens} tok", time, *long[3:])
    texts = ["   ".join(long), "  ".join(long), "  ".join(some), "   ".join(short), "  ".join(short)]
    return next((text for text in texts if len(text) <= width), texts[-1])


def gib(count: float) -> str:
    """Bytes as GiB: 0.01, 0.31, 3.6, 3,629."""
    value = count / 2**30
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _int(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def legend(width: int, gaps: bool = False, baseline: str = "adamw") -> list[Row]:
    """What the marks mean."""
    marks = (
        ("●", "done", None),
        ("◐", "running", style.ALIVE),
        ("○", "waiting", style.GREY),
        ("✗", "failed", style.BAD),
        ("~", "no loss", style.GREY),
        ("*", "unfinished", style.GREY),
        ("e", "lr at edge", style.GREY),
    )
    spans: list[Span] = [Span(" ")]
    for mark, meaning, colour in marks:
        spans += [Span(mark, colour, bold=True), Span(f" {meaning}  ", style.GREY)]
    what = f"gap to {baseline}" if gaps else "final loss"
    line = [
        Span(f" {what}, nats{'/token' if width >= 100 else ''}: bold smallest, = tied with it, ", style.GREY),
        Span(AHEAD, BETTER, bold=True),
        Span(
            f" better than {baseline} beyond noise   + marked" if width >= 100 else f" beats {baseline}  + marked",
            style.GREY,
        ),
    ]
    return [fmt.cut(tuple(line), width), fmt.cut(tuple(spans), width)]
