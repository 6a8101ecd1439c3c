"""What of a user's SQL is let in: one statement that reads, or one condition, on tables and views of the store alone."""

from __future__ import annotations

import itertools
import re

import duckdb

from optsweep_tui.errors import OptsweepError

SCHEMA_HINT = "optsweep sql --schema lists tables and columns, --examples shows queries"

_READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
# What holds a PIVOT becomes several statements; one that does not begin like this may write a file into the archive.
_READING_PIVOT = re.compile(
    r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(?:pivot|unpivot|select|with|from|describe|summarize)\b", re.I | re.S
)
_READING_WORDS = ("SELECT", "WITH", "DESCRIBE", "SHOW", "SUMMARIZE", "EXPLAIN")
# DuckDB lets the file that it has open be read as bytes too; and a query in a string would not be seen here.
_FILE_FUNCTION = re.compile(r"read_\w+|parquet_\w+|sniff_csv|query|json_execute_serialized_sql", re.IGNORECASE)


def checked_statement(text: str) -> duckdb.Statement:
    """The one reading statement of a text.

    Raises:
        OptsweepError: it is none, several, or one that writes.
    """
    try:
        statements = duckdb.extract_statements(text)
    except duckdb.Error as error:
        raise OptsweepError(f"sql: {first_line(error)}", SCHEMA_HINT) from None
    if len(statements) != 1:
        problem = (
            "no statement was given" if not statements else f"{len(statements)} statements were given, one is taken"
        )
        raise OptsweepError(f"sql: {problem}", SCHEMA_HINT)
    pivots = statements[0].type == duckdb.StatementType.MULTI and _READING_PIVOT.match(text)
    if statements[0].type not in _READING and not pivots:
        kind = str(statements[0].type).rpartition(".")[2]  # CALL for CHECKPOINT, LOAD for INSTALL
        typed = next(iter(_words(text)), kind).upper()
        raise OptsweepError(
            f"sql: {kind if typed in _READING_WORDS else typed} is not allowed, only statements that read",
            ", ".join(_READING_WORDS),
        )
    _refuse_files("sql", text)
    return statements[0]


def _refuse_files(where: str, text: str) -> None:
    """Raise one line where a text calls a function that reads a file, were it the store itself."""
    for word, following in itertools.pairwise(_words(text)):
        if following == "(" and _FILE_FUNCTION.fullmatch(word):
            raise OptsweepError(f"{where}: {word} is not allowed, only tables and views of the store", SCHEMA_HINT)


def _words(text: str) -> list[str]:
    """The tokens of a text without comments, quoted names without their quotes; operators one sign each."""
    # DuckDB counts bytes.
    data = text.encode(errors="surrogatepass")
    tokens = duckdb.tokenize(text)
    ends = [start for start, _ in tokens[1:]] + [len(data)]
    words = []
    for (start, kind), end in zip(tokens, ends, strict=True):
        word = data[start:end].decode(errors="replace").strip()
        if kind == duckdb.token_type.operator:
            words += list(word)
        elif kind != duckdb.token_type.comment:
            words.append(word.removeprefix('"').removesuffix('"'))
    return words


def predicate(text: str) -> str:
    """The user's condition in brackets of its own.

    Raises:
        OptsweepError: it is not one expression.
    """
    try:
        statements = duckdb.extract_statements(f"SELECT 1 FROM v_run WHERE {text}")  # so that brackets balance
    except duckdb.Error as error:
        raise OptsweepError(f'--where "{text}": {first_line(error)}', SCHEMA_HINT) from None
    if len(statements) != 1:
        raise OptsweepError(f'--where "{text}" is more than one condition', "join conditions with AND")
    _refuse_files(f'--where "{text}"', text)
    return f"(\n{text}\n)"


def first_line(error: Exception) -> str:
    """The sentence of DuckDB's message, without the excerpt of the query and its caret."""
    lines = [line.strip() for line in str(error).split("\n\n")[0].splitlines()]
    return " ".join(line for line in lines if line)
