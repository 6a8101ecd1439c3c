"""Each audit as a section of the report: what it asks, what it found, in a table that fits a page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import pandas as pd

from optsweep_tui.report.tables import NOTHING, Row, Table, cell, headline, matrix, number, table
from optsweep_tui.report.words import grouped, has, ordered_names, records

Found: TypeAlias = tuple[str, tuple[str, ...], tuple[Table, ...]]
"""(title, paragraphs, tables)."""

MOST_FLIPS = 40
"""Rank flips that are listed one by one."""
TAUS = (1.0, 1.05, 1.1, 1.2, 1.5)
"""Where the performance profile is shown."""


def sections(audits: Mapping[str, pd.DataFrame]) -> Iterator[Found]:
    """Title, paragraphs and tables of each audit that was asked and has rows, in the order of `AUDITS`."""
    for name, (_, made) in AUDITS.items():
        if name in audits and len(audits[name]):
            yield made(audits[name])


def methods(audits: Mapping[str, pd.DataFrame]) -> list[str]:
    """How the audits were computed, a paragraph each."""
    return [text for name, (text, _) in AUDITS.items() if text and name in audits and len(audits[name])]


def _fairness(frame: pd.DataFrame) -> Found:
    rows = records(frame)
    judged = [row for row in rows if row["verdict"] in ("PASS", "FAIL")]
    failed = [row for row in judged if row["verdict"] == "FAIL"]
    names = Counter(str(row["optimizer"]) for row in failed)
    intro = [
        f"{len(failed)} of {len(judged)} cells FAIL: their number of tuning runs, or of tuning tokens, differs from the "
        "baseline's by more than 1.25x. The smallest of more draws is smaller by luck alone, so selected minima over unequal "
        "numbers of runs are not comparable.",
    ]
    if failed:
        intro.append(f"Fails by optimizer: {', '.join(f'{name} {count}' for name, count in names.most_common())}.")

    def shown(row: Row) -> str:
        mark = " FAIL" if row["verdict"] == "FAIL" else ""
        return f"{number(row['runs'])}{'+' if row['unlisted_runs'] else ''}{mark}"

    def notes(group: list[Row]) -> list[str]:
        return ["+ and a run of unpublished configuration"] if any(row["unlisted_runs"] for row in group) else []

    return (
        "Fairness of the tuning",
        tuple(intro),
        _matrices(rows, "Tuning runs (distinct configurations)", shown, notes),
    )


def _edges(frame: pd.DataFrame) -> Found:
    rows = records(frame)
    worth = sum(not row["flat"] for row in rows)
    intro = (
        f"{len(rows)} best values lie at an end of their swept list, so that the optimum may lie outside; in {worth} of them "
        "the last step towards the end still gained more than the near-best threshold, or is not known. "
        "`optsweep edges --propose --out FILE.toml` writes the next values as a study.",
    )
    counts: dict[tuple[str, str], Row] = {(str(row["knob"]), str(row["optimizer"])): row for row in rows}
    knobs = sorted({knob for knob, _ in counts})
    names = ordered_names(rows)
    body = [[knob, *(_share(counts.get((knob, name))) for name in names)] for knob in knobs]
    return (
        "Grid edges",
        intro,
        (table("Cells whose best value is an end, of those that swept the knob", ["<knob", *names], body),),
    )


def _share(row: Row | None) -> str:
    return f"{number(row['n_edges'])}/{number(row['n_cells'])}" if row else ""


def _stable(frame: pd.DataFrame) -> Found:
    rows = records(frame)
    verdicts = Counter(str(row["verdict"]) for row in rows)
    threshold = number(rows[0]["threshold"])
    intro = (
        f"A knob is stable when one value is near-best (below the cell's smallest loss + {threshold} nats) in every cell where "
        f"it was swept: {', '.join(f'{count} {name}' for name, count in verdicts.most_common())}. A sensitive knob shows the "
        "smallest sets of values that cover every cell.",
    )
    body = [
        (
            row["optimizer"],
            row["knob"],
            row["verdict"],
            _values(row),
            f"{number(row['n_judged'])}/{number(row['n_cells'])}",
        )
        for row in rows
    ]
    return (
        "Stable and sensitive hyperparameters",
        intro,
        (
            table(
                "Values that do everywhere, or smallest covering sets",
                ["<optimizer", "<knob", "<verdict", "<values", "judged"],
                body,
            ),
        ),
    )


def _values(row: Row) -> str:
    if row["stable"]:
        return " or ".join(cell(value) for value in row["values"])
    return " or ".join("{" + " ".join(cell(value) for value in cover) + "}" for cover in row["covers"][:4]) or NOTHING


def _rules(frame: pd.DataFrame) -> Found:
    rows = records(frame)
    shown = [row for row in rows if row["verdict"] == "trend" or row["knob"] in ("lr", "batch_size", "weight_decay")]
    trends = sum(row["verdict"] == "trend" for row in rows)
    intro = (
        f"{trends} of {len(rows)} knobs show a trend with model size N or ratio c that predicts a left-out cell better than a "
        "constant does. Shown are those and the learning rate, batch size and weight decay of every optimizer; "
        "`optsweep hp` shows all, `optsweep predict -o O -m M -c C` the configuration at another size.",
    )
    body = [
        (
            row["optimizer"],
            row["knob"],
            row["verdict"],
            row["rule"] or row["reason"],
            number(row["loo_rule"], 2),
            number(row["loo_constant"], 2),
            f"{number(row['n_fit'])}/{number(row['n_cells'])}",
            number(row["n_edge"]),
        )
        for row in shown
    ]
    columns = ["<optimizer", "<knob", "<verdict", "<rule", "left out: rule", "constant", "cells", "at an edge"]
    return (
        "Rules for the next size",
        intro,
        (table("Scaling rules of the best value; errors in natural logs", columns, body),),
    )


def _flips(frame: pd.DataFrame) -> Found:
    rows = records(frame)
    words = {
        "D": "between two ratios of one model",
        "N": "between two models at one ratio",
        "training": "inside training",
    }
    intro = []
    for over, where in words.items():
        mine = [row for row in rows if row["over"] == over]
        if mine:
            flips, noise = (sum(row[key] for row in mine) for key in ("rank_flips", "noise_flips"))
            points = sum(row["points"] for row in mine)
            intro.append(
                f"Order of a pair {where}: {number(points)} comparisons, {number(flips)} rank flips beyond the noise, "
                f"{number(noise)} that noise may have made."
            )
    found = [row for row in rows if row["verdict"] == "rank flip" and row["over"] != "training"]
    body = [
        (
            row["second"],
            row["first"],
            f"{row['model_a']} {number(row['chinchilla_a'])}",
            f"{row['model_b']} {number(row['chinchilla_b'])}",
            f"{row['gap_a']:+.4f} (± {row['width_a']:.4f})",
            f"{row['gap_b']:+.4f} (± {row['width_b']:.4f})",
        )
        for row in found[:MOST_FLIPS]
    ]
    columns = ["<ahead at a", "<ahead at b", "<a", "<b", "gap at a, nats", "gap at b, nats"]
    left = f", the first {MOST_FLIPS} of {len(found)}" if len(found) > MOST_FLIPS else ""
    shown = (table(f"Rank flips{left} (± width of a tie)", columns, body),) if body else ()
    return "Rank flips", tuple(intro), shown


def _profile(frame: pd.DataFrame) -> Found:
    rows = sorted(records(frame), key=lambda row: (-(row["score"] if has(row["score"]) else -1), str(row["optimizer"])))
    taus = [tau for tau in rows[0]["rho"] if float(tau) in TAUS] if rows else []
    intro = (
        "Share of the cells in which an optimizer needs at most tau times the tokens of the best optimizer there, from point "
        "estimates; the score is the area under that curve (Dolan & More 2002; AlgoPerf, arXiv 2306.07179).",
    )
    body = [
        (
            row["optimizer"],
            number(row["n_workloads"]),
            number(row["n_best"]),
            *(f"{100 * row['rho'][tau]:.0f} %" for tau in taus),
            number(row["score"], 3),
            f"{number(row['score_common'], 3)} ({number(row['n_common'])})",
        )
        for row in rows
    ]
    columns = [
        "<optimizer",
        "cells",
        "best in",
        *(f"tau {tau}" for tau in taus),
        "score",
        "score on common cells",
    ]
    return "Performance profile", intro, (table("Cells within tau of the best", columns, body),)


def _power(frame: pd.DataFrame) -> Found:
    rows = records(frame)
    target = rows[0]["target"]
    enough = sum(bool(row["reached"]) for row in rows)
    intro = (
        f"{enough} of {len(rows)} speedups are known to ± {100 * target:.0f} %. Shown is the half width now, and the seeds of "
        "that cell alone that would bring it there; `optsweep power` adds what budgets or seeds of the baseline would do.",
    )

    def shown(row: Row) -> str:
        if not has(row["half_width"]) or math.isinf(row["half_width"]):
            return NOTHING
        now = f"± {100 * row['half_width']:.1f} %"
        if row["reached"]:
            return now
        return f"{now}: {number(row['cell_seeds'])} seeds" if has(row["cell_seeds"]) else f"{now}: no number"

    return "What it takes to know more", intro, _matrices(rows, "Half width of the 95 % interval", shown)


def _stops(frame: pd.DataFrame) -> Found:
    rows = records(frame)
    killed = [row for row in rows if row["killed"]]
    wrong, missed = (sum(bool(row[key]) for row in rows) for key in ("wrong", "missed"))
    saved = sum(row["tokens_saved"] for row in killed if has(row["tokens_saved"]))
    total = sum(row["tokens"] for row in rows if has(row["tokens"]))
    intro = (
        f"The rule that stops diverged runs early, replayed on the {len(rows)} runs with a curve: {len(killed)} stopped, "
        f"{wrong} of them wrongly (they ended near the best of their cell), {missed} diverged runs not stopped; "
        f"{100 * saved / total if total else 0:.1f} % of the tokens saved.",
    )
    return "Early stopping", intro, ()


def _matrices(
    rows: Sequence[Row], caption: str, text: Callable[[Row], str], notes: Callable[[list[Row]], list[str]] | None = None
) -> tuple[Table, ...]:
    groups = grouped(pd.DataFrame(list(rows)))
    return tuple(matrix(group, f"{caption} · {headline(group[0])}", text, notes or (lambda _: [])) for group in groups)


AUDITS: dict[str, tuple[str, Callable[[pd.DataFrame], Any]]] = {
    "fairness": (
        "Tuning runs are distinct configurations under the base seed, diverged and stopped ones included; budgets further "
        "apart than 1.25x fail.",
        _fairness,
    ),
    "edges": (
        "An edge is a best value along a knob's line (runs that agree in everything else) at an end of the values tried, unless "
        "it is a bound that cannot be crossed.",
        _edges,
    ),
    "stable": ("", _stable),
    "hp": (
        "Scaling rules are log h = a + b log N + d log c by interval-censored regression, since a grid shows between which "
        "values an optimum lies and not where; decays near 1 as log(1 - h); exponents within two standard errors of 0 are "
        "taken out.",
        _rules,
    ),
    "flips": (
        "A rank flip is a pair of optimizers whose order differs between two points with both gaps wider than a tie.",
        _flips,
    ),
    "profile": ("", _profile),
    "power": ("", _power),
    "stop-audit": ("", _stops),
}
"""Verb -> (how it was computed, its section)."""
