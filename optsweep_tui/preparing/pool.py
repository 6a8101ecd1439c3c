"""Several processes that tokenise: batches go out in turn and come back in order, so the result never depends on their number."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Generator, Iterable
from typing import Protocol, TypeVar

from optsweep_tui.errors import OptsweepError
from optsweep_tui.preparing import worker
from optsweep_tui.preparing.worker import Encoded, Rules


class Work(Protocol):
    """What a process needs of a batch."""

    @property
    def header(self) -> dict[str, object]: ...
    @property
    def body(self) -> bytes: ...


B = TypeVar("B", bound=Work)


def tokenised(batches: Iterable[B], rules: Rules, workers: int) -> Generator[tuple[B, Encoded], None, None]:
    """Each batch with its tokens, in order; at most one batch per process is in memory, beside the one that is read.

    Args:
        workers: processes; with one, the work is done in this process.

    Raises:
        OptsweepError: a document cannot be read, or a process was killed.
    """
    if workers == 1:
        for batch in batches:
            yield batch, worker.encoded(rules, dict(batch.header), batch.body)
        return
    processes = [_Process(rules) for _ in range(workers)]
    waiting: collections.deque[tuple[B, _Process]] = collections.deque()
    try:
        for number, batch in enumerate(batches):
            process = processes[number % workers]
            if len(waiting) == workers:
                sent, busy = waiting.popleft()
                yield sent, busy.answer()
            process.give(batch)
            waiting.append((batch, process))
        while waiting:
            sent, busy = waiting.popleft()
            yield sent, busy.answer()
    finally:
        for process in processes:
            process.end()


class _Process:
    """One process, which ends by itself when this one does: its input ends then."""

    def __init__(self, rules: Rules) -> None:
        # -P: a tokenizers.py in the current folder is not the library.
        command = [sys.executable, "-P", "-m", "optsweep_tui.preparing.worker"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        vocabulary = dataclasses.asdict(rules.vocabulary)
        self._send({"vocabulary": vocabulary, "held_out": rules.held_out}, b"")

    def give(self, batch: Work) -> None:
        """Hand it a batch; it has answered the one before."""
        self._send(dict(batch.header), batch.body)

    def _send(self, header: dict[str, object], body: bytes) -> None:
        try:
            worker.send(self._input.fileno(), header, body)
        except BrokenPipeError:
            self._gone()

    def answer(self) -> Encoded:
        """The tokens of what it was given."""
        message = worker.receive(self._output.fileno())
        if message is None:
            self._gone()
        assert message is not None
        return worker.answered(*message)

    def _gone(self) -> None:
        code = self._process.wait()
        why = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        memory = " (out of memory?)" if code == -9 else ""
        raise OptsweepError(
            f"a process that tokenises {why}{memory}", "call again with fewer --workers: it goes on where it was"
        )

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._input.close()
        self._process.kill()
        self._process.wait()
        self._output.close()
