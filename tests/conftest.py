"""Shared fixtures, and what happens when a tool of the system is missing: skip for a user, fail in CI."""

from __future__ import annotations

import os
import shutil
import signal

import pytest


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
