"""An engine that counts: each step hashes the state before it, so a resumed run is right if its last hash is; no framework."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from optsweep_engines import team
from optsweep_engines.engine import Preempted
from optsweep_engines.shared_log import SharedLog
from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_engines.team import Place

STEP_SECONDS = float(os.environ.get("COUNTING_STEP_SECONDS", "0.004"))


def states(seed: int, lr: float) -> Iterator[bytes]:
    """The state after each step."""
    state = f"{seed} {lr}".encode()
    while True:
        state = hashlib.sha256(state).digest()
        yield state


def loss_of(state: bytes) -> float:
    return 1.0 + int.from_bytes(state[:4], "big") / 2**32


class CountingEngine:
    name = "counting"

    def train(self, spec: RunSpec, log: Any) -> RunRecord:
        lr = float(spec.hyperparameters["lr"])  # type: ignore[arg-type]
        state, done, began = f"{spec.seed} {lr}".encode(), 0, 0
        for step, path in log.checkpoints():
            saved = json.loads(path.read_bytes())
            state, done, began = bytes.fromhex(saved["state"]), step, step
            break
        if began:
            log.event("resumed", step=began)
        started = time.monotonic()
        while done < spec.steps:
            if STEP_SECONDS:
                time.sleep(STEP_SECONDS)
            state, done = hashlib.sha256(state).digest(), done + 1
            stop = log.stop_requested()
            if done % spec.log_interval == 0 or done == spec.steps:
                seconds = max(1e-6, time.monotonic() - started)
                tokens = done * spec.tokens_per_step
                log.metric(
                    {"step": done, "tokens": tokens, "train_seconds": seconds, "train_loss": loss_of(state), "lr": lr}
                )
            if stop or log.checkpoint_due():
                self._save(log, done, state)
            if stop == "preempted":
                raise Preempted
            if stop == "cancelled":
                return self._record(spec, log, "cancelled", state, done, began, started)
        return self._record(spec, log, "done", state, done, began, started)

    def together(self, log: Any, place: Place) -> SharedLog:
        """In step with the other machines: the first sends what it decides, each of the others says that it has it."""
        wires: list[socket.socket] = []
        if place.leads:
            with team.bound(place.address, place.port) as door:
                door.settimeout(30)
                wires = [door.accept()[0] for _ in range(1, place.processes)]
        limit = time.monotonic() + 30
        while not wires:
            try:
                wires = [socket.create_connection((place.address, place.port), timeout=5)]
            except OSError:
                if time.monotonic() > limit:
                    raise
                time.sleep(0.02)
        files = [wire.makefile("rwb") for wire in wires]
        for wire in wires:
            wire.settimeout(None)

        def agreed(values: Sequence[int]) -> Sequence[int]:
            found = list(values)
            if place.leads:
                for file in files:
                    file.write(json.dumps(found).encode() + b"\n")
                    file.flush()
                for file in files:
                    if not file.readline():
                        raise RuntimeError("Connection closed by peer")
            else:
                line = files[0].readline()
                if not line:
                    raise RuntimeError("Connection closed by peer")
                found = json.loads(line)
                files[0].write(b"ok\n")
                files[0].flush()
            return found

        team.require_same(place, list(agreed(place.mark)))
        return SharedLog(log, None, leads=place.leads, agreed=agreed)

    @staticmethod
    def _save(log: Any, step: int, state: bytes) -> None:
        def write(path: Path) -> None:
            path.write_text(json.dumps({"state": state.hex()}))

        log.save_checkpoint(step, write)

    @staticmethod
    def _record(spec: RunSpec, log: Any, status: Any, state: bytes, done: int, began: int, started: float) -> RunRecord:
        seconds = max(1e-6, time.monotonic() - started)
        return RunRecord(
            run_id=spec.run_id,
            attempt=log.attempt,
            status=status,
            train_loss=loss_of(state),
            val_loss=loss_of(state),
            steps=done,
            tokens=done * spec.tokens_per_step,
            train_seconds=seconds,
            tokens_per_second=(done - began) * spec.tokens_per_step / seconds,
            peak_bytes=1,
            optimizer_state_bytes=1,
            device=os.environ.get("OPTSWEEP_TEST_BOX", "here"),
            versions={},
            parameters_sha256=state.hex(),
            resumed_from_step=began,
        )

    def devices(self) -> list[dict[str, Any]]:
        return [{"device": "cpu", "name": "counting", "memory_bytes": 1}]
