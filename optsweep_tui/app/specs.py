"""What the runs of a chart were told to do, flat: for the config diff and for curves against FLOPs; read in a worker thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optsweep_tui import cost, flow, rundir
from optsweep_tui.errors import OptsweepError
from optsweep_tui.imported import ImportedSpec
from optsweep_tui.settings import Workspace

HASH_DIGITS = 12
"""Of a content hash: enough to tell two apart."""


@dataclass(frozen=True, kw_only=True)
class SpecFacts:
    """One run's spec."""

    flops_per_token: float | None
    """Model FLOPs, forward and backward; None where the shape is not known."""
    values: Mapping[str, Any]
    """Every field and hyperparameter by its name, hyperparameters after optimizer and model, lr first."""


def load(workspace: Workspace, run_ids: Sequence[str]) -> dict[str, SpecFacts]:
    """The specs of these runs; one that cannot be read is left out."""
    found = {}
    for run_id in run_ids:
        try:
            imported = rundir.state_of(workspace.runs / run_id).imported
            spec = imported.spec if imported else flow.spec_of(workspace, run_id)
        except (OptsweepError, OSError, ValueError):
            continue
        if isinstance(spec, ImportedSpec):
            per_token = cost.imported_flops(spec)[0]
        else:
            per_token = spec.shape.flops_per_token(spec.seq_len)
        found[run_id] = SpecFacts(flops_per_token=per_token, values=flat(spec.to_dict()))
    return found


def flat(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec as one level of names."""
    knobs = dict(spec.get("hyperparameters") or {})
    first = {name: spec[name] for name in ("optimizer", "model") if name in spec}
    found: dict[str, Any] = first | ({"lr": knobs.pop("lr")} if "lr" in knobs else {}) | dict(sorted(knobs.items()))
    for name, value in spec.items():
        if name in found or name == "hyperparameters":
            continue
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif name.endswith("hash") and isinstance(value, str):
            found[name] = value[:HASH_DIGITS]
        else:
            found[name] = value
    return found
