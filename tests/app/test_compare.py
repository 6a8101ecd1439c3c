"""Screen 3 in depth: several charts on one x axis, values under one crosshair, mouse, diff, figures, files of what is seen."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optsweep_engines.spec import RunSpec
from optsweep_tui import flow
from optsweep_tui.app import spikes
from optsweep_tui.app.memory import Memory
from optsweep_tui.app.screens.charts import ChartScreen
from optsweep_tui.app.screens.compare import CompareScreen
from optsweep_tui.app.screens.modal import Told
from optsweep_tui.app.screens.pick import Pick
from optsweep_tui.app.views import compare
from optsweep_tui.app.views import exports as contents
from optsweep_tui.charts import files, static
from optsweep_tui.charts.chart import plain
from optsweep_tui.charts.raster import GUTTER, plot_size
from optsweep_tui.settings import Workspace
from tests.app import made
from tests.app.driving import Driver, driven

THREE = pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=["80x24", "120x40", "200x60"])


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A small study with a store, which tests only read (exports go beside it)."""
    workspace = made.workspace(tmp_path_factory.mktemp("compared"))
    for ratio in (0.05, 0.08, 0.13, 0.22):
        for lr in made.LRS["adamw"]:
            made.plant(workspace, made.spec("adamw", ratio, lr))
        made.plant(workspace, made.spec("muon", ratio, 0.02))
        made.plant(workspace, made.spec("muon", ratio, 0.04))
    for seed in (1, 2, 3):
        made.plant(workspace, made.spec("adamw", 0.05, 0.006, seed))
    flow.collect(workspace)
    return workspace


def screen_of(driver: Driver) -> CompareScreen:
    screen = driver.app.screen
    assert isinstance(screen, CompareScreen)
    return screen


def crosshairs(driver: Driver) -> set[int]:
    """Columns in which a crosshair stands."""
    area = driver.app.screen.query_one("#chart").region
    lines = driver.text.split("\n")[area.y : area.bottom]
    return {column for line in lines for column, sign in enumerate(line[: area.right]) if sign == "┆"}


@THREE
async def test_charts_share_the_x_axis_and_the_crosshair_and_each_says_its_values(
    sweep_workspace: Workspace, size: tuple[int, int]
) -> None:
    async with driven(sweep_workspace, size, "compare") as driver:
        screen = screen_of(driver)
        await driver.press("w", "w", "c")
        await driver.pilot.pause()
        assert len(screen.seen) == 4
        views = [model.view for model, lines in screen.seen if lines]
        assert len({view.x_range for view in views if view}) == 1
        assert {model.metric for model, _ in screen.seen} >= {
            "train_loss",
            "grad_norm",
            "lr",
        }  # these runs have no more
        before = crosshairs(driver)
        assert 1 <= len(before) <= 2  # one per column of charts
        await driver.press("right")
        assert crosshairs(driver) == {column + 1 for column in before}
        model, lines = screen.seen[0]
        at = model.crosshair_x()
        assert at is not None
        for line in lines:
            place = np.searchsorted(line.series.x, at, side="right") - 1
            value = float(model.shown_y(line)[place])
            assert model.value_at(line, at) == (pytest.approx(value) if at <= line.series.x[-1] else None)


async def test_flops_are_tokens_times_the_models_flops_per_token(sweep_workspace: Workspace) -> None:
    async with driven(sweep_workspace, (120, 40), "compare") as driver:
        screen = screen_of(driver)
        _, lines = screen.seen[0]
        tokens = {line.run_id: line.series.x.copy() for line in lines}
        shown = await driver.press("x", "x", "x")
        assert "x: model FLOPs" in shown
        await driver.settle()
        _, lines = screen.seen[0]
        assert lines
        of = made.spec()
        for line in lines:
            assert np.allclose(line.series.x, tokens[line.run_id] * of.shape.flops_per_token(of.seq_len), rtol=1e-12)


