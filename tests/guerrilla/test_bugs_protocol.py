"""Bugs 24 to 36 of go-guerrilla: replies that were wrong, and what scripts did not get.

Each test has the number that docs/migrating.md has for the bug.
"""

import re
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.certificates import Authority
from tests.guerrilla.support import QUEUED, moved
from tests.server.encrypted import dialogue_over
from tests.support import MAIL, Dialogue, House, Journal, Line, ScriptedResponder, elapsed

pytestmark = pytest.mark.trio

OK: Final = b"250 "
_HELLO: Final = b"EHLO client.example"
_MAIL: Final = b"MAIL FROM:<a@client.example>"
_RCPT: Final = b"RCPT TO:<b@example.com>"


async def test_bug_24_mail_that_flows_is_not_cut(journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal, server={"timeout": 1}) as house:
        client = await house.guest()
        await client.begin()
        seconds = elapsed()
        while seconds() < 1.6:
            await client.send(MAIL)
            with trio.move_on_after(0.2):
                await trio.sleep_forever()
        assert (await client.ask(b".")).startswith(QUEUED)
        assert await client.reply() == b"421 4.4.2 Timed out waiting for you; closing\r\n"  # and it is told why


async def test_bug_25_large_mail_is_refused_for_good(journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal, server={"max_size": 1000}) as house:
        client = await house.guest()
        assert await client.mail(MAIL + b"x" * 900 + b"\r\n" + b"y" * 200 + b"\r\n") == b"552 5.3.4 Message too big\r\n"
        assert await client.ask(_MAIL + b" SIZE=1001") == b"552 5.3.4 Message too big\r\n"  # before it is sent
        assert (await client.ask(_MAIL + b" SIZE=1000")).startswith(OK)


async def test_bug_26_noop_and_help_are_plain(journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal) as house:
        assert await house.told(b"NOOP", *[b"HELP"] * 100) == [b"250 2.0.0 OK"] + [b"214 2.0.0 See RFC 5321"] * 100


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param([_MAIL], id="mail-without-hello"),
        pytest.param([_HELLO, _RCPT], id="rcpt-without-mail"),
        pytest.param([_HELLO, b"DATA"], id="data-without-mail"),
        pytest.param([_HELLO, _MAIL, b"DATA"], id="data-without-rcpt"),
        pytest.param([_HELLO, b"MAIL FROM:<>", _MAIL], id="nested-behind-the-null-path"),
        pytest.param([_HELLO, _MAIL, _RCPT, _MAIL], id="nested"),
    ],
)
async def test_bug_27_order_is_kept(commands: list[bytes], journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal) as house:
        *before, last = await house.told(*commands)
        assert all(reply[:3] == b"250" for reply in before)
        assert last.startswith(b"503 5.5.1 ")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(b"RCPT TO:xuser@example.com>", id="no-bracket-before"),
        pytest.param(b"RCPT TO:<b@example.com>junk", id="junk-behind"),
        pytest.param(b"RCPT TO:<b@example.com", id="no-bracket-behind"),
        pytest.param(b"RCPT TO:x<b@example.com>", id="junk-before"),
    ],
)
async def test_bug_28_path_is_what_stands_in_brackets(command: bytes, journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal) as house:
        assert (await house.told(_HELLO, _MAIL, command))[-1][:3] in (b"501", b"555")
        assert house.scripts.requests == []


async def test_bug_28_printers_may_be_let_in(nursery: trio.Nursery, journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal) as moved_house:
        assert (await moved_house.told(_HELLO, b"MAIL FROM:a@b.example"))[-1] == b"501 5.1.7 Bad sender address syntax"
    house = House(nursery, journal, 'listeners = [{ address = "127.0.0.1:0", lenient_paths = true }]')
    client = await house.guest()
    assert (await client.ask(b"MAIL FROM:a@b.example")).startswith(OK)
    await client.close()


async def test_bug_29_postmaster_is_nobody_else(journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal) as house:
        for name in ("PostmasterSales", "postmaster2", "POSTMASTER"):
            command = f"RCPT TO:<{name}@example.com>".encode()
            assert (await house.told(_HELLO, _MAIL, command))[-1].startswith(OK)
            assert house.scripts.requests[-1].fields["rcpt_to"] == f"{name}@example.com"


@pytest.mark.parametrize("name", [b"[192.0.2.1]", b"[IPv6:2001:db8::1]", b"my_host.example", b"client.example "])
@pytest.mark.parametrize("word", [b"HELO", b"EHLO"])
async def test_bug_30_greetings_of_real_clients_pass(
    word: bytes, name: bytes, journal: Journal, tmp_path: Path
) -> None:
    async with moved(tmp_path, journal) as house:
        assert (await house.told(word + b" " + name))[0][:3] == b"250"


async def test_bug_30_bad_greeting_is_a_mistake_of_syntax(journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal) as house:
        replies = await house.told(b"EHLO", b"HELO", b"EHLO a b")
        assert [reply[:3] for reply in replies] == [b"501"] * 3


async def test_bug_31_a_hundred_recipients_are_a_hundred(journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal) as house:
        client = await house.guest()
        await client.ask(_MAIL)
        replies = [await client.ask(b"RCPT TO:<b%d@example.com>" % number) for number in range(101)]
        assert [reply[:3] for reply in replies] == [b"250"] * 100 + [b"452"]


