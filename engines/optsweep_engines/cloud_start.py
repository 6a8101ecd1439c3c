"""First words on a cloud node: part of the task itself, it checks the engine's archive by its hash and starts the carrier.

It is read by whatever Python the node has, imports nothing of ours and takes no arguments: what it is to do is in the
environment that the task was submitted with (OPTSWEEP_ENGINE: sha256 of the archive; the rest is the carrier's). Nothing
that lies in the storage is run before its hash was checked.
"""

import hashlib
import io
import os
import shutil
import sys
import zipfile

OLDEST = (3, 11)
STORAGE = "~/optsweep-storage"
"""Where the task's storage is mounted; `sky_task.MOUNT` of the controller is the same."""
NODE = "~/.optsweep-node"


def main() -> None:
    """Check, unpack, become the carrier."""
    if sys.version_info < OLDEST:
        sys.exit("optsweep: this Python is too old, 3.11 is needed: " + sys.version.split()[0])
    os.umask(0o077)
    archive = os.environ["OPTSWEEP_ENGINE"]
    if len(archive) != 64 or not set(archive) <= set("0123456789abcdef"):
        sys.exit("optsweep: OPTSWEEP_ENGINE is no hash")
    home = os.path.join(os.path.expanduser(NODE), "engine", archive[:16])
    if not os.path.isdir(home):
        with open(os.path.join(os.path.expanduser(STORAGE), "engine", archive, "engine.zip"), "rb") as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != archive:
            sys.exit("optsweep: the engine in the storage has another hash than the one that was asked for")
        temporary = home + "." + str(os.getpid())
        os.makedirs(os.path.dirname(home), exist_ok=True)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as packed:
                packed.extractall(temporary)
            os.rename(temporary, home)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    old = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = home + (os.pathsep + old if old else "")
    os.execv(sys.executable, [sys.executable, "-u", "-m", "optsweep_engines.carrier"])


if __name__ == "__main__":
    main()
