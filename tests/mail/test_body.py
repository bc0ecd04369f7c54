"""The request of the save script in its three forms, each read back by a decoder that owes nothing to it."""

from __future__ import annotations

import email.policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Final, assert_never
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mail.support import QUEUE_ID, dsn_wishes, envelope, envelopes, mailboxes
from trio_fcgimail.fastcgi import ClientConnection
from trio_fcgimail.mail import (
    BOUNDARY_RANDOM_OCTETS,
    BodyKind,
    DsnWish,
    Envelope,
    EnvelopeDraft,
    Field,
    Peer,
    Received,
    SaveRequest,
    post_parameters,
    save_fields,
    save_request,
)
from trio_fcgimail.mail.headers import MAX_SUBJECT_OCTETS
from trio_fcgimail.mail.multipart import boundary_of
from trio_fcgimail.mail.request import MAX_FIELDS, MAX_METADATA_OCTETS, octets_of
from trio_fcgimail.smtp import BodyType, DsnNotify, DsnReturn, Mailbox, OriginalRecipient

RANDOM: Final = bytes(range(BOUNDARY_RANDOM_OCTETS))
BOUNDARY: Final = boundary_of(RANDOM)
FIELDS: Final = [
    ("helo", "a b&c"),
    ("mail_from", "gr\u00fcn@example.com"),
    ("rcpt_to_0", "b"),
    ("subject", "1 + 1 = 2"),
]
MAIL: Final = b"Subject: hi\r\n\r\n.\r\n\0\xff--\r\n--" + BOUNDARY[:-1] + b"\r\n"
KINDS: Final = pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.value) for kind in BodyKind])


def asked(kind: BodyKind, fields: list[Field], octets: int = len(MAIL)) -> SaveRequest:
    return save_request(kind, fields, octets, queue_id=QUEUE_ID, randomness=RANDOM)


