"""What one process of a run says of its states runs nothing in another, and is believed only where it has its form."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import optsweep_engines
from optsweep_engines.torch_engine import kinds

ENGINES = Path(optsweep_engines.__file__).parent


def test_kinds_come_back_as_they_were_written() -> None:
    text = b'{"q": {"momentum": [[2, 3], "float32"], "step": [[], "int64"]}, "head": {}}'
    found = kinds.parsed(text)
    assert found == {"q": {"momentum": ((2, 3), torch.float32), "step": ((), torch.int64)}, "head": {}}


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\x80\x04\x95.", b"[]", b'{"q": 3}', b'{"q": {"m": 3}}', b'{"q": {"m": [[2], "float33"]}}',
        b'{"q": {"m": [[-1], "float32"]}}', b'{"q": {"m": [[true], "float32"]}}', b'{"q": {"m": [[1e999], "float32"]}}',
        b'{"q": {"m": ["2", "float32"]}}', b'{"q": {"m": [[2], ["float32"]]}}', b'{"q": {"m": [[2], "float32", 1]}}',
        b'{"q": {"m": [[99999999999999999], "float32"]}}', b"[" * 100_000,
        json.dumps({"q": {"m": [[1] * 9, "float32"]}}).encode(),
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="a process of this run says something else"):
        kinds.parsed(text)


def test_no_engine_takes_pickled_objects_from_another_process() -> None:
    words = re.compile(r"(gather|broadcast|scatter|send|recv)_object|\bimport pickle|weights_only=False|\bcloudpickle")
    found = [path.name for path in ENGINES.rglob("*.py") if words.search(path.read_text())]
    assert found == []
