"""A user's own optimizer, `./mine.py:MyOptimizer`: how it is named, read, run as a module, and found in it. No framework.

What counts is the file's content: it is read once, hashed, kept beside each run, and executed from those bytes, so an
edit after planning changes no run. A file may import installed packages and nothing that lies beside it.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import linecache
import re
import sys
import traceback
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import OptimizerEntry, Rule
from optsweep_engines.spec import Scalar

PACKAGE = "pytorch_optimizer"
"""The one package whose classes are optimizers by name: `pytorch_optimizer:Lion`."""

RULE_PARAMETERS = ("xp", "param", "grad", "state", "step", "hp")
"""What a rule function takes first; keyword parameters after them are its knobs."""

FILE_LIMIT = 1 << 20
"""Bytes of the largest file that is taken for an optimizer."""

_FILE = re.compile(r"(?P<file>.+\.py)(?::(?P<name>.*))?", re.DOTALL)
_OWN = re.compile(r"(?P<stem>[^:@]+):(?P<name>[^:@]+)(?:@(?P<digest>[0-9a-f]{6}))?")

Kind = Literal["class", "function", "rule", "entry"]
"""A torch.optim.Optimizer class, a rule function, a `Rule`, an `OptimizerEntry`."""


class OwnOptimizerError(ValueError):
    """What is wrong with a user's optimizer, and the next step."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, kw_only=True)
class Source:
    """The file of a user's optimizer as it was read."""

    label: str
    """What it is called in messages: the path as typed."""
    stem: str
    """Name of the file without `.py`."""
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Found:
    """One optimizer of a module."""

    name: str
    kind: Kind
    target: Any


# ---------------------------------------------------------------- names


def split_reference(reference: str) -> tuple[str, str | None] | None:
    """(file, NAME or None) of `./mine.py:NAME` or `./mine.py`; None for anything else."""
    match = _FILE.fullmatch(reference)
    return (match["file"], match["name"] or None) if match else None


def is_own(reference: str) -> bool:
    """True for a file, `pytorch_optimizer:NAME`, or the name that a file's optimizer has in results."""
    return split_reference(reference) is not None or _OWN.fullmatch(reference) is not None


def own_name(stem: str, name: str, sha256: str) -> str:
    """The name in cells and tables, `mine:MyOptimizer@1a2b3c`: another content is another optimizer, never averaged."""
    clean = re.sub(r"[^A-Za-z0-9_.+-]", "_", stem)
    return f"{clean}:{name}@{sha256[:6]}"


def target_name(optimizer: str) -> str:
    """NAME of `mine:NAME@1a2b3c` or `pytorch_optimizer:NAME`."""
    return optimizer.partition(":")[2].partition("@")[0]


def is_package(optimizer: str) -> bool:
    """True for `pytorch_optimizer:NAME`."""
    return optimizer.lower().startswith(PACKAGE + ":")


def matches(optimizer: str, wanted: str) -> bool:
    """Whether a name of results is the one asked for; `mine:MyOptimizer` asks for every content of that file."""
    name, asked = optimizer.lower(), wanted.lower()
    return name == asked or ("@" not in asked and ":" in asked and name.partition("@")[0] == asked)


# ---------------------------------------------------------------- reading and running


def read(path: Path, label: str) -> Source:
    """The file's content.

    Raises:
        OwnOptimizerError: it is missing, no file, too large, or cannot be read.
    """
    try:
        if path.stat().st_size > FILE_LIMIT:
            raise OwnOptimizerError(
                f"optimizer file {label} has more than {FILE_LIMIT >> 20} MiB", "name a Python file"
            )
        content = path.read_bytes()
    except FileNotFoundError:
        raise OwnOptimizerError(f"file {label} does not exist", "check the path") from None
    except IsADirectoryError:
        raise OwnOptimizerError(f"optimizer file {label} is a folder", "name a Python file") from None
    except OSError as error:
        raise OwnOptimizerError(f"file {label} cannot be read: {error.strerror}", "check it") from None
    return Source(label=label, stem=path.stem, content=content)


def run_module(source: Source) -> types.ModuleType:
    """Execute the content as a module of its own.

    Raises:
        OwnOptimizerError: it does not compile, or raises.
    """
    name = f"optsweep_own_{source.sha256[:16]}"
    module = types.ModuleType(name)
    module.__file__ = (
        f"optsweep-own/{source.sha256[:16]}/{source.stem}.py"  # nowhere on disk: the bytes are what counts
    )
    text = source.content.decode("utf-8", errors="replace")
    linecache.cache[module.__file__] = (len(text), None, text.splitlines(keepends=True), module.__file__)
    sys.modules[name] = module  # dataclasses, typing and pickle look their module up
    try:
        exec(compile(source.content, module.__file__, "exec"), vars(module))
    except SyntaxError as error:
        own = error.filename in (module.__file__, None)  # else it is in something that the file imports
        place = f"{source.label} line {error.lineno or 1}" if own else str(error.filename)
        raise OwnOptimizerError(f"{place}: {type(error).__name__}: {error.msg}", "mend that line") from None
    except (Exception, SystemExit) as error:
        hint = "mend that line"
        if isinstance(error, ModuleNotFoundError):
            hint = "install it, or put what is needed into the one file: what lies beside it does not travel with a run"
        raise OwnOptimizerError(error_line(error, source.label, module.__file__), hint) from None
    return module


