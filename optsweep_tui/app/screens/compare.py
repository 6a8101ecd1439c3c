"""Screen 3, Compare: curves of the marked runs with one crosshair, figures and speedups of the study; its keys and mouse."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from optsweep_tui import __version__
from optsweep_tui.app import exports, figures
from optsweep_tui.app.answers import Arrived
from optsweep_tui.app.screens.compare_draw import CompareDrawing
from optsweep_tui.app.screens.modal import Told
from optsweep_tui.app.screens.pick import Entry, Pick
from optsweep_tui.app.views import compare
from optsweep_tui.app.views import exports as contents


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
        Binding("i", "words", "its remarks", id="compare.words"),
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
        Binding("j,down", "down(1)", "panel down, next figure", show=False, id="compare.down", key_display="j"),
        Binding("k,up", "down(-1)", "panel up, figure before", show=False, id="compare.up", key_display="k"),
        Binding("pagedown", "scroll_list(8)", "panel page down", show=False, id="compare.page_down"),
        Binding("pageup", "scroll_list(-8)", "panel page up", show=False, id="compare.page_up"),
        Binding("right_square_bracket", "study(1)", "next study", show=False, id="compare.next_study", key_display="]"),
        Binding(
            "left_square_bracket", "study(-1)", "study before", show=False, id="compare.study_before", key_display="["
        ),
        Binding("u", "unmark_all", "unmark all", show=False, id="compare.unmark_all"),
        Binding("y", "copy", "copy the values", show=False, id="compare.copy"),
    ]

    KEPT = (*CompareDrawing.KEPT, "view", "view_chosen", "panel")
    OF_CURVES = frozenset(
        {"axis", "log", "smooth", "crosshair", "metric", "zoom", "reset", "whole_y", "pan", "next_chart", "copy"}
    )
    """Actions that a figure of the study has no use for."""

    class Written(Message):
        """A thread has written a file, or could not."""

        def __init__(self, text: str, wrong: bool = False) -> None:
            super().__init__()
            self.text, self.wrong = text, wrong

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A key that would do nothing is not offered: not in the key line, the help or the palette."""
        return action not in self.OF_CURVES if self.view != "curves" else action != "words"

    def on_arrived(self, message: Arrived) -> None:
        """A thread has an answer."""
        known = self._spikes
        if self.answers.take(message) and self.is_current and (message.name != "spikes" or message.value is not known):
            self.refresh_all()

    # ------------------------------------------------------------ views and panels

    def action_view(self, step: int) -> None:
        """Curves, or a figure of the study."""
        names = list(figures.VIEWS)
        self.view = names[(names.index(self.view) + step) % len(names)]
        self.view_chosen, self.first_panel = True, 0
        self.refresh_all()
        self.call_after_refresh(self.refresh_all)

    def action_panel(self) -> None:
        """Legend (in a narrow window), speedups, config diff."""
        names = ["speedups", "diff"] if self.wide else ["legend", "speedups", "diff"]
        self._show_panel(names[(names.index(self.panel) + 1) % len(names)] if self.panel in names else names[0])

    def action_words(self) -> None:
        """All that the figure has to say: beside it there is not always room."""
        if self.figure() is not None:
            self.app.push_screen(Told(figures.VIEWS[self.view], self.figure_words(74)))

    def action_diff(self) -> None:
        """The config diff, or what was there before."""
        self._show_panel("diff" if self.panel != "diff" else "speedups" if self.wide else "legend")

    def _show_panel(self, name: str) -> None:
        self.panel, self.skip = name, 0
        self.refresh_all()
        self.call_after_refresh(self.refresh_all)

    def action_down(self, step: int) -> None:
        """Scroll the panel, or go to the next panel of the figure."""
        if self.view == "curves":
            self.action_scroll_list(step)
        else:
            self.first_panel = max(0, self.first_panel + step)
            self.refresh_all()

    def action_scroll_list(self, lines: int) -> None:
        """Scroll the panel."""
        self.skip = max(0, min(self.skip + lines, self.panel_length() - 1))
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

    def wheel_elsewhere(self, direction: int) -> None:
        """Scroll the panel or the figure."""
        self.action_down(direction)

    def action_study(self, step: int) -> None:
        """Another study."""
        self.bench.step_study(step)
        self.baseline, self.view_chosen, self.skip, self.first_panel = None, False, 0, 0
        self.refresh_all()

    def action_unmark_all(self) -> None:
        """Take all marks away."""
        self.bench.unmark_all()
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
            return self.Written(f"written: {exports.short(exports.write(workspace, stem, suffix, content))}")

        self.bench.in_thread(self, work, lambda wrong: self.Written(wrong, wrong=True), group="export", kept=True)

    def on_compare_screen_written(self, message: Written) -> None:
        """Say where the file is."""
        self.notify(message.text, severity="error" if message.wrong else "information", timeout=10)
