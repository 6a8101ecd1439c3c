"""What a host tells, taken only where it has its form: of itself, of a claim, of an end; texts without control characters.

A host may be broken, or lie. Whatever it says, one bad run of it must not end the controller that drives all others.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from collections.abc import Mapping
from typing import Any

from optsweep_engines.spec import FINAL_STATUSES, RunRecord
from optsweep_tui.errors import OptsweepError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
"""What a terminal would obey, or show in another order."""
_TEXTS = ("hostname", "root", "python", "executable", "code", "engine_home", "device", "host_id")
_COUNTS = ("cores", "slots")
_LARGEST = 2**53
_FIELDS = {
    "attempt": int, "steps": int, "tokens": int, "peak_bytes": int, "optimizer_state_bytes": int,
    "resumed_from_step": int, "started_from_step": int, "train_loss": float, "val_loss": float, "train_seconds": float,
    "tokens_per_second": float, "device": str, "error": str, "parameters_sha256": str, "versions": Mapping,
    "val_losses": Mapping, "mesh": str,
}  # fmt: skip
_OPTIONAL = (
    "train_loss", "val_loss", "tokens_per_second", "peak_bytes", "optimizer_state_bytes", "val_losses",
    "parameters_sha256", "error", "mesh",
)  # fmt: skip
"""Fields of a record that may be null."""


def plain(text: object, most: int = 500) -> str:
    """A text of a host as one line that a terminal shows and does not obey."""
    return _CONTROL.sub(" ", str(text)[:most]).strip()


def hello(said: Mapping[str, Any], host: str) -> dict[str, Any]:
    """What a host says of itself.

    Raises:
        OptsweepError: something is missing, or of another type.
    """
    found = dict(said)
    for name in _TEXTS:
        if not isinstance(said.get(name), str):
            raise _nonsense(host, name)
        found[name] = plain(said[name], 4096)
    for name in _COUNTS:
        if not _is(said.get(name), int) or not 0 < said[name] <= 1 << 20:
            raise _nonsense(host, name)
    if not _is(said.get("time"), float) or not 0 <= said["time"] < 1e11:
        raise _nonsense(host, "time")
    if not isinstance(said.get("libraries"), Mapping) or not isinstance(said.get("gpus"), list):
        raise _nonsense(host, "libraries and gpus")
    found["libraries"] = {plain(key, 40): plain(value, 40) for key, value in list(said["libraries"].items())[:64]}
    found["gpus"] = [plain(name, 100) for name in said["gpus"][:64]]
    return found


def _nonsense(host: str, what: str) -> OptsweepError:
    return OptsweepError(
        f"host {host} answered with nonsense: its {what}",
        f"is hosts.{host.partition(' worker ')[0]}.python in hosts.toml a Python?",
    )


def look(said: Mapping[str, Any]) -> dict[str, Any]:
    """Slots, devices and load of a host, for display: what has not its form is left out."""
    slots = [slot for slot in _tables(said.get("slots"))[:1024] if _is(slot.get("number"), int)]
    devices = [device for device in _tables(said.get("devices"))[:64] if isinstance(device.get("name"), str)]
    numbers = {name: said.get(name) for name in ("queued", "load", "free_disk_bytes")}
    found = {name: value if _is(value, float) else None for name, value in numbers.items()}
    return {
        "slots": [
            {
                "number": slot["number"],
                "pid": _number(slot.get("pid")),
                "run_id": plain(slot["run_id"], 32) if slot.get("run_id") else None,
                "lease_age_seconds": _number(slot.get("lease_age_seconds")),
            }
            for slot in slots
        ],
        "devices": [
            {"name": plain(device["name"], 100)}
            | {name: _number(device.get(name)) for name in ("busy_percent", "used_bytes", "total_bytes")}
            for device in devices
        ],
        **found,
        "queued": found["queued"] or 0,
        "drained": said.get("drained") is True,
    }


def _tables(said: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in said if isinstance(entry, Mapping)] if isinstance(said, list) else []


def _number(value: Any) -> Any:
    return value if _is(value, float) else None


def removed(said: Mapping[str, Any]) -> tuple[int, int]:
    """(count, bytes) of what a host says that it has removed; 0 where it does not say it."""
    count, size = (said[name] if _is(said.get(name), int) else 0 for name in ("count", "bytes"))
    return max(0, count), max(0, size)


def claim(said: Any) -> dict[str, Any]:
    """Who claimed an attempt; empty where it is not said in full."""
    if not isinstance(said, Mapping) or not _is(said.get("pid"), int):
        return {}
    found: dict[str, Any] = {"pid": said["pid"]}
    for name, kind in (("start", int), ("claimed_at", float)):
        if _is(said.get(name), kind):
            found[name] = said[name]
    return found | {
        name: plain(said[name], 200) for name in ("boot_id", "host", "job") if isinstance(said.get(name), str)
    }


def ending(text: str) -> dict[str, Any]:
    """An exit.json that a host sent; what is not one says so, and counts as a failure of that run alone."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or not isinstance(said.get("reason"), str):
        return failed("its host sent an exit.json that is none")
    found: dict[str, Any] = {"returncode": None, "signal": None, "reason": plain(said["reason"], 200)}
    for name, kind in (("returncode", int), ("signal", int), ("seconds", float), ("ended_at", float)):
        if _is(said.get(name), kind):
            found[name] = said[name]
    found.setdefault("ended_at", time.time())
    return found | {name: plain(said[name], 2000) for name in ("error", "job") if isinstance(said.get(name), str)}


def failed(why: str) -> dict[str, Any]:
    """The end of an attempt of which nothing can be believed."""
    return {"returncode": None, "signal": None, "reason": "failed", "error": why, "ended_at": time.time()}


def wrong_record(text: str, run_id: str, number: int) -> str | None:
    """Why a text is not the record of an attempt; None where it is."""
    try:
        record = RunRecord.from_dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return "no record can be read in it"
    if record.run_id != run_id or record.attempt != number:
        return "it is of another run or attempt"
    if record.status not in FINAL_STATUSES:
        return "its status is not known"
    values = {item.name: getattr(record, item.name) for item in dataclasses.fields(record)}
    for name, kind in _FIELDS.items():
        value = values[name]
        if not (value is None and name in _OPTIONAL) and not _is(value, kind):
            return f"its {name} is of another type"
    if not all(_is(value, float) for value in (record.val_losses or {}).values()):
        return "its val_losses are no numbers"
    return None


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind: a whole number that a column holds, a number, a text, a table."""
    if isinstance(value, bool):
        return False
    if isinstance(value, int) and kind in (int, float):
        return -_LARGEST <= value <= _LARGEST
    if kind is float:
        return isinstance(value, float) and not math.isinf(value)
    return kind is not int and isinstance(value, kind)
