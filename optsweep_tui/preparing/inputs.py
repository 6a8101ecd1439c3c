"""The files of a corpus: which there are, of what kind, and their bytes one after the other, whatever they are packed with."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from optsweep_tui.errors import OptsweepError

PACKED = (".gz", ".zst")
KINDS = {
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".json": "lines",
    ".parquet": "parquet",
    ".npy": "arrays",
    ".bin": "arrays",
}
"""Ending of a file, without .gz or .zst, -> kind; every other is text."""
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One file of a corpus."""

    path: Path
    name: str
    """Below the corpus' folder; enters the identity of the corpus, so that a moved folder is the same one."""
    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A corpus on disk."""

    kind: str
    """text, lines, parquet or arrays."""
    files: tuple[InputFile, ...]
    passed_over: int
    """Files of the folder that are of another kind."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class Prefix:
    """The first files of a corpus: their bytes, and a hash that changes when what was read of them may have."""

    def __init__(self, files: Sequence[InputFile]) -> None:
        self._files = files
        self._count, self._bytes, self._digest = 0, 0, hashlib.sha256()

    def to(self, count: int) -> tuple[int, str]:
        """(bytes before the last of so many files, hash over names, sizes and times of all of them)."""
        if count < self._count:
            self._count, self._bytes, self._digest = 0, 0, hashlib.sha256()
        for file in self._files[self._count : count]:
            self._bytes += file.size
            self._digest.update(f"{file.name}\0{file.size}\0{file.mtime_ns}\n".encode())
        self._count = count
        return self._bytes - self._files[count - 1].size, self._digest.hexdigest()


def kind_of(name: str) -> str:
    """Kind of a file by its name."""
    path = Path(name)
    suffix = Path(path.stem).suffix if path.suffix in PACKED else path.suffix
    return KINDS.get(suffix.lower(), "text")


def found(source: Path) -> Inputs:
    """The files of a corpus in the order in which they are read: by name.

    A folder with files of one structured kind is that kind, and its other files (a README) are passed over.

    Raises:
        OptsweepError: there is nothing there, or more than one structured kind.
    """
    try:
        names = [source] if not source.is_dir() else sorted(_below(source))
        files = [_file(path, source) for path in names]
    except OSError as error:
        raise OptsweepError(
            f"{error.filename or source} cannot be read: {error.strerror}", "name another corpus with --from PATH"
        ) from None
    kinds = {file.name: kind_of(file.name) for file in files}
    structured = sorted(set(kinds.values()) - {"text"})
    if len(structured) > 1:
        raise OptsweepError(
            f"{source} holds files of several kinds: {', '.join(structured)}", "name a folder of one kind, or one file"
        )
    kind = structured[0] if structured else "text"
    chosen = tuple(file for file in files if kinds[file.name] == kind)
    for file in chosen:
        if kind in ("parquet", "arrays") and file.path.suffix in PACKED:
            raise OptsweepError(f"{file.path}: {kind} are read unpacked only", "unpack it first")
    if not chosen or not any(file.size for file in chosen):
        raise OptsweepError(f"{source} is an empty corpus: no file in it has a byte", "name another with --from PATH")
    return Inputs(kind=kind, files=chosen, passed_over=len(files) - len(chosen))


def _below(folder: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=stop, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        for name in names:
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _file(path: Path, source: Path) -> InputFile:
    seen = path.stat()
    if not path.is_file():
        raise OptsweepError(f"{path} is no file", "name a file or a folder with --from PATH")
    if not os.access(path, os.R_OK):
        raise PermissionError(13, "Permission denied", str(path))
    name = path.name if path == source else path.relative_to(source).as_posix()
    return InputFile(path=path, name=name, size=seen.st_size, mtime_ns=seen.st_mtime_ns)


class Opened:
    """The bytes of a file, unpacked, from a place in them on."""

    def __init__(self, file: InputFile, at: int) -> None:
        self._file = file
        self._raw: BinaryIO = open(file.path, "rb")  # noqa: SIM115 (closed by __exit__)
        self._stream: Any = self._raw
        if file.path.suffix == ".gz":
            self._stream = gzip.GzipFile(fileobj=self._raw, mode="rb")
        elif file.path.suffix == ".zst":
            self._stream = io.BufferedReader(_Zstandard(self._raw, file.path), _BLOCK)
        if self._stream is self._raw:
            self._raw.seek(at)
        else:
            while at > 0 and (block := self.read(min(at, _BLOCK))):
                at -= len(block)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: Any) -> None:
        with contextlib.suppress(OSError, EOFError, zlib.error):
            self._stream.close()
        self._raw.close()

    def position(self) -> int:
        """Bytes of the file itself that were read: how far it is."""
        return self._raw.tell()

    def read(self, count: int) -> bytes:
        """The next bytes, fewer only at the end."""
        return self._checked(lambda: self._stream.read(count))

    def line(self, limit: int) -> bytes:
        """Up to the end of the line."""
        return self._checked(lambda: self._stream.readline(limit))

    def _checked(self, read: Callable[[], bytes]) -> bytes:
        path = self._file.path
        try:
            return read()
        except EOFError:
            raise OptsweepError(f"{path} is cut: it ends in the middle of what it packs", "fetch it again") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise OptsweepError(f"{path} is no gzip file, or damaged: {error}", "fetch it again") from None
        except OSError as error:
            raise OptsweepError(
                f"{path} cannot be read: {error.strerror or error}", "mend that and call again"
            ) from None


class _Zstandard(io.RawIOBase):
    """Frames of a .zst file one after the other; a cut one is an EOFError, which the library's own reader does not tell."""

    def __init__(self, raw: BinaryIO, path: Path) -> None:
        from optsweep_tui.preparing import vocabulary

        vocabulary.require("zstandard", f"{path.name}")
        import zstandard

        self._raw, self._path, self._library = raw, path, zstandard
        self._frame: Any = None
        self._rest, self._ready = b"", b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            packed = self._rest or self._raw.read(_BLOCK // 64)
            self._rest = b""
            if not packed:
                if self._frame is not None:
                    raise EOFError
                return 0
            try:
                if self._frame is None:
                    # A frame packed with --long=31 needs a window of 2 GiB; others take what they need.
                    self._frame = self._library.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
                self._ready = self._frame.decompress(packed)
            except self._library.ZstdError as error:
                text = f"{self._path} is no zstandard file, or damaged: {error}"
                raise OptsweepError(text, "fetch it again") from None
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count
