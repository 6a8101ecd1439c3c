"""What a torch.optim class keeps between steps, as JSON and named tensors, so that a checkpoint holds it exactly."""

from __future__ import annotations

import collections
import random
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optsweep_engines.optimizers.user import OwnOptimizerError

Packed: TypeAlias = Any
"""JSON; {"t": kind, ...} stands for what JSON has no type of."""


def packed(value: Any, path: str, tensors: dict[str, Tensor], names: Mapping[int, str]) -> Packed:
    """A value as JSON; its tensors go into `tensors` under their path.

    Args:
        path: where the value is, for the names of tensors and for messages.
        names: id of a parameter -> its name: parameters themselves are referred to, not kept.

    Raises:
        OwnOptimizerError: it holds something that a checkpoint cannot.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        if id(value) in names:
            return {"t": "param", "name": names[id(value)]}
        if type(value) not in (Tensor, torch.nn.Parameter) or value.layout != torch.strided:
            raise _unsaved(path, value)
        tensors[path] = value.detach()
        return {"t": "tensor", "path": path, "cpu": value.device.type == "cpu"}
    if type(value) in (list, tuple, set, frozenset, collections.deque):
        kind = type(value).__name__
        entries = sorted(value) if kind in ("set", "frozenset") else value
        parts = [packed(entry, f"{path}/{index}", tensors, names) for index, entry in enumerate(entries)]
        return {"t": kind, "entries": parts, "longest": getattr(value, "maxlen", None)}
    if isinstance(value, dict) and type(value) in (dict, collections.OrderedDict, collections.defaultdict):
        parts = [
            [packed(key, f"{path}/key", tensors, names), packed(entry, f"{path}/{_key(key, names)}", tensors, names)]
            for key, entry in value.items()
        ]
        return {"t": "dict", "entries": parts}
    if isinstance(value, torch.dtype):
        return {"t": "dtype", "name": str(value).removeprefix("torch.")}
    if type(value) is random.Random:
        return {"t": "random", "state": packed(value.getstate(), path, tensors, names)}
    if isinstance(value, torch.Generator):
        return {"t": "generator", "state": packed(value.get_state(), path, tensors, names)}
    raise _unsaved(path, value)


def unpacked(
    data: Packed, tensors: Mapping[str, Tensor], params: Mapping[str, Tensor], device: torch.device, old: Any = None
) -> Any:
    """The value again.

    Args:
        tensors: by path, on the CPU.
        params: by name.
        device: of the run; tensors that were on the CPU stay there.
        old: what is there now; a dict or generator is filled in place, so that whoever else holds it sees it.
    """
    if not isinstance(data, dict):
        return data
    kind = data["t"]
    if kind == "param":
        return params[data["name"]]
    if kind == "tensor":
        value = tensors[data["path"]].clone()
        return value if data["cpu"] else value.to(device)
    if kind == "dtype":
        return getattr(torch, data["name"])
    if kind in ("random", "generator"):
        state = unpacked(data["state"], tensors, params, device)
        stream: Any = old if old is not None else random.Random() if kind == "random" else torch.Generator()
        (stream.setstate if kind == "random" else stream.set_state)(state)
        return stream
    if kind == "dict":
        before = dict(old) if isinstance(old, dict) else {}
        new = old if isinstance(old, dict) else {}
        entries = {}
        for packed_key, packed_entry in data["entries"]:
            key = unpacked(packed_key, tensors, params, device)
            entries[key] = unpacked(packed_entry, tensors, params, device, before.get(key))
        new.clear()
        new.update(entries)
        return new
    parts = [unpacked(entry, tensors, params, device) for entry in data["entries"]]
    if kind == "deque":
        return collections.deque(parts, maxlen=data["longest"])
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](parts)


def _key(key: Any, names: Mapping[int, str]) -> str:
    return names.get(id(key), str(key)) if isinstance(key, Tensor) else str(key)


def _unsaved(path: str, value: Any) -> OwnOptimizerError:
    return OwnOptimizerError(
        f"its state holds a {type(value).__name__} ({path}), which a checkpoint cannot keep",
        "keep numbers, texts, tensors, and lists or dicts of them",
    )
