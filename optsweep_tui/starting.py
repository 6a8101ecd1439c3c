"""Runs that begin with the state of another: `--from-run ID[@STEP]`, branches of a trunk; steps of `--keep`; read and checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optsweep_engines import kept, schedules
from optsweep_engines.optimizers import catalogue
from optsweep_engines.spec import BRANCH, WEIGHTS, RunSpec, Start
from optsweep_tui import grid, heldout, rundir, states
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace

if TYPE_CHECKING:
    from optsweep_tui.grid import Datasets

SCHEDULE = "wsd"
"""Of a branch: it has the trunk's steady part and a decay of its own."""
CHANGED = ("decay", "min_lr_ratio", "validation_interval")
"""What a branch may have other than its trunk beside its length: nothing of it is seen before the decay."""
DOCS = "docs/branches.md says how"


def parent_of(workspace: Workspace, text: str) -> tuple[RunSpec, int | None]:
    """The run of `ID[@STEP]`, and the step.

    Raises:
        OptsweepError: not of that form, no such run, an imported one, or a broken folder.
    """
    match = re.fullmatch(r"([0-9a-fA-F]{4,32})(?:@([0-9]{1,10}|end))?", text.strip())
    if match is None:
        raise OptsweepError(
            f'--from-run "{text}" is not of the form ID or ID@STEP', "optsweep ls shows the ids; @end is the last step"
        )
    run_id = rundir.find_run(workspace.runs, match.group(1))
    spec = rundir.read_spec(workspace.runs / run_id)
    step = match.group(2)
    return spec, spec.steps if step == "end" else None if step is None else int(step)


def state(workspace: Workspace, spec: RunSpec, step: int) -> states.State:
    """The state that a run keeps of a step; every byte of one that lies here is hashed.

    Raises:
        OptsweepError: there is none, or it is damaged.
    """
    try:
        return states.find(workspace, spec, step)
    except FileNotFoundError:
        raise _missing(workspace, spec, [step]) from None
    except (ValueError, OSError) as error:
        raise OptsweepError(
            f"--from-run: {error}", f"remove that file, then {kept.call_for(spec.run_id, [step])} makes it again"
        ) from None


def _missing(workspace: Workspace, spec: RunSpec, steps: Sequence[int]) -> OptsweepError:
    there = states.steps(workspace, spec.run_id)
    has = f"it keeps those of {', '.join(map(str, there))}" if there else "it keeps none"
    beyond = [step for step in steps if not 1 <= step <= spec.steps]
    if beyond:
        return OptsweepError(
            f"--from-run {spec.run_id[:8]}@{beyond[0]}: the run has steps 1 to {spec.steps}", f"{has} now"
        )
    named = ", ".join(map(str, steps))
    return OptsweepError(
        f"run {spec.run_id[:8]} keeps no state of step{'s'[: len(steps) != 1]} {named}; {has}",
        f"{kept.call_for(spec.run_id, list(steps))} makes {'it' if len(steps) == 1 else 'them'}",
    )


# ---------------------------------------------------------------- weights


def with_weights(workspace: Workspace, specs: Sequence[RunSpec], text: str, datasets: Datasets) -> list[RunSpec]:
    """The runs of a plan, beginning with the parameters of another run.

    Raises:
        OptsweepError: no such state, or a model or tokens that differ from it.
    """
    parent, step = parent_of(workspace, text)
    found = state(workspace, parent, parent.steps if step is None else step)
    start = Start(run_id=parent.run_id, step=found.step, mode=WEIGHTS, parameters_sha256=found.parameters_sha256)
    for spec in specs:
        _same_model(spec, parent, datasets)
    return [spec.replace(start=start) for spec in specs]


def _same_model(spec: RunSpec, parent: RunSpec, datasets: Datasets) -> None:
    where = f"{spec.optimizer} {spec.model} {spec.chinchilla:g}: --from-run {parent.run_id[:8]}"
    for name, value in spec.shape.to_dict().items():
        other = parent.shape.to_dict()[name]
        if value != other:
            raise OptsweepError(
                f"{where}: {name} is {value} here and {other} in that run: its parameters do not fit",
                f"take -m {parent.model}" if spec.model != parent.model else "take a dataset of its vocabulary",
            )
    if (spec.dataset, spec.dataset_hash) == (parent.dataset, parent.dataset_hash):
        return
    try:
        before = datasets(parent.dataset)
    except OptsweepError:
        return  # its data have gone: sizes of vocabularies were compared above
    reason = heldout.other_tokens(before, datasets(spec.dataset))
    if reason is not None:
        raise OptsweepError(f"{where}: {reason}", "prepare it with the tokenizer of the training data")


