"""What lies in a bundle and under which name; the same run gives the same bytes on every machine."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from typing import Any

FORMAT = "optsweep bundle"
VERSION = 1
SUFFIX = ".bundle.zip"

MANIFEST = "manifest.json"
SPEC = "spec.json"
RECORD = "record.json"
ENVIRONMENT = "environment.json"
DATA = "data.json"
NOISE = "noise.json"
METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
OPTIMIZER = "optimizer.py"
GUIDE = "README.txt"
CODE = "code/optsweep_engines/"
REQUIRED = (MANIFEST, SPEC, RECORD, ENVIRONMENT, DATA, NOISE, METRICS)
ALLOWED = re.compile(
    r"(manifest|spec|record|environment|data|noise)\.json|(metrics|events)\.jsonl|optimizer\.py|README\.txt"
    r"|code/optsweep_engines/([A-Za-z0-9_]+/){0,4}[A-Za-z0-9_]+\.py"
)
"""Names that a bundle may hold; none of them leads out of a folder."""

MAX_FILES = 2000
MAX_BYTES = 256 << 20
"""Of all files together, unpacked; a curve of a million lines has about 150 MB."""

_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold

GUIDE_TEXT = """A run of optsweep, whole: what was trained, with which code, on which data, and how it went.

  optsweep reproduce THIS_FILE      trains it again and compares

spec.json         the run; its id is a hash of this
record.json       how it ended: final losses, steps, seconds, device, versions, hash of the final parameters
metrics.jsonl     its curve, a line per step
events.jsonl      what happened
environment.json  versions, device, how it was started
data.json         name and hash of the dataset, and how it is prepared
noise.json        the run-to-run standard deviation of its study when this was written
code/             the engines' source as it was installed where this was written; `code` in record.json is the hash of what ran
optimizer.py      the user's own optimizer, where the run has one; look at it before you trust it
manifest.json     sizes and hashes of all of the above

Nothing in here is executed by `reproduce`: the optsweep that is installed trains the spec.
"""


def document(data: Any) -> bytes:
    """JSON with sorted keys."""
    return (json.dumps(data, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def lines(rows: Any) -> bytes:
    """JSON lines."""
    return b"".join((json.dumps(row, allow_nan=False) + "\n").encode() for row in rows)


def packed(contents: Mapping[str, bytes], about: Mapping[str, Any]) -> bytes:
    """The file: members in the order of their names, uncompressed, with fixed times, so that equal content is equal bytes.

    Args:
        about: what the manifest says beside sizes and hashes.
    """
    files = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in sorted(contents.items())
    }
    manifest = document({"format": FORMAT, "version": VERSION, "files": files, **about})
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted({MANIFEST: manifest, **contents}.items()):
            member = zipfile.ZipInfo(name, date_time=_TIME)
            member.create_system = 3  # Unix, wherever it is written
            member.external_attr = 0o644 << 16
            archive.writestr(member, content)
    return target.getvalue()
