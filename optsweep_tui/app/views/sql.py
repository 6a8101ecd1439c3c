"""Screen 5 as data: the lines of the schema tree, the columns of a result, and a result as curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from optsweep_tui.app import format as fmt
from optsweep_tui.app.views.complete import Schema
from optsweep_tui.app.widgets.column import Column
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Curve, Floats, Row, Span, View, extent
from optsweep_tui.charts.raster import rasterise

if TYPE_CHECKING:
    import pyarrow as pa

WIDEST = 40
"""Columns of the terminal that one column of a result may take."""
SAMPLED = 200
"""Rows that decide how wide a column is."""
X_NAMES = ("x", "step", "tokens", "chinchilla", "lr", "seconds", "train_seconds", "time", "params", "n")
Y_NAMES = ("y", "value", "loss", "best_loss", "val_loss", "train_loss", "mean", "speedup")
MOST_GROUPS = 26
FEW_POINTS = 12
"""Up to so many points of a curve each is marked with the curve's letter."""


# ---------------------------------------------------------------- schema tree


@dataclass(frozen=True)
class Branch:
    """One line of the tree."""

    table: str
    column: str = ""
    """Empty: the table itself."""


def branches(schema: Schema, open_tables: set[str]) -> list[Branch]:
    """Views first, then tables; the columns of the open ones below them."""
    found: list[Branch] = []
    for table in sorted(schema.tables, key=lambda name: (not name.startswith("v_"), name)):
        found.append(Branch(table))
        if table in open_tables:
            found += [Branch(table, column) for column in schema.tables[table]]
    return found


def branch_text(branch: Branch, schema: Schema, open_tables: set[str]) -> Span:
    """How a line of the tree reads."""
    if branch.column:
        note = schema.tables[branch.table][branch.column].partition("  ")[0]
        return Span(f"    {branch.column}  {note}", style.GREY)
    mark = "▾" if branch.table in open_tables else "▸"
    return Span(f"{mark} {branch.table}", bold=branch.table in open_tables)


def schema_of(dictionary: Sequence[Mapping[str, str]], about: Mapping[str, str], functions: Sequence[str]) -> Schema:
    """From the data dictionary: each column's note is type and unit, two blanks, and the meaning."""
    tables: dict[str, dict[str, str]] = {}
    for row in dictionary:
        head = row["type"].lower() + (f", {row['unit']}" if row["unit"] else "")
        tables.setdefault(row["table"], {})[row["column"]] = f"{head}  {row['meaning']}"
    return Schema(tables=tables, about=about, functions=functions)


# ---------------------------------------------------------------- result


def text_of(value: Any) -> str:
    """A value of a result on one line."""
    if value is None or (isinstance(value, float) and value != value):
        return fmt.NOTHING
    if isinstance(value, float):
        return f"{value:.6g}"
    text = " ".join(str(value).split())
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "?" for sign in text)


def columns_of(table: pa.Table) -> list[Column]:
    """Titles and widths, from the first and last rows; numbers stand on the right."""
    import pyarrow as pa

    count = table.num_rows
    places = [*range(min(SAMPLED, count)), *range(max(SAMPLED, count - 20), count)]
    found = []
    for name, values in zip(table.column_names, table.columns, strict=True):
        widest = max((len(text_of(values[place].as_py())) for place in places), default=1)
        kind = values.type
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        found.append(Column(title=str(name), width=min(WIDEST, max(len(str(name)), widest)), right=number))
    return found


def row_of(table: pa.Table, place: int) -> list[Span]:
    """One row of a result."""
    return [Span(text_of(values[place].as_py())) for values in table.columns]


# ---------------------------------------------------------------- a result as curves


@dataclass
class Plotting:
    """Which columns of a result are drawn, and how."""

    x: str = ""
    y: str = ""
    by: str = ""
    """Column whose values are the curves; empty = one curve."""
    x_log: bool = False
    y_log: bool = False
    numbers: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    """Columns that can name curves, the empty one among them."""


