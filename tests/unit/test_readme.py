"""The README keeps its word: its tree is the modules' own docstrings, its commands exist, its pictures are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SOURCES = {"optsweep_tui/": ROOT / "optsweep_tui", "engines/optsweep_engines/": ROOT / "engines" / "optsweep_engines"}


def first_sentence(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text()))
    assert doc, f"{path} has no docstring"
    return doc.splitlines()[0].rstrip(".")


def expected_tree() -> str:
    """The lines that the README must hold, one per module and package."""
    lines = []
    for name, folder in SOURCES.items():
        lines.append(f"{name:<24}{first_sentence(folder / '__init__.py')}")
        for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
            if path.is_dir() and (path / "__init__.py").exists():
                lines.append(f"  {path.name + '/':<22}{first_sentence(path / '__init__.py')}")
            elif path.suffix == ".py" and not path.name.startswith("__"):
                lines.append(f"  {path.name:<22}{first_sentence(path)}")
    return "\n".join(lines)


def test_the_tree_in_the_readme_repeats_the_docstrings() -> None:
    assert expected_tree() in README, f"README.md should hold this tree:\n{expected_tree()}"


def test_every_command_in_the_readme_exists() -> None:
    from optsweep_tui.cli import root

    verbs = set(root.VERBS)
    used = set(re.findall(r"^\s*(?:\$ )?optsweep ([a-z]+)", README, flags=re.MULTILINE))
    assert used, "the README shows no command"
    assert used <= verbs, f"not commands: {sorted(used - verbs)}"


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    used = set(re.findall(r"make ([a-z]+)", README))
    assert {"quickstart", "test"} <= used <= targets


def test_every_link_into_the_repository_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_every_module_starts_with_a_docstring() -> None:
    for folder in SOURCES.values():
        for path in folder.rglob("*.py"):
            if path.read_text().strip():
                first_sentence(path)
