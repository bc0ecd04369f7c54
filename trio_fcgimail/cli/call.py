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

from trio_fcgimail.cli.callstage import Asked
from trio_fcgimail.cli.problems import RAN_AND_FAILED, Failure, writing_output
from trio_fcgimail.config import UpstreamAddress
from trio_fcgimail.mail import (
    Answer,
    Field,
    Meaning,
    Stage,
    Unexpected,
    Verdict,
    failed,
    get_parameters,
    judge,
    post_parameters,
)
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


def asked_by_hand(
    script: str, fields: Sequence[Field], post: BufferedIOBase | None, *, stage: Stage, hostname: str, content_type: str
) -> Asked:
    """The request with these fields in its query.

    Args:
        post: the body, from where it stands to its end; see :func:`of_known_length`. None for a GET.
    """
    if post is None:
        return Asked(get_parameters(script, fields, hostname=hostname, remote_ip="127.0.0.1"), None, stage)
    octets = max(0, os.fstat(post.fileno()).st_size - post.tell())
    parameters = post_parameters(
        script, octets, hostname=hostname, remote_ip="127.0.0.1", fields=fields, content_type=content_type
    )
    return Asked(parameters, Body(octets, partial(_pieces, post, post.tell(), octets)), stage)


async def call_script(address: UpstreamAddress, asked: Asked, *, seconds: float, connect: Connect = connect) -> int:
    """Make the request and print what came back, and what it would mean; returns the exit code.

    Args:
        seconds: for all of it.

    Raises:
        Failure: standard output cannot be written.
    """
    began = trio.current_time()
    connected: float | None = None
    answer: Answer | UpstreamError | OSError
    try:
        stream = await connect(address, seconds=seconds)
        connected = trio.current_time()
        left = max(0.0, round(seconds - (connected - began), 3))  # round, as it is shown
        answer = await request(stream, asked.parameters, asked.body, seconds=left, max_output_octets=_MAX_OUTPUT_OCTETS)
    except (UpstreamError, OSError) as exc:
        answer = exc
    took = 1000 * (trio.current_time() - began)
    to_connect = "not connected" if connected is None else f"{1000 * (connected - began):.1f} of them to connect"
    if isinstance(answer, Answer):
        with writing_output():
            _show(answer)
        click.echo(f"{took:.1f} ms, {to_connect}; appStatus {answer.app_status}", err=True)
        click.echo(_verdict(asked, answer), err=True)
        return 0 if 200 <= answer.status <= 299 else RAN_AND_FAILED
    if isinstance(answer, UpstreamError):
        _show_stderr(answer.stderr)
    click.echo(f"trio_fcgimail: {answer}", err=True)
    click.echo(f"{took:.1f} ms, {to_connect}", err=True)
    click.echo(_told(asked.stage, failed(str(answer), asked.stage)), err=True)
    return RAN_AND_FAILED


def _verdict(asked: Asked, answer: Answer) -> str:
    """What the server would make of it."""
    return _told(asked.stage, judge(asked.stage, answer, unexpected=Unexpected.TEMPFAIL, queue_id=asked.queue_id))


def _told(stage: Stage, verdict: Verdict) -> str:
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
    if answer.output and not answer.output.endswith(b"\n"):
        click.echo(err=True)
    _show_stderr(answer.stderr)


def _show_stderr(stderr: bytes) -> None:
    if stderr:
        err = sys.stderr.buffer
        err.write(stderr + (b"" if stderr.endswith(b"\n") else b"\n"))
        err.flush()
