"""What earlier phases of a study decide for later ones: which knobs are still worth a sweep, and from where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optsweep_tui.tune.whole import Advice

if TYPE_CHECKING:
    from optsweep_tui.tune.session import Session


def adviser(session: Session) -> Advice | None:
    """The decisions of a three-phase study; None for a tuning of one phase."""
    return None
