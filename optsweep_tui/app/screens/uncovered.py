"""A screen that draws again what a toast has covered, once the toast is gone."""

from __future__ import annotations

from textual.geometry import Size
from textual.screen import Screen, ScreenResultType
from textual.widgets._toast import Toast


class Uncovered(Screen[ScreenResultType]):
    """Textual 8.2 forgets where toasts stood that it had scrolled for want of room, and leaves their picture on the terminal."""

    _toasts = 0
    """That were on the screen at the last layout."""

    def _refresh_layout(self, size: Size | None = None, scroll: bool = False) -> None:
        """Lay out; where toasts have gone since the last time, everything is compared with what the terminal shows."""
        toasts = len(self.query(Toast))
        if toasts < self._toasts and self.size:
            self._compositor._dirty_regions.add(self.size.region)
        self._toasts = toasts
        super()._refresh_layout(size, scroll)
