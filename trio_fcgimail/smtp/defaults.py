"""What the core answers when the embedder accepts without words of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, assert_never

from trio_fcgimail.smtp import catalogue
from trio_fcgimail.smtp.events import (
    Answerable,
    Authenticate,
    Connected,
    DataBegun,
    Hello,
    MailFrom,
    MessageEnd,
    RcptTo,
    StartTls,
    Xclient,
)
from trio_fcgimail.smtp.offer import Offer
from trio_fcgimail.smtp.options import Extension, GreetingWord, Mechanism, ServerOptions
from trio_fcgimail.smtp.replies import Reply
from trio_fcgimail.smtp.xclient import XCLIENT_NAMES

_MAX_LIMIT: Final = 999_999  # RFC 9422 5: the values have six digits at most


def default_reply(event: Answerable, options: ServerOptions, offer: Offer) -> Reply:
    """The reply of acceptance that fits an event."""
    match event:
        case RcptTo() | MailFrom() | DataBegun() | MessageEnd() | StartTls() | Authenticate():
            return _ALWAYS[type(event)]
        case Connected() | Xclient():
            return Reply(220, None, (f"{options.hostname} {options.dialect.banner_word}",))
        case Hello(word=GreetingWord.HELO):
            return Reply(250, None, (options.hostname,))
        case Hello():
            keywords = (_keyword(extension, options) for extension in Extension if extension in offer.extensions)
            return Reply(250, None, (options.hostname, *filter(None, keywords)))
        case _:
            assert_never(event)


_ALWAYS: Final[Mapping[type[Answerable], Reply]] = {
    StartTls: catalogue.READY_FOR_TLS,
    Authenticate: catalogue.AUTHENTICATED,
    MailFrom: catalogue.SENDER_OK,
    RcptTo: catalogue.RECIPIENT_OK,
    DataBegun: catalogue.START_DATA,
    MessageEnd: catalogue.OK,
}


def _keyword(extension: Extension, options: ServerOptions) -> str:
    """An EHLO keyword with its parameters; empty when it would say nothing."""
    match extension:
        case Extension.SIZE if options.max_message_octets is not None:
            return f"SIZE {options.max_message_octets}"  # RFC 1870 4
        case Extension.LIMITS:
            limits = (("MAILMAX", options.max_messages), ("RCPTMAX", options.max_recipients))
            words = [f"{name}={limit}" for name, limit in limits if limit is not None and limit <= _MAX_LIMIT]
            return " ".join(["LIMITS", *words]) if words else ""
        case Extension.AUTH:
            return " ".join(["AUTH", *(one.value for one in Mechanism if one in options.auth_mechanisms)])
        case Extension.XCLIENT:
            return " ".join(["XCLIENT", *XCLIENT_NAMES])
        case _:
            return str(extension.value)
