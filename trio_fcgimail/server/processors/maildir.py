"""MailDir: each user of a map has a Maildir of their own, as with MailDiranasaurus."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import ClassVar, Final, assert_never, final

import trio

from trio_fcgimail.config import MaildirSettings, MaildirUser
from trio_fcgimail.mail import Envelope, LfLines
from trio_fcgimail.server.maildir import Maildir, Novelty, Owner
from trio_fcgimail.server.processors.interface import (
    Context,
    EachRecipient,
    Failed,
    GoOn,
    Mail,
    OneAnswer,
    Processor,
    RecipientAnswer,
    Refused,
    SaveAnswer,
    Stored,
)
from trio_fcgimail.server.spool import SpoolReadError
from trio_fcgimail.smtp import BodyType, EnhancedCode, Mailbox, Reply, catalogue

LOOK_BACK_SECONDS: Final = 5 * 86_400  # RFC 5321 4.5.4.1: senders give up after four or five days
_THREADS: Final = 20  # ours: half of what Trio starts, so that a disk that hangs leaves the spool its own
_USER: Final = "[user]"
_FULL: Final = {
    errno.ENOSPC: catalogue.INSUFFICIENT_STORAGE,
    errno.EDQUOT: Reply(452, EnhancedCode(4, 2, 2), ("Mailbox full; try again later",)),
}


@final
class MailDir(Processor):
    """Stores a mail in the Maildir of each recipient's user; the domain does not matter.

    A user who is not in the map is 550 at RCPT, and would be at the end of a mail.
    """

    asked_at_rcpt: ClassVar[bool] = True

    def __init__(self) -> None:
        self._context: Context | None = None
        self._users: Mapping[str, MaildirUser] = {}
        self._maildirs: dict[str, Maildir] = {}
        self._limiter = trio.CapacityLimiter(_THREADS)

    async def set_up(self, context: Context) -> None:
        """Learn the users."""
        settings = context.settings.maildir
        if settings.path is None or not settings.user_map:
            raise ValueError("maildir.path and maildir.user_map are missing")
        self._context = context
        self._users = {user.name: user for user in settings.user_map}
        strangers = [user.name for user in settings.user_map if not _may_give_to(user)]
        if strangers:
            context.log.warning("mails stay ours, as we may not give them away", users=", ".join(strangers))
        if "postmaster" not in self._users:
            context.log.warning("postmaster has no maildir, so mail for <postmaster> is refused")

    async def validate(self, envelope: Envelope, recipient: Mailbox) -> RecipientAnswer:  # noqa: ARG002
        """Say whether there is such a user."""
        if recipient.local_part.lower() not in self._users:
            return Refused(catalogue.NO_SUCH_USER, f"{recipient.local_part} is not in maildir.user_map")
        return GoOn("has a maildir")

    async def save(self, mail: Mail) -> SaveAnswer:
        """Store it, once for each user, whatever the number of addresses."""
        names = [recipient.local_part.lower() for recipient in mail.envelope.recipients]
        unknown = [name for name in names if name not in self._users]
        if unknown and mail.envelope.verdicts_owed == 1:  # so nothing is stored for the others either
            return Refused(catalogue.NO_SUCH_USER, f"{unknown[0]} is not in maildir.user_map")
        answers: dict[str, OneAnswer] = {}
        for name in dict.fromkeys(names):
            answers[name] = await self._store(mail, name)
        return EachRecipient(tuple(answers[name] for name in names))

    async def _store(self, mail: Mail, name: str) -> OneAnswer:
        if name not in self._users:
            return Refused(catalogue.NO_SUCH_USER, f"{name} is not in maildir.user_map")
        try:
            novelty = await self._deliver(mail, self._maildir(name))
        except OSError as exc:
            reply = _FULL.get(exc.errno or 0, catalogue.LOCAL_ERROR)
            return Failed(f"cannot store in the maildir of {name}: {exc}", reply)
        except SpoolReadError as exc:
            return Failed(f"cannot read the mail back: {exc}")
        match novelty:
            case Novelty.NEW:
                return Stored(note="stored in maildirs")
            case Novelty.KNOWN:
                return Stored(note="stored in maildirs before, this is a retry")
            case _:
                assert_never(novelty)

    async def _deliver(self, mail: Mail, maildir: Maildir) -> Novelty:
        delivery = maildir.delivery()
        try:
            async with aclosing(_as_file(mail)) as pieces:
                async for piece in pieces:
                    await delivery.write(piece)
            stored = await delivery.commit(mail.digest)
        finally:
            await delivery.close()
        return stored.novelty

    def _maildir(self, name: str) -> Maildir:
        """The one of a user, made when it is first needed."""
        if name not in self._maildirs:
            assert self._context is not None, "set up before any mail"
            settings, user = self._context.settings, self._users[name]
            self._maildirs[name] = Maildir(
                maildir_of(settings.maildir, name),
                host=settings.hostname,
                owner=Owner(user.uid, user.gid),
                look_back_seconds=LOOK_BACK_SECONDS,
                limiter=self._limiter,
            )
        return self._maildirs[name]


async def _as_file(mail: Mail) -> AsyncGenerator[bytes, None]:
    """The mail with LFs, as readers of maildirs have it; one that may hold binary octets stays as it is (RFC 3030)."""
    async with aclosing(mail.pieces()) as pieces:
        if mail.envelope.body_type is BodyType.BINARY_MIME:
            async for piece in pieces:
                yield piece
            return
        lines = LfLines()
        async for piece in pieces:
            yield lines.convert(piece)
        yield lines.finish()


def maildir_of(settings: MaildirSettings, name: str) -> Path:
    """The path of a user's maildir; only a ``~/`` of the template itself is a home, which is ours."""
    template = settings.path or ""
    path = str(Path.home()) + template[1:] if template.startswith("~/") else template
    return Path(path.replace(_USER, name, 1))


def _may_give_to(user: MaildirUser) -> bool:
    return os.geteuid() == 0 or (user.uid in (None, os.geteuid()) and user.gid in (None, os.getegid(), *os.getgroups()))
