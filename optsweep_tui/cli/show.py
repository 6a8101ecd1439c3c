"""`optsweep show RUN`: everything of one run: spec, state, attempts, record, events."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optsweep_tui.cli import options, output

if TYPE_CHECKING:
    from optsweep_tui.settings import Workspace


def command(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="Run id, or its first digits.", autocompletion=options.complete_run)],
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Show one run in full.

    Example: optsweep show 3fa2
    """
    from optsweep_tui import flow
    from optsweep_tui.live.logs import printable  # what a machine elsewhere wrote must not drive the terminal

    place = options.open_workspace(context, workspace)
    data = flow.everything(place, options.chosen_runs(place, [run])[0])
    if json_:
        output.emit_json(data)
        return
    spec, line = data["spec"], data["line"]
    print(
        f"{data['run_id']}   {line['state']}   attempt {line['attempt']}   studies {' '.join(data['studies']) or '·'}"
    )
    if line["error"]:
        print(f"error      {line['error']}")
    loss = output.loss_text(line["loss"])
    print(
        f"progress   step {line['step']} of {line['steps']}   loss {loss} nats   "
        f"{output.count_text(line['tokens_per_second'])} tok/s"
    )
    if data["origin"]:
        _imported(data)
        return
    print(
        f"cell       {spec['optimizer']} {spec['model']} {line['chinchilla']:g}   {spec['tokens']:,} tokens   {spec['engine']}"
    )
    print(
        f"batch      {spec['batch_size']} x {spec['seq_len']}   {spec['schedule']}   {spec['dtype']}   seed {spec['seed']}"
    )
    print(f"data       {spec['dataset']} {spec['dataset_hash'][:12]}   validation {spec['validation_tokens']:,} tokens")
    for name, item in spec["validation_sets"].items():
        metric = "   the metric" if name == spec["validation_set"] else ""
        print(
            f"           validation set {name}: {item['dataset']} {item['dataset_hash'][:12]}, {item['split']}{metric}"
        )
    _repeated(spec)
    _begun(place, data["run_id"], spec)
    knobs = "   ".join(f"{key} {output.number(value, 6)}" for key, value in spec["hyperparameters"].items())
    print(f"knobs      {knobs}")
    for attempt in data["attempts"]:
        ending = attempt["exit"] or {}
        how = ending.get("reason") or line["state"]
        signal = f", signal {ending['signal']}" if ending.get("signal") else ""
        print(f"a{attempt['attempt']:<9} {how}{signal}   last step {attempt['last_step']}   {attempt['folder']}")
        for told in _story(attempt):
            print(f"             {printable(told)}")
        for event in attempt["events"][-12:]:
            rest = "  ".join(f"{key}={value}" for key, value in event.items() if key not in ("seq", "time", "kind"))
            print(f"             {printable(str(event.get('kind')) + '  ' + rest)}")
    if data["attempts"]:
        _diagnosed(data["attempts"][-1])
    record = data["record"]
    if record:
        print(
            f"record     {record['status']}   train {output.loss_text(record['train_loss'])}   "
            f"val {output.loss_text(record['val_loss'])}"
        )
        for name, loss in (record.get("val_losses") or {}).items():
            print(f"           val {output.loss_text(loss)} on {name}")
        print(
            f"           {record['train_seconds']:.1f} s training   peak {output.count_text(record['peak_bytes'])}B   "
            f"optimizer state {output.count_text(record['optimizer_state_bytes'])}B   {record['device']}"
            f"{'   mesh ' + printable(record['mesh']) if record.get('mesh') else ''}"
        )
        print(f"           parameters {record['parameters_sha256']}")
        print(f"           {printable('  '.join(f'{name} {value}' for name, value in record['versions'].items()))}")


def _repeated(spec: dict[str, Any]) -> None:
    """What simulated epochs are."""
    from optsweep_engines.spec import RunSpec

    run = RunSpec.from_dict(spec)
    if run.simulate_epochs > 1:
        part = f"{run.epoch_windows:,} windows of {run.seq_len} tokens"
        print(f"epochs     {run.simulate_epochs} through {part}, in another order each time; {run.steps:,} steps")


