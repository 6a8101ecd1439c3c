"""Getting a bundle's run ready to be trained again here: where it goes, which data and code it meets, what is different."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from optsweep_engines import sources
from optsweep_engines.engine import engine_names
from optsweep_engines.optimizers import user, user_plan
from optsweep_engines.spec import NUMERICS_VERSION, RunRecord
from optsweep_tui import datasets, grid, rundir
from optsweep_tui.bundle.read import Bundle
from optsweep_tui.core import RunSpec
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace

FOLDER = "reproduced"
"""Inside a workspace: workspaces of their own for runs that it holds already, since a run is never trained twice in one."""
MOST_RERUNS = 1000


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """A bundle's run, ready to be launched."""

    bundle: Bundle
    place: Workspace
    """Where it is trained."""
    study: str
    spec: RunSpec
    same_data: bool
    done: bool
    """An earlier rerun is over there already: nothing is trained."""
    differences: tuple[str, ...]
    """What is not as it was when the original was trained."""


def prepared(
    workspace: Workspace,
    bundle: Bundle,
    *,
    optimizer: Path | None = None,
    other_data: bool = False,
    again: bool = False,
    check_only: bool = False,
) -> Rerun:
    """Everything but the training.

    Args:
        optimizer: the user's own copy of the optimizer file, for a run that has one: a bundle's is never executed.
        other_data: train on what is prepared here, where the original's data cannot be had.
        again: train anew although an earlier rerun is over.
        check_only: write nothing; the dataset is looked for, not prepared.

    Raises:
        OptsweepError: the data or the optimizer file is not the original's, or cannot be had.
    """
    spec, differences = bundle.spec, _code_differences(bundle)
    if spec.engine not in engine_names():
        raise UnknownName(
            "engine", spec.engine, engine_names(), str(bundle.path), "(optsweep doctor lists the engines)"
        )
    if spec.numerics_version != NUMERICS_VERSION:
        differences.append(
            f"numerics: the original has version {spec.numerics_version}, the engines here {NUMERICS_VERSION}"
        )
        spec = spec.replace(numerics_version=NUMERICS_VERSION)
    _check_optimizer(spec, optimizer)
    spec, said = _with_data(workspace, spec, other_data, check_only)
    differences += said
    study = f"reproduce-{bundle.run_id[:8]}"
    place = _place(workspace, spec.run_id, study, again)
    if not check_only and place.root != workspace.root:
        _make(place, workspace)
    return Rerun(
        bundle=bundle,
        place=place,
        study=study,
        spec=spec,
        same_data=spec.dataset_hash == bundle.spec.dataset_hash,
        done=rundir.state_of(place.runs / spec.run_id).finished,
        differences=tuple(differences),
    )


def _code_differences(bundle: Bundle) -> list[str]:
    here = sources.digest()
    if bundle.ran is None:
        return [f"code: the bundle does not say what ran; it holds {bundle.code[:12]}, installed here is {here[:12]}"]
    if bundle.ran != here:
        kept = (
            "" if bundle.ran == bundle.code else f"; the code in the bundle is {bundle.code[:12]}, not what ran either"
        )
        return [f"code: {bundle.ran[:12]} trained the original, installed here is {here[:12]}{kept}"]
    return []


def _check_optimizer(spec: RunSpec, optimizer: Path | None) -> None:
    """Make a user's own optimizer known, from the file that the user names here."""
    if spec.optimizer_file_hash is None:
        if optimizer is not None:
            raise OptsweepError(f"the run uses {spec.optimizer}, no optimizer of a file", "leave --optimizer out")
        grid.optimizer_name(
            spec.optimizer, "the bundle"
        )  # a class of a package is looked at, an unknown name is an error
        return
    if optimizer is None:
        raise OptsweepError(
            f"the run uses a file of its author, {spec.optimizer}, and code of a bundle is never executed",
            "take optimizer.py out of it (unzip BUNDLE optimizer.py), read it, and name it with --optimizer FILE",
        )
    with grid.own_errors():
        source = user.read(optimizer.expanduser(), str(optimizer))
    if source.sha256 != spec.optimizer_file_hash:
        raise OptsweepError(
            f"{optimizer} hashes to {source.sha256[:12]}, the run used {spec.optimizer_file_hash[:12]}",
            "name an unchanged copy of that file",
        )
    name = user.target_name(spec.optimizer)
    with grid.own_errors():
        entry = user_plan.planned(f"{optimizer}:{name}", grid.HERE)
    if entry.name != spec.optimizer:
        raise OptsweepError(
            f"{optimizer} gives {entry.name}, the run used {spec.optimizer}",
            f"call the file {spec.optimizer.partition(':')[0]}.py, as its author did",
        )


def _with_data(workspace: Workspace, spec: RunSpec, other_data: bool, check_only: bool) -> tuple[RunSpec, list[str]]:
    """The spec with the data that it will be trained on, and what is different about that."""
    try:
        if not check_only:
            datasets.require(workspace.ensure(), [spec])
            return spec, []
        facts = datasets.DatasetLookup(workspace, prepare=False)(spec.dataset)
    except OptsweepError as error:
        if not other_data:
            raise OptsweepError(
                f"the data of the original, {spec.dataset} {str(spec.dataset_hash)[:12]}, cannot be had here: {error.message}",
                f"bring its folder into {workspace.data}, or add --other-data to train on what is here",
            ) from None
        facts = datasets.DatasetLookup(workspace, prepare=True)(spec.dataset)
    if facts.sha256 is None or facts.sha256 == spec.dataset_hash:
        return spec, [] if facts.sha256 else [f"data: {spec.dataset} is not prepared here yet"]
    line = f"data: the original had {spec.dataset} {str(spec.dataset_hash)[:12]}, here it is {facts.sha256[:12]}"
    if check_only:
        return spec, [line]
    own = (spec.dataset, spec.dataset_hash)
    sets = {
        name: dataclasses.replace(item, dataset_hash=facts.sha256) if (item.dataset, item.dataset_hash) == own else item
        for name, item in spec.validation_sets.items()
    }
    return spec.replace(dataset_hash=facts.sha256, validation_sets=sets), [line]


def _place(workspace: Workspace, run_id: str, study: str, again: bool) -> Workspace:
    """The workspace itself where the run is not there but by a rerun; else the first of its workspaces for reruns that fits."""
    here = [workspace] if rundir.studies_of(workspace.runs / run_id) in ([], [study]) else []
    root = workspace.root / FOLDER
    others = (root / (run_id[:12] + (f"-{number}" if number > 1 else "")) for number in range(1, MOST_RERUNS))
    for place in (*here, *(dataclasses.replace(workspace, root=path) for path in others)):
        if not (again and rundir.state_of(place.runs / run_id).finished):
            return place
    raise OptsweepError(f"{root} holds {MOST_RERUNS} reruns of this run", "delete some")


def _make(place: Workspace, workspace: Workspace) -> None:
    """A workspace for reruns, which shares the prepared data."""
    try:
        place.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not place.data.exists():
            place.data.symlink_to(os.path.relpath(workspace.data, place.root))
    except OSError as error:
        raise rundir.unwritable(place.root, error) from None


def version_differences(original: RunRecord, again: RunRecord) -> list[str]:
    """Libraries and devices that were not the same, the code apart."""
    names = sorted({*original.versions, *again.versions} - {sources.VERSION})
    found = [
        f"{name}: {original.versions.get(name, 'none')} there, {again.versions.get(name, 'none')} here"
        for name in names
        if original.versions.get(name) != again.versions.get(name)
    ]
    if original.device != again.device:
        found.append(f"device: {original.device} there, {again.device} here")
    return found
