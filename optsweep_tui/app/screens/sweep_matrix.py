"""The matrix of screen 1: what it shows of a study or of an open grid, its cursor, its selection and its filter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from textual.widgets import Input

from optsweep_tui.app import runfilter
from optsweep_tui.app.model import Block, RunRow, matrix, new_row
from optsweep_tui.app.runfilter import FilterError
from optsweep_tui.app.screens.base import BaseScreen
from optsweep_tui.app.views import sweep
from optsweep_tui.app.views.sweep import Cursor, Spot
from optsweep_tui.app.widgets.filterline import FilterLine
from optsweep_tui.core import RunSpec
from optsweep_tui.preview import Draft


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A grid, or cells of one's own, that the matrix shows in the place of a study."""

    name: str
    """The study that its runs will go to."""
    draft: Draft
    """All of its cells."""
    specs: tuple[RunSpec, ...] = ()
    """Every run that it plans, in plan order."""


class SweepMatrix(BaseScreen):
    """The cells, which of them are selected, and the runs in them."""

    def __init__(self) -> None:
        super().__init__()
        self.cursor = Cursor()
        self.selected: set[Spot] = set()
        self.opened: Opened | None = None
        self.edits = Draft()
        """Engine, seeds, changes and host of the next launch; its cells are the selection."""
        self.filter_text = ""
        self.wrong: FilterError | None = None
        self._anchor: Cursor | None = None
        self._blocks: tuple[tuple[object, ...], tuple[object, ...], list[Block]] | None = None
        """What the matrix was made of (compared by identity), its study and filter, and the matrix."""

    def blocks(self) -> list[Block]:
        """The matrix of the grid that is open, else of the study, as far as the filter leaves it."""
        bench = self.bench
        seen = (bench.snapshot, self.opened)
        key = (bench.study, self.filter_text)
        kept = self._blocks
        if kept is None or kept[1] != key or any(old is not new for old, new in zip(kept[0], seen, strict=True)):
            blocks = bench.blocks() if self.opened is None else matrix(self._planned_rows(self.opened))
            kept = self._blocks = (seen, key, self._filtered(blocks))
        return kept[2]

    def _planned_rows(self, opened: Opened) -> list[RunRow]:
        """The runs of an open grid: as they are where they exist, new where they do not."""
        known = self.bench.snapshot.by_id
        return [known.get(spec.run_id) or new_row(spec, opened.name) for spec in opened.specs]

    def _filtered(self, blocks: list[Block]) -> list[Block]:
        self.wrong = None
        if not self.filter_text.strip():
            return blocks
        try:
            knobs = {name: None for block in blocks for cell in block.cells.values() for name in cell.rows[0].knobs}
            return sweep.filtered(blocks, runfilter.compiled(self.filter_text, knobs))
        except FilterError as error:
            self.wrong = error
            return blocks

    # ------------------------------------------------------------ selection

    def _here(self) -> Spot | None:
        """The cell under the cursor; what the filter left may be smaller than where the cursor was."""
        self.cursor = sweep.clamped(self.blocks(), self.cursor)
        return sweep.spot_at(self.blocks(), self.cursor)

    def _picked(self) -> list[Spot]:
        """The selected cells that the matrix still has."""
        return [
            (block.title, optimizer, ratio)
            for block in self.blocks()
            for optimizer in block.optimizers
            for ratio in block.ratios
            if (block.title, optimizer, ratio) in self.selected
        ]

    def _rows_of(self, chosen: Iterable[Spot]) -> list[RunRow]:
        wanted = set(chosen)
        return [
            row
            for block in self.blocks()
            for (optimizer, ratio), cell in block.cells.items()
            if (block.title, optimizer, ratio) in wanted
            for row in cell.rows
        ]

    def _chosen(self) -> list[Spot]:
        """The selection, else the cell under the cursor."""
        here = self._here()
        return self._picked() or ([here] if here is not None else [])

    def action_move(self, lines: int, columns: int) -> None:
        """Go to a neighbouring cell."""
        self.cursor = sweep.moved(self.blocks(), self.cursor, lines, columns)
        self._anchor = None
        self.refresh_all()

    def action_extend(self, lines: int, columns: int) -> None:
        """Select the rectangle from where this began to the neighbouring cell."""
        blocks = self.blocks()
        here = sweep.clamped(blocks, self.cursor)
        self._anchor = self._anchor or here
        self.cursor = sweep.moved(blocks, here, lines, columns)
        self.selected |= sweep.between(blocks, self._anchor, self.cursor)
        self.refresh_all()

    def action_select(self) -> None:
        """Select the cell, or not any more."""
        here = self._here()
        if here is not None:
            self.selected ^= {here}
            self._anchor = None
            self.refresh_all()

    def _toggle(self, wanted: set[Spot]) -> None:
        """Select all of them, or none when all are selected."""
        if wanted <= self.selected:
            self.selected -= wanted
        else:
            self.selected |= wanted
        self.refresh_all()

    def action_select_row(self) -> None:
        """All ratios of the optimizer that have runs."""
        here = self._here()
        if here is not None:
            self._toggle({spot for spot in sweep.spots(self.blocks()) if spot[:2] == here[:2]})

    def action_select_column(self) -> None:
        """All optimizers of the ratio that have runs."""
        here = self._here()
        if here is not None:
            self._toggle({spot for spot in sweep.spots(self.blocks()) if (spot[0], spot[2]) == (here[0], here[2])})

    def action_select_all(self) -> None:
        """Every cell that is shown, or none."""
        self._toggle(set(sweep.spots(self.blocks())))

    def action_out(self) -> None:
        """One layer out: the selection, the filter, the open grid."""
        if self.selected:
            self.selected.clear()
        elif self.filter_text:
            self.action_filter_clear()
        elif self.edits.changed:
            self.edits = Draft()
        elif self.opened is not None:
            self.opened = None
        self._anchor = None
        self.refresh_all()

    # ------------------------------------------------------------ filter

    def on_input_changed(self, message: Input.Changed) -> None:
        """Filter while typing."""
        self.filter_text = message.value
        self.refresh_all()

    def action_filter(self) -> None:
        """Type a filter."""
        self.query_one("#filter", FilterLine).take_keys()

    def action_filter_done(self) -> None:
        """Back to the matrix, the filter stays."""
        self.filter_text = self.query_one("#filter", FilterLine).value
        self.set_focus(None)
        self.refresh_all()

    def action_filter_clear(self) -> None:
        """Back to all cells."""
        self.filter_text = ""
        self.query_one("#filter", FilterLine).value = ""
        self.action_filter_done()
