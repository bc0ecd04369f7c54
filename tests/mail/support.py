"""What the tests of the mail layer share: envelopes, and strategies for whatever the SMTP grammar lets pass."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from hypothesis import reject
from hypothesis import strategies as st

from trio_fcgimail.mail import Envelope, Peer, Session
from trio_fcgimail.smtp import BodyType, GreetingWord, LocalProtocolError, Mailbox, grammar

ALICE: Final = Mailbox("alice", "example.net")
BOB: Final = Mailbox("bob", "example.com")
CAROL: Final = Mailbox("carol", "example.com")
PEER: Final = Peer("192.0.2.1", 4321)
QUEUE_ID: Final = "0621e2e2b40000badc0ffee"


def envelope(
    *recipients: Mailbox,
    mail_from: Mailbox | None = ALICE,
    peer: Peer = PEER,
    greeting: GreetingWord = GreetingWord.EHLO,
    helo: str = "client.example",
    body_type: BodyType | None = None,
    smtputf8: bool = False,
) -> Envelope:
    """An envelope, with what a test does not care about filled in."""
    return Envelope(
        queue_id=QUEUE_ID,
        session=Session(peer, greeting, helo),
        mail_from=mail_from,
        recipients=recipients,
        body_type=body_type,
        smtputf8=smtputf8,
    )


_LOCAL_PARTS: Final = st.text(
    st.sampled_from('aZ0 .@"\\<>()[]:;,&%+=_-\u00fc\u0130') | st.characters(exclude_categories=["Cc", "Cs"]),
    max_size=20,
)
_LABELS: Final = st.text(st.sampled_from("aZ0-\u00fc\u0130\u1e9e"), min_size=1, max_size=8)
_DOMAINS: Final = st.lists(_LABELS, min_size=1, max_size=3).map(".".join) | st.sampled_from(
    ["EXAMPLE.com", "[192.0.2.7]", "[IPv6:2001:DB8::7]", "\u0130" * 31 + ".example"]
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
    return st.from_regex(grammar.GREETING_NAME, fullmatch=True)


def peers() -> st.SearchStrategy[Peer]:
    """Over IPv4, IPv6 or a unix socket."""
    addresses = st.ip_addresses().map(lambda address: address.compressed)
    return st.just(Peer("", 0)) | st.builds(Peer, addresses, st.integers(1, 65_535))


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    """Any envelope of a few recipients."""
    return envelope(
        *draw(st.lists(mailboxes(), max_size=3)),
        mail_from=draw(st.none() | mailboxes()),
        peer=draw(peers()),
        greeting=draw(st.sampled_from(GreetingWord)),
        helo=draw(greeting_names()),
        body_type=draw(st.none() | st.sampled_from(BodyType)),
        smtputf8=draw(st.booleans()),
    )


def cut(data: bytes, points: list[int]) -> list[bytes]:
    """``data`` in pieces, cut at these places (taken modulo its length), some of them perhaps empty."""
    places = [0, *sorted(point % (len(data) + 1) for point in points), len(data)]
    return [data[start:end] for start, end in pairwise(places)]
