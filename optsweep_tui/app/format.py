"""Numbers as the screens write them: units in headers, the same decimals down a column, a dot for nothing."""

from __future__ import annotations

import math

from optsweep_tui.charts.chart import Row, Span

NOTHING = "·"


def loss(value: float | None, decimals: int = 3) -> str:
    """A loss in nats per token."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.{decimals}f}"


def knob(value: object) -> str:
    """A hyperparameter: short and exact enough to type."""
    if value is None:
        return NOTHING
    return f"{value:g}" if isinstance(value, float) else str(value)


def ratio(value: float) -> str:
    """A Chinchilla ratio: 1/4 for negative powers of two, else up to three digits."""
    if 0 < value < 1:
        inverse = 1 / value
        if abs(inverse - round(inverse)) < 2e-3 * inverse and round(inverse).bit_count() == 1:
            return f"1/{round(inverse)}"
    return f"{value:.3g}"


def ratio_key(value: float) -> float:
    """Ratios that round to the same three digits are one column."""
    return float(f"{value:.3g}")


def short(value: float | None) -> str:
    """Three digits and k, M, G, T, P, E."""
    if value is None or not math.isfinite(value):
        return NOTHING
    for scale, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale * 0.9995:
            number = value / scale
            return f"{number:.{2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0}f}{prefix}"
    return f"{value:.3g}" if value != int(value) else f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """0:07, 1:02:33, 3d 04h."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return NOTHING
    whole = round(seconds)
    if whole >= 2 * 86400:
        return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"
    if whole >= 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"


def fit(text: str, width: int, right: bool = False) -> str:
    """Exactly `width` columns: padded, or cut with an ellipsis."""
    if width <= 0:
        return ""
    if len(text) > width:
        return text[: width - 1] + "…"
    return text.rjust(width) if right else text.ljust(width)


def width_of(row: Row) -> int:
    """Columns of a row; the screens use characters of width one only."""
    return sum(len(span.text) for span in row)


def cut(row: Row, width: int) -> Row:
    """At most the first `width` columns."""
    kept: list[Span] = []
    for span in row:
        if width <= 0:
            break
        kept.append(span if len(span.text) <= width else span._replace(text=span.text[:width]))
        width -= len(span.text)
    return tuple(kept)


def shortened(row: Row, width: int) -> Row:
    """At most `width` columns, with an ellipsis where there was more."""
    if width_of(row) <= width:
        return row
    return (*cut(row, width - 1), Span("…")) if width > 0 else ()


def both_ends(left: Row, right: Row, width: int) -> Row:
    """Left text and right text on one line; the right one gives way where there is no room for both."""
    space = width - width_of(left) - width_of(right)
    if space < 1:
        return cut(left, width)
    return (*left, Span(" " * space), *right)


def wrapped(text: str, width: int) -> list[str]:
    """The words of a text on lines of at most `width` columns; a word that is longer is cut in pieces."""
    lines: list[str] = []
    for word in text.split():
        pieces = [word[start : start + max(1, width)] for start in range(0, len(word), max(1, width))]
        for piece in pieces:
            if lines and len(lines[-1]) + 1 + len(piece) <= width:
                lines[-1] += f" {piece}"
            else:
                lines.append(piece)
    return lines
