"""A tuning in a workspace: its configurations as specs, the outcomes of its run folders, and the loop that runs it."""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from optsweep_engines.optimizers import user, user_plan
from optsweep_engines.spec import RunSpec
from optsweep_tui import flow, grid, rundir
from optsweep_tui.datasets import DatasetLookup
from optsweep_tui.dispatch import retry
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace
from optsweep_tui.tune import phases
from optsweep_tui.tune.axes import Config, Key, key_of, proposed
from optsweep_tui.tune.estimate import Pace, share_done, to_come
from optsweep_tui.tune.known_noise import known_sigma
from optsweep_tui.tune.lists import axis_of, declared_knob
from optsweep_tui.tune.problem import Candidate, Outcome, Problem, Results, Step
from optsweep_tui.tune.tuning import TunedCell, Tuning
from optsweep_tui.tune.whole import Placed, places

SETTLED = ("done", "diverged", "oom")
"""States that no later look changes."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """A look at a tuning while its runs go on."""

    progress: flow.Progress
    """Of the runs in flight and those that ended beside them."""
    title: str


class Session:
    """One tuning in one workspace. All that it knows is read from the run folders."""

    def __init__(self, workspace: Workspace, tuning: Tuning, *, prepare: bool = True) -> None:
        self.workspace, self.tuning = workspace, tuning
        self._datasets = DatasetLookup(workspace, prepare)
        self._specs: dict[tuple[str, str, float, Key, int], RunSpec] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._refusals: dict[tuple[str, str, float, Key], str | None] = {}
        self._ours: set[str] = set()
        self._lines: dict[str, flow.RunLine] = {}
        self.decided: dict[tuple[str, frozenset[tuple[str, float | None]]], tuple[TunedCell, str]] = {}
        """What `phases` decided for a cell over the ends of so many runs: a look for every end would be slow."""
        self._pace, self._started = Pace(), time.monotonic()

    # ------------------------------------------------------------ specs

    def start_spec(self, cell: TunedCell) -> RunSpec:
        """The run of a cell's start."""
        return self.spec(cell, Candidate(config=cell.start, seed=self.tuning.rules.seed))

    def spec(self, cell: TunedCell, candidate: Candidate) -> RunSpec:
        """The run of a configuration under a seed."""
        key = (cell.optimizer, cell.model, cell.chinchilla, *candidate.key)
        if key not in self._specs:
            config, seed = candidate.config, candidate.seed
            where = (cell.optimizer, cell.model, cell.chinchilla)
            self._specs[key] = grid.resolve(self.tuning.study, *where, config, seed, self._datasets)
        return self._specs[key]

    def refused(self, cell: TunedCell, config: Config) -> str | None:
        """Why a configuration cannot be run, as planning says; None where it can."""
        key = (cell.optimizer, cell.model, cell.chinchilla, key_of(config))
        if key not in self._refusals:
            try:
                spec = self.spec(cell, Candidate(config=config, seed=self.tuning.rules.seed))
                user_plan.attempt([spec])
                self._refusals[key] = None
            except (OptsweepError, user.OwnOptimizerError) as error:
                self._refusals[key] = str(error)
        return self._refusals[key]

    def problem(self, cell: TunedCell) -> Problem:
        """The search that a cell stands for."""
        rules = cell.ruled(self.tuning.rules)
        axes = {
            knob: axis_of(cell.optimizer, knob, values, cell.name, cell.given.get(knob, ()))
            for knob, values in cell.axes.items()
        }
        if cell.phase > 1 and not set(rules.block or ()) <= axes.keys():
            rules = replace(rules, block=None)  # its knobs were settled by earlier phases
        spare = {
            knob: axis_of(cell.optimizer, knob, [cell.start[knob]], cell.name)
            for knob in rules.block or ()
            if knob not in axes and knob in cell.start and declared_knob(cell.optimizer, knob)
        }
        return Problem(
            start=cell.start,
            axes=axes,
            spare=spare,
            rules=rules,
            proposed=proposed,
            refused=lambda config: self.refused(cell, config),
        )

    # ------------------------------------------------------------ results

    def outcome(self, run_id: str) -> Outcome | None:
        """How a run ended; None while it may still go on."""
        if run_id in self._outcomes:
            return self._outcomes[run_id]
        folder = self.workspace.runs / run_id
        state = rundir.state_of(folder)
        if not (state.finished or state.state == "lost") or not retry.given_up(folder, state):
            return None
        loss = state.record.val_loss if state.record is not None and state.state == "done" else None
        found = Outcome(run_id=run_id, state=state.state, loss=loss)
        if state.state in SETTLED:
            self._outcomes[run_id] = found
        return found

    def results(self, cell: TunedCell) -> Results:
        """The outcomes of a cell's runs."""
        return lambda candidate: self.outcome(self.spec(cell, candidate).run_id)

    def places(self) -> list[Placed]:
        """Where every cell is now."""
        return places(self.tuning, self.problem, self.results, phases.adviser(self))

    def pending(self, placed: Sequence[Placed]) -> list[RunSpec]:
        """The runs that are needed next, of all cells."""
        found: dict[str, RunSpec] = {}
        for entry in placed:
            for candidate in entry.position.pending:
                spec = self.spec(entry.cell, candidate)
                found[spec.run_id] = spec
        return list(found.values())

    def elsewhere(self, placed: Sequence[Placed]) -> list[RunSpec]:
        """Runs that ended for another study and now belong to this one too: tables of it count them."""
        found = []
        for entry in placed:
            for candidate, _, outcome in entry.position.runs:
                if outcome is not None and outcome.run_id not in self._ours:
                    self._ours.add(outcome.run_id)
                    if self.tuning.name not in rundir.studies_of(self.workspace.runs / outcome.run_id):
                        found.append(self.spec(entry.cell, candidate))
        return found

    # ------------------------------------------------------------ the loop

    def launch(self, specs: Sequence[RunSpec]) -> None:
        """Plant and queue runs as a part of the tuning's study; of two controllers one at a time."""
        lock = os.open(self.workspace.studies / f"{self.tuning.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            flow.launch(self.workspace, flow.Plan(study=self.tuning.study, specs=list(specs), fresh_seed_runs=0))
        finally:
            os.close(lock)

    def drive(self, say: Callable[[Placed, Step], None]) -> Iterator[Look]:
        """Run the tuning to its end: launch what is needed next, look while it goes on, decide anew as runs end.

        Stopping the iteration (or dying) loses nothing: the next session finds the same runs and decides the same.

        Args:
            say: called with every step that is made from now on, once, and the cell that it is of.
        """
        told = {entry.cell.name: len(entry.position.steps) for entry in self.places()}
        while True:
            placed = self.places()
            for entry in placed:
                for step in entry.position.steps[told[entry.cell.name] :]:
                    say(entry, step)
            told = {entry.cell.name: len(entry.position.steps) for entry in placed}
            wanted, elsewhere = self.pending(placed), self.elsewhere(placed)
            if wanted or elsewhere:
                self.launch([*elsewhere, *wanted])
            if not wanted:
                return
            known, over = {spec.run_id for spec in wanted}, 0
            for progress in flow.drive(self.workspace, [spec.run_id for spec in wanted]):
                yield self._look(progress, placed)
                ended = sum(line.state in rundir.FINISHED for line in progress.lines)
                if ended > over and not progress.complete:
                    over = ended
                    if any(spec.run_id not in known for spec in self.pending(self.places())):
                        break  # a cell has gone on: its next runs join those in flight

    def _look(self, progress: flow.Progress, placed: Sequence[Placed]) -> Look:
        """A look at the runs in flight as one at the whole tuning."""
        earlier = self._earlier(placed)
        flying = [line for line in progress.lines if line.run_id not in earlier]
        lines = [*earlier.values(), *flying]
        before = sum(self._flops(run_id) for run_id in earlier)
        shares = (self._flops(line.run_id) * share_done(line, line.state in rundir.FINISHED) for line in flying)
        ahead = (to_come(entry, self.tuning.rules) * self._flops_of_one(entry) for entry in placed)
        seen = replace(
            progress,
            lines=lines,
            counts=dict(Counter(line.state for line in lines)),
            seconds=time.monotonic() - self._started,
            eta_seconds=self._pace.seconds(before + sum(shares), before + sum(ahead)),
            complete=False,
        )
        return Look(progress=seen, title=self.title(placed))

    def _earlier(self, placed: Sequence[Placed]) -> dict[str, flow.RunLine]:
        """The runs that had ended when the cells were placed."""
        for entry in placed:
            for _, _, outcome in entry.position.runs:
                if outcome is not None and outcome.run_id not in self._lines:
                    self._lines[outcome.run_id] = flow.run_line(self.workspace, outcome.run_id)
        return dict(self._lines)

    def _flops(self, run_id: str) -> float:
        return flow.spec_of(self.workspace, run_id).flops

    def _flops_of_one(self, placed: Placed) -> float:
        """FLOPs of one run of a cell."""
        return self.start_spec(placed.cell).flops

    def title(self, placed: Sequence[Placed]) -> str:
        ended = sum(entry.ended for entry in placed)
        cells = f"{ended} of {len(placed)} cells   " if len(placed) > 1 else ""
        more = sum(to_come(entry, self.tuning.rules) for entry in placed)
        text = f"tuning {self.tuning.name}   {cells}{more} runs to go if nothing moves"
        return f"{text}   {self.tuning.engine}, {self.workspace.run_slots} slots"


def begun(workspace: Workspace, tuning: Tuning, known: bool, *, prepare: bool) -> Session:
    """A session of a tuning; what is known of the noise is looked up when the tuning begins, and kept.

    Args:
        known: it was begun before.
        prepare: prepare its datasets.
    """
    first = Session(workspace, tuning, prepare=prepare)
    if known or tuning.rules.sigma is not None:
        return first
    cells = []
    for cell in tuning.cells:
        sigma, source = known_sigma(workspace, first.start_spec(cell))
        cells.append(replace(cell, sigma=sigma, sigma_source=source))
    return Session(workspace, replace(tuning, cells=tuple(cells)), prepare=prepare)
