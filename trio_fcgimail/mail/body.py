"""The request of the save script in each of its forms: all of it but the mail, which is streamed in between."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never, final
from urllib.parse import quote_plus, unquote_plus

from trio_fcgimail.mail.form import encode_fields
from trio_fcgimail.mail.multipart import boundary_of, multipart_ends, multipart_type
from trio_fcgimail.mail.request import FORM_TYPE, MAX_METADATA_OCTETS, Field, Parameter, octets_of

RAW_TYPE: Final = "message/rfc822"
_PREFIX: Final = "MAIL_"  # of the names of our FastCGI parameters; no name of CGI begins so
_HALF_ESCAPE: Final = re.compile("%[0-9A-F]?$")


@final
class BodyKind(Enum):
    """How the save script gets a mail."""

    FORM = "form"  # application/x-www-form-urlencoded: $_POST['body']
    MULTIPART = "multipart"  # multipart/form-data: $_FILES['body']
    RAW = "raw"  # message/rfc822: php://input


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SaveRequest:
    """A request of the save script, all of it but the mail.

    Args:
        content_octets: of the mail as it is sent.
        before: octets of the request body in front of the mail.
        behind: those that follow it.
        query: the fields of the query string.
        parameters: FastCGI parameters besides those of CGI.
    """

    content_type: str
    content_octets: int
    before: bytes = b""
    behind: bytes = b""
    query: tuple[Field, ...] = ()
    parameters: tuple[Parameter, ...] = ()

    @property
    def octets(self) -> int:
        """CONTENT_LENGTH."""
        return len(self.before) + self.content_octets + len(self.behind)


def save_request(
    kind: BodyKind, fields: Sequence[Field], content_octets: int, *, queue_id: str, randomness: bytes
) -> SaveRequest:
    """Put a request together.

    Args:
        fields: all but ``body``.
        content_octets: of the mail as it is sent: escaped in a form, else as it is.
        queue_id: names the file of a multipart body.
        randomness: for its boundary; see :func:`~trio_fcgimail.mail.multipart.boundary_of`.
    """
    match kind:
        case BodyKind.FORM:
            behind = b"&" + encode_fields(fields)
            return SaveRequest(content_type=FORM_TYPE, content_octets=content_octets, before=b"body=", behind=behind)
        case BodyKind.MULTIPART:
            boundary = boundary_of(randomness)
            before, behind = multipart_ends(boundary, f"{queue_id}.eml", fields)
            return SaveRequest(
                content_type=multipart_type(boundary), content_octets=content_octets, before=before, behind=behind
            )
        case BodyKind.RAW:
            return SaveRequest(
                content_type=RAW_TYPE,
                content_octets=content_octets,
                query=_query_fields(fields),
                parameters=tuple(mail_parameters(fields)),
            )
        case _:
            assert_never(kind)


def mail_parameters(fields: Iterable[Field]) -> list[Parameter]:
    """Fields as FastCGI parameters: ``helo`` is ``MAIL_HELO``, and of ``mail_from`` the prefix is not doubled.

    The names are as fixed as those of the fields, and each of them is another one.
    """
    return [
        ((_PREFIX + name.removeprefix("mail_").upper()).encode(), value.encode("utf-8", "replace"))
        for name, value in fields
    ]


def _query_fields(fields: Iterable[Field]) -> tuple[Field, ...]:
    """The fields as a query has room for them, which is never less than all but the end of a very long subject."""
    clean = [(name, value.encode("utf-8", "replace").decode()) for name, value in fields]
    excess = octets_of(clean) - MAX_METADATA_OCTETS
    return tuple((name, _cut(value, excess) if name == "subject" and excess > 0 else value) for name, value in clean)


def _cut(value: str, excess: int) -> str:
    """The value less so many octets of its escaped form, and what else it takes to end with a whole character."""
    escaped = quote_plus(value)
    kept = _HALF_ESCAPE.sub("", escaped[: max(len(escaped) - excess, 0)])
    return unquote_plus(kept, errors="ignore")
