"""The parts of the page in reading order: what the study is, its answers, the audits, how it was computed, what it rests on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from optsweep_tui.report import audit_tables, tables
from optsweep_tui.report.parts import Parts, Picture
from optsweep_tui.report.tables import Table
from optsweep_tui.report.words import has, listed, records


@dataclass(frozen=True, kw_only=True)
class Section:
    """One headed part of the page."""

    title: str
    intro: tuple[str, ...] = ()
    """Paragraphs before the tables."""
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Head:
    """What the study is, in figures."""

    facts: tuple[tuple[str, str], ...] = field(default=())
    """(name, value)."""


def head(parts: Parts) -> Head:
    """Counts of what was compared."""
    runs = parts.runs
    states = Counter(str(state) for state in runs["state"])
    cells = records(parts.cells)
    tokens = sum(row["tokens"] for row in records(runs) if has(row["tokens"]) and row["state"] in ("done", "diverged"))
    sizes = sorted({(row["params"], row["model"]) for row in cells if has(row["params"])})
    ratios = sorted({row["chinchilla"] for row in cells if has(row["chinchilla"])})
    facts = [
        ("optimizers", f"{len({row['optimizer'] for row in cells})}, baseline {parts.baseline}"),
        ("models", ", ".join(f"{model} ({tables.count(params)} non-embedding)" for params, model in sizes)),
        ("Chinchilla ratios", ", ".join(tables.number(ratio) for ratio in ratios)),
        ("cells", str(len(cells))),
        ("runs", f"{len(runs)} ({', '.join(f'{count} {state}' for state, count in states.most_common())})"),
        ("tokens trained", tables.count(tokens)),
        ("data", listed(sorted({str(row["dataset"]) for row in cells if row["dataset"]}))),
        ("made", f"{parts.date} by optsweep {parts.version}"),
    ]
    return Head(facts=tuple((name, value) for name, value in facts if value))


def answers(parts: Parts) -> list[Section]:
    """Losses, speedups, curves, and the pictures."""
    pictures = {picture.name: picture for picture in parts.pictures}
    shown = []

    def some(*names: str) -> tuple[Picture, ...]:
        return tuple(pictures[name] for name in names if name in pictures)

    shown.append(
        Section(
            title=f"Speedup over {parts.baseline}",
            intro=(
                f"How many times fewer tokens than {parts.baseline} an optimizer needs for the loss that it reached. "
                "Every loss is the final validation loss of a run whose schedule ended at its own budget.",
            ),
            tables=tuple(tables.speedups(parts.speedups["tokens"], "tokens")),
            pictures=some("speedup", "deff"),
        )
    )
    for unit, title in (("flops", "in FLOPs"), ("time", "in time")):
        found = tables.speedups(parts.speedups[unit], unit) if unit in parts.speedups else []
        if found:
            shown.append(Section(title=f"Speedup {title}", intro=(_UNITS[unit],), tables=tuple(found)))
    shown.append(
        Section(
            title="Final losses",
            tables=tuple(tables.losses(parts.cells)),
            pictures=some("ratio", "lr", "loss", "overhead", "rank", "best-after-k"),
        )
    )
    shown.append(
        Section(
            title=f"The curve of {parts.baseline}, and the noise",
            intro=("Speedups invert these curves; their intervals rest on this sigma.",),
            tables=(tables.curves(parts.curves), tables.ledger(parts.noise)),
        )
    )
    return shown


_UNITS = {
    "flops": "Tokens times FLOPs per token, the update rule's own included.",
    "time": "Tokens times median steady seconds per token, only where both were timed on one device at one batch size.",
}


def audits(parts: Parts) -> list[Section]:
    """What may be wrong with the comparison: a section per audit that has something to say."""
    return [
        Section(title=title, intro=intro, tables=shown) for title, intro, shown in audit_tables.sections(parts.audits)
    ]


def methods(parts: Parts) -> list[str]:
    """How the numbers were computed, a paragraph each."""
    base = parts.baseline
    sources = sorted({str(row["sigma_source"]) for row in records(parts.cells)})
    return [
        "A cell is optimizer x model x token budget. Its loss is the mean over the fresh seeds of its best configuration; "
        "with one seed it is the smallest loss of the sweep, which is biased low and flagged. Runs that diverged, failed or "
        "have not ended are states, never losses; finished runs more than 0.5 nats above the best of their cell are left out.",
        f"For each model the losses of {base} are fitted by L(c) = alpha c^-B + beta with c = D / (20 N), D the tokens and N "
        "the non-embedding parameters: weighted least squares by variable projection (Golub & Pereyra 1973), checked by a "
        "Huber fit on log loss and by least squares from many starts. The law's form is that of Hoffmann et al. 2022, "
        "arXiv 2203.15556.",
        f"D_eff is the budget at which {base}'s curve reaches the loss; the speedup in tokens is D_eff / D. INTERP: D_eff lies "
        f"within {base}'s budgets. EXTRAP: up to 1.5x outside. REFUSE: beyond that, no final loss, or fewer than three budgets.",
        "Intervals are 95 % by profile likelihood with an external run-to-run sigma: every baseline point and the "
        "competitor's loss count as observations of variance sigma^2 / n. A measured sigma counts with its degrees of "
        f"freedom (Student quantiles). Sigma here: {listed(sources)}. Where the curve misses its points at p < .01 (MISFIT) "
        "the automatic sigma is multiplied by sqrt(chi2 / dof).",
        "Cells of one budget closer than 1.645 sigma sqrt(1/n1 + 1/n2) to the best of their group are tied; inside a tie group "
        "no winner is named. An interval that contains 1 is not resolved.",
        *audit_tables.methods(parts.audits),
    ]


def appendix(parts: Parts) -> list[Section]:
    """Every row, and what runs rest on."""
    shown = [Section(title="Every speedup", tables=(tables.every_speedup(parts.speedups["tokens"]),))]
    if len(parts.provenance):
        shown.append(
            Section(
                title="Provenance",
                intro=(
                    "What the runs of this study rest on. `optsweep why RUN` shows one run in full, "
                    "`optsweep why NUMBER_ID` the runs behind one number.",
                ),
                tables=(tables.plain("Runs by origin", parts.provenance, list(parts.provenance.columns)),),
            )
        )
    return shown