# ---------------------------------------------------------------- branches


def branches(workspace: Workspace, text: str, ratios: Iterable[str], sets: Iterable[str]) -> list[RunSpec]:
    """The branches of a trunk, by ratio.

    Raises:
        OptsweepError: the run is no trunk, a branch would not be the whole run of its length, or a state is not kept.
    """
    trunk, step = parent_of(workspace, text)
    _require_trunk(trunk)
    changes = _changes(sets)
    wanted = list(dict.fromkeys(grid.ratio(value) for value in ratios))
    if not wanted:
        raise OptsweepError(
            "nothing is selected: -c RATIO is missing",
            "give -c for branches of that run, or -o, -m and -c for runs that begin with its weights",
        )
    wholes = [_whole(trunk, value, changes) for value in wanted]
    begins = [decay_start(whole) for whole in wholes]
    for whole, begin in zip(wholes, begins, strict=True):
        _require_same_until(trunk, whole, begin)
        if step is not None and step != begin:
            raise OptsweepError(
                f"--from-run {text}: the branch of ratio {whole.chinchilla:g} begins where its decay does, at step {begin}",
                "leave the step out; --set decay=FRACTION moves it",
            )
    there = set(states.steps(workspace, trunk.run_id))
    missing = sorted(set(begins) - there)
    if missing:
        raise _missing(workspace, trunk, missing)
    found = []
    for whole, begin in zip(wholes, begins, strict=True):
        at = state(workspace, trunk, begin)
        if at.engine != trunk.engine:
            raise OptsweepError(
                f"the state of run {trunk.run_id[:8]} at step {begin} was written by engine {at.engine}",
                "remove it and make it again",
            )
        found.append(
            whole.replace(
                start=Start(run_id=trunk.run_id, step=begin, mode=BRANCH, parameters_sha256=at.parameters_sha256)
            )
        )
    return found


def require_only(trunk: str, given: Mapping[str, Any]) -> None:
    """Refuse what a branch has from its trunk.

    Args:
        given: option -> what was given for it.

    Raises:
        OptsweepError: naming the first that is not empty.
    """
    for option, value in given.items():
        if value:
            raise OptsweepError(
                f"{option} with the branches of {trunk}: a branch has all of its trunk but its length",
                "give -c only; with -o, -m and -c runs begin with its weights and may differ",
            )


def _require_trunk(trunk: RunSpec) -> None:
    name = f"run {trunk.run_id[:8]}"
    if trunk.schedule not in schedules.TRUNKS:
        raise OptsweepError(
            f"{name} has the schedule {trunk.schedule}: without a steady part nothing can branch off",
            f"train a trunk with --set schedule={SCHEDULE} --set warmup=STEPS --keep ..; {DOCS}",
        )
    rule = catalogue.optimizer(trunk.optimizer) if trunk.optimizer_file_hash is None else None
    if rule is None or "total_steps" in rule.needs:
        why = "is a file of your own, which may read" if rule is None else "reads"
        raise OptsweepError(
            f"{name}: {trunk.optimizer} {why} the length of the run: a branch would not be the run from scratch",
            "take another optimizer",
        )
    if trunk.simulate_epochs > 1:
        raise OptsweepError(
            f"{name} goes {trunk.simulate_epochs} times through a part of its data that depends on its length", DOCS
        )
    if trunk.start is not None:
        raise OptsweepError(
            f"{name} began with the state of run {trunk.start.run_id[:8]} itself: only a run from scratch can be a trunk",
            "name that run, or begin with the weights of this one by -o, -m and -c",
        )


