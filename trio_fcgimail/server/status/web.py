"""What is answered to HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import structlog.typing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from trio_fcgimail.server.status.exposition import render
from trio_fcgimail.server.status.guard import Guard
from trio_fcgimail.server.status.monitor import Monitor

_FOLDER: Final = Path(__file__).parent / "page"
_PAGE: Final = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_MAX_NUMBER: Final = 1 << 53


def make_app(monitor: Monitor, password: str | None, log: structlog.typing.FilteringBoundLogger) -> ASGIApp:
    """The application.

    Args:
        password: None for no password.
    """

    async def metrics(request: Request) -> Response:
        page, content_type = render(monitor.samples.items(), request.headers.get("accept", ""))
        return Response(page, headers={"content-type": content_type})

    async def health(_: Request) -> Response:
        return _yes_or_no(monitor.is_alive)

    async def readiness(_: Request) -> Response:
        return _yes_or_no(await monitor.is_ready())

    async def state(request: Request) -> Response:
        query = request.query_params
        view = monitor.view(_number(query.get("moment")), _number(query.get("mail")))
        return Response(msgspec.json.encode(view), media_type="application/json")

    routes = [
        Route("/metrics", metrics),
        Route("/healthz", health),
        Route("/readyz", readiness),
        Route("/state.json", state),
        *(_file(path, *named) for path, named in _PAGE.items()),
    ]
    return Guard(Starlette(routes=routes), password, log)


def _yes_or_no(is_good: bool) -> Response:
    return PlainTextResponse("ok\n") if is_good else PlainTextResponse("no\n", 503)


def _number(text: str | None) -> int:
    """A number of the page; whatever is none means that it has nothing yet."""
    return (
        int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < len(str(_MAX_NUMBER)) else 0
    )


def _file(path: str, name: str, content_type: str) -> Route:
    content = (_FOLDER / name).read_bytes()

    async def give(_: Request) -> Response:
        return Response(content, headers={"content-type": content_type})

    return Route(path, give)
