"""A file of go-guerrilla, served on real sockets, with a scripted FastCGI responder behind it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from tests.config.guerrilla_files import FASTCGI, text_of
from tests.support import Act, Dialogue, Journal, Line, Request, ScriptedResponder, Served, serving
from trio_fcgimail.config import Configuration, load_configuration

HOSTNAME: Final = "mx.example.com"
QUEUED: Final = b"250 2.0.0 OK: queued as "


def guerrilla_file(
    address: str,
    *,
    backend: Mapping[str, object] | None = None,
    server: Mapping[str, object] | None = None,
    more: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """What stands in a goguerrilla.conf.json.

    Args:
        address: of the FastCGI server, the path of a socket.
        backend: further keys of ``backend_config``; None takes one away.
        server: further keys of the only server.
        more: further keys of the file.
    """
    keys = {**FASTCGI, "fcgi_connection_address": address, **(backend or {})}
    return {
        "allowed_hosts": ["example.com"],
        "log_level": "info",
        "backend_config": {name: value for name, value in keys.items() if value is not None},
        "servers": [
            {"is_enabled": True, "listen_interface": "127.0.0.1:0", "host_name": HOSTNAME, **(server or {})},
        ],
        **(more or {}),
    }


def load(folder: Path, content: Mapping[str, object]) -> Configuration:
    """Read such a file. Raises ConfigErrors."""
    path = folder / "goguerrilla.conf.json"
    path.write_text(text_of(content))
    return load_configuration(path, default_hostname="box.example.org")


@dataclass(slots=True)
class Moved:
    """What runs in the place of go-guerrilla.

    Attributes:
        scripts: what the responder behind it does, and was asked.
    """

    configuration: Configuration
    served: Served
    scripts: ScriptedResponder

    @property
    def mails(self) -> list[Request]:
        """What the save script was given."""
        return [request for request in self.scripts.requests if request.is_post]

    async def guest(self) -> Dialogue:
        """A client that has said EHLO."""
        return await self.served.guest()

    async def told(self, *commands: bytes) -> list[bytes]:
        """The first line of each reply, to a client of its own that has not greeted."""
        client = await self.served.dial()
        await client.reply()
        return [(await client.ask(command)).rstrip() for command in commands]


async def good(line: Line) -> Request:
    """Answer one request as a good script does."""
    request = await line.request()
    await line.answer(b"SAVED" if request.is_post else b"PASSED")
    return request


def only_at(method: str, act: Act) -> Act:
    """Misbehave on requests of one method; the parameters are read by then."""

    async def either(line: Line) -> None:
        params = await line.begun()
        if params["REQUEST_METHOD"] == method:
            await act(line)
        else:
            await line.body()
            await line.answer(b"SAVED" if params["REQUEST_METHOD"] == "POST" else b"PASSED")

    return either


@asynccontextmanager
async def moved(
    folder: Path,
    journal: Journal,
    act: Act | None = None,
    *,
    backend: Mapping[str, object] | None = None,
    server: Mapping[str, object] | None = None,
    more: Mapping[str, object] | None = None,
    wait_seconds: float = 0.5,
) -> AsyncIterator[Moved]:
    """Serve such a file while this lasts.

    Args:
        act: what the responder does; None to do as good scripts do.
        wait_seconds: instead of our default, which no file of theirs can change.
    """
    content = guerrilla_file(str(folder / "fcgi"), backend=backend, server=server, more=more)
    configuration = load(folder, content)
    fastcgi = replace(configuration.settings.fastcgi, wait_seconds=wait_seconds)
    async with trio.open_nursery() as nursery:
        scripts = ScriptedResponder(nursery, act)
        await scripts.listen(folder / "fcgi")
        async with serving(replace(configuration.settings, fastcgi=fastcgi), journal) as served:
            yield Moved(configuration, served, scripts)
        nursery.cancel_scope.cancel()
        (folder / "fcgi").unlink(missing_ok=True)
