"""What a workspace knows of the run-to-run noise of a cell before its tuning begins: measured in any study, or the prior."""

from __future__ import annotations

from optsweep_engines.spec import RunSpec
from optsweep_tui import ask, studies
from optsweep_tui.analysis.cells import Group, groups
from optsweep_tui.analysis.noise import NOT_SUBWORD, PRIOR_MIN_PARAMS, PRIOR_SIGMA, noise_of
from optsweep_tui.core import Filter, dataset_key, validation_key
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace


def known_sigma(workspace: Workspace, spec: RunSpec) -> tuple[float | None, str]:
    """(sigma of one run of the cell, nats, None where nothing is known; "measured", "prior" or "none").

    Measured in the study of this workspace with most degrees of freedom among runs of the same engine, model, data and
    length, at the cell's tokens.
    """
    best: tuple[float, float] | None = None
    for entry in studies.listed(workspace.studies) if workspace.store.exists() else []:
        try:
            frame = ask.results(workspace, Filter(study=entry["name"], models=(spec.model,)))
        except OptsweepError:
            continue  # launched, but nothing of it collected
        for group in groups(frame):
            noise = noise_of(group, str(entry.get("baseline", "adamw")))
            if noise.source == "measured" and _alike(group, spec) and (best is None or noise.dof > best[0]):
                best = noise.dof, float(noise.at(spec.tokens))
    if best is not None:
        return best[1], "measured"
    subword = not any(part in spec.dataset.lower() for part in NOT_SUBWORD)
    if subword and spec.shape.non_embedding_params >= PRIOR_MIN_PARAMS:
        return PRIOR_SIGMA, "prior"
    return None, "none"


def _alike(group: Group, spec: RunSpec) -> bool:
    here = group.columns
    return (
        here["engine"] == spec.engine
        and here["model"] == spec.model
        and here["dataset"] == dataset_key(spec)
        and here["dataset_hash"] == spec.dataset_hash
        and here["validation_set"] == validation_key(spec)
        and here["seq_len"] == spec.seq_len
    )
