"""What a script gets: the fields of each stage and the CGI/FastCGI parameters around them.

The names are the contract of docs/scripts.md. They are a fixed set: no name ever comes from outside, as PHP would obey
some of them (PHP_VALUE) and others would be taken for HTTP headers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, final

from trio_fcgimail import __version__
from trio_fcgimail.mail.envelope import DsnWish, Envelope, Session
from trio_fcgimail.mail.quoting import quote
from trio_fcgimail.smtp import Credentials, Mailbox

MAX_METADATA_OCTETS: Final = 60_000  # of a query: with the script's name, 4,096 at most, it is REQUEST_URI, and a
# FastCGI pair ends at 65,535
MAX_FIELDS: Final = 900  # PHP drops what exceeds max_input_vars, 1,000 as shipped
RESERVED_OCTETS: Final = 12_288  # of these 60,000, for the subject and everything that is not a recipient
RESERVED_FIELDS: Final = 40
FORM_TYPE: Final = "application/x-www-form-urlencoded"

Field = tuple[str, str]
Parameter = tuple[bytes, bytes]


@final
@dataclass(frozen=True, slots=True)
class Received:
    """What is known once the whole mail was read.

    Args:
        subject: decoded.
        digest: see :class:`~trio_fcgimail.mail.digest.MailDigest`.
        size: octets of ``body`` as the script gets it.
    """

    subject: str
    digest: str
    size: int


def has_room(fields: int, octets: int) -> bool:
    """Whether the metadata still fits a request whose recipients take so many fields, of so many octets in all."""
    return fields + RESERVED_FIELDS <= MAX_FIELDS and octets + RESERVED_OCTETS <= MAX_METADATA_OCTETS


def octets_of(fields: Iterable[Field]) -> int:
    """What fields add to the metadata: their names, their values and the marks around them, as in a query.

    So it is the most that they take anywhere, and whether a mail has room does not depend on how it is sent.
    """
    return sum(len(name) + len(quote(value, errors="replace")) + len("=&") for name, value in fields)


def recipient_fields(number: int, recipient: Mailbox, wish: DsnWish) -> list[Field]:
    """The fields of one recipient; those of its DSN parameters only where they were given."""
    fields = [(f"rcpt_to_{number}", str(recipient))]
    if wish.notify:
        fields.append((f"rcpt_notify_{number}", ",".join(sorted(word.value for word in wish.notify))))
    if wish.original is not None:
        fields.append((f"rcpt_orcpt_{number}", str(wish.original)))
    return fields


def session_fields(session: Session, stage: str) -> list[Field]:
    """The query of the scripts ``connect`` and ``helo``: all that is known before the first mail."""
    return sorted([*_session(session, stage), ("rcpt_count", "0")])


def auth_fields(session: Session, credentials: Credentials) -> list[Field]:
    """The form of the script ``auth``. The only place where the password is shown to anybody."""
    return sorted(
        [
            *session_fields(session, "auth"),
            ("auth_mechanism", credentials.mechanism.value),
            ("password", credentials.password.reveal()),
            ("username", credentials.username),
        ]
    )


def mail_fields(envelope: Envelope) -> list[Field]:
    """The query of the script ``mail``."""
    return sorted(_common(envelope, "mail"))


def validate_fields(envelope: Envelope, recipient: Mailbox) -> list[Field]:
    """The query of the validate script."""
    return sorted([*_common(envelope, "validate"), ("rcpt_to", str(recipient))])


def save_fields(envelope: Envelope, received: Received) -> list[Field]:
    """The fields of the save script, all but ``body``, sorted by name."""
    return sorted(
        [
            *_common(envelope, "save"),
            *_all_recipient_fields(envelope),
            ("queue_id", envelope.queue_id),
            ("mail_digest", received.digest),
            ("size", str(received.size)),
            ("subject", received.subject),
        ]
    )


def _all_recipient_fields(envelope: Envelope) -> Iterator[Field]:
    wishes = envelope.dsn_wishes or (DsnWish(),) * len(envelope.recipients)
    for number, (recipient, wish) in enumerate(zip(envelope.recipients, wishes, strict=True)):
        yield from recipient_fields(number, recipient, wish)


def _session(session: Session, stage: str) -> list[Field]:
    fields = [
        ("stage", stage),
        ("helo", session.helo),
        ("protocol", session.protocol),
        ("remote_ip", session.peer.ip),
        ("remote_port", str(session.peer.port) if session.peer.port else ""),
        ("tls_on", "false" if session.tls is None else "true"),
    ]
    if session.tls is not None:
        fields += [("tls_protocol", session.tls.protocol), ("tls_cipher", session.tls.cipher)]
        if (client := session.tls.client) is not None:
            fields += [("tls_client_sha256", client.sha256), ("tls_client_subject", client.subject)]
    if session.auth_user is not None:
        fields.append(("auth_user", session.auth_user))
    return fields


def _common(envelope: Envelope, stage: str) -> list[Field]:
    fields = [
        *_session(envelope.session, stage),
        ("mail_from", envelope.sender),
        ("rcpt_count", str(len(envelope.recipients))),
        ("smtputf8", "true" if envelope.smtputf8 else "false"),
        ("with", envelope.with_keyword.value),
    ]
    if envelope.require_tls:
        fields.append(("require_tls", "true"))
    if envelope.body_type is not None:
        fields.append(("body_type", envelope.body_type.value))
    if envelope.dsn_return is not None:
        fields.append(("dsn_ret", envelope.dsn_return.value))
    if envelope.envelope_id is not None:
        fields.append(("dsn_envid", envelope.envelope_id))
    return fields


def query_string(fields: Iterable[Field]) -> str:
    """Fields as a query string, in the order given."""
    return "&".join([f"{name}={quote(value, errors='surrogateescape')}" for name, value in fields])


def get_parameters(script: str, fields: Iterable[Field], *, hostname: str, remote_ip: str) -> list[Parameter]:
    """The CGI parameters of a GET (RFC 3875 4.1)."""
    always = constant_parameters(script, "GET", hostname=hostname)
    return [*always, *request_parameters(script, query_string(fields), remote_ip=remote_ip)]


def post_parameters(
    script: str,
    octets: int,
    *,
    hostname: str,
    remote_ip: str,
    fields: Iterable[Field] = (),
    content_type: str = FORM_TYPE,
    more: Iterable[Parameter] = (),
) -> list[Parameter]:
    """The CGI parameters of a POST of so many octets, and ``more``; ``fields`` go into the query string."""
    always = constant_parameters(script, "POST", hostname=hostname)
    own = request_parameters(script, query_string(fields), remote_ip=remote_ip)
    return [*always, *own, *body_parameters(content_type, octets), *more]


def constant_parameters(script: str, method: str, *, hostname: str) -> list[Parameter]:
    """Those that every request of a method to a script has in common."""
    pairs: list[Field] = [
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("SERVER_SOFTWARE", f"trio_fcgimail/{__version__}"),
        ("SERVER_NAME", hostname),
        ("SERVER_PORT", "25"),
        ("REDIRECT_STATUS", "200"),  # php-cgi refuses to run a script without it (cgi.force_redirect)
        ("REQUEST_METHOD", method),
        ("SCRIPT_FILENAME", script),
        ("SCRIPT_NAME", _name_of(script)),
    ]
    return [(name.encode(), _octets(value)) for name, value in pairs]


def request_parameters(script: str, query: str, *, remote_ip: str) -> list[Parameter]:
    """Those that are of one request."""
    octets = _octets(query)
    name = _octets(_name_of(script))
    return [
        (b"REMOTE_ADDR", _octets(remote_ip or "127.0.0.1")),
        (b"REQUEST_URI", b"%b?%b" % (name, octets) if query else name),
        (b"QUERY_STRING", octets),
    ]


def body_parameters(content_type: str, octets: int) -> list[Parameter]:
    """Those of a request with a body of so many octets."""
    return [(b"CONTENT_TYPE", content_type.encode()), (b"CONTENT_LENGTH", b"%d" % octets)]


def _name_of(script: str) -> str:
    return "/" + script.rpartition("/")[2]


def _octets(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")
