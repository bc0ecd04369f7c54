"""An embedded responder on a real unix socket, and what a client of it needs."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio

from trio_fcgimail.config import UnixAddress
from trio_fcgimail.demo.responder import Responder, ResponderLimits
from trio_fcgimail.mail import Answer, Parameter, encode_fields, post_parameters
from trio_fcgimail.server.maildir import Maildir
from trio_fcgimail.server.upstream import Body, connect, request

#: Longer than any of these tests takes, also on a busy machine.
SECONDS: Final = 30
DIGEST: Final = "0123456789abcdef" * 4


@dataclass(frozen=True, slots=True)
class RunningResponder:
    """Where it listens, and where it stores."""

    socket: Path
    maildir: Path

    async def connect(self) -> trio.SocketStream:
        return await connect(UnixAddress(str(self.socket)), seconds=SECONDS)

    async def call(self, parameters: list[Parameter], body: bytes | None = None) -> Answer:
        return await request(
            await self.connect(),
            parameters,
            None if body is None else Body(len(body), partial(pieces, body)),
            seconds=SECONDS,
        )

    async def save(self, body: bytes, **other: str) -> Answer:
        """POST a form as the server does; ``other`` replaces fields."""
        fields = {"mail_digest": DIGEST, "size": str(len(body)), "stage": "save"} | other
        form = encode_body(body) + b"&" + encode_fields(tuple(fields.items()))
        return await self.call(save_parameters(len(form)), form)

    def stored(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted((self.maildir / "new").glob("*"))]

    def drafts(self) -> list[Path]:
        return list((self.maildir / "tmp").glob("*"))


@asynccontextmanager
async def running(folder: Path, limits: ResponderLimits | None = None) -> AsyncIterator[RunningResponder]:
    maildir = Maildir(folder / "Maildir", host="mx.example.com")
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    responder = Responder(maildir, log=log, limits=limits or ResponderLimits())
    async with trio.open_nursery() as nursery:
        await nursery.start(responder.run, folder / "s")
        yield RunningResponder(folder / "s", folder / "Maildir")
        nursery.cancel_scope.cancel()


async def pieces(body: bytes) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(body), 50_000):
        yield body[start : start + 50_000]


def encode_body(body: bytes) -> bytes:
    return b"body=" + body.replace(b"%", b"%25").replace(b"&", b"%26").replace(b"+", b"%2B")


def save_parameters(octets: int, *without: bytes, replaced: Iterable[Parameter] = ()) -> list[Parameter]:
    parameters = post_parameters("/embedded/save", octets, hostname="mx.example.com", remote_ip="127.0.0.1")
    both = dict(parameters) | dict(replaced)
    return [(name, value) for name, value in both.items() if name not in without]
