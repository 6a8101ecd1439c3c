"""Number ids: a readable address for every printed number, that `why` takes back: speedup/reference/muon/130m/8?unit=flops.

The path names the verb, the study, the optimizer (for `fit` the baseline), the model and the ratio; where rows of one
study share all that, parts like engine=jax follow. Behind the question mark stand the options that were not defaults,
and the filters that decide which runs were read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote

from optsweep_tui.errors import OptsweepError, UnknownName

if TYPE_CHECKING:
    import pandas as pd

KINDS = {"table": ("optimizer", "model", "chinchilla"), "fit": ("baseline", "model"),
         "speedup": ("optimizer", "model", "chinchilla")}  # fmt: skip
"""Verb -> the columns that follow the study in its path."""
EXTRAS = ("engine", "dataset", "seq_len", "validation_set", "dataset_hash", "tokens")
"""Columns that tell rows of one path apart, in the order in which they are tried."""
DEFAULTS: Mapping[str, Any] = {
    "baseline": "adamw", "unit": "tokens", "ci": "profile", "sigma": None, "max_chinchilla": None, "shared_exponent": False,
    "draws": 2000, "rng_seed": 0, "optimizer": None, "chinchilla": None, "engine": None, "dataset": None, "where": None,
}  # fmt: skip
"""Options and filters with the value that an address leaves out."""
HASH_DIGITS = 12
_SAFE = ":@,"
EXAMPLE = "speedup/reference/muon/130m/8"


@dataclass(frozen=True, kw_only=True)
class Address:
    """A number id, taken apart."""

    kind: str
    study: str
    names: Mapping[str, str]
    """Column -> text: optimizer or baseline, model, chinchilla."""
    extras: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


def number_ids(kind: str, rows: Sequence[Mapping[str, Any]], **options: Any) -> list[str]:
    """One address per row, unlike all others of the same rows.

    Args:
        kind: table, fit or speedup.
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
    query = _query(options)
    return [path + query for path in paths]


def addressed(frame: pd.DataFrame, kind: str, **options: Any) -> pd.DataFrame:
    """The answer with its column `number_id` filled in; for what the arguments are see `number_ids`."""
    names = [name for name in ("study", *KINDS[kind], *EXTRAS) if name in frame.columns]
    rows = [dict(zip(names, row, strict=True)) for row in frame[names].itertuples(index=False, name=None)]
    return frame.assign(number_id=number_ids(kind, rows, **options))


def with_options(address: str, **options: Any) -> str:
    """The address with further options and filters, those that are defaults left out."""
    path, _, query = address.partition("?")
    return path + _query({**dict(parse_qsl(query)), **{k: v for k, v in options.items() if v != DEFAULTS[k]}})


def _path(kind: str, row: Mapping[str, Any]) -> str:
    names = ("study", *KINDS[kind])
    return "/".join([kind, *(quote(_text(name, row[name]), safe=_SAFE) for name in names)])


def _text(name: str, value: Any) -> str:
    """A part of an address: numbers short, hashes cut, nulls as "none"."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "none"
    if name == "dataset_hash":
        return str(value)[:HASH_DIGITS]
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if name in ("tokens", "seq_len") else f"{value:.6g}"


def _query(options: Mapping[str, Any]) -> str:
    shown = {name: options[name] for name in DEFAULTS if name in options and options[name] != DEFAULTS[name]}
    text = "&".join(f"{name}={quote(_option(value), safe=_SAFE)}" for name, value in shown.items())
    return f"?{text}" if text else ""


def _option(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(_option(each) for each in value)
    return repr(value) if isinstance(value, float) else str(value)


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
    names = ("study", *KINDS[kind])
    plain = [unquote(part) for part in parts[: len(names)] if "=" not in part]
    if len(plain) < len(names):
        shape = "/".join([kind, *(name.upper() for name in names)])
        raise OptsweepError(f'"{text}" is no number id: expected {shape}', f"optsweep {kind} --json lists them")
    extras: dict[str, str] = {}
    for part in parts[len(names) :]:
        name, sign, value = part.partition("=")
        if not sign or name not in EXTRAS:
            raise UnknownName("part", name, EXTRAS, where=text, hint="parts look like engine=torch")
        extras[name] = unquote(value)
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in DEFAULTS:
            raise UnknownName("option", name, DEFAULTS, where=text)
    study, *rest = plain
    return Address(
        kind=kind, study=study, names=dict(zip(KINDS[kind], rest, strict=True)), extras=extras, options=options
    )


def matching(address: Address, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows that an address names, whichever of their parts it spells out."""
    wanted = {**address.names, **address.extras}
    return [row for row in rows if all(_same(name, text, row.get(name)) for name, text in wanted.items())]


def _same(name: str, text: str, value: Any) -> bool:
    if name in ("chinchilla", "tokens", "seq_len"):
        try:
            wanted = float(text)
        except ValueError:
            return text == _text(name, value)
        known = isinstance(value, int | float)
        return known and abs(wanted - value) <= (1e-4 if name == "chinchilla" else 1e-9) * abs(value)
    return _text(name, value).lower() == text.lower()
