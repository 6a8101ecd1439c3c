"""The schema: migrations forward only, the data dictionary true, the border of Python and SQL in step."""

from __future__ import annotations

import lzma
from pathlib import Path

import duckdb
import pytest

from optsweep_tui.analysis.columns import RESULTS
from optsweep_tui.errors import UnknownName
from optsweep_tui.resources import shipped
from optsweep_tui.store import knobs, migrate, queries, views
from optsweep_tui.store.connect import create
from optsweep_tui.store.dictionary import descriptions, dictionary
from optsweep_tui.store.ingest import archive_finished, ingest
from optsweep_tui.store.tables import TABLES
from tests.store.run_folders import append, attempt_folder, finish, lines, make_spec, plant, points


@pytest.fixture
def fresh() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    migrate.migrate(connection)
    return connection


def live(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, str, str]]:
    """(table, column, type) of the store itself."""
    query = """
        SELECT table_name, column_name, data_type FROM duckdb_columns()
        WHERE database_name = current_database() AND NOT internal ORDER BY table_name, column_index
    """
    return connection.execute(query).fetchall()


def test_the_data_dictionary_equals_the_live_schema(fresh: duckdb.DuckDBPyConnection) -> None:
    told = sorted(
        ((row["table"], number, row["column"], row["type"]) for number, row in enumerate(dictionary())),
        key=lambda entry: (entry[0], entry[1]),
    )
    assert [(table, column, kind) for table, _, column, kind in told] == live(fresh)


def test_every_column_is_explained_and_every_quantity_has_a_unit() -> None:
    for row in dictionary():
        assert len(row["meaning"]) > 3, row
        if row["type"] == "DOUBLE" or row["column"].endswith(("_seconds", "_bytes", "tokens", "steps", "loss")):
            assert row["unit"], row


def test_every_table_and_view_is_described_in_words(fresh: duckdb.DuckDBPyConnection) -> None:
    told = descriptions()
    assert set(told) == {table for table, _, _ in live(fresh)}
    assert all(text.endswith(".") and "|" not in text for text in told.values())


def test_one_table_of_the_dictionary_can_be_asked_for_and_a_typo_is_named() -> None:
    assert [row["column"] for row in dictionary("V_Metric")] == ["run_id", "key", "step", "tokens", "value", "attempt"]
    with pytest.raises(UnknownName, match='did you mean "v_metric"'):
        dictionary("v_metrc")


def test_python_names_columns_and_types_in_the_order_of_the_tables(fresh: duckdb.DuckDBPyConnection) -> None:
    columns: dict[str, list[tuple[str, str]]] = {}
    for table, column, kind in live(fresh):
        columns.setdefault(table, []).append((column, kind))
    assert {name: list(own.items()) for name, own in TABLES.items()} == {name: columns[name] for name in TABLES}
    assert {name for name in columns if not name.startswith("v_")} == {*TABLES, "schema_version"}


def test_the_fixed_columns_of_v_config_are_those_of_the_schema(fresh: duckdb.DuckDBPyConnection) -> None:
    before = [column for table, column, _ in live(fresh) if table == "v_config"]
    assert before == list(knobs.FIXED)
    fresh.execute(knobs.view_sql({}))
    assert [column for table, column, _ in live(fresh) if table == "v_config"] == before


def test_the_results_frame_has_the_columns_that_the_analysis_declares() -> None:
    assert list(queries.RESULT_COLUMNS) == list(RESULTS)


def test_there_is_no_primary_key_and_no_unique_index(fresh: duckdb.DuckDBPyConnection) -> None:
    kinds = "SELECT count(*) FROM duckdb_constraints() WHERE constraint_type <> 'NOT NULL'"
    assert fresh.execute(kinds).fetchall() == [(0,)]
    assert fresh.execute("SELECT count(*) FROM duckdb_indexes()").fetchall() == [(0,)]


def test_migrating_twice_applies_nothing_twice(fresh: duckdb.DuckDBPyConnection) -> None:
    assert migrate.migrate(fresh) == []
    assert fresh.execute("SELECT count(*) FROM schema_version").fetchall() == [(len(migrate.migrations()),)]


def _later_schema(folder: Path, statement: str) -> Path:
    folder.mkdir(exist_ok=True)
    for _, path in migrate.migrations():
        (folder / path.name).write_text(path.read_text())
    number = migrate.newest_version() + 1
    (folder / f"{number:03}_later.sql").write_text(f"ALTER TABLE run ADD COLUMN colour VARCHAR;\n{statement}")
    return folder


def test_a_store_of_every_released_schema_goes_forward(tmp_path: Path) -> None:
    for version, _ in migrate.migrations():
        path = tmp_path / f"from-{version}.duckdb"
        old = tmp_path / f"schema-{version}"
        old.mkdir()
        for number, file in migrate.migrations():
            if number <= version:
                (old / file.name).write_text(file.read_text())
        with duckdb.connect(str(path)) as connection:
            assert migrate.migrate(connection, old) == list(range(1, version + 1))
        with duckdb.connect(str(path)) as connection:
            migrate.migrate(connection)
            assert migrate.version_of(connection) == migrate.newest_version()


FROZEN = Path(__file__).parent / "frozen"
"""A store as each schema's own program left it, `schema-001.duckdb.xz`, ...: three runs, made by tests/store/freeze.py."""


