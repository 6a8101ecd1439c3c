"""Coverage of the speedup intervals on synthetic laws: python benchmarks/coverage.py [DRAWS] > benchmarks/coverage.md

Every draw is a model of its own in one frame of runs, so what is measured is the public `analysis.speedup`. The truth:
f(c) = 0.3707 c^-0.4378 + 2.8916 (adamw at 300m in the reference study) and a competitor that needs 1/1.2 of the tokens.
With a shared exponent every draw is a study of three models that have it in common.
"""

from __future__ import annotations

import datetime
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd

from optsweep_tui import analysis
from optsweep_tui.analysis.estimates import Ci

ALPHA, B, BETA = 0.3707, 0.4378, 2.8916
TRUTH = 1.2
PARAMS = 301_989_888
FRESH = 3
BOOTSTRAP_DRAWS = 400
# (alpha, beta) of the other models of a study, about those of 130m and 1.2b in the reference study.
OTHERS = ((0.4554, 3.0730), (0.2394, 2.6650))


def law(ratio: np.ndarray, alpha: float = ALPHA, beta: float = BETA) -> np.ndarray:
    """The true baseline curve, nats."""
    return alpha * ratio**-B + beta


def studies(draws: int, budgets: list[float], sigma: float, seed: int) -> pd.DataFrame:
    """One frame of `draws` studies of three models."""
    rng = np.random.default_rng(seed)
    rows = []
    for place, (alpha, beta) in enumerate(((ALPHA, BETA), *OTHERS)):
        for budget in budgets:
            for optimizer, factor in (("adamw", 1.0), ("other", TRUTH)):
                loss = law(np.array(budget * factor), alpha, beta) + sigma * rng.standard_normal(draws)
                part = {"study": [f"s{draw}" for draw in range(draws)], "model": f"m{place}", "optimizer": optimizer}
                tokens = round(budget * 20 * PARAMS)
                rows.append(pd.DataFrame(part | {"chinchilla": budget, "tokens": tokens, "seed": 0, "loss": loss}))
    return _complete(pd.concat(rows, ignore_index=True))


def runs(draws: int, budgets: list[float], sigma: float, measured: bool, seed: int) -> pd.DataFrame:
    """One frame of `draws` models; with `measured`, 1 + FRESH seeds of the baseline at both ends."""
    rng = np.random.default_rng(seed)
    rows: list[pd.DataFrame] = []
    for budget in budgets:
        for optimizer, factor in (("adamw", 1.0), ("other", TRUTH)):
            ends = measured and optimizer == "adamw" and budget in (budgets[0], budgets[-1])
            for run_seed in range(1 + FRESH if ends else 1):
                loss = law(np.array(budget * factor)) + sigma * rng.standard_normal(draws)
                rows.append(
                    pd.DataFrame(
                        {
                            "model": [f"m{draw}" for draw in range(draws)],
                            "optimizer": optimizer,
                            "chinchilla": budget,
                            "tokens": round(budget * 20 * PARAMS),
                            "seed": run_seed,
                            "loss": loss,
                        }
                    )
                )
    return _complete(pd.concat(rows, ignore_index=True).assign(study="synthetic-law"))


def _complete(frame: pd.DataFrame) -> pd.DataFrame:
    ids = [f"{place:032x}" for place in range(len(frame))]
    return frame.assign(
        run_id=ids, engine="torch", params=PARAMS, dataset="c4", state="done", hyperparameters='{"lr":0.01}'
    )


def figures(frame: pd.DataFrame, sigma: float | None, ci: Ci, shared: bool = False) -> list[str]:
    """Table rows: one per budget of the competitor."""
    start = time.process_time()
    found = analysis.speedup(frame, sigma=sigma, ci=ci, shared_exponent=shared)
    seconds = time.process_time() - start
    lines = []
    for ratio, cells in found.groupby("chinchilla"):
        stated = cells[cells.state != "REFUSE"]
        inside = (stated.low <= TRUTH) & (stated.high >= TRUTH)
        refused = len(cells) - len(stated)
        # A refused draw has no speedup; its median place is at the bound's side, beyond every stated value.
        values = cells.speedup.fillna(np.inf).sort_values()
        median = float(values.median())
        below, above = (stated.low > TRUTH).mean(), (stated.high < TRUTH).mean()
        lines.append(
            f"| {ratio:g} | {inside.mean():.1%} | {inside.sum() / len(cells):.1%} | {refused} | {below:.1%} / {above:.1%} "
            f"| {median / TRUTH - 1:+.2%} | {np.median(stated.high / stated.low):.3f} | {seconds:.1f} |"
        )
    return lines


