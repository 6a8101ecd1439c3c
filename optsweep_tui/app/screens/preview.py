"""A layer before a launch: the resolved runs of a draft with their cost; `y` launches, esc does not, edits plan anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message

from optsweep_tui import preview
from optsweep_tui.app import format as fmt
from optsweep_tui.app.actions import outcome
from optsweep_tui.app.editing import Editing, EditingActions
from optsweep_tui.app.screens.dialog import Dialog
from optsweep_tui.app.views import sweep_lines
from optsweep_tui.app.widgets.column import Column
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.app.widgets.table import VirtualTable
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span
from optsweep_tui.preview import Draft

if TYPE_CHECKING:
    from optsweep_tui.app.app import OptsweepApp

MOST_KNOBS = 6
"""Columns for knobs in which the runs differ; more would leave no room for the rest."""


class PreviewScreen(EditingActions, Dialog[Draft | None]):
    """The runs that a launch would make; gives the draft to launch, None for none."""

    AUTO_FOCUS = "#planned"
    DEFAULT_CSS = """
    PreviewScreen { align: center middle; }
    PreviewScreen #box { width: 100%; max-width: 130; height: 100%; max-height: 44; border: round $foreground 40%; padding: 0 1; }
    PreviewScreen #head { height: 3; }
    PreviewScreen #foot { dock: bottom; height: 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "launch", "launch", id="preview.launch"),
        Binding("escape,n,q", "leave", "leave", id="preview.leave"),
        Binding("o", "engine", "engine", id="preview.engine"),
        Binding("H", "host", "host", id="preview.host"),
        Binding("s", "seeds", "seeds", id="preview.seeds"),
        Binding("v", "knobs", "knobs", id="preview.knobs"),
        Binding("w", "save", "save as a grid", id="preview.save"),
    ]

    class Planned(Message):
        """A thread has resolved the draft."""

        def __init__(self, draft: Draft, document: dict[str, Any], left: dict[str, Any], wrong: str) -> None:
            super().__init__()
            self.draft, self.document, self.left, self.wrong = draft, document, left, wrong

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self.draft = draft
        self.document: dict[str, Any] | None = None
        self.left: dict[str, Any] = {}
        self.wrong = ""

    @property
    def bench(self) -> OptsweepApp:
        """The app, with its own type."""
        return cast("OptsweepApp", self.app)

    def compose(self) -> ComposeResult:
        """Totals, runs, what the keys do."""
        with Vertical(id="box") as box:
            box.border_title = "dry run: nothing is written yet"
            yield SpanView(id="head")
            yield VirtualTable(id="planned", empty="planning ...")
            yield SpanView(id="foot")

    def on_mount(self) -> None:
        """Plan."""
        self._editing = Editing(self.bench, lambda: self.draft, self._take)
        self._plan()

    def on_resize(self) -> None:
        """Fit the new size."""
        self.call_after_refresh(self._draw)

    def on_span_view_resized(self) -> None:
        """There is room now."""
        self.call_after_refresh(self._draw)

    def _take(self, draft: Draft) -> None:
        self.draft, self.document, self.wrong = draft, None, ""
        self._plan()

    def _plan(self) -> None:
        draft, workspace = self.draft, self.bench.workspace

        def run() -> None:
            found: dict[str, Any] = {}
            left: dict[str, Any] = {}

            def work() -> str:
                found.update(preview.of(workspace, preview.plan(workspace, draft)))
                left.update(preview.to_do(workspace, found))
                return ""

            text, _ = outcome(work)
            if self.is_running:
                self.post_message(self.Planned(draft, found, left, text))

        self.run_worker(run, thread=True, group="preview")
        self._draw()

    def on_preview_screen_planned(self, message: Planned) -> None:
        """Show it, if it is still wanted."""
        if message.draft == self.draft:
            self.document = None if message.wrong else message.document
            self.left, self.wrong = message.left, message.wrong
            self._draw()

    def _draw(self) -> None:
        if not self.is_mounted:
            return
        head, foot = self.query_one("#head", SpanView), self.query_one("#foot", SpanView)
        head.show(self._head(head.size.width))
        table = self.query_one("#planned", VirtualTable)
        runs = self.document["runs"] if self.document else []
        columns, cells = table_of(runs, table.size.width)
        table.show_empty("" if self.wrong else "planning ...")
        table.show(columns, len(runs), cells)
        spans: list[Span] = []
        for active in self.active_bindings.values():
            binding = active.binding
            if (
                active.node is self
                and binding.id
                and (said := binding.description) not in (span.text.strip() for span in spans)
            ):
                spans += [Span(self.app.get_key_display(binding), bold=True), Span(f" {said}  ", style.GREY)]
        notes = list(self.document["notes"]) if self.document else []
        if runs and any(run["provisional"] for run in runs):
            notes.append("the dataset is prepared at the launch, ids are provisional until then")
        text = f"note: {notes[0]}" + (f" (and {len(notes) - 1} more)" if len(notes) > 1 else "") if notes else ""
        foot.show([fmt.cut((Span(text, style.GREY),), foot.size.width), fmt.shortened(tuple(spans), foot.size.width)])

    def _head(self, width: int) -> list[Row]:
        draft = self.draft
        if self.wrong:
            return [(Span(line, style.BAD),) for line in fmt.wrapped(self.wrong, width)[:3]]
        if self.document is None:
            return [(Span("planning ...", style.GREY),)]
        total = self.document["totals"]
        totals = (
            total
            | self.left
            | {"left": self.left["runs"], "runs": total["runs"], "slots": self.bench.workspace.run_slots}
        )
        seeds = f"seeds {','.join(map(str, draft.seeds))}" if draft.seeds else ""
        engines = " ".join(dict.fromkeys(run["engine"] for run in self.document["runs"]))
        facts = [f"study {self.document['study']}", engines, f"on {draft.host}", seeds, " ".join(draft.changes)]
        return [
            fmt.shortened((Span(sweep_lines.totals_text(totals, width), bold=True),), width),
            fmt.shortened((Span("   ".join(fact for fact in facts if fact), style.GREY),), width),
        ]

    def action_launch(self) -> None:
        """Close with the draft, if there is something to launch."""
        if self.document is None:
            self.bench.notify(self.wrong or "still planning", severity="warning")
        elif not self.left["runs"]:
            self.bench.notify("every run of it is over: R on screen 2 trains one again")
        else:
            self.dismiss(self.draft)

    def action_leave(self) -> None:
        """Close with nothing."""
        self.dismiss(None)


