"""The engine as one archive named by its content: what a host gets, so that it needs only Python, numpy and torch or jax."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import optsweep_tui
from optsweep_engines import folder, sources

GROUPS = ("optsweep.engines", "optsweep.optimizers", "optsweep.datasets")
SPARE = "spare"
"""Folder of the archive with pure Python packages that a host may lack; `optsweep_engines.spare` puts it last."""
SPARE_PACKAGES = ("array_api_compat",)
SPARE_MODULES = {
    "safetensors/__init__.py": "from optsweep_engines.tensorfile import SafetensorError, safe_open\n",
    "safetensors/numpy.py": "from optsweep_engines.tensorfile import save_numpy as save_file\n",
    "safetensors/torch.py": "from optsweep_engines.tensorfile import save_torch as save_file\n",
}
"""A library that is not pure Python, in its place what reads and writes the same files."""
_TIME = (2020, 1, 1, 0, 0, 0)
"""Of every file in the archive: the same content gives the same bytes."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A zip file in memory."""

    data: bytes
    sha256: str


@functools.cache
def archive() -> Archive:
    """The engine as installed here, with its entry points and the pure Python packages that it needs."""
    files = {f"optsweep_engines/{name}": content for name, content in sources.files().items()}
    for package in SPARE_PACKAGES:
        found = find_spec(package)
        if found is not None and found.origin is not None:
            root = Path(found.origin).parent
            for path in sorted(root.rglob("*.py")):
                files[f"{SPARE}/{package}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    files |= {f"{SPARE}/{name}": text.encode() for name, text in SPARE_MODULES.items()}
    version = optsweep_tui.__version__
    files[f"optsweep-{version}.dist-info/METADATA"] = (
        f"Metadata-Version: 2.1\nName: optsweep\nVersion: {version}\n".encode()
    )
    files[f"optsweep-{version}.dist-info/entry_points.txt"] = _entry_points().encode()
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _TIME)
            info.external_attr = 0o600 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(info, files[name])
    data = target.getvalue()
    return Archive(data=data, sha256=hashlib.sha256(data).hexdigest())


def _entry_points() -> str:
    lines = []
    for group in GROUPS:
        lines.append(f"[{group}]")
        lines += sorted(
            f"{entry.name} = {entry.value}"
            for entry in entry_points(group=group)
            if entry.value.startswith("optsweep_engines.")
        )
    return "\n".join(lines) + "\n"


@functools.cache
def bootstrap() -> bytes:
    """The program that a host runs first."""
    return (Path(folder.__file__).parent / "bootstrap.py").read_bytes()
