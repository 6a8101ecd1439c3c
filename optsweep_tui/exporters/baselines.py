"""Predicted configurations in the published study's shape: `optsweep export baselines FOLDER` writes its baseline_config tree."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from optsweep_tui.exporters.names import published_name, study_name
from optsweep_tui.exporters.protocol import Written

FOLDER = "baseline_config"


def write(predictions: Iterable[Mapping[str, Any]], target: Path) -> Written:
    """A file per predicted cell, `baseline_config/{optimizer}/{SIZE}/{ratio}/sweep_{SIZE}_{ratio}.json`.

    Args:
        predictions: what `predict` says of each cell; a refused one is listed, and so is what an extrapolated one rests on.
    """
    written = Written()
    for found in predictions:
        optimizer, model, ratio = str(found["optimizer"]), str(found["model"]), float(found["chinchilla"])
        where = f"{optimizer} {model} {ratio:g}"
        if found["state"] == "REFUSE":
            written.skip(where, f"REFUSE: {found['reason']}")
            continue
        if found["state"] != "INTERP":
            written.skip(where, f"written, but {found['state']}: {found['reason']}")
        name, size = study_name(optimizer), model.upper()
        document = {
            "baseline_config": _configuration(optimizer, found),
            "model_size": model,
            "optimizer_name": name,
            "target_chinchilla": _whole(ratio),
        }
        folder = target / FOLDER / name / size / f"{ratio:g}"
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(document, indent=2, allow_nan=False)
        (folder / f"sweep_{size}_{ratio:g}.json").write_text(f"{text}\n", encoding="utf-8")
        written.runs += 1
        written.files += 1
    return written


def _configuration(optimizer: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The predicted knobs under the study's names."""
    settings = {**found["hyperparameters"], "batch_size": found["batch_size"]}
    if found.get("schedule") not in (None, "cosine"):
        settings["schedule"] = found["schedule"]
    return {
        published_name(optimizer, key): _whole(value)
        for key, value in settings.items()
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    }


def _whole(value: Any) -> Any:
    """1 for 1.0, as the study writes it."""
    value = value.item() if hasattr(value, "item") else value  # a numpy scalar
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value