def error_line(error: BaseException, label: str, filename: str | None) -> str:
    """One line of an exception with the last place in the user's module: `mine.py line 12: ValueError: ...`."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename]
    place = f"{label} line {lines[-1]}" if lines else label
    return " ".join(f"{place}: {type(error).__name__}: {error}".split())[:1000].rstrip(": ")


# ---------------------------------------------------------------- finding


def kind_of(value: Any) -> Kind | None:
    """What kind of optimizer something is; None for anything else."""
    if isinstance(value, OptimizerEntry):
        return "entry"
    if isinstance(value, Rule):
        return "rule"
    if inspect.isclass(value):
        bases = [(base.__module__, base.__name__) for base in value.__mro__[1:]]
        return "class" if ("torch.optim.optimizer", "Optimizer") in bases else None
    if inspect.isfunction(value) and tuple(inspect.signature(value).parameters)[:6] == RULE_PARAMETERS:
        return "function"
    return None


def candidates(module: types.ModuleType) -> dict[str, Found]:
    """The optimizers that a module defines itself, by name; parts of another one of them are left out."""
    found: dict[str, Found] = {}
    for name, value in vars(module).items():
        kind = kind_of(value)
        if kind is None or name.startswith("_"):
            continue
        if kind in ("class", "function") and value.__module__ != module.__name__:
            continue
        found[name] = Found(name=name, kind=kind, target=value)
    if any(item.kind == "entry" for item in found.values()):
        return {name: item for name, item in found.items() if item.kind == "entry"}
    updates = [item.target.update for item in found.values() if item.kind == "rule"]
    return {name: item for name, item in found.items() if item.target not in updates}


def find(module: types.ModuleType, name: str | None, label: str) -> Found:
    """The optimizer of that name; without one, the only one that the file defines.

    Raises:
        OwnOptimizerError: there is none, there are several, or the name is something else.
    """
    known = candidates(module)
    if name is None:
        if len(known) == 1:
            return next(iter(known.values()))
        if not known:
            raise OwnOptimizerError(
                f"{label} defines no optimizer",
                f"a torch.optim.Optimizer class or a rule function({', '.join(RULE_PARAMETERS)}) is needed",
            )
        raise OwnOptimizerError(
            f"{label} defines {len(known)} optimizers: {', '.join(known)}", f"name one: {label}:{next(iter(known))}"
        )
    if not hasattr(module, name):
        lowered = {each.lower(): each for each in known}
        near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
        guess = f'; did you mean "{lowered[near[0]]}"?' if near else ""
        listed = f"it defines {', '.join(known)}" if known else "it defines no optimizer"
        raise OwnOptimizerError(f'{label} has no "{name}"{guess}', "" if near else listed)
    value = getattr(module, name)
    kind = kind_of(value)
    if kind is None:
        what = "a class that is no torch.optim.Optimizer" if inspect.isclass(value) else f"a {type(value).__name__}"
        raise OwnOptimizerError(
            f"{label}: {name} is {what}, not an optimizer",
            f"a torch.optim.Optimizer class or a rule function({', '.join(RULE_PARAMETERS)}) is needed",
        )
    return Found(name=name, kind=kind, target=value)


def package_class(name: str) -> tuple[Found, str]:
    """A class of pytorch-optimizer, matched without case, and the package's version.

    Raises:
        OwnOptimizerError: the package is not installed, or has no such class.
    """
    import importlib  # noqa: PLC0415 (the package imports torch: only whoever asks for it pays)
    from importlib.metadata import version  # noqa: PLC0415

    try:
        module = importlib.import_module(PACKAGE)
    except ImportError as error:
        raise missing_package(f"{PACKAGE}:{name}", error) from None
    known = {key.lower(): value for key, value in vars(module).items() if kind_of(value) == "class"}
    found = known.get(name.lower())
    if found is None:
        names = [value.__name__ for value in known.values()]
        near = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
        guess = f'; did you mean "{known[near[0]].__name__}"?' if near else ""
        raise OwnOptimizerError(f'{PACKAGE} has no optimizer "{name}"{guess}', f"it has {len(names)}, Lion for one")
    return Found(name=found.__name__, kind="class", target=found), version("pytorch-optimizer")


def missing_package(reference: str, error: ImportError | None = None) -> OwnOptimizerError:
    """The line that names the package."""
    reason = f" ({error})" if error is not None and not isinstance(error, ModuleNotFoundError) else ""
    return OwnOptimizerError(
        f"{reference} needs the package pytorch-optimizer, which is not installed here{reason}",
        "pip install pytorch-optimizer",
    )


def unknown_flops(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """Operations of a user's code are not known.

    Raises:
        ValueError: always.
    """
    raise ValueError("the operations of a user's own optimizer are not known")
