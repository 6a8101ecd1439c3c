"""The report of a study: one self-contained HTML page, or a Markdown file, made of the answers of the other verbs."""

from __future__ import annotations

from optsweep_tui.report.parts import Parts, Picture
from optsweep_tui.report.render import FORMATS, rendered

__all__ = ["FORMATS", "Parts", "Picture", "rendered"]
