"""What Slurm's commands print is read as it is meant: lines captured from Slurm 22.05, and shapes of other sites."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optsweep_tui.dispatch import slurm_commands as commands
from optsweep_tui.dispatch import slurm_submit
from optsweep_tui.dispatch.hostsfile import SlurmOptions
from optsweep_tui.dispatch.slurm_chunks import named

# squeue -h -a -t all -o '%F|%K|%T|%j|%r' of Slurm 22.05.8
QUEUE = """\
8|N/A|PENDING|slt.sh|PartitionDown
11|0-1000|PENDING|os-b-0|PartitionDown
3|2-3|PENDING|os-a-1|Resources
3|0|RUNNING|os-a-1|None
3|1|COMPLETING|os-a-1|None
7|0|PENDING|os-c-0|Nodes required for job are DOWN, DRAINED or reserved (for | higher priority)
9|4|CANCELLED+|os-d-0|None
Welcome to the cluster!
"""

FAILED = "sbatch: error: Batch job submission failed: "

CONFIG = """\
Configuration data as of 2026-11-27T00:22:27
AccountingStorageType   = accounting_storage/none
ClusterName             = optsweeptest
KillWait                = 10 sec
MaxArraySize            = 1001
MaxJobCount             = 30000
SchedulerParameters     = batch_sched_delay=0,max_array_tasks=500,sched_interval=2
SLURM_VERSION           = 22.05.8