def table_of(runs: Sequence[Mapping[str, Any]], width: int) -> tuple[list[Column], Any]:
    """Columns and cells for the runs of a plan: what names them, the knobs in which they differ, their cost."""
    knobs = varying(runs)[:MOST_KNOBS]
    columns = [
        Column(title="state", width=10, key="state"),
        Column(title="optimizer", width=10, key="optimizer"),
        Column(title="model", width=12, key="model"),
        Column(title="ratio", width=6, right=True, key="ratio"),
        *(Column(title=knob, width=max(7, min(12, len(knob))), right=True, key=f"knob:{knob}") for knob in knobs),
        Column(title="seed", width=4, right=True, key="seed"),
        Column(title="steps", width=7, right=True, key="steps"),
        Column(title="tokens", width=7, right=True, key="tokens"),
        Column(title="time", width=7, right=True, key="time"),
        Column(title="GiB", width=6, right=True, key="memory"),
        Column(title="FLOPs", width=6, right=True, key="flops"),
        Column(title="batch x seq", width=11, right=True, key="batch"),
        Column(title="run", width=8, key="id"),
    ]
    for key in ("id", "batch", "flops", "memory", "steps"):
        if sum(column.width + 1 for column in columns) + 2 > width:
            columns = [column for column in columns if column.key != key]

    def cells(index: int) -> list[Span]:
        run = runs[index]
        glyph = style.GLYPHS.get(run["state"], "?")
        fixed = {
            "state": Span(f"{glyph} {run['state']}", style.GREY),
            "optimizer": Span(run["optimizer"], style.colour_of(run["optimizer"])),
            "model": Span(run["model"]),
            "ratio": Span(fmt.ratio(run["chinchilla"])),
            "seed": Span(str(run["seed"]), style.GREY),
            "steps": Span(f"{run['steps']:,}"),
            "tokens": Span(fmt.short(run["tokens"])),
            "time": Span(fmt.duration(run["seconds_estimate"])),
            "memory": Span(sweep_lines.gib(run["bytes_estimate"])),
            "flops": Span(fmt.short(run["flops"])),
            "batch": Span(f"{run['batch_size']} x {run['seq_len']}", style.GREY),
            "id": Span(run["run_id"][:8], style.GREY),
        }
        return [
            fixed.get(column.key) or Span(fmt.knob(run["hyperparameters"].get(column.key.removeprefix("knob:"))))
            for column in columns
        ]

    return columns, cells


def varying(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """lr, and the knobs in which runs of one optimizer differ."""
    seen: dict[tuple[str, str], set[Any]] = {}
    for run in runs:
        for knob, value in run["hyperparameters"].items():
            seen.setdefault((run["optimizer"], knob), set()).add(value)
    return ["lr", *sorted({knob for (_, knob), values in seen.items() if len(values) > 1 and knob != "lr"})]
