"""A user's own rule function, Rule or OptimizerEntry for this engine; a torch.optim class is refused with a line."""

from __future__ import annotations

from pathlib import Path

from optsweep_engines.optimizers import user
from optsweep_engines.optimizers.base import OptimizerEntry
from optsweep_engines.optimizers.catalogue import optimizer as catalogue_entry
from optsweep_engines.optimizers.user import OwnOptimizerError, Source
from optsweep_engines.optimizers.user_rules import entry_of as made_entry
from optsweep_engines.spec import RunSpec


def entry_of(spec: RunSpec, file: Path | None) -> tuple[OptimizerEntry, dict[str, str]]:
    """The entry of a run's optimizer, from the catalogue or the user's own, and the versions of what it came from.

    Args:
        file: the copy in the run folder.

    Raises:
        OwnOptimizerError: no such file, another content, or nothing in it that this engine can run.
    """
    if not user.is_own(spec.optimizer):
        return catalogue_entry(spec.optimizer), {}
    label = spec.optimizer
    if user.is_package(spec.optimizer):
        raise OwnOptimizerError(f"{label} is a torch.optim class, engine jax cannot run it", "use --engine torch")
    if file is None or not file.exists():
        raise OwnOptimizerError(f"the run folder lacks {file.name if file else 'the optimizer file'}", "plan it again")
    stem = spec.optimizer.partition(":")[0]
    source = Source(label=f"{stem}.py", stem=stem, content=file.read_bytes())
    if source.sha256 != spec.optimizer_file_hash:
        raise OwnOptimizerError(
            f"{file.name} of the run folder was changed: it hashes to {source.sha256[:12]}, "
            f"the spec says {str(spec.optimizer_file_hash)[:12]}",
            "put the original back from the workspace's optimizers folder",
        )
    found = user.find(user.run_module(source), user.target_name(spec.optimizer), source.label)
    if found.kind == "class":
        raise OwnOptimizerError(f"{label} is a torch.optim class, engine jax cannot run it", "use --engine torch")
    return made_entry(found, spec.optimizer, source.label), {}
