"""One builder per kind of figure: data frames in, a `charts.figure.Figure` out."""

from __future__ import annotations

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