def _begun(workspace: Workspace, run_id: str, spec: dict[str, Any]) -> None:
    """What a run begins with, and the states that it keeps."""
    from optsweep_engines import kept
    from optsweep_engines.spec import RunSpec
    from optsweep_tui import keeping, starting, states

    run = RunSpec.from_dict(spec)
    if run.start is not None:
        own = f"   {run.trained_steps:,} of {run.steps:,} steps trained here" if run.first_step else ""
        print(f"begins     {starting.begun_with(run)}, parameters {run.start.parameters_sha256[:12]}{own}")
    here, missing = kept.steps(workspace.runs / run_id), keeping.unmet(workspace, run_id)
    steps = [str(step) for step in here]
    for step, hosts in sorted(states.elsewhere(workspace, run_id).items()):
        steps += [f"{step} on {' and '.join(hosts)}"]
    if steps or missing:
        later = f"   asked for, not kept yet: {', '.join(map(str, missing))}" if missing else ""
        print(f"keeps      states of steps {', '.join(steps) or '·'}{later}")


def _diagnosed(attempt: dict[str, Any]) -> None:
    """The last statistics of `--diagnostics full`, four to a line; those per role and layer are in `optsweep sql`."""
    from pathlib import Path

    from optsweep_tui import diagnosing

    step, found = diagnosing.last(Path(attempt["folder"]))
    shown = [f"{key} {output.number(value, 4)}" for key, value in found.items() if "/" not in key]
    for index in range(0, len(shown), 4):
        head = f"at step {step}" if index == 0 else ""
        print(f"{head:<13}{'   '.join(shown[index : index + 4])}")
    if len(found) > len(shown):
        print(f"             {len(found) - len(shown)} per role and layer: optsweep sql, v_metric")


def _story(attempt: dict[str, Any]) -> list[str]:
    """How an attempt came to be and to its end, before and after the engine's own events."""
    intent, claim, ending = (attempt[key] or {} for key in ("intent", "claim", "exit"))
    lines = []
    if intent:
        why = f": {intent['why']}" if intent.get("why") else ", asked for" if intent.get("asked") else ""
        if intent.get("requeued"):  # the task made it, of the intent of the attempt before, whose reason it still holds
            why = f": its task {intent['requeued']} was started again by the scheduler"
        lines.append(f"intended {_clock(intent.get('submitted_at'))} on host {attempt['host']}{why}")
    if claim.get("pid"):
        job = f", job {claim['job']}" if claim.get("job") else ""
        lines.append(f"claimed by process {claim['pid']} of {claim.get('host')}{job} {_clock(claim.get('claimed_at'))}")
    if attempt["waits"]:
        lines.append(str(attempt["waits"]))
    if ending.get("reason") or ending.get("error"):
        error = f": {ending['error']}" if ending.get("error") else ""
        lines.append(f"ended    {_clock(ending.get('ended_at'))} {ending.get('reason')}{error}")
    return lines


def _clock(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return ""
    return datetime.datetime.fromtimestamp(seconds).isoformat(sep=" ", timespec="seconds")


def _imported(data: dict[str, Any]) -> None:
    """The rest of an imported run: what was published of it."""
    spec, origin = data["spec"], data["origin"]

    def known(name: str) -> str:
        return output.number(spec[name], 12)

    print(
        f"cell       {spec['optimizer']} {spec['model']} {output.number(data['line']['chinchilla'])}   {known('tokens')} tokens"
    )
    print(
        f"batch      {known('batch_size')} x {known('seq_len')}   {known('schedule')}   {known('dtype')}   seed {known('seed')}"
    )
    print(f"data       {known('dataset')}   validation {known('validation_set')}")
    knobs = spec["hyperparameters"]
    text = "   ".join(f"{key} {output.number(value, 6)}" for key, value in (knobs or {}).items())
    print(f"knobs      {text if knobs is not None else 'not published'}")
    print(f"imported   {origin['importer']}: {origin['entry']}")
    for key, value in origin["source"].items():
        print(f"           {key} {value}")
