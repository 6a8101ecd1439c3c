"""What `optsweep bench` found on this machine, kept in the workspace: rates for the cost of runs, and how true they were."""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from optsweep_engines import folder
from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_tui import meshes
from optsweep_tui.cost import RateKey, rate_key
from optsweep_tui.settings import Workspace

FILE = "bench.json"
_KEY = ("engine", "optimizer", "model", "batch_size", "seq_len", "dtype", "device")
_KEPT = (*_KEY, "tokens_per_second", "mfu", "versions")


def kind_of(device: str) -> str:
    """ "cuda:0 (NVIDIA H200)" -> "cuda"; "gpu" of JAX is "cuda" too."""
    kind = device.partition(" ")[0].partition(":")[0]
    return {"gpu": "cuda"}.get(kind, kind)


def remember(workspace: Workspace, rows: Iterable[Mapping[str, Any]]) -> None:
    """Keep the rates of single runs; a newer one takes the place of an older one of the same key and device."""
    new = [{name: row[name] for name in _KEPT} for row in rows if row["pack"] == 1]
    today = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    replaced = {tuple(entry[name] for name in _KEY) for entry in new}
    held = [entry for entry in kept(workspace) if tuple(entry.get(name) for name in _KEY) not in replaced]
    folder.write_json(workspace.ensure().root / FILE, [*held, *({**entry, "measured_at": today} for entry in new)])


def kept(workspace: Workspace) -> list[dict[str, Any]]:
    """What benchmarks found here, oldest first; [] where none was made or the file is damaged."""
    try:
        entries = json.loads((workspace.root / FILE).read_text(encoding="utf-8"))
        return [entry for entry in entries if entry["tokens_per_second"] > 0 and all(name in entry for name in _KEPT)]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def rates(workspace: Workspace) -> dict[RateKey, float]:
    """Tokens/s by `cost.rate_key` on the kind of device that runs of this machine take, one each as a bench does."""
    here = "cuda" if workspace.gpus else "tpu" if workspace.device == "tpu" else "cpu"
    return {
        (entry["engine"], entry["optimizer"], entry["model"], entry["batch_size"], entry["seq_len"], entry["dtype"]): float(
            entry["tokens_per_second"]
        )
        for entry in kept(workspace)
        if kind_of(str(entry["device"])) == here
        and meshes.of_run(workspace, str(entry["engine"]), int(entry["batch_size"])) is None
    }  # fmt: skip


def prediction_error(workspace: Workspace, finished: Iterable[tuple[RunSpec, RunRecord]]) -> dict[str, Any]:
    """How long finished runs on one device each took over what the kept rates of the same key and device predict.

    Returns:
        {"benches": rates kept here, "runs": finished ones with such a rate, "median", "low", "high": seconds in training
        over the predicted ones, null without any}.
    """
    known = {
        (kind_of(str(entry["device"])), *(entry[name] for name in _KEY[:-1])): float(entry["tokens_per_second"])
        for entry in kept(workspace)
    }
    ratios = []
    for spec, record in finished:
        rate = known.get((kind_of(record.device), *rate_key(spec)))
        alone = record.mesh is None  # as a bench is
        if rate and alone and record.status == "done" and record.train_seconds > 0:
            own = (
                record.tokens - record.started_from_step * spec.tokens_per_step
            )  # a branch's seconds begin where it does
            if own > 0:
                ratios.append(record.train_seconds * rate / own)
    return {
        "benches": len(known),
        "runs": len(ratios),
        "median": statistics.median(ratios) if ratios else None,
        "low": min(ratios, default=None),
        "high": max(ratios, default=None),
    }
