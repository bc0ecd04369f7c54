"""``call``: one FastCGI request by hand, as curl would."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BufferedIOBase
from typing import Final

import click
import trio

from trio_fcgimail.cli.problems import RAN_AND_FAILED, Failure, writing_output
from trio_fcgimail.config import UpstreamAddress
from trio_fcgimail.mail import Answer, Field, Meaning, Stage, Unexpected, get_parameters, judge, post_parameters
from trio_fcgimail.mail.request import query_string
from trio_fcgimail.server.upstream import Body, Connect, UpstreamError, connect, request

_MAX_OUTPUT_OCTETS: Final = 64 << 20
_MAX_PIPED_OCTETS: Final = 1 << 30  # ours: what a pipe may put on our disk
_BLOCK_OCTETS: Final = 65_536
_GREETED: Final = (Stage.CONNECT, Stage.HELO)  # whose good reply is the core's own


@contextmanager
def of_known_length(source: BufferedIOBase) -> Iterator[BufferedIOBase]:
    """The file itself when its length is known, else (a pipe, a terminal) a copy of all that can be read from it.

    Raises:
        Failure: it cannot be read, or is larger than 1 GiB.
    """
    facts = os.fstat(source.fileno())
    if stat.S_ISREG(facts.st_mode) and facts.st_size:  # what is computed when it is read (/proc) says 0
        yield source
        return
    with tempfile.TemporaryFile() as copy:
        try:
            while piece := source.read(_BLOCK_OCTETS):
                if copy.tell() + len(piece) > _MAX_PIPED_OCTETS:
                    raise Failure(f"the body is larger than {_MAX_PIPED_OCTETS} octets; post it from a file")
                copy.write(piece)
            copy.seek(0)
        except OSError as exc:
            raise Failure(f"cannot read the body: {exc.strerror}") from exc
        yield copy


@contextmanager
def form_file(fields: Sequence[Field]) -> Iterator[BufferedIOBase]:
    """The fields as a form that can be posted."""
    with tempfile.TemporaryFile() as file:
        file.write(query_string(fields).encode())
        file.seek(0)
        yield file


async def call_script(
    address: UpstreamAddress,
    script: str,
    fields: Sequence[Field],
    post: BufferedIOBase | None,
    *,
    stage: Stage,
    hostname: str,
    content_type: str,
    seconds: float,
    connect: Connect = connect,
) -> int:
    """Make the request and print what came back, and what it would mean; returns the exit code.

    Args:
        stage: what the answer is judged as.
        post: the body, from where it stands to its end; see :func:`of_known_length`. None for a GET.
        seconds: for all of it.

    Raises:
        Failure: standard output cannot be written.
    """
    began = trio.current_time()
    body: Body | None = None
    if post is None:
        parameters = get_parameters(script, fields, hostname=hostname, remote_ip="127.0.0.1")
    else:
        octets = max(0, os.fstat(post.fileno()).st_size - post.tell())
        body = Body(octets, partial(_pieces, post, post.tell(), octets))
        parameters = post_parameters(
            script, octets, hostname=hostname, remote_ip="127.0.0.1", fields=fields, content_type=content_type
        )
    try:
        stream = await connect(address, seconds=seconds)
        connected = trio.current_time()
        left = max(0.0, round(seconds - (trio.current_time() - began), 3))  # round, as it is shown
        answer = await request(stream, parameters, body, seconds=left, max_output_octets=_MAX_OUTPUT_OCTETS)
    except (UpstreamError, OSError) as exc:
        click.echo(f"trio_fcgimail: {exc}", err=True)
        return RAN_AND_FAILED
    whole, to_connect = (1000 * (moment - began) for moment in (trio.current_time(), connected))
    with writing_output():
        _show(answer)
    click.echo(f"{whole:.1f} ms, {to_connect:.1f} of them to connect; appStatus {answer.app_status}", err=True)
    click.echo(_verdict(stage, answer), err=True)
    return 0 if 200 <= answer.status <= 299 else RAN_AND_FAILED


def _verdict(stage: Stage, answer: Answer) -> str:
    """What the server would make of it."""
    verdict = judge(stage, answer, unexpected=Unexpected.TEMPFAIL, queue_id="ID")
    reply = "greeted" if verdict.meaning is Meaning.ACCEPTED and stage in _GREETED else verdict.reply.text
    why = f" ({verdict.reason})" if verdict.meaning is Meaning.FAILED else ""
    return f"as {stage.value}: {verdict.meaning.value}, {reply}{why}"


async def _pieces(source: BufferedIOBase, start: int, octets: int) -> AsyncGenerator[bytes, None]:
    """The file as long as it was when its length was told; one that grows meanwhile is cut there."""
    file = trio.wrap_file(source)
    await file.seek(start)
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
