"""studies/<name>.tune: what was asked of a tuning, so that a later command goes on with exactly the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_engines.spec import canonical_json
from optsweep_tui import grid, rundir, studies
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace
from optsweep_tui.tune import sampling
from optsweep_tui.tune.tuning import Tuning, from_dict, to_dict

SUFFIX = ".tune"
COMPARED = ("engine", "dataset", "baseline", "validation_sets", "validation_set", "equal_budget", "phased")
"""What, beside rules and cells, a later command must ask for as the first did."""
LATER = ("skip_failed",)
"""Rules that a later command may still change."""


def names(workspace: Workspace) -> list[str]:
    """The tunings of a workspace."""
    return sorted(path.stem for path in workspace.studies.glob(f"*{SUFFIX}"))


def load(workspace: Workspace, name: str) -> Tuning | None:
    """What was asked of a tuning; None when there is none of that name.

    Raises:
        OptsweepError: the file is damaged, or a user's own optimizer in it is not what it was.
    """
    path = _path(workspace, name)
    if not path.exists():
        return None
    try:
        tuning = from_dict(folder.read_json(path) or {})
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        hint = "move it away and give the whole command again: finished runs are found"
        raise OptsweepError(f"{path} cannot be used: {error!r}", hint) from None
    if tuning.sampler_version is not None and tuning.sampler_version != sampling.version():
        raise OptsweepError(
            f"tuning {name} was begun with Optuna {tuning.sampler_version}, {sampling.version()} would sample otherwise",
            f"pip install optuna=={tuning.sampler_version}, or give another --study NAME",
        )
    for cell in tuning.cells:
        found = grid.optimizer_name(cell.reference)
        if found != cell.optimizer:
            raise OptsweepError(
                f"{cell.reference} was changed since tuning {name} began: it is {found} now, it was {cell.optimizer}",
                "bring the old content back, or give another --study NAME",
            )
    return tuning


def the_only(workspace: Workspace, name: str | None) -> Tuning:
    """The tuning of a name, or the only one there is.

    Raises:
        OptsweepError: there is none, or there are several and no name.
    """
    known = names(workspace)
    if name is None:
        if len(known) != 1:
            what = "there is no tuning" if not known else f"there are {len(known)} tunings: {', '.join(known[:6])}"
            raise OptsweepError(f"--resume: {what} in {workspace.root}", "name one with --study NAME")
        name = known[0]
    tuning = load(workspace, name)
    if tuning is None:
        raise UnknownName(
            "tuning", name, known, "--resume", f"(tunings of {workspace.root}: {', '.join(known) or 'none'})"
        )
    return tuning


def agreed(workspace: Workspace, tuning: Tuning) -> tuple[Tuning, bool]:
    """(the tuning to go on with, whether it is kept already): a kept one of the same name must have asked for the same.

    Raises:
        OptsweepError: it asked for something else, or the name belongs to a study of another kind.
    """
    kept = load(workspace, tuning.name)
    if kept is None:
        for entry in studies.listed(workspace.studies):
            if entry["name"] == tuning.name and entry.get("fresh_seeds"):
                raise OptsweepError(
                    f"study {tuning.name} was launched by `optsweep run` and plants fresh seeds of its own",
                    "give another --study NAME",
                )
        return tuning, False
    skip = tuning.rules.skip_failed or kept.rules.skip_failed
    known = dataclasses.replace(kept, rules=dataclasses.replace(kept.rules, skip_failed=skip))
    difference = next(_differences(_comparable(kept), _comparable(tuning)), None)
    if difference is not None:
        raise OptsweepError(
            f"tuning {tuning.name} was begun with other options: {difference}",
            f"optsweep tune --resume --study {tuning.name} goes on with them; --study OTHER begins anew",
        )
    return known, True


def keep(workspace: Workspace, tuning: Tuning) -> None:
    """Write down what is asked, before the first run is planted.

    Raises:
        OptsweepError: the workspace cannot be written.
    """
    try:
        folder.write_json(_path(workspace, tuning.name), to_dict(tuning))
    except OSError as error:
        raise rundir.unwritable(workspace.studies, error) from None


def _path(workspace: Workspace, name: str) -> Path:
    return workspace.studies / f"{name}{SUFFIX}"


def _comparable(tuning: Tuning) -> dict[str, Any]:
    """What must be the same; what was known of the noise when the tuning began is taken from its file."""
    data = to_dict(tuning)
    rules = {key: value for key, value in data["rules"].items() if key not in LATER}
    cells = {
        f"{cell['optimizer']} {cell['model']} {cell['chinchilla']:g}": {
            "start": cell["start"],
            "list of": dict(cell["axes"]),
            "order of knobs": ", ".join(knob for knob, _ in cell["axes"]),
            "phase": cell["phase"],
        }
        for cell in data["cells"]
    }
    return {
        **{key: data[key] for key in COMPARED},
        **rules,
        "cell": cells,
    }


def _differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Where two documents differ, in words."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *(key for key in now if key not in before)]:
            yield from _differences(before.get(key), now.get(key), f"{where} {key}".strip())
    elif canonical_json([before]) != canonical_json([now]):
        yield f"{where} was {_text(before)}, now {_text(now)}"


def _text(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, Mapping):
        return "another"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
