"""The safetensors format in plain Python and numpy, for a machine where the library is missing: same files, same few functions.

Format: 8 bytes little-endian length, that much JSON (name -> dtype, shape, data_offsets; "__metadata__"), then the arrays
(https://github.com/huggingface/safetensors#format). A staged engine puts it in the library's place, see `spare`.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
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
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    # The widest first, as the library does: every array is aligned.
    order = sorted(arrays, key=lambda name: (-arrays[name][1].dtype.itemsize, name))
    for name in order:
        kind, value = arrays[name]
        end = start + value.nbytes
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(np.ascontiguousarray(arrays[name][1]).tobytes())


def save_numpy(tensors: Mapping[str, Array], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """`safetensors.numpy.save_file`."""
    write(
        {name: (_NAMES[value.dtype.newbyteorder("<")], value) for name, value in tensors.items()}, path, metadata or {}
    )


def save_torch(tensors: Mapping[str, Any], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """`safetensors.torch.save_file`."""
    import torch  # noqa: PLC0415 (only an engine that has it comes here)

    found = {}
    for name, value in tensors.items():
        plain = value.detach().cpu().contiguous()
        if plain.dtype == torch.bfloat16:
            found[name] = ("BF16", plain.view(torch.int16).numpy().view("<u2"))
        else:
            array = plain.numpy()
            found[name] = (_NAMES[array.dtype.newbyteorder("<")], array)
    write(found, path, metadata or {})


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
