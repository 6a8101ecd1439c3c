"""The safetensors format in plain Python and numpy, for a machine where the library is missing: same files, same few functions.

Format: 8 bytes little-endian length, that much JSON (name -> dtype, shape, data_offsets; "__metadata__"), then the arrays
(https://github.com/huggingface/safetensors#format). A staged engine puts it in the library's place, see `spare`.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

LARGEST_HEADER = 100 << 20
"""As in the library."""
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
"""Name in the file -> numpy's; numpy has no bfloat16, its bits are read as unsigned numbers."""
_NAMES = {np.dtype(kind): name for name, kind in DTYPES.items() if name != "BF16"}

Array = npt.NDArray[Any]


class SafetensorError(Exception):
    """A file that is not in the format."""


def write(arrays: Mapping[str, tuple[str, Array]], path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
    """Write arrays with their dtype names in the file."""
    write_each(
        {name: (kind, value.shape) for name, (kind, value) in arrays.items()},
        lambda name: arrays[name][1],
        path,
        metadata,
    )


def ordered(kinds: Mapping[str, tuple[str, tuple[int, ...]]]) -> list[str]:
    """Names as they follow in a file: the widest first, as the library does, so that every array is aligned."""
    return sorted(kinds, key=lambda name: (-np.dtype(DTYPES[kinds[name][0]]).itemsize, name))


def write_each(
    kinds: Mapping[str, tuple[str, tuple[int, ...]]],
    array: Callable[[str], Array],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str],
) -> None:
    """Write arrays one at a time, into a file that its owner alone may read, as the library makes it.

    Args:
        kinds: name -> dtype in the file, shape.
        array: makes one; asked in the order of `ordered`.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    order = ordered(kinds)
    for name in order:
        kind, shape = kinds[name]
        end = start + math.prod(shape) * np.dtype(DTYPES[kind]).itemsize
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(np.ascontiguousarray(array(name)).data)


def save_numpy(tensors: Mapping[str, Array], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """`safetensors.numpy.save_file`."""
    write(
        {name: (_NAMES[value.dtype.newbyteorder("<")], value) for name, value in tensors.items()}, path, metadata or {}
    )


def save_torch(tensors: Mapping[str, Any], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """`safetensors.torch.save_file`."""
    write({name: (kind_of(value.dtype), plain(value)) for name, value in tensors.items()}, path, metadata or {})


def kind_of(dtype: Any) -> str:
    """The name in a file of one of torch's types."""
    import torch  # noqa: PLC0415

    return "BF16" if dtype == torch.bfloat16 else _NAMES[torch.empty(0, dtype=dtype).numpy().dtype.newbyteorder("<")]


def plain(tensor: Any) -> Array:
    """One of torch's tensors as an array of the same bits."""
    import torch  # noqa: PLC0415 (only an engine that has it comes here)

    own = tensor.detach().cpu().contiguous()
    found: Array = own.view(torch.int16).numpy().view("<u2") if own.dtype == torch.bfloat16 else own.numpy()
    return found


class safe_open:
    """`safetensors.safe_open`: reads one array at a time."""

    def __init__(self, path: str | os.PathLike[str], framework: str, device: str = "cpu") -> None:
        self._torch = framework in ("pt", "torch")
        self._device = device
        self._file = open(path, "rb")  # noqa: SIM115
        try:
            (length,) = struct.unpack("<Q", self._file.read(8))
            if length > LARGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(self._file.read(length))
            self._metadata: dict[str, str] = header.pop("__metadata__", {})
            self._entries: dict[str, Any] = header
            self._start = 8 + length
            size = os.fstat(self._file.fileno()).st_size
            if max((entry["data_offsets"][1] for entry in header.values()), default=0) + self._start != size:
                raise ValueError("its size is not that of its arrays")
        except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            self._file.close()
            raise SafetensorError(f"{path}: {error}") from None

    def __enter__(self) -> safe_open:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def metadata(self) -> dict[str, str]:
        """Texts beside the arrays."""
        return self._metadata

    def keys(self) -> list[str]:
        """Names of the arrays."""
        return sorted(self._entries)

    def get_tensor(self, name: str) -> Any:
        """One array, as numpy's or torch's."""
        if name not in self._entries:
            raise SafetensorError(f"there is no array {name}")
        entry = self._entries[name]
        start, end = entry["data_offsets"]
        self._file.seek(self._start + start)
        array = np.frombuffer(bytearray(self._file.read(end - start)), DTYPES[entry["dtype"]]).reshape(entry["shape"])
        if not self._torch:
            return array
        import torch  # noqa: PLC0415

        if entry["dtype"] == "BF16":
            return torch.from_numpy(array.view("<i2")).view(torch.bfloat16).to(self._device)
        return torch.from_numpy(array).to(self._device)
