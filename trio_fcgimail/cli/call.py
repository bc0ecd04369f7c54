"""``call``: one FastCGI request by hand, as curl would."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Final

import click
import trio

from trio_fcgimail.cli.problems import RAN_AND_FAILED
from trio_fcgimail.config import UpstreamAddress
from trio_fcgimail.mail import Answer, Field, get_parameters, post_parameters
from trio_fcgimail.server.upstream import Body, UpstreamError, connect, request

_MAX_OUTPUT_OCTETS: Final = 64 << 20
_BLOCK_OCTETS: Final = 65_536


async def call_script(
    address: UpstreamAddress,
    script: str,
    fields: Sequence[Field],
    post: Path | None,
    *,
    content_type: str,
    seconds: float,
) -> int:
    """Make the request and print what came back; returns the exit code."""
    began = trio.current_time()
    try:
        answer = await _request(address, script, fields, post, content_type, seconds)
    except (UpstreamError, OSError) as exc:
        click.echo(f"trio_fcgimail: {exc}", err=True)
        return RAN_AND_FAILED
    milliseconds = 1000 * (trio.current_time() - began)
    _show(answer)
    click.echo(f"{milliseconds:.1f} ms, appStatus {answer.app_status}", err=True)
    return 0 if 200 <= answer.status <= 299 else RAN_AND_FAILED


async def _request(
    address: UpstreamAddress,
    script: str,
    fields: Sequence[Field],
    post: Path | None,
    content_type: str,
    seconds: float,
) -> Answer:
    hostname = socket.gethostname()
    body: Body | None = None
    if post is None:
        parameters = get_parameters(script, fields, hostname=hostname, remote_ip="127.0.0.1")
    else:
        octets = (await trio.Path(post).stat()).st_size
        body = Body(octets, _pieces(post, octets))
        parameters = post_parameters(
            script, octets, hostname=hostname, remote_ip="127.0.0.1", fields=fields, content_type=content_type
        )
    stream = await connect(address, seconds=seconds)
    return await request(stream, parameters, body, seconds=seconds, max_output_octets=_MAX_OUTPUT_OCTETS)


async def _pieces(path: Path, octets: int) -> AsyncGenerator[bytes, None]:
    """The file as long as it was when its length was told; one that grows meanwhile is cut there."""
    async with await trio.open_file(path, "rb") as file:
        while octets and (piece := await file.read(min(_BLOCK_OCTETS, octets))):
            octets -= len(piece)
            yield piece


def _show(answer: Answer) -> None:
    """Head and body to standard output as they are, STDERR to standard error."""
    out = sys.stdout.buffer
    out.write(b"Status: %d\r\n" % answer.status)
    for name, value in answer.headers:
        out.write(name + b": " + value + b"\r\n")
    out.write(b"\r\n" + answer.output)
    out.flush()
    if answer.stderr:
        err = sys.stderr.buffer
        err.write((b"" if not answer.output or answer.output.endswith(b"\n") else b"\n") + answer.stderr)
        err.write(b"" if answer.stderr.endswith(b"\n") else b"\n")
        err.flush()
    elif answer.output and not answer.output.endswith(b"\n"):
        click.echo(err=True)
