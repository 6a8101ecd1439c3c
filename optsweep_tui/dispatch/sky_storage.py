"""The storage that this machine and the nodes of managed jobs share, read and written through fsspec.

Names are built here from run ids and short fixed lists. What a listing says is never part of a path on this machine: a name
of another form is as if it were not there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from optsweep_engines import folder, mounted
from optsweep_tui.dispatch import told
from optsweep_tui.dispatch.mirror import SMALL_BYTES
from optsweep_tui.dispatch.site import Unreachable
from optsweep_tui.errors import OptsweepError

SMALL = (folder.INTENT, folder.CLAIM, folder.LEASE, folder.RECORD, folder.EXIT)
"""Small files of an attempt."""
LARGEST_LISTING = 200_000
"""Names of one run: a storage without end is not read to its end."""
_FILE = re.compile(r"a([1-9][0-9]{0,8})/([A-Za-z0-9_.-]{1,200})")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One file of an attempt."""

    size: int
    stamp: str
    """Changes with the content: an etag, or the time of the last change."""


Listing = dict[int, dict[str, Item]]
"""Attempt number -> name -> file."""


class Storage:
    """One host's storage."""

    def __init__(self, url: str, host: str) -> None:
        self._url, self._host = url, host
        self._opened: tuple[Any, str] | None = None

    @property
    def local(self) -> bool:
        """A folder of this machine."""
        return self._url.startswith("file://")

    def _fs(self) -> tuple[Any, str]:
        """(file system, root in it), opened at the first use."""
        if self._opened is None:
            protocol = self._url.partition("://")[0]
            try:
                fsspec = import_module("fsspec")
                options = {} if self.local else {"use_listings_cache": False}
                made = fsspec.filesystem(protocol, skip_instance_cache=True, **options)
            except ImportError:
                needs = {"s3": "s3fs", "gs": "gcsfs"}.get(protocol, "fsspec")
                raise OptsweepError(
                    f"host {self._host}: {protocol}:// cannot be read: {needs} is not installed",
                    "pip install 'optsweep[buckets]'",
                ) from None
            except Exception as error:
                raise self._meant(error) from None
            self._opened = made, made._strip_protocol(self._url).rstrip("/")
        return self._opened

    def _meant(self, error: Exception) -> OptsweepError:
        """What an error of the library says: it keeps out whoever has no key, or it does not answer."""
        words = f"{type(error).__name__}: {told.plain(error, 300)}"
        about = f"host {self._host}: storage {self._url}: {words}"
        lowered = words.lower()
        if isinstance(error, PermissionError) or any(
            sign in lowered
            for sign in ("credential", "denied", "forbidden", "anonymous", "bucket does not exist", "token")
        ):
            return OptsweepError(about, "is that bucket there, and may you read and write it? (aws s3 ls, gcloud auth)")
        return Unreachable(about, "nothing is lost; it is asked again")

    # ------------------------------------------------------------ files by name

    def read(self, name: str, most: int = SMALL_BYTES) -> bytes | None:
        """A small file; None where there is none, or one larger than it may be.

        Raises:
            Unreachable, OptsweepError: the storage does not answer, or keeps us out.
        """
        fs, root = self._fs()
        try:
            data = bytes(fs.cat_file(f"{root}/{name}", start=0, end=most + 1))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        except Exception as error:
            raise self._meant(error) from None
        return data if len(data) <= most else None

    def table(self, name: str) -> dict[str, Any] | None:
        """The table in a small file; None where there is none that can be read."""
        try:
            data = json.loads(self.read(name) or b"")
        except (ValueError, RecursionError):
            return None
        return data if isinstance(data, dict) else None

    def write(self, name: str, data: bytes) -> None:
        """A whole file."""
        fs, root = self._fs()
        path = f"{root}/{name}"
        try:
            if self.local:
                mounted.put(Path(path), data)
            else:
                fs.pipe_file(path, data)
        except Exception as error:
            raise self._meant(error) from None

    def bring(self, name: str, source: Path) -> None:
        """A large file, unless one of its size is there."""
        fs, root = self._fs()
        path = f"{root}/{name}"
        try:
            try:
                if int(fs.info(path)["size"]) == source.stat().st_size:
                    return
            except FileNotFoundError:
                pass
            if self.local:
                mounted.put_file(Path(path), source)
            else:
                fs.put_file(str(source), path)
        except Exception as error:
            raise self._meant(error) from None

    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""
        fs, root = self._fs()
        try:
            fs.rm_file(f"{root}/{name}")
        except FileNotFoundError:
            pass
        except Exception as error:
            raise self._meant(error) from None

    # ------------------------------------------------------------ runs

    def listing(self, run_id: str) -> Listing:
        """The files of a run's attempts by one question.

        Raises:
            Unreachable, OptsweepError: see `read`.
        """
        assert folder.is_run_id(run_id)
        fs, root = self._fs()
        base = f"{root}/runs/{run_id}"
        try:
            fs.invalidate_cache()
            found = fs.find(base, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:
            raise self._meant(error) from None
        listing: Listing = {}
        for count, (path, info) in enumerate(found.items()):
            if count >= LARGEST_LISTING:
                break
            match = _FILE.fullmatch(str(path).removeprefix(f"{base}/"))
            size = info.get("size") if isinstance(info, dict) else None
            if match and (match.group(2) in SMALL or mounted.PART.fullmatch(match.group(2))) and isinstance(size, int):
                stamp = next(
                    (info[key] for key in ("ETag", "etag", "LastModified", "updated", "mtime") if key in info), ""
                )
                item = Item(size=size, stamp=f"{stamp} {size}"[:200])
                listing.setdefault(int(match.group(1)), {})[match.group(2)] = item
        return listing

    def drop_checkpoints(self, run_id: str) -> tuple[int, int]:
        """Remove the checkpoints of a run; (files, bytes)."""
        assert folder.is_run_id(run_id)
        fs, root = self._fs()
        base = f"{root}/runs/{run_id}"
        try:
            fs.invalidate_cache()
            found = {
                path: info for path, info in fs.find(base, detail=True).items() if _checkpoint(path[len(base) + 1 :])
            }
            for path in found:
                fs.rm_file(path)
        except FileNotFoundError:
            return 0, 0
        except Exception as error:
            raise self._meant(error) from None
        return len(found), sum(int(info.get("size") or 0) for info in found.values())

    def part(self, run_id: str, number: int, name: str, size: int) -> bytes | None:
        """The bytes of a part of a stream; None where it is not whole."""
        data = self.read(attempt_file(run_id, number, name), mounted.PART_BYTES)
        return data if data is not None and len(data) == size else None

    def cancel(self, run_ids: Iterable[str]) -> None:
        """Leave the marker of runs."""
        for run_id in run_ids:
            self.write(f"runs/{run_id}/{folder.CANCEL}", b"\n")


def _checkpoint(path: str) -> bool:
    return re.fullmatch(r"a[1-9][0-9]{0,8}/ckpt/[A-Za-z0-9_.-]{1,200}", path) is not None


def attempt_file(run_id: str, number: int, name: str) -> str:
    """Name of a file of an attempt in the storage."""
    assert folder.is_run_id(run_id) and 0 < number < 10**9 and "/" not in name
    return f"runs/{run_id}/a{number}/{name}"
