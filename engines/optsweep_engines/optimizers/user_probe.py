"""The process in which a user's file is executed: `python -m optsweep_engines.optimizers.user_probe`, asked by `ask`.

Whoever plans runs never imports the file itself: this process has a time limit, no terminal input and none of its parent's
output, so a file that hangs, exits or crashes costs a clear line and nothing else. One JSON request comes in on stdin,
JSON lines go out.
"""

from __future__ import annotations

import base64
import dataclasses
import inspect
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from optsweep_engines.optimizers import user
from optsweep_engines.optimizers.user import Found, OwnOptimizerError, Source
from optsweep_engines.optimizers.user_knobs import OwnKnob, check_step, signature

FORMULA_LINES = 60
"""Lines of a user's source that are shown as the rule."""


# ---------------------------------------------------------------- the side that asks


def ask(request: Mapping[str, Any], label: str, seconds: float, *, talk: bool = False) -> Iterator[dict[str, Any]]:
    """The answers to one request, as they come.

    Args:
        request: {"action": "describe" | "attempt" | "check", "source": {...} or "package": NAME, ...}.
        label: what messages call the optimizer.
        seconds: time limit of the whole request.
        talk: pass on what the user's code prints (to stderr).

    Raises:
        OwnOptimizerError: what the process found wrong, or it ran out of time or died.
    """
    command = [sys.executable, "-P", "-m", "optsweep_engines.optimizers.user_probe"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if talk else subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    deadline, rest = time.monotonic() + seconds, b""
    try:
        try:
            process.stdin.write(json.dumps({**request, "seconds": seconds}).encode())
            process.stdin.close()
        except BrokenPipeError:
            pass  # it died: its status says so below
        while True:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise OwnOptimizerError(f"{label}: executing it took longer than {seconds:g} s", "it may hang")
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                answer = json.loads(line)
                if "error" in answer:
                    raise OwnOptimizerError(answer["error"], answer["hint"])
                if answer.get("end"):
                    return
                yield answer
        code = process.wait()
        how = f"signal {-code}" if code < 0 else f"status {code}"
        raise OwnOptimizerError(f"{label}: executing it ended the process ({how})", "it must not exit or crash")
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.stdout.close()
        process.wait()


def source_fields(source: Source) -> dict[str, str]:
    """A source as JSON types."""
    return {"label": source.label, "stem": source.stem, "content": base64.b64encode(source.content).decode()}


# ---------------------------------------------------------------- the side that is asked


def found_of(request: Mapping[str, Any]) -> tuple[Found, str, str | None]:
    """The optimizer of a request, what messages call it, and the version of the package that it comes from."""
    if "package" in request:
        found, version = user.package_class(request["package"])
        return found, f"{user.PACKAGE}:{found.name}", version
    fields = request["source"]
    source = Source(label=fields["label"], stem=fields["stem"], content=base64.b64decode(fields["content"]))
    return user.find(user.run_module(source), request["name"], source.label), source.label, None


def described(request: Mapping[str, Any]) -> dict[str, Any]:
    """Name, kind, knobs and text of an optimizer, as JSON types."""
    found, label, version = found_of(request)
    plain: dict[str, Any] = {
        "name": found.name,
        "kind": found.kind,
        "version": version,
        "doc": "",
        "formula": "",
        "fixed": [],
    }
    if found.kind == "class":
        made = signature(found.target, ("params",), f"{label}: {found.name}")
        check_step(found.target, f"{label}: {found.name}")
        own_doc = found.target.__doc__ if "__doc__" in vars(found.target) else None
        step = vars(found.target).get("step", found.target)
        doc = (inspect.cleandoc(own_doc or "") or "a torch.optim class").splitlines()[0]
        return plain | {"doc": doc, "formula": _code(step), "knobs": _knobs(made.knobs), "fixed": list(made.fixed)}
    from optsweep_engines.optimizers.user_rules import entry_of  # noqa: PLC0415 (numpy and array_api_compat)

    entry = entry_of(found, found.name, label)
    code = found.target if found.kind == "function" else found.target.update if found.kind == "rule" else None
    return plain | {
        "doc": entry.doc,
        "formula": entry.formula or (_code(code) if code else ""),
        "knobs": _knobs(entry.knobs),
        "routing": entry.routing,
        "schedule": entry.schedule,
        "run_defaults": dict(entry.run_defaults),
        "needs": sorted(entry.needs),
        "papers": [list(paper) for paper in entry.papers],
        "decay_convention": entry.decay_convention,
    }


def _knobs(knobs: Any) -> list[dict[str, Any]]:
    return [dataclasses.asdict(knob) | {"own": isinstance(knob, OwnKnob)} for knob in knobs]


def _code(target: Any) -> str:
    try:
        lines = inspect.cleandoc("\n" + inspect.getsource(target)).splitlines()
    except (OSError, TypeError):
        return ""
    return "\n".join([*lines[:FORMULA_LINES], *(["..."] if len(lines) > FORMULA_LINES else [])])


def attempted(request: Mapping[str, Any]) -> dict[str, Any]:
    """Two steps under each configuration, on tensors of the shapes of a small model.

    Returns:
        {"state": {"matrix": floats per number, "vector": ...}}.

    Raises:
        OwnOptimizerError: for the first configuration that does not work, naming it.
    """
    from optsweep_engines.properties.attempt import tried  # noqa: PLC0415 (torch)

    found, label, _ = found_of(request)
    state: dict[str, float] = {}
    for configuration in request["configurations"]:
        state = {**tried(found, label, configuration["knobs"], configuration["schedule"]), **state}
    return {"state": state}


def main() -> int:
    """Answer the request on stdin."""
    request = json.loads(sys.stdin.buffer.read())
    signal.alarm(int(request["seconds"]) + 30)  # should whoever asked be gone
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the user's code prints is no answer
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)

    def say(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        if request["action"] == "describe":
            say(described(request))
        elif request["action"] == "attempt":
            say(attempted(request))
        else:
            from optsweep_engines.properties.check import checked  # noqa: PLC0415 (torch)

            found, label, _ = found_of(request)
            for answer in checked(found, label, request.get("engine", "torch")):
                say(answer)
        say({"end": True})
    except OwnOptimizerError as error:
        say({"error": str(error), "hint": error.hint})
    except Exception as error:  # whatever a stranger's objects make of being looked at
        label = request["source"]["label"] if "source" in request else f"{user.PACKAGE}:{request['package']}"
        say({"error": user.error_line(error, label, None), "hint": ""})
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # a thread that the user's file started must not keep the process
