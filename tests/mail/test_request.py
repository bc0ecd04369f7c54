"""What a script gets: fields, parameters, and how much room there is."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mail.support import ALICE, BOB, CAROL, PEER, QUEUE_ID, TLS, envelope, envelopes, mailboxes
from trio_fcgimail.fastcgi import ClientConnection, decode_pairs
from trio_fcgimail.mail import (
    ClientCertificate,
    DsnWish,
    Envelope,
    Peer,
    Received,
    Session,
    TlsFacts,
    auth_fields,
    encode_fields,
    get_parameters,
    has_room,
    mail_fields,
    octets_of,
    post_parameters,
    recipient_fields,
    save_fields,
    session_fields,
    validate_fields,
)
from trio_fcgimail.mail.headers import MAX_SUBJECT_OCTETS
from trio_fcgimail.mail.quoting import quote
from trio_fcgimail.mail.request import MAX_FIELDS, MAX_METADATA_OCTETS, query_string
from trio_fcgimail.smtp import (
    LMTP,
    BodyType,
    Credentials,
    DsnNotify,
    DsnReturn,
    GreetingWord,
    Mailbox,
    Mechanism,
    OriginalRecipient,
    Secret,
)
from trio_fcgimail.smtp.sasl import MAX_IDENTITY_OCTETS

HOST: Final = "mx.example.com"
SCRIPT: Final = "/srv/mail/validate.php"
CREDENTIALS: Final = Credentials(
    mechanism=Mechanism.LOGIN, identity="", username="bob@example.com", password=Secret("s&cr\u00e9t=+")
)
RECEIVED: Final = Received("hi", "0" * 64, 123)
LONGEST: Final = Mailbox("l" * 64, ".".join(["d" * 63] * 2 + ["d" * 61]))  # with its brackets 256 octets
FIXED: Final = {
    "CONTENT_LENGTH", "CONTENT_TYPE", "GATEWAY_INTERFACE", "QUERY_STRING", "REDIRECT_STATUS", "REMOTE_ADDR",
    "REQUEST_METHOD", "REQUEST_URI", "SCRIPT_FILENAME", "SCRIPT_NAME", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL",
    "SERVER_SOFTWARE",
}  # fmt: skip


def test_fields_of_connect() -> None:
    """Nothing was said yet; over a unix socket there is not even an address."""
    assert session_fields(Session(PEER), "connect") == [
        ("helo", ""),
        ("protocol", "smtp"),
        ("rcpt_count", "0"),
        ("remote_ip", "192.0.2.1"),
        ("remote_port", "4321"),
        ("stage", "connect"),
        ("tls_on", "false"),
    ]
    unix = dict(session_fields(Session(Peer("", 0), dialect=LMTP), "connect"))
    assert (unix["protocol"], unix["remote_ip"], unix["remote_port"]) == ("lmtp", "", "")


def test_fields_of_helo() -> None:
    session = Session(PEER, GreetingWord.EHLO, "client.example", tls=TLS, auth_user="b\u00fcb")
    assert session_fields(session, "helo") == [
        ("auth_user", "b\u00fcb"),
        ("helo", "client.example"),
        ("protocol", "smtp"),
        ("rcpt_count", "0"),
        ("remote_ip", "192.0.2.1"),
        ("remote_port", "4321"),
        ("stage", "helo"),
        ("tls_cipher", "TLS_AES_256_GCM_SHA384"),
        ("tls_on", "true"),
        ("tls_protocol", "TLSv1.3"),
    ]


def test_fields_of_auth() -> None:
    session = Session(PEER, GreetingWord.EHLO, "client.example", tls=TLS)
    assert auth_fields(session, CREDENTIALS) == [
        ("auth_mechanism", "LOGIN"),
        ("helo", "client.example"),
        ("password", "s&cr\u00e9t=+"),
        ("protocol", "smtp"),
        ("rcpt_count", "0"),
        ("remote_ip", "192.0.2.1"),
        ("remote_port", "4321"),
        ("stage", "auth"),
        ("tls_cipher", "TLS_AES_256_GCM_SHA384"),
        ("tls_on", "true"),
        ("tls_protocol", "TLSv1.3"),
        ("username", "bob@example.com"),
    ]


def test_fields_of_mail() -> None:
    mail = envelope(tls=TLS, auth_user="bob", require_tls=True, smtputf8=True, envelope_id="x")
    assert mail_fields(mail) == [
        ("auth_user", "bob"),
        ("dsn_envid", "x"),
        ("helo", "client.example"),
        ("mail_from", "alice@example.net"),
        ("protocol", "smtp"),
        ("rcpt_count", "0"),
        ("remote_ip", "192.0.2.1"),
        ("remote_port", "4321"),
        ("require_tls", "true"),
        ("smtputf8", "true"),
        ("stage", "mail"),
        ("tls_cipher", "TLS_AES_256_GCM_SHA384"),
        ("tls_on", "true"),
        ("tls_protocol", "TLSv1.3"),
        ("with", "UTF8SMTPSA"),
    ]


def test_later_stages_know_the_channel_and_the_login() -> None:
    mail = envelope(BOB, tls=TLS, auth_user="bob", require_tls=True)
    known = {
        "auth_user": "bob",
        "require_tls": "true",
        "tls_on": "true",
        "tls_protocol": TLS.protocol,
        "tls_cipher": TLS.cipher,
        "with": "ESMTPSA",
    }
    for fields in (validate_fields(mail, BOB), save_fields(mail, RECEIVED)):
        assert known.items() <= dict(fields).items()


def test_the_password_is_for_auth_alone() -> None:
    assert CREDENTIALS.password.reveal() not in repr(CREDENTIALS)
    mail = envelope(BOB, auth_user=CREDENTIALS.username)
    for fields in (session_fields(mail.session, "helo"), mail_fields(mail), validate_fields(mail, BOB)):
        assert "password" not in dict(fields)
    assert "password" not in dict(save_fields(mail, RECEIVED))


def test_fields_of_validate() -> None:
    mail = envelope(CAROL, body_type=BodyType.EIGHT_BIT_MIME)
    assert validate_fields(mail, BOB) == [
        ("body_type", "8BITMIME"),
        ("helo", "client.example"),
        ("mail_from", "alice@example.net"),
        ("protocol", "smtp"),
        ("rcpt_count", "1"),
        ("rcpt_to", "bob@example.com"),
        ("remote_ip", "192.0.2.1"),
        ("remote_port", "4321"),
        ("smtputf8", "false"),
        ("stage", "validate"),
        ("tls_on", "false"),
        ("with", "ESMTP"),
    ]


def test_fields_of_save() -> None:
    mail = envelope(BOB, CAROL, mail_from=None, peer=Peer("", 0), greeting=GreetingWord.LHLO, smtputf8=True)
    assert save_fields(mail, RECEIVED) == [
        ("helo", "client.example"),
        ("mail_digest", "0" * 64),
        ("mail_from", ""),
        ("protocol", "lmtp"),
        ("queue_id", QUEUE_ID),
        ("rcpt_count", "2"),
        ("rcpt_to_0", "bob@example.com"),
        ("rcpt_to_1", "carol@example.com"),
        ("remote_ip", ""),
        ("remote_port", ""),
        ("size", "123"),
        ("smtputf8", "true"),
        ("stage", "save"),
        ("subject", "hi"),
        ("tls_on", "false"),
        ("with", "UTF8LMTP"),
    ]


def test_fields_of_dsn() -> None:
    """RFC 3461: each where it was given, words in one order whatever the client's."""
    wishes = (
        DsnWish(),
        DsnWish(frozenset({DsnNotify.SUCCESS, DsnNotify.DELAY, DsnNotify.FAILURE})),
        DsnWish(frozenset({DsnNotify.NEVER}), OriginalRecipient("rfc822", "c d@x")),
    )
    mail = envelope(BOB, BOB, CAROL, dsn_wishes=wishes, dsn_return=DsnReturn.HEADERS, envelope_id="QQ 1")
    given = dict(save_fields(mail, RECEIVED))
    assert {name: value for name, value in given.items() if "dsn" in name or "notify" in name or "orcpt" in name} == {
        "dsn_envid": "QQ 1",
        "dsn_ret": "HDRS",
        "rcpt_notify_1": "DELAY,FAILURE,SUCCESS",
        "rcpt_notify_2": "NEVER",
        "rcpt_orcpt_2": "rfc822;c d@x",
    }
    given = dict(validate_fields(mail, BOB))
    assert (given["dsn_ret"], given["dsn_envid"]) == ("HDRS", "QQ 1")


