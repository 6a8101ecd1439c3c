"""A real Slurm of one node for tests: munged, slurmctld and slurmd by hand, without systemd, on loopback, in one folder.

    with SlurmNode(folder) as node: subprocess.run(["sbatch", ...], env=node.environment)

Everything (configuration, key, sockets, spool, logs) lies in the folder; the daemons are stopped by their pids.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
START_SECONDS = 30.0

# NoInAddrAny and NoCtldInAddrAny: without them both daemons listen on every interface (slurm.conf(5)).
CONFIGURATION = """
ClusterName=optsweeptest
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={cred_expire}
CryptoType=crypto/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldDebug=info
SlurmdDebug=info
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0{scheduler}
SlurmdParameters=config_overrides
MaxJobCount={max_jobs}
MaxArraySize={max_array}
MinJobAge={min_job_age}
KillWait={kill_wait}
OverTimeLimit=0
MessageTimeout=10
SlurmdTimeout={slurmd_timeout}
InactiveLimit=0
ReturnToService=2
RebootProgram=/bin/false
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=short Nodes={host} MaxTime=1 State=UP PriorityTier=1
PartitionName=held Nodes={host} MaxTime=INFINITE State=DOWN
"""


def missing() -> str | None:
    """What has to be installed for a node; None where nothing is."""
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    lacking = [tool for tool in (*DAEMONS, "sbatch") if shutil.which(tool, path=path) is None]
    return ", ".join(lacking) or None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class SlurmNode:
    """One controller and one node of this machine; a context manager."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        cpus: int = 2,
        max_array: int = 1001,
        max_jobs: int = 30000,
        min_job_age: int = 300,
        kill_wait: int = 10,
        cred_expire: int = 5,
        slurmd_timeout: int = 300,
        scheduler: str = "",
    ) -> None:
        """Describe the node.

        Args:
            folder: of everything that it keeps; None: a temporary one, removed at the end. A unix socket lies in it, so
                its path must be short (108 bytes, unix(7)).
            cpus: that Slurm hands out, whatever the machine has.
            max_array: MaxArraySize; an array has indices below it.
            max_jobs: MaxJobCount, array tasks counted.
            min_job_age: seconds that ended jobs are remembered.
            kill_wait: seconds from TERM to KILL.
            cred_expire: seconds of a job's credential; a requeued job starts no sooner; below 5 it is 120 (slurm.conf(5)).
            slurmd_timeout: seconds after which a silent node is down.
            scheduler: more SchedulerParameters.
        """
        self._temporary = folder is None
        self._registered = time.monotonic()
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-")) if folder is None else folder
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": os.environ.get("PATH", "/usr/bin:/bin") + os.pathsep + "/usr/sbin",
        }
        for name in list(self.environment):
            if name.startswith(("SLURM_", "SBATCH_", "SQUEUE_")) and name != "SLURM_CONF":
                del self.environment[name]
        self.host = os.uname().nodename.split(".")[0]
        self._values = {
            "host": self.host,
            "user": _user_name(),
            "folder": self.folder,
            "ctld_port": _free_port(),
            "slurmd_port": _free_port(),
            "cpus": cpus,
            "max_array": max_array,
            "max_jobs": max_jobs,
            "min_job_age": min_job_age,
            "kill_wait": kill_wait,
            "cred_expire": cred_expire,
            "slurmd_timeout": slurmd_timeout,
            "scheduler": f",{scheduler}" if scheduler else "",
        }

    def __enter__(self) -> SlurmNode:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(mode=0o755, exist_ok=True)
        self.folder.chmod(0o755)  # munged refuses a socket that others could not reach
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(**self._values))
        key = self.folder / "munge.key"
        if not key.exists():
            key.write_bytes(os.urandom(128))
            key.chmod(0o600)
        try:
            self.start("munged")
            self.start("slurmctld")
            self.start("slurmd")
            self.wait_until_idle()
        except BaseException:
            self.stop_all()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_all()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, daemon: str) -> None:
        """Start one daemon; it is ready, or an AssertionError says what it said."""
        extra: list[str] = []
        if daemon == "munged":
            names = {"--socket": "munge.socket", "--key-file": "munge.key", "--pid-file": "munged.pid"}
            names |= {"--log-file": "munged.log", "--seed-file": "munged.seed"}
            extra = ["--force", *(f"{option}={self.folder / name}" for option, name in names.items())]
        elif daemon == "slurmd":
            extra = ["-N", self.host]
        (self.folder / f"{daemon}.pid").unlink(missing_ok=True)
        result = subprocess.run(
            [daemon, *extra],
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        limit = time.monotonic() + START_SECONDS
        while self.pid(daemon) is None:
            if result.returncode != 0 or time.monotonic() > limit:
                raise AssertionError(f"{daemon} did not start: {result.stderr}{self.log(daemon)[-2000:]}")
            time.sleep(0.02)

    def pid(self, daemon: str) -> int | None:
        """Pid of a daemon that lives."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.folder / f"{daemon}.pid").read_text())
            command = Path(f"/proc/{pid}/comm").read_text().strip()
            return pid if command == daemon else None
        return None

    def stop(self, daemon: str, number: int = signal.SIGTERM) -> None:
        """Signal one daemon and wait until it is gone."""
        pid = self.pid(daemon)
        if pid is None:
            return
        os.kill(pid, number)
        limit = time.monotonic() + 20
        while Path(f"/proc/{pid}").exists() and time.monotonic() < limit:
            time.sleep(0.02)
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)

    def stop_all(self) -> None:
        """Cancel what is there, end the daemons and every process of a job."""
        with contextlib.suppress(subprocess.TimeoutExpired, AssertionError):
            if self.pid("slurmctld") and self.pid("slurmd"):
                self.run("scancel", "--full", "-u", _user_name(), check=False, timeout=10)
                limit = time.monotonic() + 15
                while self.run("squeue", "-h", check=False, timeout=5).stdout.strip() and time.monotonic() < limit:
                    time.sleep(0.1)
        for daemon in ("slurmctld", "slurmd"):
            self.stop(daemon)
        for pid in self.steps():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.stop("munged")

    def steps(self) -> list[int]:
        """Pids of the slurmstepd of this node: told by the configuration in their environment."""
        found = []
        mark = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if (entry / "comm").read_text().startswith("slurmstepd") and mark in (
                        entry / "environ"
                    ).read_bytes():
                        found.append(int(entry.name))
        return found

    def run(
        self, *command: str, check: bool = True, timeout: float = 30, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one command of Slurm to its end."""
        result = subprocess.run(
            command, env={**self.environment, **(environment or {})}, capture_output=True, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if check and result.returncode != 0:
            raise AssertionError(f"{command} ended with {result.returncode}: {result.stderr}")
        return result

    def mend(self) -> None:
        """What an administrator does: resume a node that Slurm has drained of itself, release the tasks that it holds.

        A slurmctld that is killed before it has saved its state starts running tasks anew, finds them there, and drains
        the node for that ("Duplicate jobid"); and it believes that tasks run which ended just before, until the nodes
        have to register again: every 15 seconds here. Where the controller does not answer now, nothing is done.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._mend()

    def _mend(self) -> None:
        if time.monotonic() - self._registered > 15:
            self._registered = time.monotonic()
            self.run("scontrol", "reconfigure", check=False)
        answer = self.run("sinfo", "-h", "-o", "%T", "-p", "main", check=False)
        if answer.stdout.strip().startswith(("drain", "down")):
            self.run("scontrol", "update", f"nodename={self.host}", "state=resume", check=False)
        held = self.run("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i|%r", check=False).stdout
        for line in held.splitlines():
            task, _, reason = line.partition("|")
            if "held" in reason:
                self.run("scontrol", "release", task, check=False)

    def queue(self) -> list[list[str]]:
        """Jobs that Slurm has now, each task a line: id, state, reason."""
        text = self.run("squeue", "-h", "-r", "-o", "%i|%T|%r").stdout
        return [line.split("|") for line in text.splitlines()]

    def wait_until_idle(self) -> None:
        """Wait until the node takes jobs."""
        limit = time.monotonic() + START_SECONDS
        while True:
            answer = self.run("sinfo", "-h", "-o", "%T", "-p", "main", check=False)
            if answer.stdout.strip() in ("idle", "mixed", "allocated"):
                return
            if time.monotonic() > limit:
                raise AssertionError(f"node is {answer.stdout.strip()}: {self.log('slurmd')[-1000:]}")
            time.sleep(0.05)

    def log(self, daemon: str) -> str:
        """All that a daemon has said."""
        with contextlib.suppress(OSError):
            return (self.folder / f"{daemon}.log").read_text(errors="replace")
        return ""

    def listening(self) -> Iterator[str]:
        """Addresses that the daemons listen on, as /proc/net/tcp gives them ("0100007F" = 127.0.0.1)."""
        inodes = set()
        for daemon in DAEMONS:
            pid = self.pid(daemon)
            if pid is not None:
                for entry in os.scandir(f"/proc/{pid}/fd"):
                    with contextlib.suppress(OSError):
                        inodes.add(os.readlink(entry.path))
        for table in ("tcp", "tcp6"):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                    fields = line.split()
                    if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                        yield fields[1].partition(":")[0]


def _user_name() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