async def test_bug_31_parameters_do_not_count_as_address(journal: Journal, tmp_path: Path) -> None:
    domain = b".".join([b"d" * 60] * 3) + b".example"
    sender = b"MAIL FROM:<" + b"l" * 60 + b"@" + domain + b"> ENVID=" + b"e" * 100
    recipient = b"RCPT TO:<b@example.com> ORCPT=rfc822;" + b"o" * 60 + b"@" + domain
    async with moved(tmp_path, journal) as house:
        replies = await house.told(_HELLO, sender, recipient)
        assert [reply[:3] for reply in replies[1:]] == [b"250", b"250"]
        assert (await house.told(_HELLO, b"MAIL FROM:<" + b"l" * 65 + b"@client.example>"))[-1].startswith(b"501 ")


async def test_bug_32_relaying_is_refused_for_good(journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal) as house:
        replies = await house.told(_HELLO, _MAIL, b"RCPT TO:<b@elsewhere.example>", b"RCPT TO:<postmaster>")
        assert replies[2] == b"550 5.7.1 Relaying denied"
        assert replies[3].startswith(OK)  # whatever the list says (RFC 5321 4.5.1)


def _starttls(authority: Authority) -> dict[str, object]:
    pem = str(authority.certificate)
    return {"tls": {"start_tls_on": True, "public_key_file": pem, "private_key_file": pem}}


async def test_bug_33_starttls_begins_anew_and_once(journal: Journal, tmp_path: Path, authority: Authority) -> None:
    async with moved(tmp_path, journal, server=_starttls(authority)) as house:
        clear = await house.guest()
        assert (await clear.ask(b"STARTTLS")).startswith(b"220 ")
        client = dialogue_over(authority.client(clear.stream))
        assert await client.ask(_MAIL) == b"503 5.5.1 Say hello first\r\n"
        assert b"STARTTLS" not in await client.ask(_HELLO)
        assert await client.ask(b"STARTTLS") == b"503 5.5.1 TLS is active already\r\n"
        assert (await client.mail()).startswith(QUEUED)


async def test_bug_33_failed_handshake_ends_it(journal: Journal, tmp_path: Path, authority: Authority) -> None:
    async with moved(tmp_path, journal, server=_starttls(authority)) as house:
        client = await house.guest()
        assert (await client.ask(b"STARTTLS")).startswith(b"220 ")
        await client.send(_MAIL + b"\r\n")
        assert b"250" not in await client.rest()


async def test_bug_34_no_two_mails_have_one_id(journal: Journal, tmp_path: Path) -> None:
    seen: list[str] = []
    for _ in range(2):  # a start of its own each
        async with moved(tmp_path, journal) as house:
            for _ in range(2):
                client = await house.guest()
                for _ in range(3):
                    reply = (await client.mail()).decode()
                    seen.append(house.mails[-1].fields["queue_id"])
                    assert reply == f"250 2.0.0 OK: queued as {seen[-1]}\r\n"
    assert len(set(seen)) == len(seen) == 12


async def test_bug_35_header_says_who_it_was_and_under_which_id(journal: Journal, tmp_path: Path) -> None:
    backend = {"save_process": "HeadersParser|Hasher|Header|FastCGI", "primary_mail_host": "mail.example.com"}
    async with moved(tmp_path, journal, backend=backend) as house:
        client = await house.guest()
        await client.mail()
        await client.begin(b"b@example.com", b"secret@example.com")
        assert (await client.ask(MAIL + b".")).startswith(QUEUED)
        one, two = house.mails
        found = re.match(
            r"Delivered-To: b@mail\.example\.com\n"
            r"Received: from client\.example \(\[127\.0\.0\.1\]\)\n"
            r"\tby mx\.example\.com with ESMTP id (\S+);\n"
            r"\t\w{3}, \d\d? \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}\nSubject: hello\n\n",
            one.fields["body"],
        )
        assert found is not None, one.fields["body"]
        assert found[1] == one.fields["queue_id"]
        assert two.fields["body"].startswith("Received: ")  # nobody learns of the others
        assert "secret@" not in two.fields["body"]


async def test_bug_35_script_may_have_the_mail_octet_by_octet(nursery: trio.Nursery, journal: Journal) -> None:
    scripts = ScriptedResponder(nursery)
    toml = 'scripts.line_ends = "crlf"\nchain.trace_header = false'
    client = await House(nursery, journal, toml, connect=scripts.connect).guest()
    mail = b"DKIM-Signature: v=1;\r\n\tb=x\r\n\r\n \xe4\r\n\r\n"
    assert (await client.mail(mail)).startswith(b"250 ")
    await client.close()
    assert scripts.requests[-1].fields["body"].encode("latin-1") == mail


async def test_bug_36_validator_sees_who_asks_and_chooses_the_reply(journal: Journal, tmp_path: Path) -> None:
    seen: list[str] = []

    async def act(line: Line) -> None:
        request = await line.request()
        seen.extend(request.fields[name] for name in ("rcpt_to", "mail_from", "helo", "remote_ip"))
        await line.answer(b"450 4.2.2 Mailbox is full, call later")

    async with moved(tmp_path, journal, act) as house:
        client: Dialogue = await house.guest()
        await client.ask(_MAIL)
        assert await client.ask(_RCPT) == b"450 4.2.2 Mailbox is full, call later\r\n"
    assert seen == ["b@example.com", "a@client.example", "client.example", "127.0.0.1"]
