"""Completion of SQL from the schema: which words fit before the cursor, best first; pure text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

KEYWORDS = (
    "select", "from", "where", "group by all", "order by", "limit", "join", "left join", "using", "on", "and", "or", "not",
    "in", "is null", "is not null", "between", "like", "ilike", "case", "when", "then", "else", "end", "as", "distinct",
    "having", "with", "union all", "exists", "desc", "asc", "nulls last", "qualify", "over", "partition by", "filter",
    "pivot", "summarize", "describe", "cast",
)  # fmt: skip
AFTER_TABLE_WORDS = frozenset({"from", "join", "describe", "summarize", "pivot"})
_WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*$")
_DOTTED = re.compile(r"([A-Za-z_][A-Za-z_0-9]*)\.([A-Za-z_0-9]*)$")
_TABLE = re.compile(r"\b(?:from|join)\s+([A-Za-z_]\w*)(?:\s+(?:as\s+)?([A-Za-z_]\w*))?", re.IGNORECASE)
_QUIET = re.compile(r"'(?:[^']|'')*'?|--[^\n]*")
"""Texts and comments: nothing is completed in them."""


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What can be named."""

    tables: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Table or view -> column -> type, unit and meaning in one line."""
    about: Mapping[str, str] = field(default_factory=dict)
    """What each table or view holds."""
    functions: Sequence[str] = ()


@dataclass(frozen=True)
class Candidate:
    """A word that would fit."""

    text: str
    note: str = ""


def word_before(text: str, place: int) -> str:
    """The part of a name that stands before the cursor, without what is before a dot."""
    match = _DOTTED.search(text[:place])
    if match:
        return match[2]
    plain = _WORD.search(text[:place])
    return plain[0] if plain else ""


def candidates(text: str, place: int, schema: Schema, most: int = 40) -> list[Candidate]:
    """Words that fit at the cursor, those that the statement makes likely first.

    Args:
        text: the statement.
        place: of the cursor, in characters.
        schema: what can be named.
        most: candidates.
    """
    before = text[:place]
    if any(
        match.start() < place <= match.end() and _open(match[0], match.end(), place) for match in _QUIET.finditer(text)
    ):
        return []
    used = _tables_of(text, schema)
    dotted = _DOTTED.search(before)
    if dotted:
        columns = schema.tables.get(used.get(dotted[1].lower(), dotted[1].lower()), {})
        return _fitting(dotted[2], [Candidate(name, note) for name, note in columns.items()], most)
    word = word_before(text, place)
    ahead = before[: len(before) - len(word)].split()
    last = ahead[-1].lower().strip("(,") if ahead else ""
    tables = [Candidate(name, schema.about.get(name, "")) for name in sorted(schema.tables, key=_views_first)]
    if last in AFTER_TABLE_WORDS:
        return _fitting(word, tables, most, empty=True)
    if not word:
        return []
    own = {name: note for table in dict.fromkeys(used.values()) for name, note in schema.tables.get(table, {}).items()}
    columns = own or {name: note for table in schema.tables.values() for name, note in table.items()}
    known = [Candidate(name, note) for name, note in columns.items()]
    known += [Candidate(word) for word in KEYWORDS] + tables
    known += [Candidate(f"{name}(", "function") for name in schema.functions]
    return _fitting(word, known, most)


def _open(quiet: str, end: int, place: int) -> bool:
    """The cursor is inside a text or comment, not just behind its end."""
    closed = quiet.startswith("'") and len(quiet) > 1 and quiet.endswith("'")
    return place < end or not closed


def _views_first(name: str) -> tuple[bool, str]:
    return not name.startswith("v_"), name


def _tables_of(text: str, schema: Schema) -> dict[str, str]:
    """Alias or name -> table, of the tables that the statement reads."""
    found: dict[str, str] = {}
    for match in _TABLE.finditer(_QUIET.sub(" ", text)):
        table = match[1].lower()
        if table in schema.tables:
            found[table] = table
            if match[2] and match[2].lower() not in ("where", "join", "on", "using", "group", "order", "left", "limit"):
                found[match[2].lower()] = table
    return found


def _fitting(word: str, known: Sequence[Candidate], most: int, *, empty: bool = False) -> list[Candidate]:
    """Those that begin with the word, then those that hold it; never the word itself alone."""
    wanted = word.lower()
    if not wanted and not empty and not known:
        return []
    starts = [one for one in known if one.text.lower().startswith(wanted)]
    holds = [one for one in known if len(wanted) > 1 and wanted in one.text.lower() and one not in starts]
    found = list({one.text: one for one in reversed([*starts, *holds])}.values())[::-1]
    return [] if [one.text.lower() for one in found] == [wanted] else found[:most]
