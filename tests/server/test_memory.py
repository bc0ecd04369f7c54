"""A large mail takes no more memory than a small one: 5 MB, then 50 MB, through a whole server in a fresh process.

In the clear and over TLS.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.certificates import Authority
from tests.server.encrypted import dialogue_over, tls_listener
from tests.support import HEAD, Journal, Line, ScriptedResponder, serving, settings
from trio_fcgimail import fastcgi
from trio_fcgimail.config import TlsMode

MEGABYTE: Final = 1_000_000
SMALL: Final = 5
LARGE: Final = 50
ALLOWED_GROWTH_KIB: Final = 4096  # a tenth of what the larger mail has more
LINE: Final = b"0123456789 & 100% + x; " * 3 + b"\r\n"


@pytest.mark.parametrize("tls", [TlsMode.NONE, TlsMode.IMPLICIT], ids=["in-the-clear", "over-tls"])
def test_memory_does_not_grow_with_the_mail(tls: TlsMode) -> None:
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-m", "tests.server.test_memory", tls.value],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = re.fullmatch(r"peak KiB: (\d+) idle, (\d+) small, (\d+) large\n", run.stdout)
    assert found, run.stdout
    idle, small, large = map(int, found.groups())
    assert large - small <= ALLOWED_GROWTH_KIB, run.stdout
    assert large - idle <= LARGE * MEGABYTE // 1024 // 3, run.stdout  # so that a small mail hides nothing either


def peak_kib() -> int:
    """The most memory that this process ever had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


class Sink:
    """A good save script that keeps nothing."""

    def __init__(self) -> None:
        self.octets = 0

    async def act(self, line: Line) -> None:
        """Count a body, and answer."""
        conn = fastcgi.ResponderConnection()
        self.octets = 0
        while not isinstance(event := conn.next_event(), fastcgi.StdinEnded):
            match event:
                case fastcgi.Signal():
                    conn.receive_data(await line.stream.receive_some(65_536))
                case fastcgi.StdinChunk(data=data):
                    self.octets += len(data)
                case fastcgi.RequestBegun(params=params):
                    declared = int(dict(params)[b"CONTENT_LENGTH"])
                case _:
                    raise AssertionError(event)
        assert self.octets == declared
        await line.write(conn.send_stdout(1, HEAD + b"SAVED") + conn.end_request(1))


async def measure(folder: Path, tls: TlsMode) -> None:
    """Send both mails, and print the peaks."""
    sink = Sink()
    journal = Journal(folder / "log")
    authority = Authority(folder)
    listener = '[[listeners]]\naddress = "127.0.0.1:0"' if tls is TlsMode.NONE else tls_listener(authority, tls)
    config = settings(
        f"""
        limits.message_octets = 0
        spool.directory = "{folder}"
        fastcgi.upstreams = ["unix:{folder}/fcgi.sock"]
        {listener}
        """
    )
    async with trio.open_nursery() as nursery:
        await ScriptedResponder(nursery, sink.act).listen(folder / "fcgi.sock")
        async with serving(config, journal) as served:
            client = await served.dial()
            if tls is TlsMode.IMPLICIT:
                client = dialogue_over(authority.client(client.stream))
            await client.hello()
            peaks = [peak_kib()]
            for megabytes in (SMALL, LARGE):
                await client.begin()
                chunk = LINE * (MEGABYTE // 10 // len(LINE))
                for _ in range(10 * megabytes):
                    await client.send(chunk)
                assert (await client.ask(b".")).startswith(b"250 2.0.0 OK: queued as ")
                assert sink.octets > 10 * megabytes * len(chunk)
                peaks.append(peak_kib())
        nursery.cancel_scope.cancel()
    journal.file.close()
    print("peak KiB: {} idle, {} small, {} large".format(*peaks))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        trio.run(partial(measure, Path(name), TlsMode(sys.argv[1])))
