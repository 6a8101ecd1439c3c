"""Checkpoints written without the library are read by it, and the other way round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from optsweep_engines import tensorfile

ARRAYS = {
    "w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "step": np.array(7, dtype=np.int64),
    "mask": np.array([True, False]),
    "half": np.ones((2, 2), np.float16),
    "none": np.zeros((0, 3), np.float64),
}


def test_numpy_files_are_the_librarys(tmp_path: Path) -> None:
    tensorfile.save_numpy(ARRAYS, tmp_path / "ours", {"a": "1"})
    safetensors.numpy.save_file(ARRAYS, tmp_path / "theirs", {"a": "1"})
    found = safetensors.numpy.load_file(tmp_path / "ours")
    with safetensors.safe_open(tmp_path / "ours", framework="np") as file:
        assert file.metadata() == {"a": "1"}
    with tensorfile.safe_open(tmp_path / "theirs", framework="np") as theirs:
        assert theirs.metadata() == {"a": "1"} and theirs.keys() == sorted(ARRAYS)
        for name, value in ARRAYS.items():
            for read in (found[name], theirs.get_tensor(name)):
                assert read.dtype == value.dtype and read.shape == value.shape and np.array_equal(read, value)


def test_torch_files_keep_every_bit_bfloat16_too(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(3, 5), "b": torch.randn(7).bfloat16(), "n": torch.tensor(3)}
    tensorfile.save_torch(tensors, tmp_path / "ours", {})
    safetensors.torch.save_file(tensors, tmp_path / "theirs")
    found = safetensors.torch.load_file(tmp_path / "ours")
    with tensorfile.safe_open(tmp_path / "theirs", framework="pt") as theirs:
        for name, value in tensors.items():
            for read in (found[name], theirs.get_tensor(name)):
                assert read.dtype == value.dtype and torch.equal(read, value)


@pytest.mark.parametrize(
    "data", [b"", b"\x08\0\0\0\0\0\0\0{}", b"\xff" * 16, b"\x02\0\0\0\0\0\0\0{}x", b"\x02\0\0\0\0\0\0\0[]"]
)
def test_a_torn_file_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "torn").write_bytes(data)
    with pytest.raises(tensorfile.SafetensorError):
        tensorfile.safe_open(tmp_path / "torn", framework="np")
