"""Shared fixtures, and what happens when a tool of the system is missing: skip for a user, fail in CI."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

ONE_AT_A_TIME = ("app/test_tmux.py", "app/test_bytes.py", "e2e/", "cli/test_trouble.py")
"""Tests that draw, kill or sweep against the clock: beside the others, but never two of them at once."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups of `--dist loadgroup`: each file one, the tests of ONE_AT_A_TIME together one."""
    here = Path(__file__).parent
    for item in items:
        name = item.path.relative_to(here).as_posix() if item.path.is_relative_to(here) else item.path.name
        item.add_marker(pytest.mark.xdist_group("one at a time" if name.startswith(ONE_AT_A_TIME) else name))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Enforce `@pytest.mark.system("tool")`."""
    for mark in item.iter_markers("system"):
        tool = str(mark.args[0])
        path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
        if shutil.which(tool, path=path) is None:
            line = f"{tool} is not installed: make deps installs it where it may"
            if os.environ.get("CI"):
                pytest.fail(line)
            pytest.skip(line)


def pytest_sessionstart() -> None:
    """A shell starts its background jobs with Ctrl-C ignored, and children inherit that: the tests of Ctrl-C need it back."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