def main() -> None:
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    print("# Coverage of 95 % speedup intervals\n")
    print(f"{datetime.date.today()}, {platform.machine()}, Python {platform.python_version()},")
    print(f"numpy {np.__version__}. Made by `python benchmarks/coverage.py {draws}`.\n")
    print(f"Truth: f(c) = {ALPHA} c^-{B} + {BETA}, speedup {TRUTH}. Every draw renews all losses; a draw is refused")
    print(
        "when its D_eff lies beyond 1.5x the baseline's largest budget. *stated*: share of the draws with an interval"
    )
    print("that holds the truth; *all*: refused draws counted as misses; low/high: the interval lies above / below the")
    print(
        "truth; bias: median speedup over all draws against the truth, refused draws counted as infinite; seconds: CPU"
    )
    print("seconds of the one call of `analysis.speedup` that computed all cells of the table. The binomial standard")
    print(f"error of 95 % is {(0.95 * 0.05 / draws) ** 0.5:.2%} for {draws} draws.")
    four, five = [1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0, 16.0]
    for measured in (False, True):
        for budgets in (four, five):
            for sigma in (0.0013, 0.0025):
                section("profile", budgets, sigma, measured, draws)
    for sigma in (0.0013, 0.0025):
        print(f"\n## profile, 4 budgets, one exponent for 3 models, sigma {sigma} nats, known, {draws // 2} draws\n")
        header()
        data = studies(draws // 2, four, sigma, seed=round(1e6 * sigma))
        print("\n".join(figures(data, sigma, "profile", shared=True)), flush=True)
    agreement(four)
    # 2,000 draws inside each of the outer ones: a smaller outer number keeps it to minutes.
    for sigma in (0.0013, 0.0025):
        section("bootstrap", four, sigma, False, min(draws, BOOTSTRAP_DRAWS))


def header() -> None:
    """The head of a table."""
    print("| cell at ratio | stated | all | refused | low / high | bias | median high/low | seconds |")
    print("|---|---|---|---|---|---|---|---|")


def agreement(budgets: list[float]) -> None:
    """How far the ends of bootstrap and profile intervals lie apart, in half widths of the interval."""
    print(f"\n## bootstrap against profile, {len(budgets)} budgets, 100 models, 2,000 draws\n")
    print(
        "Distance of their ends, in half widths of the profile interval; 2,000 draws alone leave a tail quantile 4 % of"
    )
    print("a half width uncertain.\n")
    print("| sigma, nats | exponent | median | 95 % of the ends within |")
    print("|---|---|---|---|")
    for sigma in (0.0013, 0.0025):
        for shared in (False, True):
            data = studies(34, budgets, sigma, seed=5) if shared else runs(100, budgets, sigma, False, seed=5)
            profile, bootstrap = (
                analysis.speedup(data, sigma=sigma, ci=ci, shared_exponent=shared) for ci in ("profile", "bootstrap")
            )
            half = np.log(profile.high.to_numpy() / profile.low.to_numpy()) / 2
            ends = [np.log(bootstrap[end].to_numpy() / profile[end].to_numpy()) / half for end in ("low", "high")]
            apart = np.abs(np.concatenate(ends))
            apart = apart[np.isfinite(apart)]
            name = "shared by 3" if shared else "own"
            print(f"| {sigma} | {name} | {np.median(apart):.3f} | {np.quantile(apart, 0.95):.3f} |", flush=True)


def section(ci: Ci, budgets: list[float], sigma: float, measured: bool, draws: int) -> None:
    """Print one table."""
    kind = f"measured from {1 + FRESH} seeds at each end" if measured else "known"
    print(f"\n## {ci}, {len(budgets)} budgets, sigma {sigma} nats, {kind}, {draws} draws\n")
    header()
    frame = runs(draws, budgets, sigma, measured, seed=round(1e6 * sigma) + 10 * len(budgets) + measured)
    print("\n".join(figures(frame, None if measured else sigma, ci)), flush=True)


if __name__ == "__main__":
    main()
