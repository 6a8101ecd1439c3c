"""What screens with live charts share: the keys and the mouse of one, two or four charts on one x axis."""

from __future__ import annotations

from textual.events import MouseDown, MouseEvent, MouseScrollDown, MouseScrollUp, MouseUp

from optsweep_tui.app.screens.charts_draw import ChartDrawing
from optsweep_tui.app.views import grid
from optsweep_tui.app.views.chart import ZOOM
from optsweep_tui.charts import raster

DRAG_COLUMNS = 2
"""A mouse that was moved by less between button down and up was clicked."""


class ChartScreen(ChartDrawing):
    """Charts of the runs that `chart_runs` names."""

    _grabbed: tuple[int, int] | None = None
    """Where a drag began."""

    # ------------------------------------------------------------ x axis, for all charts

    def action_axis(self) -> None:
        """tokens, seconds, steps, FLOPs."""
        self.lead.next_axis()
        self.refresh_all()

    def action_log(self, axis: str) -> None:
        """Logarithmic or linear: x of all charts, y of this one."""
        (self.lead if axis == "x" else self.model).toggle_log(axis)
        self.refresh_all()

    def action_smooth(self, direction: int) -> None:
        """Smoother or rougher."""
        self.lead.smoother(self.longest(), direction)
        self.refresh_all()

    def action_zoom(self, direction: int) -> None:
        """In or out, around the crosshair or the newest data."""
        self.lead.zoom(ZOOM if direction < 0 else 1 / ZOOM)
        self.refresh_all()

    def action_reset(self) -> None:
        """Show everything."""
        for model in self.models:
            model.reset()
        self.refresh_all()

    def action_crosshair(self) -> None:
        """On or off."""
        self.lead.crosshair = 0.5 if self.lead.crosshair is None else None
        self.refresh_all()

    def action_pan(self, columns: int) -> None:
        """Move the crosshair, or the window."""
        self.lead.pan(columns)
        self.refresh_all()

    def action_out(self) -> None:
        """Esc puts the crosshair away, then the zoom."""
        lead = self.lead
        if lead.crosshair is not None:
            lead.crosshair = None
        elif lead.window != (0.0, 1.0):
            lead.reset()
        self.refresh_all()

    # ------------------------------------------------------------ one chart

    def action_metric(self, step: int) -> None:
        """The next metric that any of the runs has."""
        known = self.known_metrics()
        if known:
            place = known.index(self.model.metric) if self.model.metric in known else (-1 if step > 0 else 0)
            self.model.metric = known[(place + step) % len(known)]
            self.metric_chosen = True
            self.model.forget_scale()
            self.refresh_all()

    def action_whole_y(self) -> None:
        """Let the first steps count for y, or not."""
        self.model.whole_y = not self.model.whole_y
        self.model.forget_scale()
        self.refresh_all()

    def action_charts(self) -> None:
        """One, two or four."""
        self.count = grid.COUNTS[(grid.COUNTS.index(self.count) + 1) % len(grid.COUNTS)]
        if self.count > 1:
            self._spread_metrics()
        for model in self.models:
            model.forget_scale()
        self.refresh_all()
        if self.charts_shown() and len(self.places) < self.count:
            self.notify(f"there is room for {len(self.places)} of {self.count} charts: make the window larger")

    def _spread_metrics(self) -> None:
        """No two charts with the same metric, where the runs have as many."""
        known = self.known_metrics()
        taken = [self.lead.metric]
        for model in self.models[1:]:
            if model.metric in taken or (known and model.metric not in known):
                model.metric = next((name for name in known if name not in taken), model.metric)
            taken.append(model.metric)

    def action_next_chart(self, step: int) -> None:
        """Which chart m, L and a are about."""
        if self.charts_shown() and self.places:
            self.focus_on = (self._focused() + step) % len(self.places)
            self.refresh_all()

    # ------------------------------------------------------------ mouse

    def _part(self, x: int, y: int) -> float | None:
        """Place 0..1 in the visible part of x of the chart that is there; the chart gets the keys."""
        for number, (place, (model, _)) in enumerate(zip(self.places, self.seen, strict=False)):
            if place.holds(x, y) and model.view is not None:
                self.focus_on = number
                return (x - place.x - raster.GUTTER + 0.5) / raster.plot_size(model.view)[0]
        return None

    def on_mouse_down(self, event: MouseDown) -> None:
        """Where a drag begins."""
        self._grabbed = self._inside(event, "#chart") if self.charts_shown() else None
        if self._grabbed:
            self.query_one("#chart").capture_mouse()

    def _inside(self, event: MouseEvent, name: str) -> tuple[int, int] | None:
        """Column and row of the mouse in one of the views; None where it is elsewhere."""
        region = self.query_one(name).region
        x, y = int(event.screen_x), int(event.screen_y)
        return (x - region.x, y - region.y) if region.contains(x, y) else None

    def on_mouse_up(self, event: MouseUp) -> None:
        """A click puts the crosshair there; a drag shows what it was drawn over."""
        grabbed, self._grabbed = self._grabbed, None
        if grabbed is None:
            return
        chart = self.query_one("#chart")
        chart.release_mouse()
        first = self._part(*grabbed)
        if first is None:
            return
        moved = int(event.screen_x) - chart.region.x - grabbed[0]
        view = self.lead.view
        last = first + moved / (raster.plot_size(view)[0] if view else 1)
        if abs(moved) < DRAG_COLUMNS:
            self.lead.crosshair = min(1.0, max(0.0, first))
        else:
            self.lead.select(first, last)
        self.refresh_all()

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        """The wheel zooms where the mouse is, with shift it moves; over the panel it scrolls."""
        self._wheel(event, -1)

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        """The other way."""
        self._wheel(event, 1)

    def _wheel(self, event: MouseScrollUp | MouseScrollDown, direction: int) -> None:
        where = self._inside(event, "#chart")
        if where is None or not self.charts_shown():
            self.wheel_elsewhere(direction)
            return
        part = self._part(*where)
        if part is None:
            return
        if event.shift or event.ctrl:
            self.lead.move(0.1 * direction)
        else:
            self.lead.zoom(ZOOM if direction < 0 else 1 / ZOOM, min(1.0, max(0.0, part)))
        self.refresh_all()
