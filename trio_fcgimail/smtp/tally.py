"""What a client has used up of the limits of its connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from trio_fcgimail.smtp import catalogue
from trio_fcgimail.smtp.errors import CommandError
from trio_fcgimail.smtp.options import ServerOptions
from trio_fcgimail.smtp.replies import Reply

BAD_COMMAND_CODES: Final = frozenset({500, 501, 502, 503, 504, 555})
_BAD_CREDENTIALS: Final = 535


@final
@dataclass(slots=True)
class Tally:
    """Counts of one connection. Nothing sets them back, STARTTLS neither: they are ours, not the client's."""

    options: ServerOptions
    _bad_commands: int = 0
    _refused_recipients: int = 0
    _messages: int = 0
    _failed_logins: int = 0

    def check_message(self) -> None:
        """Before MAIL. Raises CommandError: 421, as there were too many messages."""
        if self.options.max_messages is not None and self._messages >= self.options.max_messages:
            raise CommandError(catalogue.TOO_MANY_MESSAGES)

    def check_recipient(self) -> None:
        """Before RCPT. Raises CommandError: 421, as too many were refused."""
        limit = self.options.max_refused_recipients
        if limit is not None and self._refused_recipients >= limit:
            raise CommandError(catalogue.TOO_MANY_REFUSED_RECIPIENTS)

    def count_message(self) -> None:
        """A message came to its end, taken or not."""
        self._messages += 1

    def count_refused_recipient(self, reply: Reply) -> None:
        """RCPT was refused; a 4xx does not count."""
        if reply.code >= 500:
            self._refused_recipients += 1

    def count_mistake(self, reply: Reply) -> Reply:
        """The core refuses a command; returns the reply to give, which closes after too many mistakes."""
        if reply.code not in BAD_COMMAND_CODES:
            return reply
        self._bad_commands += 1
        limit = self.options.max_bad_commands
        return catalogue.TOO_MANY_BAD_COMMANDS if limit is not None and self._bad_commands > limit else reply

    def count_login(self, reply: Reply) -> Reply:
        """AUTH was answered; returns the reply to give, which closes at the last of the failures allowed."""
        if reply.code != _BAD_CREDENTIALS:
            return reply
        self._failed_logins += 1
        limit = self.options.max_failed_logins
        return catalogue.TOO_MANY_FAILED_LOGINS if limit is not None and self._failed_logins >= limit else reply