def _changes(sets: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals or not value.strip():
            raise OptsweepError(f'--set "{text}" is not of the form knob=value', "write --set decay=0.1")
        if name.strip() not in CHANGED:
            raise UnknownName("change of a branch", name.strip(), CHANGED, "--set", "(all else is its trunk's)")
        found[name.strip()] = grid.scalar(value)
    return found


def _whole(trunk: RunSpec, value: float, changes: Mapping[str, Any]) -> RunSpec:
    """The run of a length that would be trained from scratch."""
    where = f"branch {value:g} of {trunk.run_id[:8]}"
    knobs = {key: entry for key, entry in trunk.hyperparameters.items() if key != "decay" or trunk.schedule == SCHEDULE}
    knobs |= {key: entry for key, entry in changes.items() if key != "validation_interval"}
    interval = changes.get("validation_interval", trunk.validation_interval)
    if type(interval) is not int or interval < 0:
        raise OptsweepError(f"{where}: validation_interval = {interval!r} is not a whole number from 0", "write 100")
    try:
        hyperparameters = catalogue.resolve_knobs(trunk.optimizer, knobs, SCHEDULE)
    except ValueError as error:
        raise OptsweepError(f"{where}: {error}", "optsweep optimizers NAME shows the ranges") from None
    spec = trunk.replace(
        tokens=round(value * 20 * trunk.shape.non_embedding_params),
        schedule=SCHEDULE,
        hyperparameters=hyperparameters,
        validation_interval=interval,
    )
    if spec.steps < 1:
        raise OptsweepError(f"{where}: {spec.tokens:,} tokens are less than one step", "take a larger ratio")
    return spec


def decay_start(spec: RunSpec) -> int:
    """Steps that a run takes before its decay."""
    return schedules.decay_start(spec.steps, spec.schedule, spec.hyperparameters)


def _require_same_until(trunk: RunSpec, whole: RunSpec, begin: int) -> None:
    """Every step before the decay has the same learning rate in both: then it is the same step.

    Raises:
        OptsweepError: the branch would begin in the warmup, beyond the steady part, or its warmup is another one.
    """
    where = f"branch {whole.chinchilla:g} of {trunk.run_id[:8]}"
    warm, own = (
        schedules.warmup_steps(spec.steps, float(spec.hyperparameters.get("warmup") or 0.0)) for spec in (trunk, whole)
    )
    if own >= whole.steps:
        raise OptsweepError(f"{where}: all of its {whole.steps} steps are warmup", "take a larger ratio")
    if begin < 1 or begin < warm:
        raise OptsweepError(
            f"{where}: its decay would begin at step {begin}, inside the trunk's warmup of {warm} steps",
            "take a larger ratio",
        )
    if own != warm:
        raise OptsweepError(
            f"{where}: warmup = {whole.hyperparameters['warmup']} is {own} steps of the branch and {warm} of the trunk",
            "train the trunk with a warmup in steps: --set warmup=100",
        )
    steady = decay_start(trunk)
    if begin > steady or begin > trunk.steps:
        raise OptsweepError(
            f"{where}: its decay would begin at step {begin}, the trunk is steady until step {steady} of {trunk.steps}",
            "take a smaller ratio or a longer trunk",
        )
    if whole.steps == begin:
        raise OptsweepError(f"{where}: nothing decays", "give --set decay=0.2")
    for step in range(begin):
        first, second = (
            schedules.lr_factor(step, spec.steps, spec.schedule, spec.hyperparameters) for spec in (trunk, whole)
        )
        if first != second:
            raise OptsweepError(f"{where}: step {step} has another learning rate in the trunk", DOCS)


# ---------------------------------------------------------------- keeping


def keep_steps(spec: RunSpec, text: str) -> list[int]:
    """`300,600,end,c0.5` as steps of a run: `end` is its last, `cRATIO` where a branch of that ratio begins.

    Those of a branch begin behind its trunk's.

    Raises:
        OptsweepError: not a list of those, or a step that the run does not have.
    """
    where, found = f"--keep {text}", set()
    for part in (each.strip().lower() for each in text.split(",")):
        if part == "end":
            step = spec.steps
        elif part.startswith("c") and len(part) > 1:
            _require_trunk(spec)
            whole = _whole(spec, grid.ratio(part[1:], where), {})
            step = decay_start(whole)
            _require_same_until(spec, whole, step)
        elif re.fullmatch(r"[0-9]{1,10}", part):
            step = int(part)
        else:
            raise OptsweepError(
                f'{where}: "{part}" is no step', "write steps, end, or c0.5: where a branch of ratio 0.5 begins"
            )
        first = spec.first_step + 1
        if not first <= step <= spec.steps:
            raise OptsweepError(
                f"{where}: {spec.optimizer} {spec.model} {spec.chinchilla:g} has steps {first} to {spec.steps}, not {step}",
                "name steps that every run of the plan has",
            )
        found.add(step)
    return sorted(found)


def begun_with(spec: RunSpec) -> str:
    """In a few words what a run begins with; empty where it is the seed."""
    if spec.start is None:
        return ""
    what = "branch of" if spec.start.mode == BRANCH else "weights of"
    return f"{what} {spec.start.run_id[:8]}@{spec.start.step}"
