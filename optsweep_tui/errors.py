"""What a user can mend: OptsweepError and its few children; the CLI prints it as one line and exits 2."""

from __future__ import annotations

from collections.abc import Iterable


class OptsweepError(Exception):
    """A user's mistake or bad input: what, where, why, and the next step."""

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        message = " ".join(self.message.split()).rstrip(".")
        if not self.hint:
            return message
        end = "" if message.endswith("?") else "."
        return f"{message}{end} {' '.join(self.hint.split())}"


class Interrupted(Exception):
    """The user pressed Ctrl-C and was told what becomes of the runs: exit code 130, nothing more to say."""


class StoreLocked(OptsweepError):
    """Another process holds results.duckdb."""


class UnknownName(OptsweepError):
    """A name that no catalogue holds, with the nearest one that it does."""

    def __init__(self, kind: str, name: str, known: Iterable[str], where: str = "", hint: str = "") -> None:
        import difflib  # 3 ms that only a typo pays

        names = list(known)
        near = difflib.get_close_matches(name.lower(), [entry.lower() for entry in names], n=1, cutoff=0.5)
        if not near and not hint and len(names) <= 8:
            hint = f"known: {', '.join(names)}"
        match = next((entry for entry in names if near and entry.lower() == near[0]), None)
        guess = f'; did you mean "{match}"?' if match else ""
        place = f"{where}: " if where else ""
        super().__init__(f'{place}{kind} "{name}" is not known{guess}', hint)
