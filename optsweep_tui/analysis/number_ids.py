"""Number ids: a readable address for every printed number, that `why` takes back: speedup/reference/muon/130m/8?unit=flops.

The path names the verb, the study, and what tells its rows apart: optimizer, model and ratio, a knob, a pair; where rows
of one study share all that, parts like engine=jax follow. Behind the question mark stand the options that were not
defaults, and the filters that decide which runs were read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

import pandas as pd

from optsweep_tui.analysis.lines import NEAR_BEST
from optsweep_tui.errors import OptsweepError, UnknownName


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What an address of one kind spells out."""

    columns: tuple[str, ...]
    """The columns that follow the study in its path."""
    short: tuple[str, ...] = ()
    """Those of rows that sum up several: where the first of the other columns is null."""
    options: tuple[str, ...] = ()
    """Options of the answer that may stand behind the question mark."""
    filters: tuple[str, ...] = ()
    """Filters, beside FILTERS, that decide what its numbers are computed from."""
    verb: str = ""
    """What prints it, where that is not the kind's name."""

    @property
    def shapes(self) -> tuple[tuple[str, ...], ...]:
        return (self.columns, self.short) if self.short else (self.columns,)

    @property
    def summed(self) -> str:
        """The column that is null in a row of the short shape; empty without one."""
        return next((name for name in self.columns if name not in self.short), "") if self.short else ""

    def shape_of(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The columns in the address of a row."""
        return self.short if self.short and _null(row.get(self.summed)) else self.columns


_CELL = ("optimizer", "model", "chinchilla")
_NOISE = ("baseline", "sigma")
_CUT = ("optimizer", "model", "chinchilla")
FILTERS = ("engine", "dataset", "where")
"""Filters that every question applies to what it reads."""
KINDS: Mapping[str, Kind] = {
    "table": Kind(columns=_CELL, options=_NOISE, filters=("optimizer", "chinchilla")),
    "fit": Kind(
        columns=("baseline", "model"),
        options=("sigma", "max_chinchilla", "shared_exponent"),
        filters=("optimizer", "chinchilla"),
    ),
    "speedup": Kind(
        columns=_CELL, options=(*_NOISE, "unit", "ci", "max_chinchilla", "shared_exponent", "draws", "rng_seed")
    ),
    "crossings": Kind(
        columns=_CELL,
        options=("target_loss", "x", *_NOISE),
        filters=("chinchilla",),
        verb="speedup --target-loss LOSS",
    ),
    "stable": Kind(columns=("optimizer", "knob"), options=("threshold",), filters=_CUT),
    "hp": Kind(columns=("optimizer", "knob"), options=("threshold",), filters=_CUT),
    "edges": Kind(columns=(*_CELL, "knob"), options=("threshold",), filters=_CUT),
    "sensitivity": Kind(
        columns=(*_CELL, "knob"),
        short=("optimizer", "knob"),
        options=(*_NOISE, "within", "threshold"),
        filters=_CUT,
        verb="sensitivity KNOB",
    ),
    "predict": Kind(columns=_CELL, options=("threshold",), verb="predict -o OPTIMIZER -m MODEL -c RATIO"),
    "fairness": Kind(columns=_CELL, options=(*_NOISE, "threshold")),
    "flips": Kind(
        columns=("over", "first", "second", "model_a", "chinchilla_a", "model_b", "chinchilla_b"), options=_NOISE
    ),
    "noise": Kind(columns=_CELL, short=("model",), options=(*_NOISE, "max_chinchilla")),
    "power": Kind(columns=_CELL, options=("target", *_NOISE, "max_chinchilla")),
    "profile": Kind(
        columns=("optimizer",),
        options=("baseline", "max_chinchilla", "tau_max", "among", "ratios"),
        filters=("model",),
    ),
    "ttest": Kind(columns=_CELL, options=("target_loss", "level"), verb="ttest --target-loss LOSS"),
    "project": Kind(columns=_CELL, options=(*_NOISE, "loss"), verb="project -m MODEL -c RATIO"),
    "stop-audit": Kind(columns=(*_CELL, "run_id"), short=_CELL, options=("rule", "threshold", "after")),
}
EXTRAS = (
    "engine", "dataset", "seq_len", "validation_set", "dataset_hash", "tokens", "tokens_a", "tokens_b",
)  # fmt: skip
"""Columns that tell rows of one path apart, in the order in which they are tried."""
DEFAULTS: Mapping[str, Any] = {
    "target_loss": None, "x": "steps", "target": 0.05, "baseline": "adamw", "unit": "tokens", "ci": "profile",
    "sigma": None, "max_chinchilla": None, "shared_exponent": False, "draws": 2000, "rng_seed": 0, "within": 0.02,
    "threshold": NEAR_BEST, "level": 0.01, "loss": "squares", "tau_max": 4.0, "among": (), "ratios": (),
    "rule": "divergence", "after": 0.0,
    "optimizer": None, "model": None, "chinchilla": None, "engine": None, "dataset": None, "where": None,
}  # fmt: skip
"""Options and filters with the value that an address leaves out."""
OF_ROW = {"crossings": ("target_loss",)}
"""Options in which the rows of one answer differ."""
HASH_DIGITS = 12
_SAFE = ":@,"
EXAMPLE = "speedup/reference/muon/130m/8"


@dataclass(frozen=True, kw_only=True)
class Address:
    """A number id, taken apart."""

    kind: str
    study: str
    names: Mapping[str, str]
    """Column -> text; "none" for the column that is null in a row of the short shape."""
    extras: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


def number_ids(kind: str, rows: Sequence[Mapping[str, Any]], **options: Any) -> list[str]:
    """One address per row, unlike all others of the same rows.

    Args:
        kind: one of KINDS.
        rows: with the columns of that answer.
        options: what the answer was computed with; defaults are left out.
    """
    paths = [_path(kind, row) for row in rows]
    sharing: dict[str, list[int]] = {}
    for place, path in enumerate(paths):
        sharing.setdefault(path, []).append(place)
    for places in sharing.values():
        open_groups = [places] if len(places) > 1 else []
        for name in EXTRAS:
            still: list[list[int]] = []
            for group in open_groups:
                by_value: dict[str, list[int]] = {}
                for place in group:
                    by_value.setdefault(_text(name, rows[place].get(name)), []).append(place)
                if len(by_value) == 1:
                    still.append(group)
                    continue
                for value, members in by_value.items():
                    for place in members:
                        paths[place] += f"/{name}={quote(value, safe=_SAFE)}"
                    still += [members] if len(members) > 1 else []
            open_groups = still
    own = OF_ROW.get(kind, ())
    return [path + _query(options | {name: row[name] for name in own}) for path, row in zip(paths, rows, strict=True)]


def addressed(frame: pd.DataFrame, kind: str, **options: Any) -> pd.DataFrame:
    """The answer with its column `number_id` filled in; for what the arguments are see `number_ids`."""
    wanted = dict.fromkeys(("study", *KINDS[kind].columns, *EXTRAS, *OF_ROW.get(kind, ())))
    names = [name for name in wanted if name in frame.columns]
    rows = [dict(zip(names, row, strict=True)) for row in frame[names].itertuples(index=False, name=None)]
    return frame.assign(number_id=number_ids(kind, rows, **options))


def with_options(address: str, **options: Any) -> str:
    """The address with further options and filters, those that are defaults left out."""
    path, _, query = address.partition("?")
    return path + _query({**dict(parse_qsl(query)), **{k: v for k, v in options.items() if v != DEFAULTS[k]}})


def _path(kind: str, row: Mapping[str, Any]) -> str:
    names = ("study", *KINDS[kind].shape_of(row))
    return "/".join([kind, *(quote(_text(name, row[name]), safe=_SAFE) for name in names)])


def _text(name: str, value: Any) -> str:
    """A part of an address: numbers short, hashes cut, nulls as "none"."""
    if _null(value):
        return "none"
    if name in ("dataset_hash", "run_id"):
        return str(value)[:HASH_DIGITS]
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if name == "seq_len" or name.startswith("tokens") else f"{value:.6g}"


def _null(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _query(options: Mapping[str, Any]) -> str:
    named = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    shown = {name: named[name] for name in DEFAULTS if name in named and named[name] != DEFAULTS[name]}
    text = "&".join(f"{name}={quote(_option(value), safe=_SAFE)}" for name, value in shown.items())
    return f"?{text}" if text else ""


def _option(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(_option(each) for each in value)
    return repr(float(value)) if isinstance(value, float) else str(value)


def parsed(text: str) -> Address:
    """Take an address apart.

    Raises:
        OptsweepError: it is none.
    """
    path, _, query = text.strip().partition("?")
    kind, *parts = path.strip("/").split("/")  # still quoted: an equals sign inside a name is none of ours
    kind = kind.lower()
    if kind not in KINDS:
        raise UnknownName("number id", kind, KINDS, where=text, hint=f"a number id looks like {EXAMPLE}")
    known = KINDS[kind]
    shapes = {len(shape) + 1: shape for shape in known.shapes}
    plain = [unquote(part) for part in itertools.takewhile(lambda part: "=" not in part, parts)]
    if len(plain) not in shapes:
        shown = " or ".join("/".join([kind, "STUDY", *map(str.upper, shape)]) for shape in shapes.values())
        raise OptsweepError(
            f'"{text}" is no number id: expected {shown}', f"optsweep {verb_of(kind)} --json lists them"
        )
    names = dict(zip(shapes[len(plain)], plain[1:], strict=True))
    if shapes[len(plain)] == known.short:
        names[known.summed] = "none"
    extras: dict[str, str] = {}
    for part in parts[len(plain) :]:
        name, sign, value = part.partition("=")
        if not sign or name not in EXTRAS:
            raise UnknownName("part", name, EXTRAS, where=text, hint="parts look like engine=torch")
        extras[name] = unquote(value)
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in (*known.options, *known.filters, *FILTERS):
            raise UnknownName("option", name, (*known.options, *known.filters, *FILTERS), where=text)
    return Address(kind=kind, study=plain[0], names=names, extras=extras, options=options)


def verb_of(kind: str) -> str:
    """The verb whose rows have addresses of a kind."""
    return KINDS[kind].verb or kind


def matching(address: Address, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows that an address names, whichever of their parts it spells out."""
    wanted = {**address.names, **address.extras}
    return [row for row in rows if all(_same(name, text, row.get(name)) for name, text in wanted.items())]


def _same(name: str, text: str, value: Any) -> bool:
    if name.startswith(("chinchilla", "tokens", "seq_len")):
        try:
            wanted = float(text)
        except ValueError:
            return text == _text(name, value)
        known = isinstance(value, int | float)
        return known and abs(wanted - value) <= (1e-4 if name.startswith("chinchilla") else 1e-9) * abs(value)
    if name == "run_id" and isinstance(value, str):
        return len(text) >= HASH_DIGITS and value.startswith(text.lower())
    return _text(name, value).lower() == text.lower()
