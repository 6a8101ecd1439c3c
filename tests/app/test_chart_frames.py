"""A chart that is drawn again while its runs grow: the frames are those of a chart that has never been drawn before."""

from __future__ import annotations

import numpy as np

from optsweep_tui.app.views.chart import ChartModel, Line
from optsweep_tui.live.runstore import RunStore
from optsweep_tui.live.tailer import Batch

WIDTH, HEIGHT = 80, 16


def rows(first: int, last: int, bend: float) -> Batch:
    """Metric lines of one attempt."""
    steps = range(first, last + 1)
    values = [4.0 * step**-bend + 0.05 * np.sin(step) for step in steps]
    return Batch(
        attempt=1,
        rows=[{"step": s, "tokens": 64 * s, "train_loss": float(v)} for s, v in zip(steps, values, strict=True)],
    )


def lines(store: RunStore, colours: tuple[str, str] = ("#ff0000", "#00ff00"), spikes: bool = False) -> list[Line]:
    """Both runs."""
    found = []
    for run_id, letter, colour in zip("ab", "AB", colours, strict=True):
        series = store.series(run_id, "train_loss", "tokens")
        assert series is not None
        where = np.array([1500.0]) if spikes and run_id == "a" else None
        found.append(Line(run_id=run_id, series=series, colour=colour, letter=letter, end=64 * 4000.0, spikes=where))
    return found


def fresh(drawn: list[Line], tau: float) -> list[object]:
    """The frame of a chart that sees these curves for the first time."""
    return list(ChartModel(tau=tau).frame(drawn, WIDTH, HEIGHT))


def test_a_chart_whose_runs_grow_is_drawn_as_if_for_the_first_time() -> None:
    for tau in (0.0, 50.0):
        store, model = RunStore(), ChartModel(tau=tau)
        done = {"a": 0, "b": 0}
        for round_, new in enumerate((100, 1, 1, 700, 3, 1500)):
            for run_id, bend in (("a", 0.3), ("b", 0.25)):
                if run_id == "a" or round_ % 2:
                    store.apply(run_id, rows(done[run_id] + 1, done[run_id] + new, bend))
                    done[run_id] += new
                elif not done["b"]:
                    store.apply("b", rows(1, 50, bend))
                    done["b"] = 50
            shown = lines(store)
            model.reset()  # the scale is steady by design: a new chart has none to keep
            assert model.frame(shown, WIDTH, HEIGHT) == fresh(shown, tau)
            assert model.frame(lines(store), WIDTH, HEIGHT) == fresh(shown, tau), "nothing has changed"


def test_whatever_is_changed_about_a_chart_is_seen_although_its_curves_are_the_same() -> None:
    store, model = RunStore(), ChartModel()
    store.apply("a", rows(1, 2000, 0.3))
    store.apply("b", rows(1, 2000, 0.25))
    before = model.frame(lines(store), WIDTH, HEIGHT)
    seen = [before]

    def differs(drawn: list[Line]) -> None:
        now = model.frame(drawn, WIDTH, HEIGHT)
        assert now not in seen
        seen.append(now)

    differs(lines(store, colours=("#0000ff", "#00ff00")))
    differs(lines(store, spikes=True))
    model.crosshair = 0.5
    differs(lines(store))
    model.crosshair = None
    model.toggle_log("y")
    differs(lines(store))
    model.toggle_log("y")
    model.window = (0.5, 1.0)
    differs(lines(store))
    model.tau = 200.0
    differs(lines(store))
    model.tau, model.window = 0.0, (0.0, 1.0)
    model.reset()
    assert model.frame(lines(store), WIDTH, HEIGHT) == before


def test_what_was_read_of_a_smoothed_curve_stays_as_it_was() -> None:
    store, model = RunStore(), ChartModel(tau=20.0)
    store.apply("a", rows(1, 300, 0.3))
    store.apply("b", rows(1, 300, 0.25))
    held = model.shown_y(lines(store)[0])
    copy = held.copy()
    for step in range(301, 800, 7):
        store.apply("a", rows(step, step + 6, 0.3))
        model.shown_y(lines(store)[0])
    np.testing.assert_array_equal(held, copy)
    whole = ChartModel(tau=20.0).shown_y(lines(store)[0])
    np.testing.assert_allclose(model.shown_y(lines(store)[0]), whole, rtol=1e-12)
