"""Reading a bundle that somebody sent: everything is checked before it is used, nothing is unpacked to disk or executed."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optsweep_engines import sources
from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_tui.bundle import checks, layout
from optsweep_tui.errors import OptsweepError


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose hashes hold."""

    path: Path
    spec: RunSpec
    record: RunRecord
    code: str
    """Hash of the code that lies in it."""
    ran: str | None
    """Hash of the code that trained the run; None where its record does not say."""
    data: Mapping[str, Any]
    noise: Mapping[str, Any]
    """sigma, dof, source of the run-to-run noise in the study that it comes from."""
    optimizer: bytes | None
    """The user's own optimizer file."""
    metrics: int
    """Lines of its curve."""

    @property
    def run_id(self) -> str:
        return self.spec.run_id


def read(path: Path) -> Bundle:
    """The bundle.

    Raises:
        OptsweepError: it is no bundle, or something in it is not what it says it is; nothing of it is used then.
    """
    try:
        contents = _contents(path)
        manifest = _json(contents, layout.MANIFEST)
        if manifest.get("format") != layout.FORMAT:
            raise ValueError("its manifest is not that of a bundle")
        if manifest.get("version") != layout.VERSION:
            raise ValueError(f"it has version {manifest.get('version')!r}, this optsweep reads {layout.VERSION}")
        _check_hashes(manifest.get("files"), contents)
        spec = RunSpec.from_dict(_json(contents, layout.SPEC))
        if spec.run_id != manifest.get("run_id"):
            raise ValueError(
                f"its spec hashes to run {spec.run_id}, its manifest says {str(manifest.get('run_id'))[:40]}"
            )
        checks.spec(spec)
        record = RunRecord.from_dict(_json(contents, layout.RECORD))
        checks.record(record, spec)
        if record.run_id != spec.run_id:
            raise ValueError(f"its record is of run {str(record.run_id)[:40]}, its spec of {spec.run_id}")
        optimizer = contents.get(layout.OPTIMIZER)
        if (spec.optimizer_file_hash is None) != (optimizer is None):
            raise ValueError("its spec and its optimizer.py do not fit")
        if optimizer is not None and hashlib.sha256(optimizer).hexdigest() != spec.optimizer_file_hash:
            raise ValueError("its optimizer.py is not the one that its spec names")
        code = {name.removeprefix(layout.CODE): contents[name] for name in contents if name.startswith(layout.CODE)}
        ran = record.versions.get(sources.VERSION)
        return Bundle(
            path=path,
            spec=spec,
            record=record,
            code=sources.digest_of(code),
            ran=ran if isinstance(ran, str) else None,
            data=_json(contents, layout.DATA),
            noise=_json(contents, layout.NOISE),
            optimizer=optimizer,
            metrics=contents[layout.METRICS].count(b"\n"),
        )
    except FileNotFoundError:
        raise OptsweepError(f"{path} does not exist", "optsweep export bundle RUN writes one") from None
    except OSError as error:
        raise OptsweepError(f"{path} cannot be read: {error.strerror}", "check the path") from None
    except (
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        ArithmeticError,
        RecursionError,
        EOFError,
        zipfile.BadZipFile,
        NotImplementedError,
        zlib.error,
        struct.error,
    ) as error:
        why = " ".join(str(error).split())[:300]
        raise OptsweepError(
            f"{path} is not a sound bundle: {why}", "ask for it again; nothing of it was used"
        ) from None


def _contents(path: Path) -> dict[str, bytes]:
    """Name -> content of every member.

    Raises:
        ValueError: too much in it, a name that a bundle does not have, one twice, or a member that is not what it says.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > layout.MAX_FILES:
            raise ValueError(f"{len(members)} files are more than a bundle has")
        if sum(member.file_size for member in members) > layout.MAX_BYTES:
            raise ValueError(f"its files would take more than {layout.MAX_BYTES >> 20} MiB")
        contents: dict[str, bytes] = {}
        for member in members:
            name = member.filename
            if not layout.ALLOWED.fullmatch(name) or member.orig_filename != name:
                raise ValueError(f"{ascii(member.orig_filename)[:80]} does not belong in a bundle")
            if name in contents:
                raise ValueError(f"{name} is in it twice")
            if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name} is encrypted, or packed in another way than a zip usually is")
            with archive.open(member) as handle:
                content = handle.read(member.file_size + 1)
            if len(content) != member.file_size:
                raise ValueError(f"{name} is not as long as it says")
            contents[name] = content
    for name in layout.REQUIRED:
        if name not in contents:
            raise ValueError(f"it has no {name}")
    return contents


def _check_hashes(files: Any, contents: Mapping[str, bytes]) -> None:
    if not isinstance(files, Mapping) or set(files) != set(contents) - {layout.MANIFEST}:
        raise ValueError("its files are not those of its manifest")
    for name, entry in files.items():
        wanted = entry.get("sha256") if isinstance(entry, Mapping) else None
        if hashlib.sha256(contents[name]).hexdigest() != wanted:
            raise ValueError(f"{name} was changed: its hash is not that of the manifest")


def _json(contents: Mapping[str, bytes], name: str) -> dict[str, Any]:
    data = json.loads(contents[name])
    if not isinstance(data, dict):
        raise ValueError(f"{name} is not a table of fields")
    return data