async def test_tab_chooses_the_chart_that_the_metric_key_is_about(sweep_workspace: Workspace) -> None:
    async with driven(sweep_workspace, (120, 40), "compare") as driver:
        screen = screen_of(driver)
        await driver.press("w", "tab")
        (upper, _), (lower, _) = screen.seen
        first, second = upper.metric, lower.metric
        await driver.press("m")
        assert (upper.metric, lower.metric != second) == (first, True)
        await driver.press("M", "L")
        assert (upper.y_log, lower.y_log) == (False, True)
        assert lower.metric == second


async def test_a_drag_zooms_into_what_it_covers_and_the_wheel_zooms_where_the_mouse_is(
    sweep_workspace: Workspace,
) -> None:
    async with driven(sweep_workspace, (120, 40), "compare") as driver:
        screen = screen_of(driver)
        model = screen.models[0]
        assert model.view is not None
        low, high = model.view.x_range
        columns = plot_size(model.view)[0]
        start, end = GUTTER + columns // 4, GUTTER + columns // 2
        await driver.pilot.mouse_down("#chart", offset=(start, 5))
        await driver.pilot.mouse_up("#chart", offset=(end, 5))
        await driver.pilot.pause()
        step = (high - low) / columns
        assert model.view.x_range[0] == pytest.approx(low + (start - GUTTER + 0.5) * step)
        assert model.view.x_range[1] == pytest.approx(low + (end - GUTTER + 0.5) * step)
        assert model.crosshair is None
        await driver.press("0")
        assert model.view.x_range == (low, high)
        chart = screen.query_one("#chart")
        from textual.events import MouseScrollUp

        region = chart.region
        at = columns // 4
        driver.app.post_message(MouseScrollUp(None, region.x + GUTTER + at, region.y + 5, 0, 0, 0, False, False, False))
        await driver.pilot.pause(0.1)
        there = low + (at + 0.5) * step
        part = (there - model.view.x_range[0]) / (model.view.x_range[1] - model.view.x_range[0])
        assert part == pytest.approx((at + 0.5) / columns, abs=1e-6)
        assert model.view.x_range[1] - model.view.x_range[0] == pytest.approx((high - low) / 2)


async def test_the_config_diff_shows_what_differs_between_the_marked_runs_and_nothing_else(
    collected: Workspace,
) -> None:
    a, b = made.spec("adamw", 0.05, 0.003), made.spec("adamw", 0.05, 0.006, 2)
    async with driven(collected, (120, 40), "compare") as driver:
        driver.app.mark([a.run_id, b.run_id])
        screen_of(driver).refresh_all()
        await driver.press("D")
        await driver.settle()
        lines = [line[68:].split() for line in driver.text.split("\n")]
        assert ["lr", "0.003", "0.006"] in lines
        assert ["seed", "0", "2"] in lines
        assert not any(line[:1] == ["warmup"] for line in lines)
        assert "config diff" in driver.text
        await driver.press("D")
        assert "config diff  " not in driver.text.replace("D config diff", "")


@THREE
async def test_the_fitted_curve_and_the_learning_rates_are_drawn_with_their_words(
    collected: Workspace, size: tuple[int, int]
) -> None:
    async with driven(collected, size, "compare") as driver:
        await driver.press("v")
        await driver.until(lambda: "loss vs ratio" in driver.text and "bench-micro" in driver.text)
        assert "baseline adamw" in driver.text
        if size[0] >= 120:
            assert "L(c) = alpha c^-B + beta" in " ".join(driver.text.replace("│", " ").split())
            assert "extrapolated" in driver.text
        await driver.press("v")
        await driver.until(lambda: "peak learning rate" in driver.text)
        if size[0] >= 120:
            await driver.press("w")
            await driver.until(lambda: "aligned" in driver.text)
        await driver.press("V", "V")
        assert "smoothing" in driver.text or "ema" in driver.text


