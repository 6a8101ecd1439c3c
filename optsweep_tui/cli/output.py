"""How verbs print: one JSON document, or aligned tables; data on stdout, talk on stderr."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


def clean(item: Any) -> Any:
    """Plain JSON types; NaN and infinities are null."""
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return clean({entry.name: getattr(item, entry.name) for entry in dataclasses.fields(item)})
    if isinstance(item, Mapping):
        return {str(key): clean(value) for key, value in item.items()}
    if isinstance(item, list | tuple | set | frozenset):
        return [clean(value) for value in item]
    if item is None or isinstance(item, str | bool | int):
        return item
    if isinstance(item, float):
        return item if math.isfinite(item) else None
    if hasattr(item, "tolist"):  # numpy scalars and arrays
        return clean(item.tolist())
    if item != item:  # pandas' NA and NaT
        return None
    return str(item)


def emit_json(data: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(clean(data), allow_nan=False))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A dataframe as a list of plain objects."""
    columns = [str(column) for column in frame.columns]
    return [
        dict(zip(columns, (_plain(value) for value in row), strict=True))
        for row in frame.itertuples(index=False, name=None)
    ]


def _plain(value: Any) -> Any:
    try:
        return None if value is None or bool(value != value) else clean(value)
    except (TypeError, ValueError):  # a list or an array has no truth value; pandas' NA has none either
        return clean(value) if isinstance(value, list | tuple | Mapping) or hasattr(value, "tolist") else None


def say(text: str = "") -> None:
    """Talk: stderr."""
    print(text, file=sys.stderr, flush=True)


def console(*, stderr: bool = False) -> Console:
    """A Rich console that does not wrap tables when the output is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 500
    return Console(file=stream, width=width, highlight=False, soft_wrap=False, markup=False)


def number(value: Any, digits: int = 4) -> str:
    """A float to so many significant digits; a dot for nothing."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "·"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.{digits}g}"


def loss_text(value: float | None) -> str:
    """A loss to three decimals."""
    return "·" if value is None or not math.isfinite(value) else f"{value:.3f}"


def runs_text(count: int) -> str:
    """ "1 run", "39 runs"."""
    return f"{count:,} run" if count == 1 else f"{count:,} runs"


def count_text(value: float | None) -> str:
    """49000 as 49.0k, for tokens, parameters and FLOPs."""
    if value is None or not math.isfinite(value):
        return "·"
    for unit, size in (("Z", 1e21), ("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def duration_text(seconds: float | None) -> str:
    """Seconds as m:ss or h:mm:ss."""
    if seconds is None or not math.isfinite(seconds):
        return "·"
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, left: Sequence[int] = (0,)) -> None:
    """An aligned table; columns are right-aligned but those whose index is in `left`."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        last = index == len(columns) - 1 and index in left  # remarks may run over several lines, numbers never
        justify = "left" if index in left else "right"
        table.add_column(column, justify=justify, no_wrap=not last, overflow="fold" if last else "ellipsis")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    console().print(table)
