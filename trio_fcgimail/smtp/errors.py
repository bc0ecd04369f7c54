"""The error taxonomy of the SMTP core: nothing but a ProtocolError ever escapes from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_fcgimail.smtp.replies import Reply


class ProtocolError(Exception):
    """Base of the two errors that the core raises."""


class LocalProtocolError(ProtocolError):
    """The embedder broke the rules: an answer nobody waits for, an impossible reply, a buffer overrun."""


class RemoteProtocolError(ProtocolError):
    """The client's stream can no longer be followed. Write ``to_send``, the encoded ``reply``, and close."""

    def __init__(self, message: str, *, reply: Reply, to_send: bytes) -> None:
        super().__init__(message)
        self.reply = reply
        self.to_send = to_send


class CommandError(Exception):
    """A command is refused. It never leaves the core: ``reply`` goes to the client in its place."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.text)
        self.reply = reply
