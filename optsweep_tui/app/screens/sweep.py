"""Screen 1, Sweep: the matrix of a study or of a grid that is not launched yet; pick cells, change, preview, launch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.events import Click

from optsweep_tui import flow, preview
from optsweep_tui.app import format as fmt
from optsweep_tui.app.editing import Editing, EditingActions
from optsweep_tui.app.model import RunRow
from optsweep_tui.app.palette import Entry as Command
from optsweep_tui.app.screens.sweep_draw import SweepDrawing
from optsweep_tui.app.views import sweep
from optsweep_tui.app.views.sweep import Cursor
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.preview import Draft


class SweepScreen(EditingActions, SweepDrawing):
    """Optimizer rows x ratio columns, one block per model."""

    TAB = "Sweep"
    AUTO_FOCUS = ""
    KEPT = ("gaps",)
    DEFAULT_CSS = """
    SweepScreen #wrong { height: 1; display: none; }
    SweepScreen #wrong.open { display: block; }
    SweepScreen #cell { height: 6; dock: bottom; }
    SweepScreen #curves { display: none; }
    SweepScreen.tall #curves { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(0,-1)", "left", show=False, id="sweep.left"),
        Binding("right,l", "move(0,1)", "right", show=False, id="sweep.right"),
        Binding("up,k", "move(-1,0)", "up", show=False, id="sweep.up"),
        Binding("down,j", "move(1,0)", "down", show=False, id="sweep.down"),
        Binding("space", "select", "select", id="sweep.select"),
        Binding("enter", "preview", "preview+launch", id="sweep.preview"),
        Binding("o", "engine", "engine", id="sweep.engine"),
        Binding("H", "host", "host", id="sweep.host"),
        Binding("s", "seeds", "seeds", id="sweep.seeds"),
        Binding("v", "knobs", "knobs", id="sweep.knobs"),
        Binding("slash", "filter", "filter", id="sweep.filter", key_display="/"),
        Binding("i", "open", "its runs", id="sweep.open"),
        Binding("g", "grid", "open a grid", id="sweep.grid"),
        Binding("n", "cells", "cells of your own", id="sweep.cells"),
        Binding("shift+left", "extend(0,-1)", "select to the left", show=False, id="sweep.extend_left"),
        Binding("shift+right", "extend(0,1)", "select to the right", show=False, id="sweep.extend_right"),
        Binding("shift+up", "extend(-1,0)", "select upwards", show=False, id="sweep.extend_up"),
        Binding("shift+down", "extend(1,0)", "select downwards", show=False, id="sweep.extend_down"),
        Binding("r", "select_row", "select the row", show=False, id="sweep.select_row"),
        Binding("c", "select_column", "select the column", show=False, id="sweep.select_column"),
        Binding("A", "select_all", "select all, or none", show=False, id="sweep.select_all"),
        Binding("m", "mark", "mark its best", show=False, id="sweep.mark"),
        Binding("u", "unmark_all", "unmark all", show=False, id="sweep.unmark_all"),
        Binding("d", "gaps", "gaps or losses", show=False, id="sweep.gaps"),
        Binding("w", "save", "save as a grid", show=False, id="sweep.save"),
        Binding("x", "collect", "collect results", show=False, id="sweep.collect"),
        Binding("K", "cancel", "cancel its runs", show=False, id="sweep.cancel"),
        Binding("R", "retry", "retry its failed runs", show=False, id="sweep.retry"),
        Binding("right_square_bracket", "study(1)", "next study", show=False, id="sweep.next_study", key_display="]"),
        Binding(
            "left_square_bracket", "study(-1)", "study before", show=False, id="sweep.previous_study", key_display="["
        ),
    ]

    def on_mount(self) -> None:
        """The editing needs the app."""
        self._editing = Editing(self.bench, self.draft, self._take)

    def action_open(self) -> None:
        """Show the runs of the cell on screen 2."""
        spot = sweep.cell_at(self.blocks(), sweep.clamped(self.blocks(), self.cursor))
        cell = spot[3] if spot is not None else None
        if spot is not None and cell is not None:
            _, optimizer, ratio, _ = spot
            model = cell.rows[0].line.model
            name = f'"{optimizer}"' if ":" in optimizer else optimizer
            at = f" c:{fmt.ratio(ratio)}" if ratio > 0 else ""
            self.bench.show_runs(f"opt:{name} model:{model}{at}".lower())

    def action_mark(self) -> None:
        """Mark the best run of each chosen cell (or unmark their runs) for screen 3."""
        blocks = {block.title: block for block in self.blocks()}
        found = [
            cell
            for title, optimizer, ratio in self._chosen()
            if (cell := blocks[title].cells.get((optimizer, ratio))) is not None
        ]
        marked = [row.run_id for cell in found for row in cell.rows if row.run_id in self.bench.marks]
        if marked:
            self.bench.unmark(marked)
        else:
            known = self.bench.snapshot.by_id
            best = [(cell.best or cell.rows[0]).run_id for cell in found]
            self.bench.mark([run_id for run_id in best if run_id in known])
        self.refresh_all()

    def action_unmark_all(self) -> None:
        """Take all marks away."""
        self.bench.unmark_all()
        self.refresh_all()

    def action_gaps(self) -> None:
        """Gaps to the baseline, or losses."""
        self.gaps = not self.gaps
        self.refresh_all()

    def action_collect(self) -> None:
        """Bring the store up to date, so that gaps and ties are those of now."""
        workspace = self.bench.workspace

        def work() -> str:
            report = flow.collect(workspace)
            return f"collected {report.runs:,} runs, {report.points:,} points"

        self.bench.notify("collecting ...", timeout=2)
        self.bench.work(work)

    def _existing(self) -> list[RunRow]:
        known = self.bench.snapshot.by_id
        return [row for row in self._rows_of(self._chosen()) if row.run_id in known]

    def action_cancel(self) -> None:
        """Cancel the runs of the chosen cells."""
        self.bench.ask_cancel(self._existing())

    def action_retry(self) -> None:
        """Retry the runs of the chosen cells that went wrong."""
        self.bench.ask_retry(
            [row for row in self._existing() if row.line.state in ("failed", "oom", "lost", "cancelled")]
        )

    def action_study(self, step: int) -> None:
        """Show another study."""
        if self.opened is not None:
            self.opened = None
        else:
            self.bench.step_study(step)
        self.cursor = Cursor()
        self.selected.clear()
        self.refresh_all()

    def extra_commands(self) -> Iterator[Command]:
        """Every grid can be opened from the palette."""
        for grid in preview.grids(self.bench.workspace):
            yield Command(f"Open grid {grid['name']} ({grid['where']})", "", self._opener(grid["path"]))

    def _opener(self, path: str) -> Callable[[], None]:
        return lambda: self.open(Draft(grid=path))

    def on_click(self, event: Click) -> None:
        """Select the cell under the mouse; with shift extend the selection to it."""
        view = self.query_one("#matrix", SpanView)
        if event.widget is not view:
            return
        blocks = self.blocks()
        found = sweep.cell_under(
            blocks, sweep.clamped(blocks, self.cursor), view.size.width, view.size.height, event.x, event.y
        )
        if found is not None:
            if event.shift:
                self._anchor = self._anchor or sweep.clamped(blocks, self.cursor)
                self.selected |= sweep.between(blocks, self._anchor, found)
            self.cursor = found
            self.refresh_all()
