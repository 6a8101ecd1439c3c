"""What Slurm's commands print, as data: the queue, the limits, the partitions, and what an error of theirs means. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

TERMINAL = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
     "TIMEOUT")
)  # fmt: skip
"""States that a job does not leave by itself (squeue(1), JOB STATE CODES); every other one is of a job that may run."""

QUEUE_FORMAT = "%F|%K|%T|%j|%r"
"""Array's job id, task indices, state, name, reason; the reason is last, for it is free text."""


@dataclass(frozen=True, kw_only=True)
class QueueRow:
    """One line of squeue: one task, or the tasks of an array that still wait."""

    job: str
    """Id of the array, or of the job."""
    indices: frozenset[int]
    """Tasks of this line; empty for a job that is no array."""
    cut: bool
    """squeue has cut a long list of indices short (SLURM_BITSTR_LEN, 64 characters): there are more than these."""
    state: str
    name: str
    reason: str


def parse_queue(text: str) -> list[QueueRow]:
    """Rows of `squeue -h -o QUEUE_FORMAT`; a line of another shape is passed over (a site's login banner, for one)."""
    rows = []
    for line in text.splitlines():
        fields = line.strip().split("|", 4)
        if len(fields) != 5 or not fields[0].isdigit():
            continue
        indices, cut = parse_indices(fields[1])
        rows.append(
            QueueRow(
                job=fields[0], indices=indices, cut=cut, state=fields[2].partition("+")[0], name=fields[3],
                reason=fields[4],
            )
        )  # fmt: skip
    return rows


def parse_indices(text: str) -> tuple[frozenset[int], bool]:
    """("0-3,7%2" -> {0, 1, 2, 3, 7}, whether the text was cut short); no array: nothing."""
    text = text.strip().strip("[]")
    cut = text.endswith("...")
    found: set[int] = set()
    parts = text.removesuffix("...").partition("%")[0].split(",")
    for place, part in enumerate(parts):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if match is None or (cut and place == len(parts) - 1 and part):  # the last number may have lost its end
            continue
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if step > 0 and last - first < 10_000_000:
            found.update(range(first, last + 1, step))
    return frozenset(found), cut


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the scheduler says of one task."""

    job: str
    state: str
    reason: str

    @property
    def active(self) -> bool:
        """It may run, or run again."""
        return self.state not in TERMINAL


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One answer of squeue, by job name: all that is decided from the scheduler is decided from one of these."""

    started: float
    """Monotonic seconds at which the question was asked: what happened before is in the answer."""
    rows: Mapping[str, Sequence[QueueRow]] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, started: float) -> Snapshot:
        """From what squeue printed."""
        rows: dict[str, list[QueueRow]] = {}
        for row in parse_queue(text):
            rows.setdefault(row.name, []).append(row)
        return cls(started=started, rows=rows)

    def tasks(self, name: str, index: int) -> list[Task]:
        """What is known of a task, by every job of that name: one, or more where a submission was doubled."""
        found = []
        by_job: dict[str, list[QueueRow]] = {}
        for row in self.rows.get(name, ()):
            by_job.setdefault(row.job, []).append(row)
        for job, rows in by_job.items():
            own = next((row for row in rows if index in row.indices), None)
            if own is None and not any(index in row.indices for row in rows):
                own = next((row for row in rows if row.cut), None)
            if own is not None:
                found.append(Task(job=job, state=own.state, reason=own.reason))
        return found

    def active(self, name: str, index: int) -> bool:
        """True when some job of that name may still run the task."""
        return any(task.active for task in self.tasks(name, index))

    def jobs(self, name: str) -> list[str]:
        """Ids of the jobs of that name, lowest first."""
        return sorted({row.job for row in self.rows.get(name, ())}, key=int)

    def task_of(self, job: str) -> Task | None:
        """What is known of a task by its own name, "ARRAY_INDEX"."""
        array, _, index = job.partition("_")
        for name, rows in self.rows.items():
            if index.isdigit() and any(row.job == array for row in rows):
                return next((task for task in self.tasks(name, int(index)) if task.job == array), None)
        return None

    @property
    def active_count(self) -> int:
        """Tasks that wait or run. A list of indices that was cut short counts for what is shown of it."""
        return sum(max(1, len(row.indices)) for rows in self.rows.values() for row in rows if row.state not in TERMINAL)

    @property
    def running_count(self) -> int:
        """Tasks that run."""
        return sum(
            max(1, len(row.indices))
            for rows in self.rows.values()
            for row in rows
            if row.state in ("RUNNING", "COMPLETING", "CONFIGURING")
        )


