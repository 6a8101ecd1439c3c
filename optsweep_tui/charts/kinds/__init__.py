"""One builder per kind of figure: data frames in, a `charts.figure.Figure` out."""

from __future__ import annotations

from optsweep_tui.errors import OptsweepError, UnknownName

KINDS = {
    "loss": "loss inside runs, against step, tokens or minutes",
    "ratio": "final loss against budget, with the baseline's fit, its 95 % band and where it is extrapolated",
    "deff": "D_eff against D: the tokens that the baseline needs for the same loss, with lines of equal speedup",
    "speedup": "speedup against model size, or against budget, with intervals",
    "lr": "final loss against learning rate, raw and aligned at the best one",
    "strip": "one knob in every cell: what was tried, what is near the best, which best values lie at an edge",
    "rank": "rank against budget, and inside runs against step",
    "overhead": "time per step, FLOPs and state memory against gain",
    "best-after-k": "smallest loss after k runs of each optimizer's sweep",
}
"""What `optsweep plot` draws; each is the function `build` of the module of its name, "-" as "_"."""

X = {"loss": ("step", "tokens", "minutes"), "speedup": ("size", "ratio"), "rank": ("step", "ratio")}
"""What may stand on the x axis of the kinds that have a choice."""


def checked_kind(kind: str) -> str:
    """The kind as it is spelled in `KINDS`.

    Raises:
        UnknownName: there is none of that name.
    """
    name = kind.lower().replace("_", "-")
    if name not in KINDS:
        raise UnknownName("plot", kind, KINDS, hint=f"kinds: {', '.join(KINDS)}")
    return name


def checked_x(kind: str, x: str | None) -> str | None:
    """What was asked for on the x axis, if the kind has it.

    Raises:
        OptsweepError: it has not.
    """
    if x is None or x in X.get(kind, ()):
        return x
    if kind not in X:
        raise OptsweepError(f"--x {x}: plot {kind} has one x axis only", f"kinds with a choice: {', '.join(X)}")
    raise UnknownName("--x", x, X[kind], hint=f"plot {kind} knows: {', '.join(X[kind])}")