@pytest.mark.parametrize("number", [0, 7, 123])
def test_octets_of_fields_are_those_of_the_query(number: int) -> None:
    fields = recipient_fields(number, BOB, DsnWish(frozenset(DsnNotify), OriginalRecipient("utf-8", "\u00fc")))
    assert octets_of(fields) == len(query_string(fields)) + 1
    assert octets_of(fields) > len(encode_fields(fields)) + 1  # and so never less than in a form


@given(envelopes(), mailboxes())
def test_fields_are_sorted_have_one_name_each(mail: Envelope, recipient: Mailbox) -> None:
    session = mail.session
    for fields in (
        session_fields(session, "connect"),
        session_fields(session, "helo"),
        auth_fields(session, CREDENTIALS),
        mail_fields(mail),
        validate_fields(mail, recipient),
        save_fields(mail, RECEIVED),
    ):
        names = [name for name, _ in fields]
        assert names == sorted(set(names))
        assert all(re.fullmatch("[a-z_0-9]+", name) for name in names)
        assert all(value.isprintable() or not value.isascii() for _, value in fields)


def test_parameters_of_get() -> None:
    fields = [("helo", "a b&c"), ("rcpt_to", "ü+1@example.com")]
    parameters = dict(get_parameters(SCRIPT, fields, hostname=HOST, remote_ip="192.0.2.1"))
    query = b"helo=a+b%26c&rcpt_to=%C3%BC%2B1%40example.com"
    assert {name.decode() for name in parameters} == FIXED - {"CONTENT_TYPE", "CONTENT_LENGTH"}
    assert parameters[b"REQUEST_METHOD"] == b"GET"
    assert parameters[b"QUERY_STRING"] == query
    assert parameters[b"REQUEST_URI"] == b"/validate.php?" + query
    assert parameters[b"SCRIPT_FILENAME"] == SCRIPT.encode()
    assert parameters[b"SCRIPT_NAME"] == b"/validate.php"
    assert parameters[b"SERVER_NAME"] == HOST.encode()
    assert parameters[b"REMOTE_ADDR"] == b"192.0.2.1"