# ---------------------------------------------------------------- limits and partitions


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a cluster allows, by `scontrol show config`."""

    version: str = ""
    cluster: str = ""
    max_array_size: int = 1001
    """MaxArraySize: indices of an array are below it; 1001 is Slurm's own default."""
    max_array_tasks: int | None = None
    """max_array_tasks of SchedulerParameters: tasks of one array."""
    max_jobs: int = 10_000
    """MaxJobCount: jobs of everybody, each task counted; 10000 is Slurm's own default."""
    kill_wait_seconds: int = 30
    """From TERM to KILL."""
    accounting: bool = False
    """Whether sacct can answer."""

    @property
    def chunk(self) -> int:
        """Runs of one array."""
        return max(1, min(self.max_array_size, self.max_array_tasks or self.max_array_size, 1000))


def parse_config(text: str) -> Limits:
    """`scontrol show config`; what is missing keeps Slurm's own default."""
    values = {}
    for line in text.splitlines():
        key, mark, value = line.partition("=")
        if mark:
            values[key.strip()] = value.strip()
    tasks = re.search(r"max_array_tasks=(\d+)", values.get("SchedulerParameters", ""))
    return Limits(
        version=values.get("SLURM_VERSION", ""),
        cluster=values.get("ClusterName", ""),
        max_array_size=_number(values.get("MaxArraySize"), 1001),
        max_array_tasks=int(tasks[1]) if tasks else None,
        max_jobs=_number(values.get("MaxJobCount"), 10_000),
        kill_wait_seconds=_number(values.get("KillWait"), 30),
        accounting=values.get("AccountingStorageType", "").endswith("slurmdbd"),
    )


def _number(text: str | None, usual: int) -> int:
    match = re.match(r"\d+", text or "")
    return int(match[0]) if match and int(match[0]) > 0 else usual


@dataclass(frozen=True, kw_only=True)
class Partition:
    """One partition, by sinfo."""

    name: str
    default: bool
    up: bool
    time_limit: str
    nodes: int
    states: str
    """"idle", or several states of its nodes with commas."""
    cpus: int
    """Of one node."""
    gres: str
    """"gpu:h100:4(S:0-1)"; empty for none."""


SINFO_FORMAT = "%P|%a|%l|%D|%T|%c|%G"