def read_multipart(content_type: str, body: bytes) -> list[EmailMessage]:
    """The parts, by the standard library's reader of mail (RFC 7578 is MIME)."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return [part for part in message.get_payload() if isinstance(part, EmailMessage)]


@KINDS
def test_the_length_is_that_of_what_is_sent(kind: BodyKind) -> None:
    request = asked(kind, FIELDS)
    assert request.octets == len(request.before + MAIL + request.behind)


def test_a_form_is_body_and_the_fields() -> None:
    request = asked(BodyKind.FORM, FIELDS)
    assert request.content_type == "application/x-www-form-urlencoded"
    form = parse_qsl((request.before + b"x" + request.behind).decode(), strict_parsing=True)
    assert form == [("body", "x"), *FIELDS]
    assert (request.query, request.parameters) == ((), ())


def test_multipart_is_the_mail_and_then_the_fields() -> None:
    request = asked(BodyKind.MULTIPART, FIELDS)
    text = b"Subject: hi\r\n\r\n--" + BOUNDARY[:-1] + b"\r\n"
    first, *rest = read_multipart(request.content_type, request.before + text + request.behind)
    assert first["Content-Disposition"] == f'form-data; name="body"; filename="{QUEUE_ID}.eml"'
    assert first.get_content_type() == "message/rfc822"
    assert [part.get_param("name", header="content-disposition") for part in rest] == [name for name, _ in FIELDS]
    values = [part.get_payload(decode=True) for part in rest]
    assert values == [value.encode() for _, value in FIELDS]
    assert (request.query, request.parameters) == ((), ())


def test_multipart_octet_for_octet() -> None:
    request = asked(BodyKind.MULTIPART, [("helo", "\u00fc")])
    mark = b"--" + BOUNDARY
    assert request.before == (
        mark + b'\r\nContent-Disposition: form-data; name="body"; filename="' + QUEUE_ID.encode() + b'.eml"\r\n'
        b"Content-Type: message/rfc822\r\n\r\n"
    )
    assert request.behind == (
        b"\r\n" + mark + b'\r\nContent-Disposition: form-data; name="helo"\r\n\r\n\xc3\xbc\r\n' + mark + b"--\r\n"
    )


@given(st.binary(min_size=BOUNDARY_RANDOM_OCTETS, max_size=BOUNDARY_RANDOM_OCTETS))
def test_a_boundary_holds_all_of_its_randomness_and_is_legal(randomness: bytes) -> None:
    """RFC 2046 5.1.1: at most 70 characters, none of which needs quotes in a Content-Type (RFC 2045 5.1)."""
    boundary = boundary_of(randomness)
    assert bytes.fromhex(boundary.decode()[-2 * BOUNDARY_RANDOM_OCTETS :]) == randomness
    assert len(boundary) <= 70
    assert set(boundary.decode()) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.parametrize("octets", [0, BOUNDARY_RANDOM_OCTETS - 1, BOUNDARY_RANDOM_OCTETS + 1])
def test_a_boundary_of_less_randomness_is_refused(octets: int) -> None:
    with pytest.raises(ValueError, match="octets of randomness"):
        boundary_of(bytes(octets))


def test_raw_is_the_mail_alone() -> None:
    request = asked(BodyKind.RAW, FIELDS)
    assert (request.content_type, request.before, request.behind) == ("message/rfc822", b"", b"")
    assert list(request.query) == FIELDS
    assert dict(request.parameters) == {
        b"MAIL_HELO": b"a b&c",
        b"MAIL_FROM": "gr\u00fcn@example.com".encode(),
        b"MAIL_RCPT_TO_0": b"b",
        b"MAIL_SUBJECT": b"1 + 1 = 2",
    }


def test_a_lone_surrogate_stops_no_mail() -> None:
    request = asked(BodyKind.RAW, [("subject", "a\ud800b")])
    assert (request.query, dict(request.parameters)) == ((("subject", "a?b"),), {b"MAIL_SUBJECT": b"a?b"})
    assert b"a?b" in asked(BodyKind.MULTIPART, [("subject", "a\ud800b")]).behind


def whole_request(mail: Envelope, received: Received, kind: BodyKind) -> tuple[SaveRequest, dict[bytes, bytes]]:
    """What is sent in front of the body, which the core has taken: no NUL, no name twice, no pair too large."""
    request = asked(kind, save_fields(mail, received), received.size)
    parameters = post_parameters(
        "/" + "s" * 4095,
        request.octets,
        hostname="mx.example.com",
        remote_ip=mail.session.peer.ip,
        fields=request.query,
        content_type=request.content_type,
        more=request.parameters,
    )
    assert ClientConnection().begin_request(params=parameters)
    return request, dict(parameters)


@given(envelopes(), st.text(st.characters(exclude_characters="\0"), max_size=40), st.sampled_from(BodyKind))
def test_whatever_a_sender_says_is_in_no_name(mail: Envelope, subject: str, kind: BodyKind) -> None:
    received = Received(subject, "0" * 64, 123)
    request, parameters = whole_request(mail, received, kind)
    ours = {name.removeprefix(b"MAIL_") for name in parameters if name.startswith(b"MAIL_")}
    fields = dict(save_fields(mail, received))
    match kind:
        case BodyKind.RAW:
            assert ours == {name.removeprefix("mail_").upper().encode() for name in fields}
            query = parse_qsl(parameters[b"QUERY_STRING"].decode(), keep_blank_values=True, strict_parsing=True)
            assert dict(query) == fields | {"subject": subject.encode("utf-8", "replace").decode()}
        case BodyKind.MULTIPART:
            assert not ours
            assert request.behind.count(BOUNDARY) == len(fields) + 1
        case BodyKind.FORM:
            assert not ours
        case _:
            assert_never(kind)


LONGEST: Final = Mailbox("\u00fc" * 32, ".".join(["d" * 63] * 2 + ["\u00fc" * 30]))
WISH: Final = DsnWish(frozenset(set(DsnNotify) - {DsnNotify.NEVER}), OriginalRecipient("utf-8", "\u00fc" * 240))


@KINDS
@pytest.mark.parametrize(
    ("recipient", "wish"),
    [
        pytest.param(Mailbox("b", "c.example"), DsnWish(), id="short"),
        pytest.param(LONGEST, DsnWish(), id="long"),
        pytest.param(LONGEST, WISH, id="long-with-dsn"),
        pytest.param(Mailbox('"' * 64, "c.example"), DsnWish(), id="quoted"),
    ],
)
@pytest.mark.parametrize("subject", ["s", "\u00fc", "\U0001f600"])
def test_the_most_that_is_taken_at_rcpt_is_a_request(
    kind: BodyKind, recipient: Mailbox, wish: DsnWish, subject: str
) -> None:
    beginning = envelope(
        dsn_return=DsnReturn.FULL,
        envelope_id="+" * 100,
        mail_from=LONGEST,
        helo="\\" * 255,
        peer=Peer("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 65_535),
        body_type=BodyType.EIGHT_BIT_MIME,
        smtputf8=True,
    )
    draft = EnvelopeDraft(beginning)
    while draft.has_room_for(recipient, wish):
        draft.add(recipient, wish)
    whole = subject * (MAX_SUBJECT_OCTETS // len(subject.encode()))
    received = Received(whole, "f" * 64, 2**63)
    request, parameters = whole_request(draft.envelope, received, kind)
    fields = save_fields(draft.envelope, received)
    assert len(fields) + 1 <= MAX_FIELDS
    if kind is BodyKind.RAW:
        assert octets_of(request.query) <= MAX_METADATA_OCTETS
        kept = dict(request.query)
        assert dict(fields) | {"subject": kept["subject"]} == kept
        assert whole.startswith(kept["subject"])
        assert len(kept["subject"].encode()) >= 2048
        assert parameters[b"MAIL_SUBJECT"] == whole.encode()


@pytest.mark.parametrize(
    ("subject", "excess", "kept"),
    [
        pytest.param("abc", 0, "abc", id="fits"),
        pytest.param("abc", 1, "ab", id="one-too-many"),
        pytest.param("a c", 2, "a", id="a-blank-is-one"),
        pytest.param("a\u00fc", 1, "a", id="within-an-escape"),
        pytest.param("a\u00fc", 3, "a", id="within-a-character"),
        pytest.param("a\u00fc", 6, "a", id="between-characters"),
        pytest.param("a%41", 1, "a%4", id="like-an-escape"),
        pytest.param("abc", 9, "", id="more-than-all"),
    ],
)
def test_only_the_subject_is_cut_and_only_by_what_is_too_much(subject: str, excess: int, kept: str) -> None:
    filler = ("rcpt_to_0", "x" * (MAX_METADATA_OCTETS + excess - octets_of([("rcpt_to_0", ""), ("subject", subject)])))
    assert asked(BodyKind.RAW, [filler, ("subject", subject)]).query == (filler, ("subject", kept))


@given(mailboxes(), dsn_wishes())
def test_room_is_counted_the_same_for_each_kind(recipient: Mailbox, wish: DsnWish) -> None:
    draft = EnvelopeDraft(envelope())
    assert draft.has_room_for(recipient, wish)
    draft.add(recipient, wish)
    fields = [(name, value) for name, value in save_fields(draft.envelope, Received("", "", 0)) if name[:5] == "rcpt_"]
    assert octets_of(fields) >= len(asked(BodyKind.FORM, fields).behind) - len("rcpt_count=1&")
