"""Changing the next launch in place: engine, host, seeds and knobs, each checked by the planner before it is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from optsweep_engines.engine import engine_names
from optsweep_tui import flow, machines, preview
from optsweep_tui.app.actions import runs_text
from optsweep_tui.app.screens.pick import Entry, Pick
from optsweep_tui.app.screens.prompt import Prompt
from optsweep_tui.preview import Draft

if TYPE_CHECKING:
    from optsweep_tui.app.app import OptsweepApp


class EditingActions:
    """The keys that change a draft, the same on every screen that shows one."""

    _editing: Editing

    def action_engine(self) -> None:
        """Another engine."""
        self._editing.engine()

    def action_host(self) -> None:
        """Another host."""
        self._editing.host()

    def action_seeds(self) -> None:
        """Other seeds."""
        self._editing.seeds()

    def action_knobs(self) -> None:
        """Other values of knobs."""
        self._editing.knobs()

    def action_save(self) -> None:
        """Keep these runs as a grid file."""
        self._editing.save()


class Editing:
    """The editing of one draft; the screen says what the draft is and takes the changed one."""

    def __init__(self, app: OptsweepApp, draft: Callable[[], Draft | None], take: Callable[[Draft], None]) -> None:
        self._app, self._draft, self._take = app, draft, take

    def _here(self) -> Draft | None:
        draft = self._draft()
        if draft is None:
            self._app.notify("nothing to change yet: g opens a grid, n takes cells of your own")
        return draft

    def engine(self) -> None:
        """Choose the engine; one that cannot run here says so when it is planned."""
        draft = self._here()
        if draft is None:
            return
        entries = [Entry(value="", label="as the grid says", note="")]
        entries += [Entry(value=name, label=name, note=_engine_note(name)) for name in engine_names()]

        def taken(name: str | None) -> None:
            if name is not None:
                self._take(replace(draft, engine=name or None))

        self._app.push_screen(Pick("engine", entries, draft.engine or ""), taken)

    def host(self) -> None:
        """Choose the host."""
        draft = self._here()
        if draft is None:
            return
        notes = {"local": "this machine"}
        entries = [
            Entry(value=name, label=name, note=notes.get(name, "")) for name in machines.names(self._app.workspace)
        ]

        def taken(name: str | None) -> None:
            if name:
                self._take(replace(draft, host=name))

        self._app.push_screen(Pick("host (screen 6 shows what they do)", entries, draft.host), taken)

    def seeds(self) -> None:
        """Type the seeds."""
        draft = self._here()
        if draft is None:
            return

        def changed(text: str) -> Draft:
            return replace(draft, seeds=preview.split_seeds(text))

        self._prompt(
            "seeds of every configuration", ",".join(map(str, draft.seeds)), changed,
            ["whole numbers, comma separated: 0,1,2; nothing = as the grid says"],
        )  # fmt: skip

    def knobs(self) -> None:
        """Type what is changed in knobs and settings."""
        draft = self._here()
        if draft is None:
            return

        def changed(text: str) -> Draft:
            return replace(draft, changes=preview.split_changes(text))

        notes = [
            "lr=0.003 fixes a knob, lr=0.002,0.004 sweeps it around the incumbent, lr=..*weight_decay=.. is a product,",
            "adamw.beta2=0.95 is of one optimizer alone; batch_size, schedule, dtype, seq_len too; nothing = as the grid says",
        ]
        optimizers = list(dict.fromkeys(cell[0] for cell in draft.cells))
        notes += [f"knobs of {name}: {' '.join(_knobs(name))}" for name in optimizers[:2]]
        self._prompt("knobs and settings", " ".join(draft.changes), changed, notes)

    def _prompt(self, title: str, text: str, changed: Callable[[str], Draft], notes: list[str]) -> None:
        workspace = self._app.workspace

        def check(typed: str) -> str:
            plan = preview.plan(workspace, changed(typed))
            later = f" + {plan.fresh_seed_runs} fresh seeds of the best" if plan.fresh_seed_runs else ""
            return f"{runs_text(len(plan.specs))}{later}"

        def taken(typed: str | None) -> None:
            if typed is not None:
                self._take(changed(typed))

        self._app.push_screen(Prompt(title, text, check, notes), taken)

    def save(self) -> None:
        """Keep the runs of the draft as a grid file."""
        draft = self._here()
        if draft is None:
            return
        workspace = self._app.workspace

        def check(name: str) -> str:
            if not name:
                return "a name, or a path ending in .toml"
            path = preview.grid_path(workspace, name)
            return f"writes {path}; optsweep run --grid {name} runs it"

        def taken(name: str | None) -> None:
            if name:
                self._app.work(lambda: f"written: {preview.save(workspace, preview.plan(workspace, draft), name)}")

        notes = ["the selected cells with every change, run by run; a word goes into the workspace's grids"]
        self._app.push_screen(Prompt("save as a grid file", "", check, notes), taken)


def _engine_note(name: str) -> str:
    import importlib.util

    library = flow.ENGINE_LIBRARY.get(name)
    missing = library is not None and importlib.util.find_spec(library) is None
    return f"needs {library}, which is not installed here" if missing else ""


def _knobs(optimizer: str) -> list[str]:
    """Names of the knobs of an optimizer, lr first."""
    from optsweep_tui import grid

    try:
        return [name for name in grid.own_knobs(optimizer) if name not in grid.SETTINGS]
    except LookupError:
        return []
