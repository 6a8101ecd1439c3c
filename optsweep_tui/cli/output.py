"""How verbs print: one JSON document, or aligned tables; data on stdout, talk on stderr."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


GUTTER = 2
"""Blanks between two columns of a table."""
LONG_TABLE = 1000
"""Rows beyond which a table is no longer fitted to the terminal."""
LEAST_REMARKS = 16
"""Cells that the remarks of a table need to be readable when they run over several lines."""


def clean(item: Any) -> Any:
    """Plain JSON types; NaN and infinities are null."""
    kind = type(item)
    if kind is str or kind is int or kind is bool or item is None:
        return item
    if kind is float:
        return item if math.isfinite(item) else None
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {entry.name: clean(getattr(item, entry.name)) for entry in dataclasses.fields(item)}
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
    if type(item).__name__ == "NAType" or item != item:  # pandas' NA, which has no truth value, and NaT
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


def write_text(target: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        OptsweepError: it cannot be written.
    """
    import os
    import tempfile

    from optsweep_tui.errors import OptsweepError

    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise OptsweepError(f"{target} cannot be written: {error.strerror}", "name another file") from None


def say(text: str = "") -> None:
    """Talk: stderr."""
    print(text, file=sys.stderr, flush=True)


def say_waiting(text: str) -> None:
    """A word to somebody who looks on: stderr, where it is a terminal."""
    if sys.stderr.isatty():
        say(text)


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


def budget(row: Mapping[str, Any]) -> str:
    """A cell's budget: its Chinchilla ratio, its tokens where the model's size is not known, a dot where neither is."""
    ratio, tokens = row["chinchilla"], row.get("tokens")
    if ratio is None or not math.isfinite(ratio):
        return f"{count_text(tokens)} tok" if tokens and math.isfinite(tokens) else "·"
    return number(ratio, 6)


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


def _print_long(columns: Sequence[str], text: Sequence[Sequence[str]], left: Sequence[int]) -> None:
    """The same table, a thousand times as fast: the terminal wraps what is too wide."""
    widths = [max(len(column), *(len(row[place]) for row in text)) for place, column in enumerate(columns)]
    form = (" " * GUTTER).join(
        f"{{:{'<' if place in left else '>'}{max(1, width)}}}" for place, width in enumerate(widths)
    )
    lines = [form.format(*row).rstrip() for row in [columns, *text]]
    print("\n".join(lines))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, left: Sequence[int] = (0,)) -> None:
    """An aligned table; columns are right-aligned but those whose index is in `left`.

    On a terminal too narrow for it, words that every row shares are said once above, and remarks in the last column run
    over several lines, or get lines of their own. No value is ever cut short: beyond that the terminal wraps.
    """
    text = [["" if value is None else str(value) for value in row] for row in rows]
    if len(text) > LONG_TABLE:
        _print_long(columns, text, left)
        return
    from rich.cells import cell_len
    from rich.table import Table

    shown = list(range(len(columns)))
    screen = console()

    def widths() -> dict[int, int]:
        return {place: max(cell_len(line[place]) for line in [list(columns), *text]) for place in shown}

    def natural() -> int:
        return sum(widths().values()) + GUTTER * (len(shown) - 1)

    remarks = len(columns) - 1 if len(columns) - 1 in left else None
    shared = []
    for place in list(left) if len(text) > 1 else []:
        values = {row[place] for row in text}
        if natural() > screen.width and len(values) == 1 and place not in (0, remarks):
            shared.append(f"{columns[place]} {values.pop()}")
            shown.remove(place)
    if shared:
        print(f"all: {'   '.join(shared)}")
    below = (
        remarks is not None
        and natural() - widths()[remarks] + LEAST_REMARKS > screen.width
        and natural() > screen.width
    )
    if below and remarks is not None:
        shown.remove(remarks)
    if remarks is None or below:
        screen.width = max(screen.width, natural())
    table = Table(box=None, pad_edge=False, padding=(0, GUTTER, 0, 0), header_style="bold")
    for place in shown:
        justify: Any = "left" if place in left else "right"
        table.add_column(columns[place], justify=justify, no_wrap=place != remarks, overflow="fold")
    for row in text:
        table.add_row(*(row[place] for place in shown))
    with screen.capture() as drawn:
        screen.print(table)
    head, *lines = [line.rstrip() for line in drawn.get().splitlines()]
    if not below or remarks is None:
        print("\n".join([head, *lines]))
        return
    print(head)
    for line, row in zip(lines, text, strict=True):
        print(line)
        if row[remarks]:
            print(f"    {row[remarks]}")
