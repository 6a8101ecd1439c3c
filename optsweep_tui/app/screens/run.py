"""Screen 4, Run: everything about one run; its keys, and the search in its log."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from optsweep_tui.app.screens.charts import ChartScreen
from optsweep_tui.app.screens.run_draw import RunDrawing
from optsweep_tui.app.widgets.filterline import FilterLine


class RunScreen(RunDrawing):
    """Everything about one run."""

    TAB = "Run"
    AUTO_FOCUS = ""
    LETTERS = False
    KEPT = (*ChartScreen.KEPT, "lower", "lower_chosen", "left_at")
    DEFAULT_CSS = """
    RunScreen #facts { width: 40; dock: left; }
    RunScreen.narrow #facts { width: 34; }
    RunScreen #below { height: 40%; max-height: 14; dock: bottom; }
    RunScreen #lower { height: 1fr; }
    RunScreen #status { height: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "step(1)", "next run", id="run.next", key_display="j"),
        Binding("k,up", "step(-1)", "run before", id="run.previous", key_display="k"),
        Binding("t", "lower", "log or events", id="run.lower"),
        Binding("slash", "search", "search", id="run.search", key_display="/"),
        Binding("m", "metric(1)", "metric", id="run.metric"),
        Binding("w", "charts", "1/2/4 charts", id="run.charts"),
        Binding("s", "smooth(1)", "smooth", id="run.smoother"),
        Binding("f", "follow", "follow", id="run.follow"),
        Binding("space", "mark", "mark", id="run.mark"),
        Binding("K", "cancel", "cancel", id="run.cancel"),
        Binding("R", "retry", "retry", id="run.retry"),
        Binding("n", "found(1)", "next place found", show=False, id="run.found"),
        Binding("N", "found(-1)", "place found before", show=False, id="run.found_before"),
        Binding("pageup", "scroll_lower(-1)", "log or events up", show=False, id="run.lower_up"),
        Binding("pagedown", "scroll_lower(1)", "log or events down", show=False, id="run.lower_down"),
        Binding("g,home", "lower_end(-1)", "start of the log", show=False, id="run.lower_start"),
        Binding("G,end", "lower_end(1)", "end of the log", show=False, id="run.lower_end"),
        Binding("J", "facts(1)", "spec down", show=False, id="run.facts_down"),
        Binding("I", "facts(-1)", "spec up", show=False, id="run.facts_up"),
        Binding("M", "metric(-1)", "metric before", show=False, id="run.metric_before"),
        Binding("tab", "next_chart(1)", "next chart", show=False, id="run.next_chart"),
        Binding("shift+tab", "next_chart(-1)", "chart before", show=False, id="run.chart_before"),
        Binding("x", "axis", "x axis", show=False, id="run.axis"),
        Binding("l", "log('x')", "log x", show=False, id="run.log_x"),
        Binding("L", "log('y')", "log y", show=False, id="run.log_y"),
        Binding("S", "smooth(-1)", "smooth less", show=False, id="run.rougher"),
        Binding("c", "crosshair", "crosshair", show=False, id="run.crosshair"),
        Binding("plus,equals_sign", "zoom(-1)", "zoom in", show=False, id="run.zoom_in", key_display="+"),
        Binding("minus", "zoom(1)", "zoom out", show=False, id="run.zoom_out", key_display="-"),
        Binding("0", "reset", "show all", show=False, id="run.reset"),
        Binding("left", "pan(-1)", "crosshair or window left", show=False, id="run.left"),
        Binding("right", "pan(1)", "crosshair or window right", show=False, id="run.right"),
        Binding("shift+left", "pan(-10)", "crosshair far left", show=False, id="run.far_left"),
        Binding("shift+right", "pan(10)", "crosshair far right", show=False, id="run.far_right"),
        Binding("a", "whole_y", "whole y range", show=False, id="run.whole_y"),
        Binding("y", "copy", "copy the run's id", show=False, id="run.copy"),
    ]

    def action_step(self, step: int) -> None:
        """The next or previous run in the order of screen 2."""
        rows = self.bench.listed_runs()
        ids = [row.run_id for row in rows]
        if ids:
            place = ids.index(self.run_id) + step if self.run_id in ids else 0
            self.show_run(ids[min(max(0, place), len(ids) - 1)])
            self.refresh_all()

    def action_lower(self) -> None:
        """Log or events."""
        self.lower, self.lower_chosen = "events" if self.lower == "log" else "log", True
        self.refresh_all()

    def action_scroll_lower(self, pages: int) -> None:
        """A page of the log or the events."""
        height = max(2, self.query_one("#lower").size.height - 2)
        self.panes[self.lower].scroll(pages * height, len(self.lower_rows()))
        self.refresh_all()

    def action_lower_end(self, direction: int) -> None:
        """To the first row, or to the last and follow."""
        self.panes[self.lower].top = None if direction > 0 else 0
        self.refresh_all()

    def wheel_elsewhere(self, direction: int) -> None:
        """The wheel scrolls the log."""
        self.panes[self.lower].scroll(3 * direction, len(self.lower_rows()))
        self.refresh_all()

    def action_follow(self) -> None:
        """Follow the end, or stand still."""
        self.panes[self.lower].follow(len(self.lower_rows()))
        self.refresh_all()

    def action_facts(self, lines: int) -> None:
        """Scroll the facts."""
        self.facts_skip = max(0, self.facts_skip + 5 * lines)
        self.refresh_all()

    def action_search(self) -> None:
        """Type what to look for."""
        line = self.query_one("#search", FilterLine)
        line.value = self.panes[self.lower].search
        line.placeholder = f"search the {self.lower}"
        line.add_class("open")
        line.take_keys()

    def on_input_changed(self) -> None:
        """Search while it is typed."""
        line = self.query_one("#search", FilterLine)
        if line.has_class("open"):
            self.panes[self.lower].look_for(line.value, self.lower_rows())
            self.refresh_all()

    def action_filter_done(self) -> None:
        """Leave the line; n and N go on."""
        line = self.query_one("#search", FilterLine)
        if line.has_class("open") and line.value != self.panes[self.lower].search:
            self.panes[self.lower].look_for(line.value, self.lower_rows())
        line.remove_class("open")
        self.set_focus(None)
        self.refresh_all()

    def action_filter_clear(self) -> None:
        """Leave the line and forget the search."""
        self.query_one("#search", FilterLine).value = ""
        self.panes[self.lower].look_for("", [])
        self.panes[self.lower].top = None
        self.action_filter_done()

    def action_found(self, step: int) -> None:
        """The next row that fits, around the ends."""
        pane = self.panes[self.lower]
        if not pane.search:
            self.action_search()
            return
        pane.go(step)
        self.refresh_all()

    def action_out(self) -> None:
        """Esc puts away the search, then the crosshair, then the zoom."""
        pane = self.panes[self.lower]
        if pane.search:
            self.action_filter_clear()
        else:
            super().action_out()

    def action_copy(self) -> None:
        """The id into the clipboard of the terminal."""
        if self.run_id:
            self.app.copy_to_clipboard(self.run_id)
            self.notify(f"copied {self.run_id}")

    def action_mark(self) -> None:
        """Mark or unmark the run."""
        row = self.row
        if row is not None:
            if row.run_id in self.bench.marks:
                self.bench.unmark([row.run_id])
            else:
                self.bench.mark([row.run_id])
            self.refresh_all()

    def action_cancel(self) -> None:
        """Cancel this run."""
        row = self.row
        if row is not None:
            self.bench.ask_cancel([row])

    def action_retry(self) -> None:
        """Retry this run."""
        row = self.row
        if row is not None:
            self.bench.ask_retry([row])
