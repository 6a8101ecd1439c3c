"""The widgets: only what changed is redrawn, and a table formats only the rows on the screen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.style import Style
from textual.app import App, ComposeResult
from textual.geometry import Region

from optsweep_tui.app.widgets.column import Column
from optsweep_tui.app.widgets.spans import SpanView, changed_columns, strip_of
from optsweep_tui.app.widgets.table import VirtualTable
from optsweep_tui.charts.chart import Row, Span

Rows = st.lists(st.builds(Span, st.text("ab ", max_size=4), st.sampled_from([None, "#ff0000"])), max_size=5).map(tuple)


def drawn(row: Row, width: int) -> list[Span]:
    cells = [span._replace(text=sign) for span in row for sign in span.text]
    return (cells + [Span(" ")] * width)[:width]


@given(Rows, Rows, st.integers(1, 12))
def test_exactly_the_changed_columns_are_redrawn(old: Row, new: Row, width: int) -> None:
    found = changed_columns(old, new, width)
    different = [place for place in range(width) if drawn(old, width)[place] != drawn(new, width)[place]]
    assert found == ((different[0], different[-1] + 1) if different else None)


def test_every_segment_has_a_style_for_no_color_needs_one() -> None:
    strip = strip_of((Span("a"), Span("b", "#ff0000", dim=True)), 10)
    assert strip.cell_length == 10
    assert all(isinstance(segment.style, Style) for segment in strip)


def test_text_from_files_and_hosts_cannot_drive_the_terminal() -> None:
    strip = strip_of((Span("a\x1b]0;title\x07"), Span("\x9b2J\r\n", "#ff0000")), 20)
    assert strip.text == "a·]0;title··2J··    "


class Host(App[None]):
    """One widget."""

    def __init__(self, widget: SpanView | VirtualTable) -> None:
        super().__init__()
        self.widget = widget

    def compose(self) -> ComposeResult:
        yield self.widget


async def test_showing_new_rows_refreshes_only_the_regions_that_differ() -> None:
    view = SpanView()
    async with Host(view).run_test(size=(40, 10)) as pilot:
        view.show([(Span("first row"),), (Span("second row"),)])
        await pilot.pause()
        regions: list[Region] = []
        view.refresh = lambda *areas, **more: regions.extend(areas) or view  # type: ignore[method-assign,func-returns-value]
        view.show([(Span("first row"),), (Span("sEcond roW"),)])
        assert regions == [Region(1, 1, 9, 1)]
        regions.clear()
        view.show([(Span("first row"),), (Span("sEcond roW"),)])
        assert regions == []
        view.show([(Span("first row"),)])
        assert regions == [Region(0, 1, 10, 1)]


COLUMNS = [Column(title="number", width=8, right=True), Column(title="text", width=20)]


async def test_a_hundred_thousand_rows_are_formatted_only_where_they_are_seen() -> None:
    asked: list[int] = []

    def cells(index: int) -> list[Span]:
        asked.append(index)
        return [Span(str(index)), Span(f"row {index}")]

    table = VirtualTable()
    async with Host(table).run_test(size=(60, 20)) as pilot:
        table.focus()
        table.show(COLUMNS, 100_000, cells)
        await pilot.pause()
        assert set(asked) <= set(range(25))
        await pilot.press("G")
        await pilot.pause()
        assert table.cursor == 99_999
        assert table.visible_rows()[-1] == 99_999
        assert max(asked) == 99_999
        assert len(set(asked)) < 100
        await pilot.press("pageup", "k")
        assert table.cursor == 99_999 - 18 - 1
        await pilot.press("g", "j", "down", "pagedown")
        assert table.cursor == 2 + 18


async def test_the_table_keeps_its_header_shows_the_cursor_and_says_when_it_is_empty() -> None:
    table = VirtualTable(empty="nothing here")
    async with Host(table).run_test(size=(40, 8)) as pilot:
        await pilot.pause()
        assert "nothing here" in "".join(table.render_line(y).text for y in range(8))
        table.focus()
        table.show(COLUMNS, 100, lambda index: [Span(str(index)), Span("x" * 50)])
        await pilot.pause()
        for _ in range(50):
            await pilot.press("j")
        await pilot.pause()
        lines = [table.render_line(y).text for y in range(8)]
        assert lines[0].split() == ["number", "text"]
        assert any(line.split()[:1] == ["50"] for line in lines[1:])
        assert all("…" in line for line in lines[1:])
        table.show(COLUMNS, 3, lambda index: [Span(str(index)), Span("y")])
        assert table.cursor == 2
        await pilot.click(VirtualTable, offset=(5, 1))
        assert table.cursor == 0