def test_there_is_a_frozen_store_of_every_schema_before_the_newest() -> None:
    names = [f"schema-{version:03}.duckdb.xz" for version, _ in migrate.migrations()[:-1]]
    assert set(names) <= {path.name for path in FROZEN.iterdir()}


@pytest.mark.parametrize("path", sorted(FROZEN.glob("*.xz")), ids=lambda path: path.name)
def test_a_store_left_by_an_earlier_program_keeps_its_rows_and_goes_on(tmp_path: Path, path: Path) -> None:
    store = tmp_path / "results.duckdb"
    store.write_bytes(lzma.decompress(path.read_bytes()))
    first = make_spec().run_id
    # The first question migrates. Step 31 on is from the second attempt, as freeze.py wrote it.
    assert points(store, run_id=first) == {step: 10 / step if step <= 30 else 7.0 for step in range(1, 51)}
    frame = queries.results(store)
    assert sorted(zip(frame["state"], frame["study"], strict=True)) == [
        ("diverged", "one"), ("diverged", "two"), ("done", "one"), ("planned", "one")
    ]  # fmt: skip
    assert frame[frame["state"] == "done"]["loss"].tolist() == [2.5]
    assert queries.sql(store, "SELECT count(*) AS n FROM v_event")["n"].tolist() == [1]
    runs = tmp_path / "runs"
    folder = plant(runs, make_spec(), study="one")[0]
    append(attempt_folder(folder, 3), lines(range(50, 61), train_loss=6.0))
    finish(folder, 3)
    report = ingest(store, runs)
    assert (report.runs, report.vanished, report.points) == (3, 2, 22)
    assert points(store, run_id=first)[50] == 6.0 and len(points(store, run_id=first)) == 60
    assert archive_finished(store) > 0
    assert len(points(store, run_id=first)) == 60
    assert {"lr", "weight_decay", "beta1"} <= set(queries.sql(store, "DESCRIBE v_config")["column_name"])


def test_a_later_migration_keeps_the_rows(tmp_path: Path, fresh: duckdb.DuckDBPyConnection) -> None:
    fresh.execute("INSERT INTO metric VALUES (1, 1, 1, 5, 2.5)")
    applied = migrate.migrate(fresh, _later_schema(tmp_path / "schema", ""))
    assert applied == [migrate.newest_version() + 1]
    assert fresh.execute("SELECT * FROM metric").fetchall() == [(1, 1, 1, 5, 2.5)]


def test_a_reader_of_an_older_store_has_it_migrated_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "results.duckdb"
    create(store)
    later = migrate.migrations(_later_schema(tmp_path / "schema", ""))
    monkeypatch.setattr(migrate, "migrations", lambda folder=None: later)
    assert queries.sql(store, "SELECT max(version) AS v FROM schema_version")["v"].tolist() == [len(later)]
    assert "colour" in queries.sql(store, "DESCRIBE run")["column_name"].tolist()


def test_a_migration_that_fails_leaves_the_old_schema(tmp_path: Path, fresh: duckdb.DuckDBPyConnection) -> None:
    before = live(fresh)
    with pytest.raises(duckdb.Error):
        migrate.migrate(fresh, _later_schema(tmp_path / "schema", "SELECT * FROM no_such_table;"))
    assert live(fresh) == before
    assert migrate.version_of(fresh) == migrate.newest_version()


def test_migrations_with_a_gap_are_refused(tmp_path: Path) -> None:
    (tmp_path / "001_initial.sql").write_text("SELECT 1")
    (tmp_path / "003_later.sql").write_text("SELECT 1")
    with pytest.raises(ValueError, match="001, 002"):
        migrate.migrations(tmp_path)


def test_the_schema_folder_holds_sql_and_its_dictionary_only() -> None:
    assert {path.suffix for path in shipped("schema").iterdir()} == {".sql", ".md"}


def test_the_general_forms_of_the_views_over_points_are_those_of_the_schema(fresh: duckdb.DuckDBPyConnection) -> None:
    def texts() -> dict[str, str]:
        query = "SELECT view_name, sql FROM duckdb_views() WHERE view_name IN ('v_point', 'v_metric', 'v_archive')"
        return dict(fresh.execute(query).fetchall())

    before = texts()
    for name, branches in (
        ("v_archive", [views.EMPTY_ARCHIVE]),
        ("v_point", [views.POINTS, views.ARCHIVED]),
        ("v_metric", [views.ONCE, views.CHOSEN]),
    ):
        fresh.execute(f"CREATE OR REPLACE VIEW {name} AS {' UNION ALL '.join(branches)}")
    assert texts() == before


def test_the_views_over_points_take_the_cheapest_form_that_is_right(fresh: duckdb.DuckDBPyConnection) -> None:
    def chooses() -> bool:
        return "choice" in fresh.execute("SELECT sql FROM duckdb_views() WHERE view_name = 'v_metric'").fetchall()[0][0]

    insert = "INSERT INTO run (run, run_id, origin, state, attempts, repeats) VALUES (?, 'r', 'native', 'done', 1, ?)"
    assert chooses()
    fresh.execute(insert, [1, False])
    assert views.settle(fresh, "/nowhere") and not chooses()
    assert not views.settle(fresh, "/nowhere")
    fresh.execute(insert, [2, True])
    assert views.settle(fresh, "/nowhere") and chooses()
