"""``mail_digest``: the same for every retry of the same mail, so that a script can recognise one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final, final

from trio_fcgimail.smtp import Mailbox

_NOTHING: Final = hashlib.sha256()  # OpenSSL takes longer to look the algorithm up than to begin a copy


@final
class MailDigest:
    """SHA-256 over envelope and content, in the order that docs/scripts.md gives.

    The reverse-path, NUL; each recipient once (domain in lower case, sorted), each followed by NUL; NUL; then the
    content as received: dots unstuffed, CRLF kept, without any line of ours.
    """

    __slots__ = ("_hash", "_shown")

    def __init__(self, sender: Mailbox | None, recipients: Iterable[Mailbox]) -> None:
        names = {_with_lower_domain(str(one)).encode() for one in recipients}
        path = b"" if sender is None else str(sender).encode()
        self._shown: str | None = None  # as long as nothing more comes
        self._hash = _NOTHING.copy()
        self._hash.update(b"\0".join([path, *sorted(names), b"", b""]))

    def update(self, content: bytes) -> None:
        """Take the next piece of the content."""
        self._shown = None
        self._hash.update(content)

    def hexdigest(self) -> str:
        """64 lower-case hexadecimal digits."""
        if self._shown is None:
            self._shown = self._hash.hexdigest()
        return self._shown


def _with_lower_domain(address: str) -> str:
    """No Mailbox any more: a label of the longest kind can grow in lower case (U+0130), which no grammar would take."""
    local, at, domain = address.rpartition("@")
    return f"{local}{at}{domain.lower()}"
