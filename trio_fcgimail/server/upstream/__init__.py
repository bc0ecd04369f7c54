"""The FastCGI client on Trio: connect, send all of a request, read while writing."""

from trio_fcgimail.server.upstream.connecting import Connect, connect, has_input
from trio_fcgimail.server.upstream.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnexecuted,
)
from trio_fcgimail.server.upstream.exchange import exchange, request
from trio_fcgimail.server.upstream.model import Body, CleanEnd, Reply

__all__ = [
    "Body",
    "CleanEnd",
    "Connect",
    "Reply",
    "UpstreamBroken",
    "UpstreamError",
    "UpstreamTimeout",
    "UpstreamUnavailable",
    "UpstreamUnexecuted",
    "connect",
    "exchange",
    "has_input",
    "request",
]
