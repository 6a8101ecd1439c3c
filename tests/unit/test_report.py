"""The report: its words follow from the frames, its page stands alone, hostile names stay text."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optsweep_tui import analysis, report
from optsweep_tui.analysis import flags
from optsweep_tui.errors import OptsweepError
from optsweep_tui.report.words import tally, verdict
from tests.unit.analysis_frames import curve, frame, law, run

VOID = {"meta", "img", "br", "link"}


def parts_of(rows: list[dict[str, Any]], *, sigma: float | None = None, **other: Any) -> report.Parts:
    results = frame(rows)
    return report.Parts(
        study="s",
        baseline="adamw",
        version="0",
        date="2026-01-02",
        command="optsweep report",
        runs=results,
        cells=analysis.table(results, sigma=sigma),
        curves=analysis.fit(results, sigma=sigma),
        speedups={unit: analysis.speedup(results, sigma=sigma, unit=unit) for unit in ("tokens", "flops", "time")},  # type: ignore[arg-type]
        noise=analysis.noise_ledger(results),
        flags=flags.MEANINGS,
        **other,
    )


def row(state: str, speedup: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"state": state, "speedup": speedup, "low": low, "high": high}


def test_a_tally_counts_only_what_was_measured_inside_the_baselines_budgets() -> None:
    rows = [
        row("INTERP", 1.3, 1.2, 1.4),
        row("INTERP", 0.8, 0.7, 0.9),
        row("INTERP", 1.1, 0.9, 1.3),
        row("INTERP", 1.2, None, None),
        row("EXTRAP", 2.0, 1.8, 2.2),
        row("REFUSE", float("nan"), None, None),
    ]
    found = tally("muon", rows)
    assert (found.faster, found.slower, found.open, found.unknown, found.extrap, found.refused) == (1, 1, 1, 1, 1, 1)
    assert (found.low, found.high, found.measured) == (0.8, 1.3, 4)


def test_an_optimizer_faster_everywhere_beyond_noise_is_said_to_be() -> None:
    said = verdict(parts_of([*curve(), *curve((1, 2, 4), optimizer="muon", speedup=1.4)], sigma=0.001)).lead
    assert (
        said[0].startswith("Needs fewer tokens than adamw in every cell")
        and "muon (1.40x to 1.40x, 3 cells)" in said[0]
    )


def test_an_optimizer_within_noise_is_not_called_faster() -> None:
    said = " ".join(verdict(parts_of([*curve(), *curve((1, 2, 4), optimizer="muon", speedup=1.01)], sigma=0.01)).lead)
    assert "3 not resolved of 3" in said and "in every cell" not in said


def test_without_a_sigma_no_verdict_and_no_winner_is_given() -> None:
    rows = [
        {**one, "params": 1_000_000, "total_params": 2_000_000, "tokens": round(one["chinchilla"] * 2e7)}
        for one in [*curve(), *curve((1, 2, 4), optimizer="muon", speedup=1.4)]
    ]
    found = verdict(parts_of(rows))
    assert any("no interval and no verdict" in sentence for sentence in found.lead)
    assert all("no winner is named" in sentence for sentence in found.places)
    assert any("NO-SIGMA" in sentence for sentence in found.cautions)


def test_ties_name_no_winner_and_a_clear_lead_is_named() -> None:
    tied = [*curve((1, 2, 4)), run("muon", 4.0, law(4.0) - 0.0005)]
    clear = [*curve((1, 2, 4)), run("muon", 4.0, law(4.0) - 0.05)]
    assert "tied with adamw" in verdict(parts_of(tied, sigma=0.001)).places[0]
    assert "muon's" in verdict(parts_of(clear, sigma=0.001)).places[0]
    assert "below the next by more than the noise" in verdict(parts_of(clear, sigma=0.001)).places[0]


def test_extrapolated_and_refused_cells_carry_no_weight_in_the_sentences() -> None:
    rows = [*curve((1, 2, 4)), run("muon", 4.0, law(5.0)), run("lion", 4.0, law(40.0))]
    said = " ".join(verdict(parts_of(rows, sigma=0.001)).lead)
    assert "No cell inside the budgets of adamw" in said and "lion and muon" in said
    assert "1 of 2 cells are extrapolated (EXTRAP) and 1 refused (REFUSE)" in said


class Checker(HTMLParser):
    """Tags closed in order, and every address inside the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def test_the_page_stands_alone_and_is_well_formed() -> None:
    picture = report.Picture(name="speedup", caption="c", svg="<svg xmlns='http://www.w3.org/2000/svg'/>", text="chart")
    page = report.rendered(parts_of([*curve(), *curve(optimizer="muon", speedup=1.2)], pictures=(picture,)), "html")
    assert all(address.startswith("data:") for address in checked(page).addresses)
    assert not re.search(r"https?://(?!www\.w3\.org)", page) and "@import" not in page and "<script" not in page


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a|b", "{{ 7 * 7 }}", '"><img src=x>', "名前"])
def test_names_from_elsewhere_stay_text(name: str) -> None:
    rows = [*curve(study=name), *curve(optimizer=name, speedup=1.2, study=name)]
    parts = parts_of(rows)
    checker = checked(report.rendered(parts, "html"))
    assert name in "".join(checker.text) and checker.addresses == []
    lines = report.rendered(parts, "md").splitlines()
    for first, second in itertools.pairwise(lines):
        if first.startswith("|") and second.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", first)) == len(re.findall(r"(?<!\\)\|", second)), (first, second)


def test_every_speedup_of_the_frame_is_on_the_page_with_its_state() -> None:
    rows = [
        *curve((1, 2, 4)),
        *curve((1, 2, 4), optimizer="muon", speedup=1.3),
        run("lion", 1.0, None, state="diverged"),
    ]
    parts = parts_of(rows, sigma=0.001)
    text = "".join(checked(report.rendered(parts, "html")).text)
    for entry in parts.speedups["tokens"].to_dict("records"):
        assert entry["state"] == "REFUSE" or f"{entry['speedup']:.2f}x" in text
        assert entry["reason"] in text
    assert "1 diverged" in text


def test_the_same_parts_give_the_same_page() -> None:
    parts = parts_of([*curve(), *curve(optimizer="muon", speedup=1.2)])
    assert report.rendered(parts, "html") == report.rendered(parts, "html")


def test_an_unknown_format_is_one_clear_line() -> None:
    with pytest.raises(OptsweepError, match="report format"):
        report.rendered(parts_of(curve()), "docx")


LOSSES = st.one_of(st.none(), st.floats(0.5, 5.0), st.sampled_from([float("nan"), float("inf"), 1.4e14]))
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["adamw", "muon", "sgd"]),
        st.sampled_from([0.5, 1.0, 2.0, 4.0, 8.0]),
        LOSSES,
        st.sampled_from(["done", "diverged", "running", "nan", "missing"]),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS)
def test_any_table_of_runs_makes_a_report(rows: list[tuple[str, float, float | None, str, int]]) -> None:
    made = [run(name, ratio, loss, state=state, seed=seed) for name, ratio, loss, state, seed in rows]
    parts = parts_of(made)
    checked(report.rendered(parts, "html"))
    cells = {cell.strip() for line in report.rendered(parts, "md").splitlines() for cell in line.split("|")}
    assert not cells & {"nan", "None", "<NA>", "inf", "NaT"}