def test_parameters_of_post() -> None:
    parameters = dict(post_parameters("/srv/mail/save.php", 123, hostname=HOST, remote_ip=""))
    assert {name.decode() for name in parameters} == FIXED
    assert parameters[b"REQUEST_METHOD"] == b"POST"
    assert parameters[b"CONTENT_TYPE"] == b"application/x-www-form-urlencoded"
    assert parameters[b"CONTENT_LENGTH"] == b"123"
    assert parameters[b"QUERY_STRING"] == b""
    assert parameters[b"REQUEST_URI"] == b"/save.php"
    assert parameters[b"REMOTE_ADDR"] == b"127.0.0.1"  # over a unix socket there is none


@given(envelopes(), mailboxes())
def test_no_address_breaks_out_of_its_parameter(mail: Envelope, recipient: Mailbox) -> None:
    fields = validate_fields(mail, recipient)
    ip = mail.session.peer.ip
    for parameters in (
        get_parameters(SCRIPT, fields, hostname=HOST, remote_ip=ip),
        post_parameters(SCRIPT, 1, hostname=HOST, remote_ip=ip),
    ):
        assert {name.decode() for name, _ in parameters} <= FIXED
        assert not any(set(b"\0\r\n") & set(name + value) for name, value in parameters)
        assert ClientConnection().begin_request(params=parameters)
    query = dict(get_parameters(SCRIPT, fields, hostname=HOST, remote_ip=ip))[b"QUERY_STRING"].decode()
    assert parse_qsl(query, keep_blank_values=True, strict_parsing=True) == fields


