"""First words with a host: this file is sent over ssh, checks Python, unpacks the engine by its hash, becomes the helper.

It is read by whatever Python the host has, so it uses nothing that Python 3.4 does not know, and imports nothing of ours.
The controller sends, after this text: a line of JSON {"root", "archive", "mark"}, and the archive's bytes if asked.
"""

import hashlib
import io
import json
import os
import shutil
import sys
import time
import zipfile

OLDEST = (3, 11)
LARGEST = 64 << 20
"""Bytes of an archive; the engine is far below it."""


def line() -> bytes:
    """One line from standard input, byte by byte: what follows belongs to the helper."""
    found = b""
    while not found.endswith(b"\n") and len(found) < 65536:
        part = os.read(0, 1)
        if not part:
            sys.exit(3)
        found += part
    return found


def say(**answer: object) -> None:
    """One line of JSON to the controller."""
    os.write(1, (json.dumps(answer) + "\n").encode())


def sync(path: str) -> None:
    """Have a file or folder on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def tidy(engines: str) -> None:
    """Remove what unpackings that were killed have left; the folder may be shared, so only what is old."""
    for name in os.listdir(engines):
        path = os.path.join(engines, name)
        if name.partition(".")[2].isdigit() and time.time() - os.path.getmtime(path) > 3600:
            shutil.rmtree(path, ignore_errors=True)


def unpack(home: str, archive: str, size: int) -> None:
    """Read the archive, check its hash, and put it in place whole or not at all."""
    data = b""
    while len(data) < size:
        part = os.read(0, min(1 << 20, size - len(data)))
        if not part:
            sys.exit(3)
        data += part
    if hashlib.sha256(data).hexdigest() != archive:
        raise OSError("the engine's archive came with another hash")
    tidy(os.path.dirname(home))
    temporary = home + "." + str(os.getpid())
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            packed.extractall(temporary)
        for folder, _, names in os.walk(temporary):  # the name is the hash: after a power cut, too
            for path in [folder] + [os.path.join(folder, name) for name in names]:
                sync(path)
        os.rename(temporary, home)
        sync(os.path.dirname(home))
    except OSError:
        if not os.path.isdir(home):  # else another controller was quicker
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def main() -> None:
    """Check, unpack, become the helper."""
    asked = json.loads(line().decode())
    os.write(1, ("\n" + asked["mark"] + "\n").encode())
    if sys.version_info < OLDEST:
        say(problem="python", version=".".join(map(str, sys.version_info[:3])))
        sys.exit(4)
    if not sys.platform.startswith("linux"):
        say(problem="platform", version=sys.platform)
        sys.exit(4)
    os.umask(0o077)
    root = os.path.realpath(os.path.expanduser(asked["root"]))
    home = os.path.join(root, "engine", asked["archive"][:16])
    try:
        os.makedirs(os.path.join(root, "engine"), mode=0o700, exist_ok=True)
        if not os.path.isdir(home):
            say(need=True)
            unpack(home, asked["archive"], min(int(line()), LARGEST))
    except (OSError, ValueError) as error:
        say(problem="disk", version=str(getattr(error, "strerror", None) or error), errno=getattr(error, "errno", None))
        sys.exit(4)
    old = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = home + (os.pathsep + old if old else "")
    os.chdir(root)
    say(ready=True)
    os.execv(sys.executable, [sys.executable, "-u", "-m", "optsweep_engines.helper", "--root", root])


if __name__ in ("__main__", "optsweep_bootstrap"):
    main()