async def test_a_figure_offers_no_key_that_is_of_curves_alone(collected: Workspace) -> None:
    async with driven(collected, (160, 48), "compare") as driver:
        assert "c crosshair" in driver.text and "s smooth" in driver.text
        await driver.press("v")
        await driver.settle()
        keys = driver.text.split("\n")[-1]
        assert "v view" in keys and "e export" in keys
        assert not [word for word in ("crosshair", "smooth", "log x", "metric", "zoom") if word in keys]
        help_text = await driver.press("question_mark")
        assert "config diff" in help_text and "whole y range" not in help_text


async def test_all_that_a_figure_says_can_be_read_in_a_small_window(reference_workspace: Workspace) -> None:
    async with driven(reference_workspace, (80, 24), "compare") as driver:
        await driver.until(lambda: "i: all of it" in driver.text)
        words = await driver.press("i")
        screen = driver.app.screen
        assert isinstance(screen, Told)
        assert "loss vs ratio" in words
        text = " ".join(plain(screen._rows).split())
        assert "dashed and shaded: extrapolated" in text and text.endswith(static.MOVED)
        await driver.press("escape")
        assert not isinstance(driver.app.screen, Told)


async def test_marks_taken_away_on_the_chart_come_back(sweep_workspace: Workspace) -> None:
    async with driven(sweep_workspace, mode="runs") as driver:
        await driver.press("space", "space", "3")
        assert "2 marked" in driver.text
        assert "marked" not in (await driver.press("u")).split("\n")[1]
        assert "2 marked" in await driver.press("U")


async def test_another_baseline_is_asked_for_its_own_speedups(collected: Workspace) -> None:
    async with driven(collected, (120, 40), "compare") as driver:
        await driver.until(lambda: "speedup over adamw, tokens" in driver.text)
        await driver.press("b")
        await driver.until(lambda: "speedup over muon, tokens" in driver.text)
        await driver.until(lambda: "working it out" not in driver.text)


async def test_the_export_holds_what_is_seen_and_is_never_written_over(
    collected: Workspace, monkeypatch: Any, tmp_path: Any
) -> None:
    runs = [made.spec("adamw", 0.22, 0.006), made.spec("muon", 0.22, 0.02)]
    async with driven(collected, (120, 40), "compare") as driver:
        screen = screen_of(driver)
        driver.app.mark([of.run_id for of in runs])
        screen.refresh_all()
        await driver.settle()
        screen.models[0].select(0.5, 1.0)
        screen.refresh_all()
        view = screen.models[0].view
        assert view is not None
        for _ in range(2):
            await driver.press("e")
            assert isinstance(driver.app.screen, Pick)
            await driver.press(*"csv", "enter")
            await driver.until(lambda: "written: " in driver.text)
            await driver.pilot.pause(0.2)
        where = collected.root / "exports"
        await driver.until(lambda: (where / "quickstart-train_loss-2.csv").exists())
        one, two = ((where / f"quickstart-train_loss{end}.csv").read_text() for end in ("", "-2"))
        assert one == two
        rows = list(csv.DictReader(one.splitlines()))
        assert {row["run_id"] for row in rows} == {of.run_id for of in runs}
        for of in runs:
            series = driver.app.store.series(of.run_id, "train_loss", "tokens")
            assert series is not None
            inside = (series.x >= view.x_range[0]) & (series.x <= view.x_range[1])
            own = [row for row in rows if row["run_id"] == of.run_id]
            assert [float(row["x"]) for row in own] == series.x[inside].tolist()
            assert [float(row["value"]) for row in own] == pytest.approx(series.y[inside].tolist(), rel=1e-7)
            tau, steps = float(own[0]["smoothed_over_steps"]), series.steps
            last = int(np.flatnonzero(inside)[-1])
            weights = np.exp(-(steps[last] - steps[: last + 1]) / tau)
            expected = float((weights * series.y[: last + 1]).sum() / weights.sum())
            assert float(own[-1]["smoothed"]) == pytest.approx(expected, rel=1e-6)
        for kind in ("svg", "png"):
            await driver.press("e", *kind, "enter")
            path = where / f"quickstart-train_loss.{kind}"
            await driver.until(path.exists, 60)
            await driver.pilot.pause(0.3)
            assert path.stat().st_size > 2000
        svg = ElementTree.fromstring((where / "quickstart-train_loss.svg").read_text())
        words = " ".join(element.text or "" for element in svg.iter("{http://www.w3.org/2000/svg}text"))
        assert "A adamw" in words
        assert "train_loss, nats/token" in words
        await driver.press("v")
        await driver.until(lambda: screen.figure() is not None)
        await driver.press("e", *"csv", "enter")
        path = where / "quickstart-ratio.csv"
        await driver.until(path.exists)
        table = list(csv.DictReader(path.read_text().splitlines()))
        known = {
            (row["series"], float(row["x"])): float(row["y"])
            for row in table
            if "minus" not in row["panel"] and row["y"]
        }
        frame = flow.sql(collected, "select chinchilla, min(loss) l from v_run where optimizer = 'muon' group by 1")
        for ratio, loss in zip(frame["chinchilla"], frame["l"], strict=True):
            found = [
                y for (name, x), y in known.items() if name == "muon" and np.isclose(x, ratio, rtol=1e-3) and y > 0.5
            ]
            assert found == [pytest.approx(loss, rel=1e-6)]