def test_the_longest_of_everything_is_a_request() -> None:
    mail = envelope(mail_from=LONGEST, helo="h" * 255, peer=Peer("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 65_535))
    parameters = get_parameters(SCRIPT, validate_fields(mail, LONGEST), hostname="h" * 253, remote_ip="")
    head = ClientConnection().begin_request(params=parameters)
    content = head[16 + 8 : -8]  # behind BEGIN_REQUEST and the header of the one PARAMS record, before the empty one
    padding = head[16 + 6]
    assert decode_pairs(content[: len(content) - padding]) == tuple(parameters)


@pytest.mark.parametrize(
    ("fields", "octets", "fits"),
    [
        pytest.param(0, 0, True, id="nothing"),
        pytest.param(860, 0, True, id="last-field"),
        pytest.param(861, 0, False, id="a-field-too-many"),
        pytest.param(1, 47_712, True, id="last-octet"),
        pytest.param(1, 47_713, False, id="an-octet-too-many"),
    ],
)
def test_has_room_to_the_octet(fields: int, octets: int, fits: bool) -> None:
    assert has_room(fields, octets) is fits


ALL_WORDS: Final = frozenset(set(DsnNotify) - {DsnNotify.NEVER})
LONG_WISH: Final = DsnWish(ALL_WORDS, OriginalRecipient("rfc822", "x" * 493))


@pytest.mark.parametrize(
    ("recipient", "wish", "at_least"),
    [
        pytest.param(Mailbox("b", "c.example"), DsnWish(), 860, id="short"),
        pytest.param(LONGEST, DsnWish(), 100, id="long"),  # the default of limits.recipients
        pytest.param(Mailbox("é" * 32, "ö.example"), DsnWish(), 100, id="utf-8"),
        pytest.param(Mailbox('"' * 64, "c.example"), DsnWish(), 100, id="quoted"),
        pytest.param(Mailbox("b", "c.example"), DsnWish(ALL_WORDS), 430, id="notify"),
        pytest.param(Mailbox("b", "c.example"), LONG_WISH, 80, id="orcpt"),
    ],
)
def test_what_has_room_keeps_to_the_limits(recipient: Mailbox, wish: DsnWish, at_least: int) -> None:
    """With the most recipients that ``has_room`` lets pass, and the longest of everything else."""
    count = given = octets = 0
    while has_room(
        given + len(more := recipient_fields(count, recipient, wish)),
        octets + octets_of(more),
    ):
        count += 1
        given += len(more)
        octets += octets_of(more)
    mail = envelope(
        *[recipient] * count,
        dsn_wishes=(wish,) * count,
        dsn_return=DsnReturn.FULL,
        envelope_id="x" * 100,
        mail_from=LONGEST,
        helo="h" * 255,
        peer=Peer("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 65_535),
        body_type=BodyType.EIGHT_BIT_MIME,
        smtputf8=True,
        require_tls=True,
        tls=TlsFacts("x" * 16, "x" * 64, ClientCertificate("s" * 512, "f" * 64)),
        auth_user="x" * MAX_IDENTITY_OCTETS,
    )
    fields = save_fields(mail, Received("s" * MAX_SUBJECT_OCTETS, "f" * 64, 2**63))
    raw = sum(len(name) + len(value.encode()) + len("=&") for name, value in fields)
    assert raw <= MAX_METADATA_OCTETS
    assert len(fields) + 1 <= MAX_FIELDS
    assert len(encode_fields(fields)) >= raw - 1
    assert count >= at_least


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.text(st.characters(exclude_categories=["Cs"]))), max_size=4))
def test_a_query_string_is_read_back(fields: list[tuple[str, str]]) -> None:
    query = query_string(fields)
    assert query.isascii()
    assert parse_qsl(query, keep_blank_values=True) == fields


def test_the_sender_is_the_same_to_both_stages() -> None:
    mail = envelope(BOB)
    assert dict(validate_fields(mail, BOB))["mail_from"] == dict(save_fields(mail, RECEIVED))["mail_from"] == str(ALICE)


@given(st.text(max_size=30), st.sampled_from(["replace", "surrogateescape"]))
def test_values_are_quoted_as_by_the_standard_library(value: str, errors: str) -> None:
    try:
        expected = quote_plus(value, errors=errors)
    except UnicodeEncodeError:  # surrogates that stand for no octet
        return
    assert quote(value, errors) == expected
