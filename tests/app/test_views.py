"""What the screens say, as text: goldens for the matrix and the panels, formats, and cuts at any width."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from optsweep_tui.app import format as fmt
from optsweep_tui.app.model import Block, matrix, model_order
from optsweep_tui.app.screens.modal import help_rows
from optsweep_tui.app.views import compare, diff, frame, run, runs, sweep, sweep_lines
from optsweep_tui.app.views.chart import ChartModel, Line, smoothing_ladder
from optsweep_tui.app.views.speedups import SpeedupRow, Speedups, speedup_rows
from optsweep_tui.charts.chart import Row, Span, plain
from optsweep_tui.live.runstore import Series
from tests.app import made


def widest(rows: list[Row]) -> int:
    return max((fmt.width_of(row) for row in rows), default=0)


def small_sweep() -> list[Block]:
    rows = []
    for optimizer, ratio, results in (
        ("adamw", 0.0625, (2.7, 2.61, 2.65)),
        ("adamw", 0.25, (2.1, 2.03, None)),
        ("muon", 0.0625, (2.31, 2.4, 2.5)),
        ("muon", 0.25, (None, None, None)),
    ):
        for lr, loss in zip(made.LRS[optimizer], results, strict=True):
            state = "done" if loss else "running" if optimizer == "adamw" else "planned"
            shown = loss or (2.2 if state == "running" else None)
            rows.append(
                made.row(made.spec(optimizer, ratio, lr), state, shown, step=100 if state == "running" else None)
            )
    return matrix(rows)


def test_the_matrix_looks_like_this() -> None:
    blocks = small_sweep()
    rows = sweep.matrix_rows(blocks, sweep.Cursor(), frozenset(), 40, 10)
    assert plain(rows) == (
        " bench-micro         1/16         1/4\n"
        "   adamw         ●3  2.61    ◐3  2.03*\n"
        "   muon          ●3  2.31e   ○3     ·*"
    )
    assert [span.text for row in rows for span in row if span.reverse] == ["●3  2.61  "]
    assert plain(sweep.matrix_rows(blocks, sweep.Cursor(), frozenset(), 80, 10)) == (
        " bench-micro          1/16          1/4    Chinchilla ratio\n"
        "   adamw         ●3  2.610    ◐3  2.030*\n"
        "   muon          ●3  2.310e   ○3      ·*"
    )
    assert [span.text for row in rows for span in row if span.bold and "2.31" in span.text]


def test_long_names_get_the_room_that_is_left() -> None:
    block, long = matrix([made.row(made.spec(), "done", 2.5)])[0], "mine:MyOptimizer@1a2b3c"
    cells = {(long, ratio): cell for (_, ratio), cell in block.cells.items()}
    blocks = [dataclasses.replace(block, optimizers=(long,), cells=cells)]
    for width, name in ((80, f"{long}  "), (28, "mine:MyOptim…")):
        shown = plain(sweep.matrix_rows(blocks, sweep.Cursor(), frozenset(), width, 5)).split("\n")[1]
        assert shown.startswith(f"   {name}")
        assert sweep.cell_under(blocks, sweep.Cursor(), width, 5, shown.index("●"), 1) == sweep.Cursor()


def test_marks_of_a_cell_stand_at_its_own_side() -> None:
    blocks = small_sweep()
    row = blocks[0].cells["adamw", 0.0625].rows[0]
    look = sweep.Look(selected=frozenset({(blocks[0].title, "adamw", 0.0625), (blocks[0].title, "adamw", 0.25)}))
    shown = plain(sweep.matrix_rows(blocks, sweep.Cursor(), frozenset({row.run_id}), 40, 5, look)).split("\n")[1]
    assert shown == "   adamw        +●3  2.61  ][◐3  2.03* ]"


def test_the_price_of_a_selection_is_whole_on_80_columns() -> None:
    totals = {
        "runs": 14, "left": 12, "fresh_seed_runs": 6, "seconds_estimate": 3723.0, "slots": 2, "tokens": 4.47e8, "flops": 4.08e17,
        "bytes_estimate": 0.84 * 2**30,
    }  # fmt: skip
    for width in (76, 80, 120, 160):
        for known in (totals, totals | {"seconds_estimate": None}):
            line = sweep_lines.selection_line(4, known, "", False, width)
            assert "…" not in plain([line]) and widest([line]) <= width
            assert "408P FLOPs" in plain([line]) and "0.84 GiB" in plain([line]) and "447M tok" in plain([line])
    assert "4 cells selected   12 runs to train of 14 + 6 fresh seeds   447M tokens   ~1:02:03 on 2 slots" in plain(
        [sweep_lines.selection_line(4, totals, "", False, 160)]
    )
    assert "nothing to train: its run is over" in sweep_lines.totals_text(totals | {"left": 0, "runs": 1}, 80)


def test_small_models_come_before_large_ones_whatever_their_names_begin_with() -> None:
    names = ["1.2b", "130m", "bench-micro", "olmo-150m+qk_norm=false", "520m", "gpt2-tiny"]
    ordered = ["bench-micro", "gpt2-tiny", "130m", "olmo-150m+qk_norm=false", "520m", "1.2b"]
    assert sorted(names, key=model_order) == ordered


def test_a_window_that_is_too_small_says_so_in_whole_words() -> None:
    for width, height in ((20, 5), (40, 10), (59, 14)):
        rows = frame.too_small(width, height)
        assert widest(rows) <= width and len(rows) <= height
        words = " ".join(plain(rows).split())
        assert words == f"optsweep needs a window of at least 60 x 15, this one is {width} x {height}; q quits"


def test_the_selected_cell_is_told_in_words() -> None:
    lines = sweep_lines.cell_lines(small_sweep(), sweep.Cursor(line=1), "adamw", 120)
    assert plain(lines) == (
        " muon 1/16  3 runs: lr 0.01 ● 2.310   0.02 ● 2.400   0.04 ● 2.500\n"
        " 2.3100   no gap: not collected yet: x collects   smallest of 3, lr 0.01, at the edge of the lr's tried"
    )
    unfinished = plain(sweep_lines.cell_lines(small_sweep(), sweep.Cursor(line=0, column=1), "adamw", 120))
    assert "0.012 ◐ 2.200" in unfinished
    assert "to adamw" not in unfinished


def test_the_cursor_moves_inside_the_matrix_and_across_models() -> None:
    blocks = matrix([made.row(made.spec()), made.row(made.spec("muon")), made.row(made.spec(model="bench-tiny"))])
    first = sweep.Cursor()
    assert sweep.moved(blocks, first, -1, 0) == first
    assert sweep.moved(blocks, first, 0, 5) == first
    below = sweep.moved(blocks, sweep.Cursor(line=1), 1, 0)
    assert (below.block, below.line) == (1, 0)
    assert sweep.moved(blocks, below, -1, 0) == sweep.Cursor(line=1)
    assert sweep.moved([], below, 1, 1) == sweep.Cursor()


@pytest.mark.parametrize("height", [3, 5, 8, 30])
def test_the_selected_cell_is_always_visible_and_can_be_clicked(height: int) -> None:
    rows = [made.row(made.spec(optimizer, ratio / 100)) for optimizer in made.LRS for ratio in range(5, 25)]
    rows += [
        made.row(made.spec(optimizer, ratio / 100, model="bench-tiny")) for optimizer in made.LRS for ratio in (5, 9)
    ]
    blocks = matrix(rows)
    for cursor in (sweep.Cursor(), sweep.Cursor(line=2, column=19), sweep.Cursor(block=1, line=2, column=1)):
        shown = sweep.matrix_rows(blocks, cursor, frozenset(), 80, height)
        assert len(shown) <= height
        assert widest(shown) <= 80
        places = []
        for y, row in enumerate(shown):
            x = 0
            for span in row:
                if span.reverse:
                    places.append((x, y))
                x += len(span.text)
        assert len(places) == 1
        assert sweep.cell_under(blocks, cursor, 80, height, *places[0]) == cursor
    assert sweep.cell_under(blocks, sweep.Cursor(), 80, height, 2, 0) is None


def test_marked_runs_show_a_plus_in_their_cell() -> None:
    blocks = small_sweep()
    chosen = next(iter(blocks[0].cells.values())).rows[0].run_id
    assert "+●3" in plain(sweep.matrix_rows(blocks, sweep.Cursor(), frozenset({chosen}), 60, 10))


@pytest.mark.parametrize("width", range(1, 130, 7))
def test_no_view_is_ever_wider_than_it_was_told(width: int) -> None:
    blocks, snapshot = small_sweep(), made.snapshot([made.row(made.spec(), "failed", None)], "s", "t")
    keys = [("a", "does a"), ("b", "does b"), ("?", "help"), ("q", "quit")]
    views = [
        sweep.matrix_rows(blocks, sweep.Cursor(), frozenset(), width, 9),
        sweep_lines.cell_lines(blocks, sweep.Cursor(), "adamw", width),
        sweep_lines.legend(width),
        [frame.title(snapshot, "s", width), frame.tabs([("1", "Sweep"), ("2", "Runs")], "Runs", 3, width)],
        [frame.key_line(keys, width)],
        frame.empty("/a/very/long/path/to/a/workspace", width),
        compare.legend(ChartModel(), "why", [(made.row(made.spec()), None, "A", "#ffffff")], width, 5),
        speedup_rows(SPEEDUPS, width, 20),
        [compare.status(ChartModel(), ChartModel(), 2, width)],
        run.facts(made.row(made.spec()), None, width, 20),
    ]
    if width > 20:
        views.append(help_rows([("app.quit", "q", "quit"), ("runs.mark", "space", "mark")], width))
    for rows in views:
        assert widest(rows) <= width


def speedup_row(**changes: object) -> SpeedupRow:
    values: dict[str, object] = {
        "optimizer": "muon", "model": "bench-micro", "chinchilla": 0.25, "speedup": 1.5, "low": 1.2, "high": 1.9,
        "state": "INTERP", "reason": "", "bound": "", "tied_with": "",
    }  # fmt: skip
    return SpeedupRow(**(values | changes))  # type: ignore[arg-type]


SPEEDUPS = Speedups(
    baseline="adamw",
    study="s",
    rows=(
        speedup_row(),
        speedup_row(chinchilla=0.5, speedup=1.1, low=0.9, high=1.3, tied_with="soap", selected=True),
        speedup_row(optimizer="sgd", speedup=0.3, low=0.2, high=0.4, state="EXTRAP", reason="below", untuned=True),
        speedup_row(optimizer="soap", speedup=1.4, low=math.nan, high=math.nan),
        speedup_row(
            optimizer="soap", chinchilla=0.5, speedup=math.nan, low=math.nan, high=math.nan, state="REFUSE",
            reason="needs adamw beyond 3/4", bound="> 1.5x",
        ),
        speedup_row(optimizer="lion", speedup=1.6, low=0.0, high=math.inf),
    ),
)  # fmt: skip


def test_the_speedup_panel_shows_intervals_states_marks_and_what_they_mean() -> None:
    assert plain(speedup_rows(SPEEDUPS, 52, 30)) == (
        " speedup over adamw, tokens                    95 %\n"
        " muon      1/4  1.50x  1.20 - 1.90 INTERP\n"
        " muon      1/2  1.10x? 0.90 - 1.30 INTERP 1 = soap\n"
        " sgd       1/4  0.30x  0.20 - 0.40 EXTRAP u\n"
        " soap      1/4  1.40x  no sigma    INTERP\n"
        " soap      1/2  >1.5x              REFUSE\n"
        "   needs adamw beyond 3/4\n"
        " lion      1/4  1.60x? 0 - open    INTERP\n"
        "\n"
        " ? not resolved: the interval contains 1\n"
        " no sigma: no interval, no winner\n"
        " EXTRAP: beyond the baseline's budgets\n"
        " 1: one seed: its loss, smallest of several, is low\n"
        " u: an edge of the sweep is unresolved, or numbers\n"
        " of runs differ by more than 1.25x\n"
        " = tied with those named; =2: with two others"
    )


def test_speedups_of_several_models_stand_under_their_cells_the_fastest_first() -> None:
    rows = tuple(
        speedup_row(optimizer=optimizer, model=model, chinchilla=ratio, speedup=speedup, tied_with=tied)
        for optimizer, model, ratio, speedup, tied in (
            ("muon", "130m", 1.0, 1.2, ""),
            ("soap", "130m", 1.0, 1.5, "scion_fantastic, kron, mars"),
            ("soap", "300m", 2.0, 1.1, ""),
        )
    )
    shown = plain(speedup_rows(Speedups(rows=rows), 52, 30)).split("\n")
    assert shown[1:6] == [
        " 130m, ratio 1",
        " soap  1.50x  1.20 - 1.90 INTERP =3",
        " muon  1.20x  1.20 - 1.90 INTERP",
        " 300m, ratio 2",
        " soap  1.10x  1.20 - 1.90 INTERP",
    ]
    assert plain(speedup_rows(Speedups(rows=rows), 52, 30, skip=2)).split("\n")[1] == " 300m, ratio 2"


def test_the_speedup_panel_says_what_is_missing_instead_of_rows() -> None:
    text = plain(speedup_rows(Speedups(message="no results collected yet: optsweep collect first"), 46, 10))
    assert "optsweep collect" in text
    assert "working" in plain(speedup_rows(Speedups(busy=True), 46, 10))
    assert "x on screen 1 collects" in plain(speedup_rows(Speedups(rows=(speedup_row(),), stale=True), 46, 10))


def series(y: list[float]) -> Series:
    x = np.arange(1.0, len(y) + 1)
    return Series(x=x * 512, y=np.array(y), steps=x, version=1)


def test_the_legend_shows_last_values_or_those_under_the_crosshair() -> None:
    line = Line(run_id="r", series=series([3.0, 2.0, 1.0, math.inf]), colour="#ffffff", letter="A", end=2048)
    model = ChartModel()
    drawn = [(made.row(made.spec()), line, "A", "#ffffff")]
    model.frame([line], 60, 12)
    assert "1.000" in plain(compare.legend(model, "why", drawn, 60, 5))
    model.crosshair = 0.5
    text = plain(compare.legend(model, "why", drawn, 60, 5))
    assert "at 1.02k tokens" in text
    assert "2.000" in text
    model.crosshair = 0.1
    assert "3.000" not in plain(compare.legend(model, "why", drawn, 60, 5))


def test_a_legend_without_room_counts_what_it_leaves_out() -> None:
    drawn = [(made.row(made.spec(seed=seed)), None, "A", "#ffffff") for seed in range(9)]
    rows = compare.legend(ChartModel(), "why", list(drawn), 60, 5)
    assert len(rows) == 5
    assert "and 6 more" in plain(rows)


def test_zoom_pan_and_reset_keep_the_window_inside_the_data() -> None:
    model = ChartModel()
    for _ in range(30):
        model.zoom(0.5)
    assert model.window[1] == 1.0
    assert model.window[1] - model.window[0] == pytest.approx(1e-4)
    model.pan(-5)
    low, high = model.window
    assert 0 <= low < high < 1
    for _ in range(60):
        model.zoom(2.0)
    assert model.window == (0.0, 1.0)
    model.crosshair = 0.25
    model.zoom(0.5)
    assert model.window == pytest.approx((0.125, 0.625))
    model.reset()
    assert model.window == (0.0, 1.0)


def test_the_first_steps_do_not_decide_the_y_range_unless_asked() -> None:
    line = Line(run_id="r", series=series([9.0, 8.0] + [2.0 + 0.001 * place for place in range(98)]), colour="#ffffff")
    model = ChartModel()
    model.frame([line], 60, 12)
    assert model.view is not None
    assert model.view.y_range[1] < 3
    model.whole_y = True
    model.forget_scale()
    model.frame([line], 60, 12)
    assert model.view.y_range[1] >= 9


def test_axes_that_cannot_be_shown_give_an_empty_frame_or_a_default_range_and_no_error() -> None:
    model = ChartModel(x_log=True, y_log=True)
    assert model.frame([], 60, 12) == []
    bad = Line(run_id="r", series=series([math.inf, math.inf]), colour="#ffffff")
    assert len(model.frame([bad], 60, 12)) == 12
    zero = Line(run_id="z", series=Series(x=np.zeros(1), y=np.ones(1), steps=np.zeros(1), version=1), colour="#ffffff")
    assert model.frame([zero], 60, 12) == []
    negative = Line(run_id="n", series=series([-1.0, -2.0]), colour="#ffffff")
    assert len(model.frame([negative], 60, 12)) == 12


def test_smoothing_goes_up_and_down_a_ladder_in_steps() -> None:
    ladder = smoothing_ladder(1000)
    assert ladder == [0.0, 10.0, 20.0, 50.0, 100.0, 200.0]
    model = ChartModel()
    model.suggest_smoothing(1000)
    assert model.tau == 50.0
    model.smoother(1000, 1)
    assert model.tau == 100.0
    model.suggest_smoothing(1000)
    assert model.tau == 100.0
    for _ in range(9):
        model.smoother(1000, -1)
    assert model.tau == 0.0
    assert smoothing_ladder(3) == [0.0]


def test_the_sparkline_falls_with_the_loss_and_leaves_gaps() -> None:
    falling = runs.sparkline(series([3.0 - 0.01 * place for place in range(200)]), 20)
    assert falling[0] == "█"
    assert falling[-1] == "▁"
    assert len(falling) == 20
    assert runs.sparkline(None, 5) == "     "
    assert runs.sparkline(series([math.inf] * 30), 5) == "     "
    assert runs.sparkline(series([2.0]), 5).strip() == "▁"
    assert " " in runs.sparkline(series([2.0] * 10 + [math.inf] * 30 + [1.0] * 10), 10)


def test_the_table_drops_columns_it_has_no_room_for_and_keeps_state_and_loss() -> None:
    for width in (60, 80, 120, 200):
        columns = runs.columns(width, several_models=True, several_seeds=True)
        assert {"optimizer", "state", "loss", "step"} <= {column.key for column in columns}
        cells = runs.cells(made.row(made.spec()), columns, marked=True)
        assert len(cells) == len(columns)
    assert sum(column.width + 1 for column in runs.columns(80, False, False)) + 1 <= 80


def test_every_state_is_explained_whole() -> None:
    text = plain(help_rows([("app.quit", "q", "quit")], 62))
    for state in ("planned", "running", "done", "diverged", "failed", "cancelled", "lost"):
        assert f" {state}" in text


def test_help_lists_the_screens_own_keys_before_those_for_everywhere() -> None:
    text = plain(help_rows([("app.quit", "q", "quit"), ("runs.mark", "space", "mark"), ("table.up", "k", "up")], 60))
    assert text.index("mark") < text.index("up") < text.index("quit")
    assert "◐ running" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0625, "1/16"), (0.25, "1/4"), (1.0, "1"), (0.05, "0.05"), (8.0, "8"), (0.33333, "0.333"), (0.2501, "1/4")],
)
def test_ratios_are_fractions_where_these_are_round(value: float, text: str) -> None:
    assert fmt.ratio(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7, "0:07"), (62.4, "1:02"), (3753, "1:02:33"), (200_000, "2d 07h"), (None, "·"), (math.inf, "·"), (-1, "·")],
)
def test_durations_read_like_a_clock(seconds: float | None, text: str) -> None:
    assert fmt.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (48761, "48.8k"),
        (999.4, "999"),
        (999_700, "1.00M"),
        (3_100_000, "3.10M"),
        (None, "·"),
        (12, "12"),
        (0.5, "0.5"),
        (123_456, "123k"),
    ],
)
def test_big_numbers_have_three_digits_and_a_prefix(value: float | None, text: str) -> None:
    assert fmt.short(value) == text


def test_the_crosshair_survives_a_change_to_a_log_axis_before_the_next_frame() -> None:
    model = ChartModel()
    model.frame([Line(run_id="r", series=series([3.0, 2.0, 1.0]), colour="#ffffff", end=2048)], 60, 12)
    model.crosshair = 0.5
    before = model.crosshair_x()
    model.toggle_log("x")
    assert model.crosshair_x() == before == 1024.0


def test_whole_numbers_are_written_exactly_wherever_they_can_be_typed_again() -> None:
    assert fmt.knob(12345678) == "12345678"
    assert (fmt.knob(0.002), fmt.knob(True), fmt.knob("cosine"), fmt.knob(None)) == ("0.002", "True", "cosine", "·")
    runs = [
        ("A", "#ffffff", {"tokens": 2_684_354_560, "lr": 0.002, "beta2": 0.95}),
        ("B", "#ffffff", {"tokens": 2_684_354_561, "lr": 0.001, "beta2": 0.95}),
    ]
    shown = plain(diff.diff_rows(runs, 60, 10))
    assert "2,684,354,560" in shown
    assert "2,684,354,561" in shown
    assert "1 fields agree" in shown


def test_an_imported_run_without_a_curve_is_not_said_to_stand_at_step_0() -> None:
    row = made.row(made.spec(), step=0)
    imported = dataclasses.replace(row, line=dataclasses.replace(row.line, host=""))
    assert runs.steps_text(row) == f"0/{row.line.steps:,}"
    assert runs.steps_text(imported) == f"{row.line.steps:,}"
    assert "step 0" not in plain(runs.preview(imported, None, 100))
    assert "planned" in plain(run.facts(imported, None, 60, 20))
    unknown = dataclasses.replace(imported, line=dataclasses.replace(imported.line, steps=0))
    assert runs.steps_text(unknown) == "·"


def test_what_has_no_room_ends_in_an_ellipsis() -> None:
    row = (Span("abc"), Span("def"))
    assert plain([fmt.shortened(row, 5)]) == "abcd…"
    assert fmt.shortened(row, 6) == row
    assert fmt.shortened(row, 0) == ()
