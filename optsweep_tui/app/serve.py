"""The app in a browser of this machine, through textual-serve: loopback only, and only for who has the address it prints."""

from __future__ import annotations

import ipaddress
import re
import secrets
import shlex
import sys
from collections.abc import Awaitable, Callable

from aiohttp import web
from rich.console import Console
from textual_serve.server import Server

from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

COOKIE = "optsweep_token"
_REMOTE = re.compile(r"<link[^>]*https?://(?!127\.|localhost)[^>]*>", re.DOTALL)
"""textual-serve's page asks another company's server for a font: nothing here may."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def checked_host(host: str) -> str:
    """The host, if it is this machine and nothing else.

    Raises:
        OptsweepError: it is not, with the reason.
    """
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if loopback:
        return host
    raise OptsweepError(
        f"--host {host}: the app is served on loopback only, for it starts and cancels runs without asking for a password",
        "from another machine: ssh -L 8000:127.0.0.1:8000 THIS_MACHINE, then open the address there",
    )


class LocalServer(Server):
    """Serves the app to browsers of this machine that know the token."""

    def __init__(self, command: str, host: str, port: int, token: str) -> None:
        super().__init__(command, host=host, port=port, title="optsweep")
        name = f"[{host}]" if ":" in host else host
        self.public_url = f"http://{name}:{port}"
        self.console = Console(quiet=True)
        self._token = token

    @property
    def address(self) -> str:
        """What to open."""
        return f"{self.public_url}/?token={self._token}"

    def initialize_logging(self) -> None:
        """Nothing beside what we say ourselves."""

    async def _make_app(self) -> web.Application:
        made = await super()._make_app()
        made.middlewares.append(self._guard)
        return made

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Other pages and other users of the machine stay out.

        A page from elsewhere may open sockets to loopback: the Host and Origin headers tell it (no DNS rebinding, no
        cross-site sockets). Another user of this machine may as well: the token keeps him out.
        """
        here = self.public_url.removeprefix("http://")
        if request.headers.get("Host") != here or request.headers.get("Origin", self.public_url) != self.public_url:
            raise web.HTTPForbidden(text=f"open {self.public_url} and nothing else\n")
        given = request.query.get("token") or request.cookies.get(COOKIE, "")
        if not secrets.compare_digest(given.encode(), self._token.encode()):
            raise web.HTTPForbidden(text="open the whole address that optsweep tui --serve printed, token included\n")
        response = await handler(request)
        if request.path == "/" and isinstance(response, web.Response) and response.text:
            response.text = _REMOTE.sub("", response.text)
            sockets = self.public_url.replace("http", "ws", 1)
            policy = f"default-src 'self' 'unsafe-inline' data:; connect-src {self.public_url} {sockets}"
            response.headers["Content-Security-Policy"] = policy
            response.headers["Referrer-Policy"] = "no-referrer"
            response.set_cookie(COOKIE, self._token, httponly=True, samesite="Strict")
        return response


def serve(workspace: Workspace, host: str, port: int, say: Callable[[str], None], slow_link: bool = False) -> None:
    """Serve until Ctrl-C; each browser window is an app of its own.

    Args:
        say: called with the address once it is known.

    Raises:
        OptsweepError: not loopback, or the port is taken.
    """
    checked_host(host)
    words = [sys.executable, "-m", "optsweep_tui", "tui", "--served", "-w", str(workspace.root)]
    server = LocalServer(
        shlex.join([*words, *(["--slow-link"] if slow_link else [])]), host, port, secrets.token_urlsafe(16)
    )
    say(f"open {server.address}   (Ctrl-C ends it)")
    try:
        server.serve()
    except OSError as error:
        raise OptsweepError(f"{host}:{port} cannot be used: {error.strerror}", "choose another with --port") from None
