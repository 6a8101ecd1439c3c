"""One contract over every importer: it names itself, says what it reads, and refuses nonsense in one line."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from optsweep_tui.errors import OptsweepError
from optsweep_tui.importers.protocol import ENTRY_POINT_GROUP, IN_TREE, Request, importer_names, load_importer

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", importer_names())
def test_an_importer_names_itself_and_refuses_nonsense(name: str, tmp_path: Path) -> None:
    importer = load_importer(name.upper())
    assert importer.name == name and importer.doc and "\n" not in importer.doc
    (tmp_path / "garbage").write_bytes(b"\x00\xff\x00garbage")
    for request in (
        Request(path=tmp_path / "nowhere"),
        Request(path=tmp_path / "garbage", mapping=tmp_path / "nowhere"),
        Request(mapping=tmp_path / "garbage"),
    ):
        with pytest.raises(OptsweepError) as caught:
            importer.read(request)
        assert "\n" not in str(caught.value)


def test_the_importers_in_the_tree_are_registered_like_a_strangers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][ENTRY_POINT_GROUP] == IN_TREE