def plotting_of(table: pa.Table) -> Plotting | None:
    """The likely columns; None where there are no two of numbers."""
    import pyarrow as pa

    numbers, names = [], [""]
    for name, values in zip(table.column_names, table.columns, strict=True):
        kind = values.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            numbers.append(str(name))
        if 2 <= len(values.unique()) <= MOST_GROUPS and not pa.types.is_floating(kind):
            names.append(str(name))
    if len(numbers) < 2 or table.num_rows < 2:
        return None
    x = next((name for name in X_NAMES if name in numbers), numbers[0])
    y = next((name for name in Y_NAMES if name in numbers and name != x), "")
    y = y or next(name for name in reversed(numbers) if name != x)
    texts = [
        name for name in names[1:] if pa.types.is_string(table[name].type) or pa.types.is_large_string(table[name].type)
    ]
    by = next((name for name in ("optimizer", "key", "run", *texts) if name in names), "")
    xs = _floats(table, x)
    positive = xs[np.isfinite(xs)]
    wide = len(positive) > 2 and positive.min() > 0 and positive.max() / positive.min() >= 50
    names = [name for name in names if name not in (x, y)]
    return Plotting(x=x, y=y, by=by if by in names else "", x_log=bool(wide), numbers=numbers, groups=names)


def _floats(table: pa.Table, name: str) -> Floats:
    import pyarrow as pa

    column = table[name].cast(pa.float64(), safe=False)
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)


def curves_of(table: pa.Table, plotting: Plotting) -> list[Curve]:
    """One curve per value of `by`, sorted by x; rows without both numbers are gaps or left out."""
    x, y = _floats(table, plotting.x), _floats(table, plotting.y)
    names = (
        ["" if value is None else str(value) for value in table[plotting.by].to_pylist()]
        if plotting.by
        else [""] * len(x)
    )
    distinct = list(dict.fromkeys(names))[:MOST_GROUPS]
    optimizers = plotting.by == "optimizer"
    shades = (
        style.shades(distinct)
        if optimizers
        else [style.SPARE[place % len(style.SPARE)] for place in range(len(distinct))]
    )
    where = np.array([distinct.index(name) if name in distinct else -1 for name in names])
    curves = []
    for place, name in enumerate(distinct):
        own = np.flatnonzero((where == place) & np.isfinite(x))
        own = own[np.argsort(x[own], kind="stable")]
        if not len(own):
            continue
        letter = style.RUN_LETTERS[place]
        line = Curve(x=x[own], y=y[own], colour=shades[place], letter=letter, label=name)
        single = len(np.unique(x[own])) < len(own)  # several values at one x are points, no curve
        if not single:
            curves.append(line)
        if single or len(own) <= FEW_POINTS:
            curves.append(Curve(x=x[own], y=y[own], colour=shades[place], letter=letter, label=name, points=True))
    return curves


def chart_rows(curves: Sequence[Curve], plotting: Plotting, width: int, height: int) -> list[Row]:
    """The chart, and below it which letter is which."""
    legend: list[Span] = [Span(f" {plotting.y} over {plotting.x}", bold=True)]
    legend.append(Span(f" by {plotting.by}" if plotting.by else "", style.GREY))
    for curve in {curve.letter: curve for curve in curves}.values():
        if curve.label:
            legend += [
                Span(f"  {curve.letter} ", curve.colour, bold=True),
                Span(fmt.fit(curve.label, min(14, len(curve.label)))),
            ]
    found = extent(curves)
    low_x = found.positive_x if plotting.x_log else found.x[0]
    low_y = found.positive_y if plotting.y_log else found.y[0]
    ends = (low_x, found.x[1], low_y, found.y[1])
    if found.empty or not all(math.isfinite(end) for end in ends):
        return [tuple(legend), (), (Span("  nothing to draw: no two numbers on these axes", style.GREY),)]
    view = View(
        width=width,
        height=max(4, height - 1),
        x_range=_room(low_x, found.x[1], plotting.x_log),
        y_range=_room(low_y, found.y[1], plotting.y_log),
        x_log=plotting.x_log,
        y_log=plotting.y_log,
        unit=plotting.x,
    )
    return [fmt.cut(tuple(legend), width), *rasterise(curves, view)]


def _room(low: float, high: float, log: bool) -> tuple[float, float]:
    if log:
        margin = (high / low) ** 0.04 if high > low else 2.0
        return low / margin, high * margin
    margin = 0.04 * (high - low) or abs(low) * 0.05 or 1.0
    return low - margin, high + margin