Slurmctld(primary) at vm is UP
"""


def test_an_array_is_one_line_while_it_waits_and_a_line_per_task_once_it_runs() -> None:
    snapshot = commands.Snapshot.of(QUEUE, 1.0)
    assert [task.state for index in range(4) for task in snapshot.tasks("os-a-1", index)] == [
        "RUNNING", "COMPLETING", "PENDING", "PENDING",
    ]  # fmt: skip
    assert snapshot.tasks("os-a-1", 4) == []
    assert snapshot.active("os-b-0", 1000) and not snapshot.active("os-b-0", 1001)
    assert snapshot.jobs("os-b-0") == ["11"] and snapshot.jobs("unknown") == []


def test_a_reason_may_hold_any_sign_and_a_line_of_no_job_is_passed_over() -> None:
    rows = commands.parse_queue(QUEUE)
    assert len(rows) == 7
    assert rows[5].reason.endswith("(for | higher priority)")
    assert rows[6].state == "CANCELLED" and not commands.Snapshot.of(QUEUE, 0.0).active("os-d-0", 4)


def test_a_task_is_found_by_its_own_name() -> None:
    snapshot = commands.Snapshot.of(QUEUE, 0.0)
    task = snapshot.task_of("3_0")
    assert task is not None and task.state == "RUNNING" and task.active
    assert snapshot.task_of("3_77") is None and snapshot.task_of("4711_0") is None and snapshot.task_of("3") is None


def test_indices_that_squeue_cut_short_are_taken_to_wait() -> None:
    snapshot = commands.Snapshot.of("5|0,2,4,6,8,10,12,14,1...|PENDING|os-e-0|Priority\n5|1|RUNNING|os-e-0|None\n", 0.0)
    assert [task.state for task in snapshot.tasks("os-e-0", 999)] == ["PENDING"]
    assert [task.state for task in snapshot.tasks("os-e-0", 1)] == ["RUNNING"], "the last number had lost its end"


@given(st.sets(st.integers(0, 5000), max_size=200))
def test_ranges_and_indices_are_inverse(indices: set[int]) -> None:
    text = commands.ranges(indices)
    assert commands.parse_indices(text) == (frozenset(indices), False)
    assert commands.parse_indices(f"[{text}%7]") == (frozenset(indices), False)


def test_a_doubled_submission_is_seen_as_two_jobs_of_one_name() -> None:
    snapshot = commands.Snapshot.of("5|0-1|COMPLETED|os-f-0|None\n6|0-1|PENDING|os-f-0|Priority\n", 0.0)
    assert snapshot.active("os-f-0", 0) and snapshot.jobs("os-f-0") == ["5", "6"]


def test_limits_are_read_and_what_is_missing_is_slurms_own_default() -> None:
    limits = commands.parse_config(CONFIG)
    assert (limits.cluster, limits.version, limits.max_array_size, limits.max_jobs) == (
        "optsweeptest",
        "22.05.8",
        1001,
        30000,
    )
    assert limits.kill_wait_seconds == 10 and limits.max_array_tasks == 500 and limits.chunk == 500
    assert not limits.accounting
    assert commands.parse_config("").chunk == 1000


def test_lines_of_one_partition_are_put_together() -> None:
    text = "gpu*|up|2-00:00:00|3|idle|64|gpu:h100:8(S:0-1)\ngpu*|up|2-00:00:00|1|drained|64|gpu:h100:8(S:0-1)\n"
    text += "old|down|1:00|2|idle|8+|(null)\n"
    gpu, old = commands.parse_partitions(text)
    assert (gpu.name, gpu.default, gpu.up, gpu.nodes, gpu.states, gpu.gres) == (
        "gpu", True, True, 4, "idle,drained", "gpu:h100:8(S:0-1)",
    )  # fmt: skip
    assert (old.up, old.cpus, old.gres) == (False, 8, "")


@pytest.mark.parametrize(
    ("returncode", "stderr", "meaning"),
    [
        (1, "sbatch: error: invalid partition specified: nope\n" + FAILED + "Invalid partition name specified\n", "refused"),
        (1, "sbatch: error: Invalid generic resource (gres) specification\n", "refused"),
        (255, "sbatch: error: Invalid --time specification\n", "refused"),
        (1, FAILED + "Requested node configuration is not available\n", "refused"),
        (1, FAILED + "Invalid feature specification\n", "refused"),
        (1, FAILED + "Unable to contact slurm controller (connect failure)\n", "unreachable"),
        (1, FAILED + "Socket timed out on send/recv operation\n", "unreachable"),
        (1, FAILED + "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n", "busy"),
        (124, "sbatch did not end within 60 s", "unreachable"),
        (127, "sbatch is not installed", "refused"),
        (1, "something that no version of Slurm has said yet\n", "unknown"),
    ],
)  # fmt: skip
def test_an_error_is_a_refusal_only_where_nothing_can_have_been_taken(
    returncode: int, stderr: str, meaning: str
) -> None:
    assert commands.meaning(returncode, stderr) == meaning


def test_an_error_is_one_line_and_a_refusal_has_a_next_step() -> None:
    text = "sbatch: error: invalid partition specified: nope\n" + FAILED + "Invalid partition name specified\n"
    assert commands.one_line(text) == "Batch job submission failed: Invalid partition name specified"
    assert "sinfo" in commands.hint_for(text)
    assert commands.one_line("") == "no reason given"


def test_the_id_is_found_among_what_a_site_prints() -> None:
    assert commands.job_id("4711\n") == "4711"
    assert commands.job_id("Your quota is fine.\n4711;cluster\n") == "4711"
    assert commands.job_id("Submitted\n") is None and commands.job_id("") is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("2:30", 150),
        ("1:00:00", 3600),
        ("1-0", 86400),
        ("1-12:30", 131400),
        ("2-01:02:03", 176523),
        ("x", None),
    ],
)
def test_a_time_is_read_as_sbatch_reads_it(text: str, seconds: int | None) -> None:
    assert slurm_submit.time_seconds(text) == seconds


def test_a_task_is_warned_two_minutes_before_its_limit_or_a_quarter_of_a_short_one() -> None:
    assert [slurm_submit.lead_seconds(limit) for limit in (None, "1-0", "4", "1", "0:20")] == [120, 120, 60, 15, 10]


def test_what_is_not_set_is_not_said_to_sbatch() -> None:
    plain = slurm_submit.arguments("os-a-0", 7, SlurmOptions(), None, "task.sh", "out.txt")
    assert "--array=0-6" in plain and plain[-1] == "task.sh" and "--requeue" in plain
    assert not any(
        word.startswith(("--partition", "--account", "--time", "--gres", "--mem", "--qos")) for word in plain
    )
    options = SlurmOptions(
        account="a", qos="q", constraint="h100&ib", time="1-0", gres="gpu:1", cpus=4, mem="16G", requeue=False
    )
    full = slurm_submit.arguments("os-a-0", 1, options, "gpu", "task.sh", "out.txt")
    wanted = {"--partition=gpu", "--account=a", "--qos=q", "--constraint=h100&ib", "--time=1-0", "--gres=gpu:1",
              "--cpus-per-task=4", "--mem=16G", "--no-requeue"}  # fmt: skip
    assert wanted <= set(full)


def test_the_same_attempts_get_the_same_names_in_arrays_that_are_not_too_large() -> None:
    attempts = [(f"{number:032x}", 1) for number in range(25)]
    chunks = named(attempts, "gpu", 10)
    assert [len(chunk.entries) for chunk in chunks] == [10, 10, 5]
    assert [chunk.name for chunk in chunks] == [chunk.name for chunk in named(attempts, "gpu", 10)]
    assert len({chunk.name for chunk in chunks} | {chunk.name for chunk in named(attempts[1:], "gpu", 10)}) == 6
    assert chunks[1].index(attempts[13]) == 3
