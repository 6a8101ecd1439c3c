"""`optsweep report`: one page that stands alone, in both formats; nothing is overwritten unasked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.workbench import optsweep
from tests.unit.test_report import checked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("published")
    optsweep("import", "reference", workspace=workspace)
    return workspace


def test_the_published_study_on_one_page(published: Path, tmp_path: Path) -> None:
    target = tmp_path / "study.html"
    asked = ["report", "--study", "reference", "-m", "130m", "-o", "adamw,muon,lion", "--out", str(target)]
    document = json.loads(optsweep(*asked, "--json", workspace=published).stdout)
    page = target.read_text()
    assert document == {"path": str(target), "study": "reference", "format": "html", "bytes": len(page.encode())}
    found = checked(page)
    text = "".join(found.text)
    assert all(address.startswith("data:image/svg+xml") for address in found.addresses) and len(found.addresses) >= 4
    rows = json.loads(optsweep("speedup", "--study", "reference", "-m", "130m", "--json", workspace=published).stdout)
    for row in rows:
        if row["optimizer"] in ("muon", "lion"):
            assert f"{row['speedup']:.2f}x [{row['low']:.2f}, {row['high']:.2f}]" in text, row["number_id"]
    for title in (
        "Verdict",
        "Fairness",
        "Grid edges",
        "Rules for the next size",
        "Rank flips",
        "Methods",
        "Provenance",
    ):
        assert title in text
    again = optsweep(*asked, workspace=published, check=False)
    assert again.returncode == 2 and "exists already" in again.stderr and target.read_text() == page


def test_a_finished_sweep_as_markdown(swept: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny.md"
    assert optsweep("report", "--out", str(target), workspace=swept).stdout.strip() == str(target)
    text = target.read_text()
    assert text.startswith("# tiny") and "a curve needs 3" in text and "| muon |" in text
    assert "76137d97" in text, "the data's hash is part of the provenance"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--out", "page.docx"], ".html or .md"),
        (["--out", "missing/page.html"], "cannot be written"),
        (["--study", "tinny"], 'did you mean "tiny"?'),
        (["-m", "130m"], "selection is empty"),
        (["--sigma", "-1"], "--sigma"),
    ],
)
def test_what_cannot_be_reported_is_one_line(asked: list[str], said: str, swept: Path) -> None:
    result = optsweep("report", *asked, workspace=swept, check=False)
    assert result.returncode == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1
