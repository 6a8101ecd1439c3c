"""Screen 5 in depth: completion, history, saved queries, large results, esc stops a statement, files, charts, broken stores."""

from __future__ import annotations

import csv
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from optsweep_tui import flow
from optsweep_tui.app.app import OptsweepApp
from optsweep_tui.app.memory import Memory
from optsweep_tui.app.screens.sql import SqlScreen
from optsweep_tui.app.views import sql
from optsweep_tui.app.views.complete import Candidate, Schema, candidates
from optsweep_tui.app.widgets.table import VirtualTable
from optsweep_tui.app.widgets.tree import SchemaTree
from optsweep_tui.charts.chart import Span
from optsweep_tui.settings import Workspace
from optsweep_tui.store.connect import open_store
from tests.app import made
from tests.app.driving import Driver, driven

THREE = pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=["80x24", "120x40", "200x60"])


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A few runs and their store."""
    workspace = made.workspace(tmp_path_factory.mktemp("queried"))
    for lr in made.LRS["adamw"]:
        made.plant(workspace, made.spec("adamw", 0.05, lr))
    made.plant(workspace, made.spec("muon", 0.05, 0.02))
    flow.collect(workspace)
    return workspace


def screen_of(driver: Driver) -> SqlScreen:
    screen = driver.app.screen
    assert isinstance(screen, SqlScreen)
    return screen


async def ask(driver: Driver, query: str, until: str = "") -> str:
    """Run a statement and wait for what the line says of it."""
    screen = screen_of(driver)
    screen.editor.text = query
    screen.query_one("#schema").focus()
    await driver.press("r")
    await driver.until(lambda: until in driver.text if until else re.search(r" rows? in \d", driver.text) is not None)
    return driver.text


@THREE
async def test_tree_editor_and_result_fit_and_the_tree_explains_itself(
    collected: Workspace, size: tuple[int, int]
) -> None:
    async with driven(collected, size, "sql") as driver:
        tree = screen_of(driver).query_one(SchemaTree)
        assert tree.has_focus
        assert "v_run" in driver.text
        while tree.branch is not None and tree.branch.table != "v_best":
            await driver.press("j")
        assert "v_best: " in driver.text
        opened = await driver.press("space", "j")
        assert "▾ v_best" in opened
        await driver.press("a")
        assert screen_of(driver).editor.text.count(tree.branch.column) >= 1  # type: ignore[union-attr]
        assert "4 rows in" in await ask(driver, "select optimizer, lr, loss from v_run order by loss", "4 rows in")
        await driver.press("1", "5")
        assert "4 rows in" in driver.text


async def test_tab_completes_tables_columns_and_functions_and_steps_through_them(collected: Workspace) -> None:
    async with driven(collected, (120, 40), "sql") as driver:
        screen = screen_of(driver)
        await driver.press("enter")
        screen.editor.text = ""
        await driver.press(*"select opti", "tab")
        assert screen.editor.text == "select optimizer"
        await driver.press(*", bit_cou", "tab")
        assert screen.editor.text == "select optimizer, bit_count("
        await driver.press(*"1) from v_b", "tab", *" where ch", "tab")
        assert screen.editor.text == "select optimizer, bit_count(1) from v_best where chinchilla"
        screen.editor.text = "select r.lo from v_run r"
        screen.editor.move_cursor((0, len("select r.lo")))
        await driver.press("s")
        await driver.press("tab")
        assert screen.editor.text == "select r.loss from v_run r"
        assert driver.app.focused is screen.editor


async def test_a_name_of_the_tree_stays_a_word_of_its_own_in_the_statement(collected: Workspace) -> None:
    async with driven(collected, mode="sql") as driver:
        editor = screen_of(driver).editor
        for text, place, wanted in (
            ("SELECT lr FROM", (0, 0), "SELECT lr FROM v_run"),
            ("SELECT lr FROM ", (0, 15), "SELECT lr FROM v_run"),
            ("SELECT FROM x", (0, 7), "SELECT v_run FROM x"),
            ("", (0, 0), "v_run"),
            ("SELECT max(", (0, 11), "SELECT max(v_run"),
        ):
            editor.text = text
            editor.move_cursor(place)
            screen_of(driver).on_schema_tree_taken(SchemaTree.Taken("v_run"))
            assert editor.text == wanted


async def test_what_helps_with_a_mistake_is_said_for_this_screen(collected: Workspace) -> None:
    async with driven(collected, (200, 40), "sql") as driver:
        shown = await ask(driver, "SELEC 1", until="Parser Error")
        assert "optsweep sql" not in shown
        assert "The tree lists tables and columns" in shown
        assert "1 row in" in await ask(driver, "SELECT 1")
        assert " edit" in driver.text.split("\n")[-1]
        await driver.press("enter")
        await driver.settle()
        assert "complete" in driver.text.split("\n")[-1] and "⏎ edit" not in driver.text.split("\n")[-1]


async def test_esc_stops_a_statement_at_once_and_the_next_one_works(collected: Workspace) -> None:
    async with driven(collected, (120, 40), "sql") as driver:
        await ask(driver, "select count(*) from range(100000000) a, range(100000) b", "running ...")
        await driver.until(lambda: screen_of(driver)._interrupt is not None)
        await driver.pilot.pause(0.3)
        begun = time.monotonic()
        await driver.press("escape")
        await driver.until(lambda: "sql: stopped" in driver.text)
        assert time.monotonic() - begun < 3
        flow.collect(collected)  # the store is free again
        assert "1 row in" in await ask(driver, "select 1", "1 row in")


async def test_a_million_rows_are_shown_scrolled_and_written_without_a_row_being_formatted_before(
    collected: Workspace, monkeypatch: Any
) -> None:
    async with driven(collected, (120, 40), "sql") as driver:
        screen = screen_of(driver)
        formatted: list[int] = []
        real = sql.row_of

        def counted(table: pa.Table, place: int) -> list[Span]:
            formatted.append(place)
            return real(table, place)

        monkeypatch.setattr(sql, "row_of", counted)
        query = "select i, 'row ' || i as s, sqrt(i) as x, [i] as l from range(1000000) t(i)"
        await ask(driver, query, "1,000,000 rows in")
        assert len(formatted) < 500
        table = screen.query_one("#result", VirtualTable)
        table.focus()
        await driver.press("G")
        assert "row 999999" in driver.text
        assert len(formatted) < 1000
        await driver.press("e", *"parquet", "enter")
        path = collected.root / "exports" / "query.parquet"
        await driver.until(path.exists, 60)
        await driver.until(lambda: any("rows written" in one.message for one in driver.app._notifications), 60)
        assert pyarrow.parquet.read_metadata(path).num_rows == 1_000_000
        await ask(driver, "select 3 as a, 'x,\"y' as b, [1, 2] as c, NULL as d", "1 row in")
        await driver.press("e", *"csv", "enter")
        path = collected.root / "exports" / "query.csv"
        await driver.until(path.exists)
        await driver.pilot.pause(0.2)
        assert list(csv.reader(path.read_text().splitlines())) == [["a", "b", "c", "d"], ["3", 'x,"y', "[1, 2]", ""]]


async def test_a_result_is_drawn_and_its_columns_are_chosen_by_keys(collected: Workspace) -> None:
    async with driven(collected, (120, 40), "sql") as driver:
        await ask(driver, "select run_id, step, tokens, value from v_metric where key = 'train_loss'")
        shown = await driver.press("v")
        await driver.pilot.pause(0.1)
        shown = driver.text
        assert "value over step by run_id" in shown
        assert sum(0x2800 < ord(sign) <= 0x28FF for sign in shown) > 50
        assert "value over tokens by run_id" in await driver.press("x")
        assert "by run_id" not in await driver.press("b")
        await driver.press("escape")
        assert "value over" not in driver.text
        await ask(driver, "select 'a' as only_text", "1 row in")
        await driver.press("v")
        await driver.until(lambda: any("two columns of numbers" in one.message for one in driver.app._notifications))


async def test_statements_are_remembered_and_saved_ones_are_opened_again(collected: Workspace, tmp_path: Path) -> None:
    for turn in range(2):
        app = OptsweepApp(collected, "sql", memory=Memory(collected.root, tmp_path / "state"))
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            driver = Driver(app, pilot)
            await driver.settle()
            if turn == 0:
                await ask(driver, "select 41 + 1 as answer", "1 row in")
                await driver.press("w", *"the answer", "enter")
                await driver.until(lambda: (collected.root / "queries" / "the answer.sql").exists())
                await ask(driver, "select 7", "1 row in")
                continue
            screen = screen_of(driver)
            assert screen.editor.text == "select 7"
            assert screen.history == ["select 41 + 1 as answer", "select 7"]
            await driver.press("o", *"the answer", "enter")
            assert screen.editor.text == "select 41 + 1 as answer"
            await driver.press("o", *"run before 7", "enter")
            assert screen.editor.text == "select 7"
    assert flow.sql(collected, (collected.root / "queries" / "the answer.sql").read_text()).values.tolist() == [[42]]


async def test_whatever_is_wrong_with_the_store_is_one_line_and_goes_away_with_it(
    collected: Workspace, tmp_path: Path
) -> None:
    copy = made.workspace(tmp_path / "copy")
    shutil.copytree(collected.runs, copy.runs, dirs_exist_ok=True)
    async with driven(copy, (200, 40), "sql") as driver:
        assert "optsweep collect" in await ask(driver, "select 1", "nothing has been collected")
        copy.store.write_bytes(b"garbage" * 1000)
        assert "Traceback" not in await ask(driver, "select 1", "damaged")
        copy.store.unlink()
        flow.collect(copy)
        await ask(driver, "select 1", "1 row in")
        with open_store(copy.store, read_only=False) as connection:
            connection.execute("UPDATE schema_version SET version = 999")
        await ask(driver, "select 2", "newer optsweep")
        os.unlink(copy.store)
        await ask(driver, "select 3", "nothing has been collected")
        await ask(driver, "drop table run", "not allowed")
        await ask(driver, "select 1; select 2", "2 statements")


SCHEMA = Schema(
    tables={"v_run": {"loss": "double", "lr": "double"}, "run": {"run": "integer"}, "v_best": {"gap": "double"}},
    about={"v_run": "runs"},
    functions=("median", "least"),
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("select * from ", ["v_best", "v_run", "run"]),
        ("select * from v_r", ["v_run"]),
        ("select l| from v_run", ["loss", "lr", "limit", "left join", "like", "least("]),
        ("select b.g| from v_best b", ["gap"]),
        ("select b.| from v_best as b join v_run r using (x)", ["gap"]),
        ("select 'fro|", []),
        ("select 'it''s lo|' from v_run", []),
        ("select lr -- lo|", []),
        ("select lr from v_run where med", ["median("]),
        ("select lr|", []),
        ("", []),
    ],
)
def test_offers_are_what_fits_where_the_cursor_stands(text: str, wanted: list[str]) -> None:
    place = text.index("|") if "|" in text else len(text)
    found = candidates(text.replace("|", ""), place, SCHEMA)
    assert [one.text for one in found] == wanted if wanted else found == [] or found[0] != Candidate("lr")


def test_a_result_with_x_and_y_is_seen_as_such() -> None:
    table = pa.table(
        {"optimizer": ["adamw", "muon"] * 3, "lr": [0.001, 0.001, 0.01, 0.01, 0.1, 0.1], "loss": [3.0, 2, 2, 1, 4, 3]}
    )
    plotting = sql.plotting_of(table)
    assert plotting is not None
    assert (plotting.x, plotting.y, plotting.by, plotting.x_log) == ("lr", "loss", "optimizer", True)
    lines = [curve for curve in sql.curves_of(table, plotting) if not curve.points]
    assert [(curve.label, curve.y.tolist()) for curve in lines] == [("adamw", [3, 2, 4]), ("muon", [2, 1, 3])]
    assert sql.plotting_of(pa.table({"a": ["x", "y"], "b": [1, 2]})) is None
    assert sql.plotting_of(pa.table({"a": [1], "b": [2]})) is None
    rows = sql.chart_rows(sql.curves_of(table, plotting), plotting, 60, 12)
    assert len(rows) == 12
    nothing = pa.table({"x": pa.array([None, None], pa.float64()), "y": pa.array([1.0, 2.0])})
    drawn = sql.plotting_of(nothing)
    assert drawn is not None
    assert "nothing to draw" in "".join(
        span.text for row in sql.chart_rows(sql.curves_of(nothing, drawn), drawn, 60, 12) for span in row
    )
