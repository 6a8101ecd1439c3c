"""What all screens share: the frame around the body, keys for everywhere, and the message when there is no room."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.events import Click, Resize
from textual.widget import Widget

from optsweep_tui.app.screens.uncovered import Uncovered
from optsweep_tui.app.views import frame
from optsweep_tui.app.widgets.spans import SpanView

if TYPE_CHECKING:
    from optsweep_tui.app.app import OptsweepApp
    from optsweep_tui.app.memory import Memory
    from optsweep_tui.app.palette import Entry


READING_SECONDS = 1.0
"""Between two frames while long curves are read for the first time: each would be another picture, of half the data."""


class BaseScreen(Uncovered[None]):
    """A screen of a mode: title and tabs on top, a body, a key line at the bottom."""

    TAB: ClassVar[str] = ""
    """Name in the row of tabs."""
    KEPT: ClassVar[tuple[str, ...]] = ()
    """Attributes that are remembered between starts: texts, numbers, switches and lists of texts; "model.axis" as well."""

    DEFAULT_CSS = """
    BaseScreen { layout: vertical; }
    BaseScreen #top { height: 2; }
    BaseScreen #body { height: 1fr; }
    BaseScreen #keys { height: 1; dock: bottom; }
    BaseScreen #small { display: none; }
    BaseScreen.small #top, BaseScreen.small #body, BaseScreen.small #keys { display: none; }
    BaseScreen.small #small { display: block; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "out", "one layer out", show=False, id="screen.out")]

    def __init__(self) -> None:
        super().__init__()
        self._redraw_due = False

    @property
    def bench(self) -> OptsweepApp:
        """The app, with its own type."""
        return cast("OptsweepApp", self.app)

    def compose(self) -> ComposeResult:
        """The frame, with the body of the screen in it."""
        yield SpanView(id="top")
        with Container(id="body"):
            yield from self.body()
        yield SpanView(id="keys")
        yield SpanView(id="small")

    def body(self) -> Iterable[Widget]:
        """The widgets of this screen."""
        raise NotImplementedError

    def on_mount(self) -> None:
        """As the screen was left."""
        memory = self.bench.memory
        for path in self.KEPT:
            owner, name = self._owner(path)
            setattr(owner, name, memory.get(f"{self.TAB}.{path}", getattr(owner, name)))
        self.recalled()

    def recalled(self) -> None:
        """What was kept is back: whatever of it cannot be is made usual here."""

    def told(self, path: str, value: object) -> None:
        """A value of `KEPT` from another screen; where this one is still to be mounted, it counts before what was kept."""
        owner, name = self._owner(path)
        setattr(owner, name, value)
        if not self.is_mounted:
            self.bench.memory.put(f"{self.TAB}.{path}", value)

    def remember(self, memory: Memory) -> None:
        """Keep what is to be as it was at the next start."""
        for path in self.KEPT:
            owner, name = self._owner(path)
            memory.put(f"{self.TAB}.{path}", getattr(owner, name))

    def _owner(self, path: str) -> tuple[object, str]:
        owner: object = self
        *parts, name = path.split(".")
        for part in parts:
            owner = getattr(owner, part)
        return owner, name

    def extra_commands(self) -> Iterator[Entry]:
        """What the palette offers on this screen beside the keys."""
        return iter(())

    def draw(self) -> None:
        """Show the newest data in the body."""
        raise NotImplementedError

    def changed_curves(self, run_ids: frozenset[str]) -> None:
        """The metrics of these runs have grown."""

    def wanted_curves(self) -> list[str]:
        """Runs whose metrics this screen wants to be tailed."""
        return []

    def settled(self) -> bool:
        """Nothing more will change by itself: for pictures of the screen."""
        return self.bench.poller.caught_up()

    def refresh_all(self) -> None:
        """Frame and body; called when data, size or focus changed and the screen is on."""
        if not self.is_mounted or not self.size.width:
            return
        self.set_class(self.size.width < frame.SMALLEST[0] or self.size.height < frame.SMALLEST[1], "small")
        if self.has_class("small"):
            self.query_one("#small", SpanView).show(frame.too_small(*self.size))
            return
        self.draw_frame()
        self.draw()
        if self.bench.base_screen() is self:
            self.bench.watch_curves(self)

    def draw_frame(self) -> None:
        """Title, tabs and keys."""
        width, bench = self.size.width, self.bench
        title = frame.title(bench.snapshot, bench.study, width, self.note(), bench.counts())
        self.query_one("#top", SpanView).show([title, frame.tabs(bench.tabs(), self.TAB, len(bench.marks), width)])
        self.query_one("#keys", SpanView).show([frame.key_line(self.hints(), width)])

    def note(self) -> str:
        """What the title line says beside the study."""
        return ""

    def hints(self) -> list[tuple[str, str]]:
        """Keys and descriptions of the bindings that are worth a place in the key line."""
        found = []
        for active in self.active_bindings.values():
            binding = active.binding
            if binding.show and binding.description:
                hint = (self.app.get_key_display(binding), binding.description)
                if hint not in found:
                    found.append(hint)
        return found

    def on_resize(self, event: Resize) -> None:
        """Fit the frame to the new size."""
        self.call_after_refresh(self.refresh_all)

    def on_span_view_resized(self) -> None:
        """The layout has changed: draw once after all of it."""
        if not self._redraw_due:
            self._redraw_due = True
            self.call_after_refresh(self._redraw)

    def _redraw(self) -> None:
        self._redraw_due = False
        self.refresh_all()

    def on_screen_resume(self) -> None:
        """The screen is shown (again)."""
        self.call_after_refresh(self.refresh_all)

    def on_descendant_focus(self) -> None:
        """Other keys are valid now."""
        self.call_after_refresh(self.refresh_all)

    def on_descendant_blur(self) -> None:
        """Other keys are valid now."""
        self.call_after_refresh(self.refresh_all)

    def on_click(self, event: Click) -> None:
        """A click on a tab opens its screen."""
        if event.widget is self.query_one("#top") and event.y == 1:
            place = frame.tab_at(self.bench.tabs(), event.x)
            if place is not None:
                self.bench.action_mode(list(self.bench.MODES)[place])

    def action_out(self) -> None:
        """Nothing to leave by default."""
