"""What the tests of the mail layer share: envelopes, and strategies for whatever the SMTP grammar lets pass."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from hypothesis import reject
from hypothesis import strategies as st

from trio_fcgimail.mail import DsnWish, Envelope, Peer, Session, TlsFacts
from trio_fcgimail.smtp import (
    LMTP,
    SMTP,
    BodyType,
    DsnNotify,
    DsnReturn,
    GreetingWord,
    LocalProtocolError,
    Mailbox,
    OriginalRecipient,
    grammar,
    is_address_literal,
)

ALICE: Final = Mailbox("alice", "example.net")
BOB: Final = Mailbox("bob", "example.com")
CAROL: Final = Mailbox("carol", "example.com")
PEER: Final = Peer("192.0.2.1", 4321)
QUEUE_ID: Final = "0621e2e2b40000badc0ffee"
TLS: Final = TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384")


def envelope(
    *recipients: Mailbox,
    mail_from: Mailbox | None = ALICE,
    peer: Peer = PEER,
    greeting: GreetingWord = GreetingWord.EHLO,
    helo: str = "client.example",
    body_type: BodyType | None = None,
    smtputf8: bool = False,
    dsn_wishes: tuple[DsnWish, ...] = (),
    dsn_return: DsnReturn | None = None,
    envelope_id: str | None = None,
    require_tls: bool = False,
    tls: TlsFacts | None = None,
    auth_user: str | None = None,
) -> Envelope:
    """An envelope, with what a test does not care about filled in."""
    return Envelope(
        queue_id=QUEUE_ID,
        session=Session(
            peer, greeting, helo, LMTP if greeting is GreetingWord.LHLO else SMTP, tls=tls, auth_user=auth_user
        ),
        mail_from=mail_from,
        recipients=recipients,
        body_type=body_type,
        smtputf8=smtputf8,
        dsn_wishes=dsn_wishes or (DsnWish(),) * len(recipients),
        dsn_return=dsn_return,
        envelope_id=envelope_id,
        require_tls=require_tls,
    )


_LOCAL_PARTS: Final = st.text(
    st.sampled_from('aZ0 .@"\\<>()[]:;,&%+=_-\u00fc\u0130') | st.characters(exclude_categories=["Cc", "Cs"]),
    max_size=20,
)
_LABELS: Final = st.text(st.sampled_from("aZ0-\u00fc\u0130\u1e9e"), min_size=1, max_size=8)
_GENERAL_LITERALS: Final = st.from_regex(grammar.GENERAL_ADDRESS_LITERAL, fullmatch=True).filter(is_address_literal)
_DOMAINS: Final = (
    st.lists(_LABELS, min_size=1, max_size=3).map(".".join)
    | _GENERAL_LITERALS
    | st.sampled_from(["EXAMPLE.com", "[192.0.2.7]", "[IPv6:2001:DB8::7]", "\u0130" * 31 + ".example"])
)


@st.composite
def mailboxes(draw: st.DrawFn) -> Mailbox:
    """Any mailbox with a domain that can be written in SMTP, SMTPUTF8 and quoted ones among them."""
    try:
        return Mailbox(draw(_LOCAL_PARTS), draw(_DOMAINS))
    except LocalProtocolError:
        reject()


def greeting_names() -> st.SearchStrategy[str]:
    """Any name that HELO may bring."""
    return st.from_regex(grammar.GREETING_NAME, fullmatch=True) | _GENERAL_LITERALS


def peers() -> st.SearchStrategy[Peer]:
    """Over IPv4, IPv6 or a unix socket."""
    addresses = st.ip_addresses().map(lambda address: address.compressed)
    return st.just(Peer("", 0)) | st.builds(Peer, addresses, st.integers(1, 65_535))


_PRINTABLE: Final = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=20)


def dsn_wishes() -> st.SearchStrategy[DsnWish]:
    """Any parameters of one RCPT."""
    notify = st.frozensets(st.sampled_from(sorted(set(DsnNotify) - {DsnNotify.NEVER}, key=str)))
    original = st.builds(OriginalRecipient, st.sampled_from(["rfc822", "utf-8"]), _PRINTABLE | st.just("b\u00fcb"))
    return st.builds(DsnWish, notify | st.just(frozenset({DsnNotify.NEVER})), st.none() | original)


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    """Any envelope of a few recipients."""
    recipients = draw(st.lists(mailboxes(), max_size=3))
    return envelope(
        *recipients,
        dsn_wishes=tuple(draw(dsn_wishes()) for _ in recipients),
        dsn_return=draw(st.none() | st.sampled_from(DsnReturn)),
        envelope_id=draw(st.none() | _PRINTABLE),
        mail_from=draw(st.none() | mailboxes()),
        peer=draw(peers()),
        greeting=draw(st.sampled_from(GreetingWord)),
        helo=draw(greeting_names()),
        body_type=draw(st.none() | st.sampled_from(BodyType)),
        smtputf8=draw(st.booleans()),
        require_tls=draw(st.booleans()),
        tls=draw(st.none() | st.just(TLS)),
        auth_user=draw(st.none() | _PRINTABLE | st.just("b\u00fcb")),
    )


def cut(data: bytes, points: list[int]) -> list[bytes]:
    """``data`` in pieces, cut at these places (taken modulo its length), some of them perhaps empty."""
    places = [0, *sorted(point % (len(data) + 1) for point in points), len(data)]
    return [data[start:end] for start, end in pairwise(places)]
