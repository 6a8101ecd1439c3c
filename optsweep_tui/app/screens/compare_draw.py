"""What screen 3 draws: one, two or four charts of the marked runs, a figure of the study, and the panel beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from textual.containers import Container
from textual.widget import Widget

from optsweep_tui.app import figures, specs, speedups, spikes
from optsweep_tui.app import format as fmt
from optsweep_tui.app.answers import Answers, Slot
from optsweep_tui.app.model import RunRow
from optsweep_tui.app.screens.charts import ChartScreen
from optsweep_tui.app.views import compare, grid
from optsweep_tui.app.views.chart import Line
from optsweep_tui.app.views.diff import diff_rows, differing
from optsweep_tui.app.views.speedups import Speedups, speedup_rows
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.charts import static, style
from optsweep_tui.charts.chart import Floats, Row, Span
from optsweep_tui.charts.figure import Figure

WIDE = 100
"""Columns from which legend and speedups stand beside the chart."""
WIDER = 116
"""Columns from which they have room for every mark."""
FEW_ROWS = 16
"""Of the panel, that stay below what a figure has to say."""
PANELS = ("legend", "speedups", "diff")
"""What stands beside or below the chart; in a wide window the legend is always there."""


class CompareDrawing(ChartScreen):
    """Charts, their legend, the speedups, the config diff; the keys are those of `CompareScreen`."""

    def __init__(self) -> None:
        super().__init__()
        self.choice = compare.Choice(rows=(), why="")
        self.answers = Answers(self)
        self.view = "curves"
        self.panel = "legend"
        self.skip = 0
        """Lines of the panel that are scrolled away."""
        self.first_panel = 0
        """Of the figure, that is shown."""
        self.baseline: str | None = None
        """Chosen by the user; else that of the study."""
        self.view_chosen = False
        self.drawn: list[tuple[RunRow, Line | None, str, str]] = []
        self._specs, self._speedups = Slot(key=None), Speedups()
        self._spike_reader = spikes.Spikes()
        self._spikes: Mapping[str, Floats] = {}
        self._panel_rows: dict[tuple[int, int, int, int], list[Row]] = {}
        self._figure: Figure | None = None

    def body(self) -> Iterable[Widget]:
        """Status line, chart, and what stands beside or below."""
        yield SpanView(id="status")
        with Container(id="main"):
            yield SpanView(id="side")
            yield SpanView(id="chart")

    def recalled(self) -> None:
        """Of the views and panels that there are."""
        super().recalled()
        self.view = self.view if self.view in figures.VIEWS else "curves"
        self.panel = self.panel if self.panel in PANELS else "legend"

    def on_mount(self) -> None:
        """Also look for spikes by the clock: a run may report one and then write nothing for long, and nothing draws then."""
        super().on_mount()
        self.set_interval(spikes.EVERY_SECONDS, self._look_for_spikes)

    def _look_for_spikes(self) -> None:
        if self.is_current and self.view == "curves" and self.drawn:
            self._spikes = self._ask_spikes()

    @property
    def wide(self) -> bool:
        """There is room for the legend beside the chart."""
        return self.size.width >= WIDE

    @property
    def study_baseline(self) -> str:
        """The baseline of figures and speedups."""
        return self.baseline or self.bench.baseline()

    def _choose(self) -> None:
        bench = self.bench
        before = [row.run_id for row in self.choice.rows]
        self.choice = compare.choose(bench.study_rows(), bench.chosen(None), bench.blocks)
        if [row.run_id for row in self.choice.rows] != before:
            for model in self.models:
                model.forget_scale()
            self.skip = 0

    def refresh_all(self) -> None:
        """Also choose between beside and below."""
        if self.is_mounted:
            self.set_class(self.wide, "wide")
            self.set_class(self.size.width >= WIDER, "wider")
            side = self.query_one("#side", SpanView)
            side.set_height(None if self.wide else self._below())
        super().refresh_all()

    def chart_runs(self) -> list[RunRow]:
        """The marked runs, or those chosen in their place."""
        return list(self.choice.rows)

    def flops_per_token(self, run_id: str) -> float | None:
        """From the specs, once they are read."""
        found = (self._specs.value or {}).get(run_id)
        return found.flops_per_token if found else None

    def spikes(self, run_id: str) -> Floats | None:
        """Where its events say so."""
        return self._spikes.get(run_id)

    def charts_shown(self) -> bool:
        """Not a figure of the study."""
        return self.view == "curves"

    def no_curve(self) -> str:
        """Final losses are elsewhere."""
        return "these runs have no curve: v shows their final losses"

    def _below(self) -> int:
        """Rows below the chart in a narrow window."""
        most = max(6, (self.size.height - 4) // 2)
        if self.panel == "legend" and self.view == "curves":
            return min(len(self.choice.rows) + 1, max(3, (self.size.height - 4) // 3))
        return most if self.panel != "legend" else max(3, (self.size.height - 4) // 4)

    # ------------------------------------------------------------ drawing

    def draw(self) -> None:
        """Status, charts or figure, legend, panel."""
        self._choose()
        self._specs = self.answers.ask("specs", None, tuple(self.wanted_curves()), self._load_specs)
        self._spikes = self._ask_spikes()
        self._speedups = self._ask_speedups()
        status, chart = self.query_one("#status", SpanView), self.query_one("#chart", SpanView)
        rows = self.chart_rows(*chart.size)  # the legend needs the lines in every view
        colours = style.shades([row.line.optimizer for row in self.choice.rows])
        self.drawn = [
            (row, line, style.RUN_LETTERS[place], colours[place])
            for place, (row, line) in enumerate(zip(self.choice.rows, self.lines, strict=True))
        ]
        self._suggest_view()
        if self.view == "curves":
            status.show(
                [compare.status(self.lead, self.model, len(self.drawn), status.size.width, spikes=self.spikes_shown())]
            )
        else:
            rows = self._figure_rows(*chart.size)
            status.show([self._figure_status(status.size.width)])
        chart.show(rows)
        self._draw_side()

    def _ask_spikes(self) -> Mapping[str, Floats]:
        """Read again every few seconds, while a run of the chart goes on."""
        workspace, run_ids, reader = self.bench.workspace, tuple(self.wanted_curves()), self._spike_reader
        alive = any(row.line.state == "running" for row in self.choice.rows)
        slot = self.answers.ask(
            "spikes", None, (run_ids, spikes.moment(alive)), lambda: reader.load(workspace, run_ids)
        )
        return slot.value or {}

    def _load_specs(self) -> object:
        return specs.load(self.bench.workspace, self.wanted_curves())

    def _suggest_view(self) -> None:
        """Until the user chooses: final losses where no run has a curve."""
        if not self.view_chosen and self.choice.rows and self.tailed():
            over = all(row.line.state not in ("running", "planned", "queued") for row in self.choice.rows)
            view = "ratio" if over and not self.known_metrics() else "curves"
            if view != self.view:
                self.view = view
                self.call_after_refresh(self.refresh_all)  # other keys are valid now

    # ------------------------------------------------------------ figures of the study

    def figure(self) -> Figure | None:
        """The figure that is shown, once it is there."""
        return self._figure

    def _figure_rows(self, width: int, height: int) -> list[Row]:
        bench, kind, baseline = self.bench, self.view, self.study_baseline
        workspace, study = bench.workspace, bench.study
        only = sorted({row.line.optimizer for row in bench.chosen(None)})
        slot = self.answers.ask(
            "figure",
            (study, kind, baseline, tuple(only)),
            speedups.stamp(workspace),
            lambda: figures.load(workspace, study, kind, baseline, only),
        )
        if slot.value is not self._figure:
            self._figure, self._panel_rows = slot.value, {}
        if self._figure is None:
            text = "working it out ..." if slot.busy else slot.wrong
            return [(), *((Span(f"  {line}", style.GREY),) for line in fmt.wrapped(text, width - 4))]
        panels = [panel for panel in self._figure.panels if not panel.empty]
        if not panels:
            reasons = "; ".join(self._figure.refused) or "nothing to draw"
            return [(), *((Span(f"  {line}", style.GREY),) for line in fmt.wrapped(reasons, width - 4))]
        self.places = grid.places(min(self.count, len(panels)), width, height)
        self.first_panel = max(0, min(self.first_panel, len(panels) - len(self.places)))
        parts = []
        for place, panel in zip(self.places, range(self.first_panel, len(panels)), strict=False):
            key = (panel, place.width, place.height, id(self._figure))
            if key not in self._panel_rows:
                self._panel_rows[key] = static.panel_rows(panels[panel], place.width, place.height)
            parts.append((place, self._panel_rows[key]))
        return grid.joined(parts)

    def _figure_status(self, width: int) -> Row:
        panels = [panel for panel in self._figure.panels if not panel.empty] if self._figure else []
        where = f"   {self.first_panel + 1} of {len(panels)}: j next" if len(panels) > len(self.places) else ""
        marked = "   marked optimizers" if self.bench.marks else ""
        text = f"   baseline {self.study_baseline}{marked}{where}"
        return fmt.cut((Span(f" {figures.VIEWS[self.view]}", bold=True), Span(text, style.GREY)), width)

    # ------------------------------------------------------------ beside or below

    def _draw_side(self) -> None:
        side = self.query_one("#side", SpanView)
        width, height = side.size
        head = self._legend(width, height)
        if not self.wide:
            side.show(head if self.panel == "legend" else self._panel(width, height))
            return
        if self.panel == "legend":
            self.panel = "speedups"
        most = height // 2 if self.view == "curves" else max(height // 2, height - FEW_ROWS)  # a figure has more to say
        head = self._legend(width, min(max(4, most), len(head)))
        side.show([*head, (), *self._panel(width, height - len(head) - 1)])

    def _legend(self, width: int, height: int) -> list[Row]:
        if self.view == "curves":
            return compare.legend(self.model, self.choice.why, self.drawn, width, min(len(self.drawn) + 1, height))
        words = self.figure_words(width)
        return words if len(words) <= height else [*words[: height - 1], (Span(" ... i: all of it", style.GREY),)]

    def figure_words(self, width: int) -> list[Row]:
        """Letters and remarks of the figure."""
        if self._figure is None:
            return []
        moved: list[Row] = [(Span(f" {text}", style.GREY),) for text in fmt.wrapped(static.MOVED, width - 2)]
        return [*static.words_rows(self._figure, width), *moved]

    def _panel(self, width: int, height: int) -> list[Row]:
        if self.panel == "diff":
            known = self._specs.value or {}
            runs = [
                (letter, colour, known[row.run_id].values if row.run_id in known else None)
                for row, _, letter, colour in self.drawn
            ]
            return diff_rows(runs, width, height, self.skip)
        return speedup_rows(self._shown_speedups(), width, height, self.skip)

    def panel_length(self) -> int:
        """Entries of the panel: as far as it can be scrolled."""
        if self.panel != "diff":
            return max(1, len(self._speedups.rows))
        known = self._specs.value or {}
        found = [known[row.run_id].values for row, *_ in self.drawn if row.run_id in known]
        return max(1, len(differing(found)[0])) if found else 1

    def _ask_speedups(self) -> Speedups:
        workspace, study, baseline = self.bench.workspace, self.bench.study, self.study_baseline
        slot = self.answers.ask(
            "speedups",
            (study, baseline),
            speedups.stamp(workspace),
            lambda: speedups.load(workspace, study, baseline),
        )
        found: Speedups = slot.value or Speedups(baseline=baseline, study=study)
        if slot.wrong and not found.rows:
            return Speedups(baseline=baseline, study=study, message=slot.wrong)
        return replace(found, busy=slot.busy and not found.rows)

    def _shown_speedups(self) -> Speedups:
        done = sum(row.line.state == "done" for row in self.bench.study_rows())
        return replace(self._speedups, stale=bool(self._speedups.rows) and done > self._speedups.collected)

    def settled(self) -> bool:
        """Curves, figures and speedups are there."""
        return not self.answers.busy and self.tailed()
