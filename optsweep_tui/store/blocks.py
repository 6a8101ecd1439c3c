"""Arrow's reader of JSON lines, for blocks of which every line is a flat object with known keys; refuses all others."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pa_compute
import pyarrow.json as pa_json

from optsweep_tui.store.lines import NOT_FINITE_TEXT, Numbers, Steps

_TYPES = {"step": pa.int64(), "number": pa.float64(), "flag": pa.bool_(), "text": pa.string()}


@dataclass(frozen=True, kw_only=True)
class Block:
    """The numbers of a block of lines."""

    steps: Steps
    """[lines]"""
    values: Mapping[str, tuple[npt.NDArray[np.bool_] | None, Numbers]]
    """Key -> which lines have it (None: all), and its values there; a key without any value is left out."""


def read(block: bytes, lines: int, columns: Mapping[str, str]) -> Block | None:
    """The block as columns, or None where a line is not what the columns say.

    Args:
        lines: how many it has; each ends with a newline.
        columns: key -> "step", "number", "flag" or "text".
    """
    # Flat objects only, one to a line and at its start: Arrow crashes on deep nesting, and takes two objects on one
    # line for two lines.
    flat = block.count(b"{") == block.count(b"}") == lines and b"[" not in block
    if not flat or not block.startswith(b"{") or block.count(b"\n{") != lines - 1:
        return None
    table = _table(block, columns)
    if table is None or table.num_rows != lines or table.column("step").null_count:
        return None
    values: dict[str, tuple[npt.NDArray[np.bool_] | None, Numbers]] = {}
    for name, kind in columns.items():
        column = table.column(name)
        if kind == "text":
            texts = pa_compute.match_substring_regex(column, NOT_FINITE_TEXT, ignore_case=True)
            if pa_compute.any(texts).as_py():
                return None
        if kind != "number" or column.null_count == lines:
            continue
        if column.null_count:
            values[name] = column.is_valid().to_numpy(), column.drop_null().to_numpy()
        else:
            values[name] = None, column.to_numpy()
    return Block(steps=table.column("step").to_numpy().astype(np.int64, copy=False), values=values)


def _table(block: bytes, columns: Mapping[str, str]) -> pa.Table | None:
    # Written as NaN a null stays apart from an absent value.
    plain = block.replace(b": null", b": NaN").replace(b":null", b":NaN") if b"null" in block else block
    schema = pa.schema([(name, _TYPES[kind]) for name, kind in columns.items()])
    try:
        return pa_json.read_json(
            io.BytesIO(plain),
            read_options=pa_json.ReadOptions(use_threads=False, block_size=max(len(plain), 1)),
            parse_options=pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
        )
    except (pa.ArrowException, UnicodeDecodeError):
        return None
