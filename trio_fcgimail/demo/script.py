"""The two scripts of the embedded default: ``validate`` takes everyone, ``save`` stores in a Maildir.

They see what any other script sees, no more: CGI parameters and a request body. The contract is docs/scripts.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, assert_never, final

import structlog.typing

from trio_fcgimail.demo.form import FormError, FormReader
from trio_fcgimail.server.maildir import Delivery, Maildir, Novelty

VALIDATE_SCRIPT: Final = "/embedded/validate"
SAVE_SCRIPT: Final = "/embedded/save"

_FORM_TYPE: Final = b"application/x-www-form-urlencoded"
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_SIZE: Final = re.compile(r"[0-9]{1,18}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_INTERNAL_ERROR: Final = 500
_OK: Final = 200


@final
@dataclass(frozen=True, slots=True)
class Output:
    """What a script prints: an HTTP status and one line of text."""

    status: int
    text: str


class _BadRequestError(Exception):
    """The request is not one of ours; the text says why."""


@final
class ScriptRun:
    """One request: give it all of the body, then ask for the output. Close it in any case.

    What goes wrong on the way is kept for the output: a client wants to send all of its request first.
    """

    def __init__(
        self,
        parameters: Mapping[bytes, bytes],
        maildir: Maildir,
        *,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._parameters = parameters
        self._log = log
        self._octets = 0
        self._reader = FormReader("body")
        self._maildir = maildir
        self._delivery: Delivery | None = None
        self._failure: Output | None = None

    async def take(self, data: bytes) -> None:
        """Take the next octets of the request body."""
        self._octets += len(data)
        if self._failure is not None:
            return
        try:
            if self._is_save() and (piece := self._reader.feed(data)):
                await self._open_delivery().write(piece)
        except (_BadRequestError, FormError, OSError) as exc:
            self._failure = self._fail(exc)

    async def finish(self) -> Output:
        """Do what was asked for, now that the request is complete."""
        if self._failure is not None:
            return self._failure
        try:
            if self._octets != self._content_length():
                raise _BadRequestError(f"{self._octets} octets came, and CONTENT_LENGTH says otherwise")
            return await self._save() if self._is_save() else self._validate()
        except (_BadRequestError, FormError, OSError) as exc:
            return self._fail(exc)

    async def close(self) -> None:
        """Let go of what was not stored."""
        if self._delivery is not None:
            await self._delivery.close()

    def _open_delivery(self) -> Delivery:
        if self._delivery is None:
            self._delivery = self._maildir.delivery()
        return self._delivery

    def _is_save(self) -> bool:
        method = self._parameters.get(b"REQUEST_METHOD", b"")
        if method not in (b"GET", b"POST"):
            raise _BadRequestError("neither a GET nor a POST")
        kind = self._parameters.get(b"CONTENT_TYPE", b"").partition(b";")[0].strip().lower()
        if method == b"POST" and kind != _FORM_TYPE:
            raise _BadRequestError("the body of the request is no form")
        return method == b"POST"

    def _content_length(self) -> int:
        text = self._parameters.get(b"CONTENT_LENGTH", b"") or b"0"
        if not _LENGTH.fullmatch(text):
            raise _BadRequestError("CONTENT_LENGTH is no number")
        return int(text)

    def _validate(self) -> Output:
        reader = FormReader()
        reader.feed(self._parameters.get(b"QUERY_STRING", b""))
        fields = reader.finish()
        if fields.get("stage") != "validate" or "rcpt_to" not in fields:
            raise _BadRequestError("a GET that is not for the stage validate")
        return Output(_OK, "PASSED")

    async def _save(self) -> Output:
        fields = self._reader.finish()
        if fields.get("stage") != "save":
            raise _BadRequestError("a POST that is not for the stage save")
        size, digest = fields.get("size", ""), fields.get("mail_digest", "")
        if not _SIZE.fullmatch(size) or not _DIGEST.fullmatch(digest):
            raise _BadRequestError("size or mail_digest is missing")
        delivery = self._open_delivery()
        if delivery.octets != int(size):
            raise _BadRequestError(f"the mail has {delivery.octets} octets instead of {size}")
        stored = await delivery.commit(digest)
        match stored.novelty:
            case Novelty.NEW:
                return Output(_OK, f"SAVED id={stored.identifier}")
            case Novelty.KNOWN:
                return Output(_OK, f"SAVED id={stored.identifier} before, this is a retry of the same mail")
            case _:
                assert_never(stored.novelty)

    def _fail(self, exc: _BadRequestError | FormError | OSError) -> Output:
        """Tell the log all of it, and the sender of a mail no more than concerns him."""
        match exc:
            case OSError():
                self._log.error("the mail cannot be stored", problem=str(exc))
                return Output(_OK, "451 4.3.0 The mail cannot be stored now")
            case _BadRequestError() | FormError():
                self._log.error("request not understood", problem=str(exc))
                return Output(_INTERNAL_ERROR, f"request not understood: {exc}")
            case _:
                assert_never(exc)
