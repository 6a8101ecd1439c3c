"""`rendered(parts, "html")`: the parts of a report set in a jinja2 template."""

from __future__ import annotations

import base64
from typing import Any

import jinja2

from optsweep_tui.errors import UnknownName
from optsweep_tui.report import sections
from optsweep_tui.report.parts import Parts
from optsweep_tui.report.tables import Table
from optsweep_tui.report.words import verdict

FORMATS = ("html", "md")


def rendered(parts: Parts, kind: str) -> str:
    """The report as one text, without any reference to another file.

    Args:
        parts: what it says.
        kind: "html" or "md".

    Raises:
        OptsweepError: no such kind.
    """
    if kind not in FORMATS:
        raise UnknownName("report format", kind, FORMATS)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("optsweep_tui.report"),
        autoescape=kind == "html",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["image"] = _image
    environment.filters["markdown"] = _markdown
    return environment.get_template(f"page.{kind}").render(
        parts=parts,
        verdict=verdict(parts),
        head=sections.head(parts),
        answers=sections.answers(parts),
        audits=sections.audits(parts),
        methods=sections.methods(parts),
        appendix=sections.appendix(parts),
    )


def _image(svg: str) -> str:
    """A drawing as the address of an image: drawings cannot then disturb each other or the page."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _markdown(shown: Table) -> str:
    """A table in GitHub's Markdown."""

    def line(cells: Any) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = ["---" if column.align == "left" else "---:" for column in shown.columns]
    return "\n".join([line(column.title for column in shown.columns), line(rule), *(line(row) for row in shown.rows)])
