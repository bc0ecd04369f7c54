"""Who may ask, and what every answer says to browsers."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Iterable
from typing import Final, final

import structlog.typing
import trio
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATHS: Final = ("/healthz", "/readyz")  # which tell nothing but yes or no
WRONG_PASSWORD_SECONDS: Final = 1.0  # ours: a guess a second and connection, of which there are few
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_REALM: Final = {"WWW-Authenticate": 'Basic realm="fcgimail", charset="UTF-8"'}  # RFC 7617 2.1


@final
class Guard:
    """Stands before an application of ASGI.

    Args:
        password: None for no password: then only names of this machine are answered to, so that no page of others can
            have a browser read ours under a name that points here.
        log: told of faults, which end here.
    """

    def __init__(self, app: ASGIApp, password: str | None, log: structlog.typing.FilteringBoundLogger) -> None:
        self._app = app
        self._password = None if password is None else password.encode()
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # hypercorn refuses what nobody accepts

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        refusal = await self._refusal(scope)
        try:
            await (refusal or self._app)(scope, receive, send_with_headers)
        except Exception:  # noqa: BLE001 - one request is lost, and no more
            self._log.exception("status page failed")

    async def _refusal(self, scope: Scope) -> Response | None:
        headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
        given = dict(headers)
        if self._password is None:
            if not is_this_machine(given.get(b"host", b"").decode("latin-1")):
                return PlainTextResponse("Ask for localhost.\n", 403)
        elif scope["path"] not in OPEN_PATHS and not self._is_password(given.get(b"authorization", b"")):
            if b"authorization" in given:
                await trio.sleep(WRONG_PASSWORD_SECONDS)
            return PlainTextResponse("A password is needed.\n", 401, _REALM)
        return None

    def _is_password(self, authorization: bytes) -> bool:
        """Whether that is it; the user may be anybody. It takes as long whatever is wrong with it."""
        scheme, _, encoded = authorization.partition(b" ")
        try:
            _, _, given = base64.b64decode(encoded, validate=True).partition(b":")
        except binascii.Error:
            given = b""
        assert self._password is not None, "asked only where there is one"
        return hmac.compare_digest(given, self._password) and scheme.lower() == b"basic"


def is_this_machine(host: str) -> bool:
    """Whether a Host header names this machine by what points nowhere else: localhost, or a loopback address."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