async def test_a_folder_that_cannot_be_written_is_said(collected: Workspace, tmp_path: Any) -> None:
    async with driven(collected, (120, 40), "compare") as driver:
        where = collected.root / "exports"
        os.rename(where, tmp_path / "kept") if where.exists() else None
        where.write_text("not a folder")
        await driver.press("e", *"csv", "enter")
        await driver.until(lambda: any("cannot be written" in one.message for one in driver.app._notifications))
        where.unlink()


def spiked(workspace: Workspace, of: RunSpec, *events: dict[str, Any]) -> None:
    """Events of a run, as the engine writes them."""
    with open(workspace.runs / of.run_id / "a1" / "events.jsonl", "a") as target:
        for number, event in enumerate(events):
            target.write(json.dumps({"seq": 100 + number, "time": time.time(), **event}) + "\n")


async def test_spikes_of_gradient_and_loss_are_marked_on_their_curves_and_new_ones_come_in(
    empty_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spikes, "EVERY_SECONDS", 0.2)
    calm, wild = made.spec("adamw", 0.05, 0.006), made.spec("muon", 0.05, 0.02)
    made.plant(empty_workspace, calm)
    claim = made.plant(empty_workspace, wild, "running", part=0.9)
    spiked(
        empty_workspace, wild, {"kind": "spike", "step": wild.steps // 3, "ratio": 12.0}, {"kind": "spike", "step": "x"}
    )
    async with driven(empty_workspace, (120, 40), "compare") as driver:
        screen = screen_of(driver)
        driver.app.mark([calm.run_id, wild.run_id])
        screen.refresh_all()
        await driver.until(lambda: "▲ 1 spike " in driver.text + " ")
        area = screen.query_one("#chart").region
        drawn = driver.text.split("\n")[area.y : area.bottom]
        assert sum(line.count("▲") for line in drawn) == 1
        (column,) = [line.index("▲") for line in drawn if "▲" in line]
        view = screen.models[0].view
        assert view is not None
        x = wild.steps // 3 * wild.tokens_per_step
        part = (x - view.x_range[0]) / (view.x_range[1] - view.x_range[0])
        assert abs(column - GUTTER - part * plot_size(view)[0]) <= 1.5
        await asyncio.sleep(1.5)  # nothing else is new any more
        spiked(empty_workspace, wild, {"kind": "loss_spike", "step": 2 * wild.steps // 3, "rise": 1.5})
        await driver.until(lambda: "▲ 2 spikes" in driver.text)
        assert screen.spikes(calm.run_id) is None
        seen = [(model, lines) for model, lines in screen.seen if lines]
        rows = [row for row, *_ in screen.drawn]
        table = list(csv.DictReader(contents.curves_csv(seen, rows).splitlines()))
        marked = [row for row in table if row["spike"] == "1"]
        first, _ = marked
        assert (first["run_id"], int(first["step"]) <= wild.steps // 3) == (wild.run_id, True)
        drawn_on_paper = files.drawn(contents.figure(seen, rows, compare.names_of(rows), "test"), "svg")
        words = " ".join(ElementTree.fromstring(drawn_on_paper).itertext())
        assert "Triangles" in words
        assert "A A adamw" not in words
        assert "A adamw" in words
    assert claim is not None
    os.close(claim)


@pytest.mark.parametrize("mode", ["compare", "run"])
async def test_the_charts_are_as_they_were_left_at_the_next_start(
    collected: Workspace, tmp_path: Path, mode: str
) -> None:
    async with driven(collected, (120, 40), mode, memory=Memory(collected.root, tmp_path)) as driver:
        screen = driver.app.screen
        assert isinstance(screen, ChartScreen)
        if mode == "run":
            await driver.press("j", "j")
        await driver.press("w", "w", "x", "l", "s", "tab", "m", "L", "tab", "a")
        screen.lead.select(0.25, 0.75)
        if mode == "compare":
            driver.app.mark([row.run_id for row in driver.app.study_rows()[:3]])
        left = looks_of(screen)
        marks = list(driver.app.marks)
        await driver.press("q")
    async with driven(collected, (120, 40), "", memory=Memory(collected.root, tmp_path)) as driver:
        screen = driver.app.screen
        assert isinstance(screen, ChartScreen)
        assert driver.app.current_mode == mode
        assert looks_of(screen) == left
        assert left["window"] == (0.25, 0.75)
        assert left["y_log"] == [False, True, False, False]
        assert left["whole_y"] == [False, False, True, False]
        assert list(driver.app.marks) == marks
        assert f"zoom {2:g}x" in driver.text


def looks_of(screen: ChartScreen) -> dict[str, Any]:
    """What a user has chosen."""
    lead = screen.lead
    return {
        "count": screen.count, "focus": screen.focus_on, "metrics": screen.metrics, "axis": lead.axis, "x_log": lead.x_log,
        "tau": lead.tau, "window": lead.window, "y_log": [model.y_log for model in screen.models],
        "whole_y": [model.whole_y for model in screen.models], "run": getattr(screen, "run_id", None),
    }  # fmt: skip


async def test_a_state_that_no_chart_can_be_in_is_the_usual_one(collected: Workspace, tmp_path: Path) -> None:
    memory = Memory(collected.root, tmp_path)
    for name, value in {
        "lead.axis": "parsecs", "lead.tau": float("nan"), "count": 3, "focus_on": 9, "zoomed": "0.9 0.1", "looks": ["log"] * 9,
        "metrics": ["nothing"], "view": "nothing", "panel": "nothing", "left_at": "nothing", "lower": "nothing",
    }.items():  # fmt: skip
        for tab in ("Compare", "Run"):
            memory.put(f"{tab}.{name}", value)
    async with driven(collected, (120, 40), "compare", memory=memory) as driver:
        screen = screen_of(driver)
        assert (screen.lead.axis, screen.count, screen.focus_on, screen.lead.window) == ("tokens", 1, 0, (0.0, 1.0))
        await driver.press("x", "s", "v", "V", "p", "D", "m", "w", "tab", "4")
        await driver.settle()
        await driver.press("x", "t", "t", "m", "w", "j")
        assert "bench-micro" in driver.text
