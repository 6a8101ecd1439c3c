"""Imported runs in the terminal app's own data: the feed reads them once, the matrix shows each cell's published minimum."""

from __future__ import annotations

from pathlib import Path

from optsweep_tui import imports, published, settings
from optsweep_tui.app.feed import Feed
from optsweep_tui.app.model import Snapshot, counts, matrix
from optsweep_tui.app.runfilter import compiled
from optsweep_tui.app.views import runs as views


def test_the_app_shows_the_published_study(tmp_path: Path) -> None:
    place = settings.workspace(tmp_path)
    imports.import_results(place, "reference")
    snapshots: list[Snapshot] = []
    troubles: list[str] = []
    Feed(place, snapshots.append, troubles.append).look()
    seen = snapshots[-1]
    assert troubles == [] and len(seen.rows) == 1887 and not seen.loading
    assert {study.name: study.baseline for study in seen.studies} == {"reference": "adamw", "speedrun-2024-10": "adam"}
    assert counts(seen.rows) == {"done": 1601, "other": 286}
    blocks = matrix(seen.study("reference"))
    assert [block.title for block in blocks] == ["130m", "300m", "520m", "1.2b"]
    shown = {
        (optimizer, block.title, ratio): view.loss
        for block in blocks
        for (optimizer, ratio), view in block.cells.items()
    }
    assert shown == {key: cell.min_loss for key, cell in published.reference().items()}
    columns = views.columns(200, several_models=True, several_seeds=True)
    for row in seen.rows:
        assert len(views.cells(row, columns, marked=False)) == len(columns)
        assert views.preview(row, None, 100)
    assert sum(map(compiled("state:nan"), seen.rows)) == 5
