"""Screen 3, Compare: curves of the marked runs with one crosshair, figures and speedups of the study; its keys and mouse."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.events import MouseDown, MouseEvent, MouseScrollDown, MouseScrollUp, MouseUp
from textual.message import Message

from optsweep_tui import __version__
from optsweep_tui.app import exports, figures
from optsweep_tui.app.answers import Arrived
from optsweep_tui.app.screens.compare_draw import CompareDrawing
from optsweep_tui.app.screens.pick import Entry, Pick
from optsweep_tui.app.views import compare, grid
from optsweep_tui.app.views import exports as contents
from optsweep_tui.app.views.chart import ZOOM
from optsweep_tui.charts import raster

RETRY_SECONDS = 5.0
"""After the store could not be read, another program may just have held it."""
DRAG_COLUMNS = 2
"""A mouse that was moved by less between button down and up was clicked."""


class CompareScreen(CompareDrawing):
    """Charts of runs, and what the study says."""

    TAB = "Compare"
    DEFAULT_CSS = """
    CompareScreen #status { height: 1; }
    CompareScreen #main { height: 1fr; }
    CompareScreen #side { dock: bottom; }
    CompareScreen.wide #side { dock: right; height: 1fr; width: 48; }
    CompareScreen.wider #side { width: 52; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "axis", "axis", id="compare.axis"),
        Binding("l", "log('x')", "log x", id="compare.log_x"),
        Binding("s", "smooth(1)", "smooth", id="compare.smoother"),
        Binding("c", "crosshair", "crosshair", id="compare.crosshair"),
        Binding("v", "view(1)", "view", id="compare.view"),
        Binding("p", "panel", "panel", id="compare.panel"),
        Binding("m", "metric(1)", "metric", id="compare.metric"),
        Binding("w", "charts", "1/2/4 charts", id="compare.charts"),
        Binding("plus,equals_sign", "zoom(-1)", "zoom in", id="compare.zoom_in", key_display="+"),
        Binding("D", "diff", "config diff", id="compare.diff"),
        Binding("e", "export", "export", id="compare.export"),
        Binding("L", "log('y')", "log y", id="compare.log_y"),
        Binding("tab,n", "next_chart(1)", "next chart", show=False, id="compare.next_chart"),
        Binding("shift+tab", "next_chart(-1)", "chart before", show=False, id="compare.chart_before"),
        Binding("V", "view(-1)", "view before", show=False, id="compare.view_before"),
        Binding("M", "metric(-1)", "metric before", show=False, id="compare.metric_before"),
        Binding("b", "baseline", "next baseline", show=False, id="compare.baseline"),
        Binding("S", "smooth(-1)", "smooth less", show=False, id="compare.rougher"),
        Binding("minus", "zoom(1)", "zoom out", show=False, id="compare.zoom_out", key_display="-"),
        Binding("0", "reset", "show all", show=False, id="compare.reset"),
        Binding("a", "whole_y", "whole y range", show=False, id="compare.whole_y"),
        Binding("left", "pan(-1)", "crosshair or window left", show=False, id="compare.left"),
        Binding("right", "pan(1)", "crosshair or window right", show=False, id="compare.right"),
        Binding("shift+left", "pan(-10)", "crosshair far left", show=False, id="compare.far_left"),
        Binding("shift+right", "pan(10)", "crosshair far right", show=False, id="compare.far_right"),
        Binding("j,down", "scroll_list(1)", "panel down, next figure", show=False, id="compare.down", key_display="j"),
        Binding("k,up", "scroll_list(-1)", "panel up, figure before", show=False, id="compare.up", key_display="k"),
        Binding("right_square_bracket", "study(1)", "next study", show=False, id="compare.next_study", key_display="]"),
        Binding(
            "left_square_bracket", "study(-1)", "study before", show=False, id="compare.study_before", key_display="["
        ),
        Binding("u", "unmark_all", "unmark all", show=False, id="compare.unmark_all"),
        Binding("y", "copy", "copy the values", show=False, id="compare.copy"),
    ]

    class Written(Message):
        """A thread has written a file, or could not."""

        def __init__(self, text: str, wrong: bool = False) -> None:
            super().__init__()
            self.text, self.wrong = text, wrong

    def on_arrived(self, message: Arrived) -> None:
        """A thread has an answer."""
        if self.answers.take(message, RETRY_SECONDS) and self.is_current:
            self.refresh_all()

    # ------------------------------------------------------------ x axis, for all charts

    def action_axis(self) -> None:
        """tokens, seconds, steps, FLOPs."""
        self.models[0].next_axis()
        self.refresh_all()

    def action_log(self, axis: str) -> None:
        """Logarithmic or linear: x of all charts, y of this one."""
        (self.models[0] if axis == "x" else self.model).toggle_log(axis)
        self.refresh_all()

    def action_smooth(self, direction: int) -> None:
        """Smoother or rougher."""
        self.models[0].smoother(self.longest(), direction)
        self.refresh_all()

    def action_zoom(self, direction: int) -> None:
        """In or out, around the crosshair or the newest data."""
        self.models[0].zoom(ZOOM if direction < 0 else 1 / ZOOM)
        self.refresh_all()

    def action_reset(self) -> None:
        """Show everything."""
        for model in self.models:
            model.reset()
        self.refresh_all()

    def action_crosshair(self) -> None:
        """On or off."""
        self.models[0].crosshair = 0.5 if self.models[0].crosshair is None else None
        self.refresh_all()

    def action_pan(self, columns: int) -> None:
        """Move the crosshair, or the window."""
        self.models[0].pan(columns)
        self.refresh_all()

    def action_out(self) -> None:
        """Esc puts the crosshair away, then the zoom."""
        lead = self.models[0]
        if lead.crosshair is not None:
            lead.crosshair = None
        elif lead.window != (0.0, 1.0):
            lead.reset()
        self.refresh_all()

    # ------------------------------------------------------------ one chart

    def action_metric(self, step: int) -> None:
        """The next metric that any of the runs has."""
        known = self.known_metrics()
        if known:
            place = known.index(self.model.metric) if self.model.metric in known else (-1 if step > 0 else 0)
            self.model.metric = known[(place + step) % len(known)]
            self.metric_chosen = True
            self.model.forget_scale()
            self.refresh_all()

    def action_whole_y(self) -> None:
        """Let the first steps count for y, or not."""
        self.model.whole_y = not self.model.whole_y
        self.model.forget_scale()
        self.refresh_all()

    def action_charts(self) -> None:
        """One, two or four."""
        self.count = grid.COUNTS[(grid.COUNTS.index(self.count) + 1) % len(grid.COUNTS)]
        if self.count > 1:
            self._spread_metrics()
        for model in self.models:
            model.forget_scale()
        self.refresh_all()
        if self.view == "curves" and len(self.places) < self.count:
            self.notify(f"there is room for {len(self.places)} of {self.count} charts: make the window larger")

    def _spread_metrics(self) -> None:
        """No two charts with the same metric, where the runs have as many."""
        known = self.known_metrics()
        taken = [self.models[0].metric]
        for model in self.models[1:]:
            if model.metric in taken or (known and model.metric not in known):
                model.metric = next((name for name in known if name not in taken), model.metric)
            taken.append(model.metric)

    def action_next_chart(self, step: int) -> None:
        """Which chart m, L and a are about."""
        if self.view == "curves" and self.places:
            self.focus_on = (self.focus_on + step) % len(self.places)
            self.refresh_all()

    # ------------------------------------------------------------ views and panels

    def action_view(self, step: int) -> None:
        """Curves, or a figure of the study."""
        names = list(figures.VIEWS)
        self.view = names[(names.index(self.view) + step) % len(names)]
        self.view_chosen, self.skip = True, 0
        self.refresh_all()
        self.call_after_refresh(self.refresh_all)

    def action_panel(self) -> None:
        """Legend (in a narrow window), speedups, config diff."""
        names = ["speedups", "diff"] if self.wide else ["legend", "speedups", "diff"]
        self._show_panel(names[(names.index(self.panel) + 1) % len(names)] if self.panel in names else names[0])

    def action_diff(self) -> None:
        """The config diff, or what was there before."""
        self._show_panel("diff" if self.panel != "diff" else "speedups" if self.wide else "legend")

    def _show_panel(self, name: str) -> None:
        self.panel = name
        if self.view == "curves":
            self.skip = 0
        self.refresh_all()
        self.call_after_refresh(self.refresh_all)

    def action_scroll_list(self, lines: int) -> None:
        """Scroll the panel, or go to the next figure."""
        self.skip = max(0, self.skip + lines)
        self.refresh_all()

    def action_baseline(self) -> None:
        """The next optimizer of the study as the baseline."""
        known = sorted({row.line.optimizer for row in self.bench.study_rows()})
        if known:
            place = known.index(self.study_baseline) if self.study_baseline in known else -1
            self.baseline = known[(place + 1) % len(known)]
            self.skip = 0
            self.refresh_all()
            self.notify(f"baseline {self.baseline}")

    def action_study(self, step: int) -> None:
        """Another study."""
        self.bench.step_study(step)
        self.baseline, self.view_chosen, self.skip = None, False, 0
        self.refresh_all()

    def action_unmark_all(self) -> None:
        """Take all marks away."""
        self.bench.unmark(list(self.bench.marks))
        self.refresh_all()

    # ------------------------------------------------------------ mouse

    def _part(self, x: int, y: int) -> float | None:
        """Place 0..1 in the visible part of x of the chart that is there; the chart gets the keys."""
        for number, (place, (model, _)) in enumerate(zip(self.places, self.seen, strict=False)):
            if place.holds(x, y) and model.view is not None:
                self.focus_on = number
                return (x - place.x - raster.GUTTER + 0.5) / raster.plot_size(model.view)[0]
        return None

    def on_mouse_down(self, event: MouseDown) -> None:
        """Where a drag begins."""
        self._grabbed = self._inside(event, "#chart") if self.view == "curves" else None
        if self._grabbed:
            self.query_one("#chart").capture_mouse()

    def _inside(self, event: MouseEvent, name: str) -> tuple[int, int] | None:
        """Column and row of the mouse in one of the views; None where it is elsewhere."""
        region = self.query_one(name).region
        x, y = int(event.screen_x), int(event.screen_y)
        return (x - region.x, y - region.y) if region.contains(x, y) else None

    def on_mouse_up(self, event: MouseUp) -> None:
        """A click puts the crosshair there; a drag shows what it was drawn over."""
        grabbed, self._grabbed = self._grabbed, None
        if grabbed is None:
            return
        chart = self.query_one("#chart")
        chart.release_mouse()
        first = self._part(*grabbed)
        if first is None:
            return
        moved = int(event.screen_x) - chart.region.x - grabbed[0]
        view = self.models[0].view
        last = first + moved / (raster.plot_size(view)[0] if view else 1)
        if abs(moved) < DRAG_COLUMNS:
            self.models[0].crosshair = min(1.0, max(0.0, first))
        else:
            self.models[0].select(first, last)
        self.refresh_all()

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        """The wheel zooms where the mouse is, with shift it moves; over the panel it scrolls."""
        self._wheel(event, -1)

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        """The other way."""
        self._wheel(event, 1)

    def _wheel(self, event: MouseScrollUp | MouseScrollDown, direction: int) -> None:
        where = self._inside(event, "#chart")
        if where is None or self.view != "curves":
            self.action_scroll_list(direction)
            return
        part = self._part(*where)
        if part is None:
            return
        if event.shift or event.ctrl:
            self.models[0].move(0.1 * direction)
        else:
            self.models[0].zoom(ZOOM if direction < 0 else 1 / ZOOM, min(1.0, max(0.0, part)))
        self.refresh_all()

    # ------------------------------------------------------------ out of the screen

    def action_copy(self) -> None:
        """Letters, runs and values as tab separated text, into the clipboard of the terminal."""
        at = self.model.crosshair_x()
        lines = ["\t".join(("letter", "run_id", "run", self.model.metric))]
        names = compare.names_of([row for row, *_ in self.drawn])
        for (row, line, letter, _), name in zip(self.drawn, names, strict=True):
            value = None
            if line is not None:
                value = self.model.value_at(line, at) if at is not None else self.model.last_value(line)
            lines.append("\t".join((letter, row.run_id, name, "" if value is None else f"{value:.6g}")))
        self.app.copy_to_clipboard("\n".join(lines) + "\n")
        self.notify(f"{len(self.drawn)} values copied")

    def action_export(self) -> None:
        """Ask for the kind of file."""
        if not (self.figure() if self.view != "curves" else any(lines for _, lines in self.seen)):
            self.notify("there is nothing to export yet")
            return
        entries = [Entry(value=suffix, label=suffix.upper(), note=why) for suffix, why in exports.FORMATS.items()]
        where = exports.folder_of(self.bench.workspace)
        self.app.push_screen(Pick(f"export what is seen into {where.name}/", entries), self._export)

    def _export(self, suffix: str | None) -> None:
        """Make the content here, where the data cannot change, and draw and write it in a thread."""
        if suffix is None:
            return
        figure, workspace = self.figure(), self.bench.workspace
        seen = [(model, lines) for model, lines in self.seen if lines and model.view is not None]
        rows = [row for row, *_ in self.drawn]
        curves = self.view == "curves"
        study = self.bench.study or "runs"
        stem = f"{study}-{'-'.join(model.metric for model, _ in seen) if curves else self.view}"
        text = contents.curves_csv(seen, rows) if curves and suffix == "csv" else ""
        if curves:
            provenance = f"study {study}, {len(rows)} runs, optsweep {__version__}"
            figure = contents.figure(seen, rows, compare.names_of(rows), provenance)
        if figure is None:
            return

        def work() -> Message:
            content = (
                exports.drawn(figure, suffix) if suffix != "csv" else (text or contents.figure_csv(figure)).encode()
            )
            return self.Written(f"written: {_short(exports.write(workspace, stem, suffix, content))}")

        self.bench.in_thread(self, work, lambda wrong: self.Written(wrong, wrong=True), group="export")

    def on_compare_screen_written(self, message: Written) -> None:
        """Say where the file is."""
        self.notify(message.text, severity="error" if message.wrong else "information", timeout=10)


def _short(path: Path) -> str:
    """The path as one would type it from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
