"""The analysis from Python, in cells (`# %%` for VS Code, Spyder, Jupytext): python docs/example_analysis.py WORKSPACE

It reads the published study; `optsweep import reference -w WORKSPACE` brings it. Every function takes and returns pandas
frames; docs/python.md lists the columns with their units.
"""

# %% Results: one row per run
import sys
from pathlib import Path

from optsweep_tui import analysis, ask, settings
from optsweep_tui.core import Filter

workspace = settings.workspace(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
runs = ask.results(workspace, Filter(study="reference", models=("130m", "300m")))
print(runs[["optimizer", "model", "chinchilla", "state", "loss"]].groupby(["model", "state"]).size())

# %% Cells: the best configuration of each, with ranks and ties
cells = analysis.table(runs, baseline="adamw", knob_info=ask.knob_info())
best = cells[cells["rank"] == 1]
print(best[["model", "chinchilla", "optimizer", "loss", "winner", "flags"]].to_string(index=False))

# %% The baseline's curve and how well it is known
curves = analysis.fit(runs, baseline="adamw")
print(curves[["model", "alpha", "b", "b_low", "b_high", "beta", "chi2_p", "flags"]].to_string(index=False))

# %% Speedups with intervals; the same with a sigma of one's own and a smaller support of the fit
speedups = analysis.speedup(runs, baseline="adamw", knob_info=ask.knob_info())
strict = analysis.speedup(runs, baseline="adamw", sigma=0.0025, max_chinchilla=8, knob_info=ask.knob_info())
both = speedups.merge(strict, on=["optimizer", "model", "chinchilla"], suffixes=("", " strict"))
muon = both[both["optimizer"] == "muon"]
print(
    muon[["model", "chinchilla", "speedup", "low", "high", "state", "speedup strict", "state strict"]].to_string(
        index=False
    )
)

# %% What it takes to see an effect: the share of speedups whose interval excludes 1, by optimizer
measured = speedups[speedups["state"] == "INTERP"].assign(resolved=lambda rows: (rows["low"] > 1) | (rows["high"] < 1))
print(measured.groupby("optimizer")["resolved"].agg(["sum", "count"]).sort_values("sum", ascending=False).to_string())

# %% A table of one's own: anything with these columns can be asked (missing columns count as unknown)
own = runs[["run_id", "optimizer", "model", "params", "chinchilla", "state", "loss", "dataset", "hyperparameters"]]
print(
    analysis.speedup(own, sigma=0.0013)[["optimizer", "chinchilla", "speedup", "low", "high"]]
    .head()
    .to_string(index=False)
)