def parse_partitions(text: str) -> list[Partition]:
    """Partitions of `sinfo -h -o SINFO_FORMAT`, the lines of one partition put together."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) != 7:
            continue
        name, up, limit, nodes, state, cpus, gres = fields
        known = found.get(name.rstrip("*"))
        found[name.rstrip("*")] = Partition(
            name=name.rstrip("*"),
            default=name.endswith("*"),
            up=up == "up",
            time_limit=limit,
            nodes=_digits(nodes) + (known.nodes if known else 0),
            states=f"{known.states},{state}" if known else state,
            cpus=max(_digits(cpus), known.cpus if known else 0),
            gres=(known.gres if known and known.gres else "") or ("" if gres == "(null)" else gres),
        )
    return list(found.values())


def _digits(text: str) -> int:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0


# ---------------------------------------------------------------- what an error means

_UNREACHABLE = (
    "unable to contact slurm controller", "connection refused", "socket timed out", "unable to establish",
    "zero bytes were transmitted", "transport endpoint", "communication connection failure", "did not end within",
    "slurm backup controller in standby mode", "munge", "protocol authentication error", "resource temporarily unavailable",
)  # fmt: skip
"""Words of errors that say nothing of the job: it may have been taken."""
_BUSY = (
    "qosmaxsubmitjob", "assocmaxsubmitjob", "maxsubmitjob", "job submit limit", "temporarily unable to accept job",
    "maximum job count", "slurm temporarily", "max_submit", "assocgrpsubmitjobs", "qosgrpsubmitjobs",
)  # fmt: skip
"""Words of errors after which the same submission may be taken later."""
_HINTS = (
    ("invalid partition", "write one of its partitions in hosts.toml: sinfo -s lists them"),
    ("invalid account", "set account in hosts.toml: sacctmgr show assoc user=$USER lists yours"),
    ("invalid qos", "set qos in hosts.toml: sacctmgr show assoc user=$USER lists yours"),
    ("invalid feature", "set constraint in hosts.toml: sinfo -o %f lists the features"),
    ("gres", "set gres in hosts.toml: sinfo -o %G lists what nodes have"),
    ("time limit", "set time in hosts.toml: sinfo -o '%P %l' lists the limits"),
    ("--time", "set time in hosts.toml: sinfo -o '%P %l' lists the limits"),
    ("memory", "set mem in hosts.toml: sinfo -o %m lists what nodes have, in MB"),
    ("node configuration is not available",
     "its nodes are down or drained (sinfo -R), or ask for less in hosts.toml (gres, cpus, mem, constraint)"),
    ("array specification", "MaxArraySize of the cluster has changed: run the same command again"),
    ("not permitted", "ask the site's administrators, or set another account or partition in hosts.toml"),
    ("not installed", "install Slurm's commands here, or name the login node: ssh = \"LOGIN\" in hosts.toml"),
)  # fmt: skip


def meaning(returncode: int, stderr: str) -> str:
    """What a failed command says: "unreachable" (nothing is known), "busy" (later), "refused" (never), "unknown"."""
    text = stderr.lower()
    if returncode == 127:
        return "refused"
    if returncode == 124 or any(words in text for words in _UNREACHABLE):
        return "unreachable"
    if any(words in text for words in _BUSY):
        return "busy"
    if (
        any(words in text for words in (hint[0] for hint in _HINTS))
        or "invalid" in text
        or "unrecognized option" in text
    ):
        return "refused"
    return "unknown"


def hint_for(stderr: str) -> str:
    """The next step after a refusal."""
    text = stderr.lower()
    return next((hint for words, hint in _HINTS if words in text), "optsweep hosts check NAME tells more")


def one_line(stderr: str) -> str:
    """An error of Slurm as one line: its last word, without the command's own name in front."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    text = next(
        (line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "no reason given"
    )
    return re.sub(r"^(sbatch|squeue|scancel|scontrol|sinfo|sacct): (error|fatal): ", "", text)[:300]


def job_id(stdout: str) -> str | None:
    """The id that `sbatch --parsable` printed ("4711" or "4711;cluster"), among whatever else a site's plug-in says."""
    for line in reversed(stdout.splitlines()):
        match = re.fullmatch(r"(\d+)(;[A-Za-z0-9_.-]+)?", line.strip())
        if match:
            return match[1]
    return None


def ranges(indices: Iterable[int]) -> str:
    """{0, 1, 2, 7} -> "0-2,7": what scancel and sbatch take."""
    spans: list[list[int]] = []
    for index in sorted(indices):
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def details(text: str) -> dict[str, str]:
    """`scontrol show job -o` as a table; values that hold blanks lose what follows them."""
    return dict(pair.split("=", 1) for pair in text.split("\n", 1)[0].split() if "=" in pair)
