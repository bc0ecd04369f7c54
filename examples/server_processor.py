"""Processors of one's own: a function that refuses mails, a class that knows users, a class that stores.

    python examples/server_processor.py FOLDER [PORT]

Takes mail for alice and bob at example.com on 127.0.0.1, port 2525 unless another is named, and stores each in FOLDER,
as a file that is named for its digest. A mail without a subject is refused. The first line tells the address. SIGINT
and SIGTERM end it.
"""

import contextlib
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import BinaryIO

import trio

from trio_fcgimail import (
    Context,
    EnhancedCode,
    Envelope,
    GoOn,
    Mail,
    Mailbox,
    Processor,
    ProcessorSource,
    RecipientAnswer,
    Refused,
    Reply,
    SaveAnswer,
    Stored,
    make_settings,
    serve,
)

NO_SUBJECT = Reply(550, EnhancedCode(5, 7, 1), ("A mail needs a subject",))
NO_SUCH_USER = Reply(550, EnhancedCode(5, 1, 1), ("Nobody here of that name",))
SAVE = ["HeadersParser", "subject", "Header", "archive"]


async def subject(mail: Mail) -> SaveAnswer | None:
    """An async function is a processor that saves. None, like GoOn(), has the next one asked."""
    return None if mail.header.subject else Refused(NO_SUBJECT)


class Users(Processor):
    """Asked at RCPT, as it stands in the validate list."""

    async def validate(self, envelope: Envelope, recipient: Mailbox) -> RecipientAnswer:
        known = recipient.local_part.lower() in ("alice", "bob")
        return GoOn(f"for {envelope.sender}") if known else Refused(NO_SUCH_USER)


class Archive(Processor):
    """Stores mails in a folder. With a database it is the same: connect in set_up, close in tear_down."""

    def __init__(self, folder: Path) -> None:
        self.folder = trio.Path(folder)

    async def set_up(self, context: Context) -> None:
        await self.folder.mkdir(exist_ok=True)  # an exception here ends the start
        context.log.info("archive is open", folder=str(self.folder))

    async def tear_down(self) -> None:
        for draft in await self.folder.glob("*.tmp"):
            await draft.unlink()

    async def save(self, mail: Mail) -> SaveAnswer:
        path = self.folder / f"{mail.digest}.eml"
        if await path.exists():  # the sender did not get our 250, and tries again
            return Stored(note="known")
        draft = self.folder / f"{mail.envelope.queue_id}.tmp"
        async with await draft.open("wb") as file:
            async with contextlib.aclosing(mail.pieces()) as pieces:  # never the whole mail in memory
                async for piece in pieces:
                    await file.write(piece)
            await file.flush()
            await trio.to_thread.run_sync(sync, file.wrapped)
        await draft.rename(path)
        return Stored()  # only now may the sender forget the mail; an OSError above is 451 to him


def sync(file: BinaryIO) -> None:
    os.fsync(file.fileno())


async def main(folder: Path, port: int) -> None:
    settings = make_settings(
        {
            "hostname": "mx.example.com",
            "allowed_hosts": ["example.com"],
            "listeners": [{"address": f"127.0.0.1:{port}"}],
            "chain": {"save": SAVE, "validate": ["users"]},
        }
    )
    processors: dict[str, ProcessorSource] = {"subject": subject, "users": Users, "archive": partial(Archive, folder)}
    async with trio.open_nursery() as nursery:
        service = await nursery.start(partial(serve, settings, processors=processors))
        print("listening on", *service.addresses, flush=True)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                service.stop()
                break


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]).absolute(), int(sys.argv[2]) if len(sys.argv) > 2 else 2525)
