"""What ``call`` asks when it asks as a stage does: what the server would send, some of it given by hand."""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BufferedIOBase
from typing import Final, assert_never, final

import trio

from trio_fcgimail.cli.problems import Failure
from trio_fcgimail.mail import (
    BOUNDARY_RANDOM_OCTETS,
    BodyKind,
    BodyLines,
    Envelope,
    Field,
    Parameter,
    Peer,
    Session,
    Stage,
    mail_fields,
    new_queue_id,
    post_parameters,
    received_header,
    session_fields,
    validate_fields,
)
from trio_fcgimail.server.message import IncomingMessage
from trio_fcgimail.server.spool import SpoolFullError, SpoolRoom
from trio_fcgimail.server.upstream import Body
from trio_fcgimail.smtp import GreetingWord, LocalProtocolError, Mailbox

MAIL_FIELDS: Final = ("helo", "mail_from", "rcpt_to", "remote_ip")  # that can be given beside a mail
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_BLOCK_OCTETS: Final = 65_536
_MEMORY_OCTETS: Final = 262_144


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is ready to be sent.

    Args:
        stage: what the answer is judged as.
        queue_id: the mail's, as far as there is one.
    """

    parameters: Sequence[Parameter]
    body: Body | None
    stage: Stage
    queue_id: str = "ID"


def stage_fields(stage: Stage, given: Sequence[Field], *, hostname: str) -> list[Field]:
    """The fields of a stage before save: what was given, and for the others what a local client would bring about."""
    session = Session(Peer("127.0.0.1", 0), GreetingWord.EHLO, hostname)
    envelope = Envelope(queue_id="call", session=session, mail_from=None)
    match stage:
        case Stage.CONNECT:
            fields = session_fields(Session(session.peer), stage.value)
        case Stage.HELO:
            fields = session_fields(session, stage.value)
        case Stage.AUTH:
            fields = [*session_fields(session, stage.value), ("auth_mechanism", "PLAIN")]
        case Stage.MAIL:
            fields = mail_fields(envelope)
        case Stage.VALIDATE:
            fields = validate_fields(envelope, Mailbox("postmaster", hostname))
        case Stage.SAVE:
            fields = [("stage", stage.value)]  # the others are of a mail, and there is none
        case _:
            assert_never(stage)
    names = {name for name, _ in given}
    return sorted([*((name, value) for name, value in fields if name not in names), *given])


@asynccontextmanager
async def mail_asked(
    script: str, file: BufferedIOBase, given: Sequence[Field], kind: BodyKind, lines: BodyLines, *, hostname: str
) -> AsyncIterator[Asked]:
    """The request that hands a mail to a save script, for as long as this lasts.

    Args:
        file: the mail; its lines may end in LF, as they do in files.
        given: of MAIL_FIELDS; ``rcpt_to`` as often as there are recipients.

    Raises:
        Failure: a field cannot be, or the file cannot be read.
    """
    envelope = _envelope(given, hostname)
    room = SpoolRoom(directory=None, memory_octets=_MEMORY_OCTETS, total_octets=None)
    message = IncomingMessage(envelope, room, lines, kind)
    try:
        await message.add_trace(received_header(envelope, hostname=hostname, now=datetime.now(UTC)))
        await _read(file, message)
        asked = message.save_request(os.urandom(BOUNDARY_RANDOM_OCTETS))
        body = message.body(asked)
        parameters = post_parameters(
            script,
            body.octets,
            hostname=hostname,
            remote_ip=envelope.session.peer.ip,
            fields=asked.query,
            content_type=asked.content_type,
            more=asked.parameters,
        )
        yield Asked(parameters, body, Stage.SAVE, envelope.queue_id)
    finally:
        message.close()


async def _read(file: BufferedIOBase, message: IncomingMessage) -> None:
    source = trio.wrap_file(file)
    held = b""  # a CR whose LF may follow
    try:
        while piece := await source.read(_BLOCK_OCTETS):
            piece, held = held + piece, b""
            if piece.endswith(b"\r"):
                piece, held = piece[:-1], b"\r"
            await message.add(_BARE_LF.sub(b"\r\n", piece))
        if held:
            await message.add(held)
    except (OSError, SpoolFullError) as exc:
        raise Failure(f"cannot read the mail: {exc}") from exc


def _envelope(given: Sequence[Field], hostname: str) -> Envelope:
    fields = dict(given)
    sender = fields.get("mail_from", f"postmaster@{hostname}")
    recipients = [value for name, value in given if name == "rcpt_to"] or [f"postmaster@{hostname}"]
    session = Session(Peer(fields.get("remote_ip", "127.0.0.1"), 0), GreetingWord.EHLO, fields.get("helo", hostname))
    return Envelope(
        queue_id=new_queue_id(time.time_ns() // 1000, os.urandom(5)),
        session=session,
        mail_from=_mailbox(sender) if sender else None,
        recipients=tuple(map(_mailbox, recipients)),
        smtputf8=not "".join([sender, *recipients]).isascii(),
    )


def _mailbox(text: str) -> Mailbox:
    local, at, domain = text.rpartition("@")
    try:
        return Mailbox(local, domain) if at else Mailbox(text, None)
    except LocalProtocolError as exc:
        raise Failure(f"{text!r} is no address: {exc}") from exc
