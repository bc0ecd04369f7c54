"""Behind a real Postfix: it hands us mails by LMTP over a unix socket, keeps what we defer, bounces what we refuse.

Real server, real php-fpm; each recipient fares on its own, as the validate script says at RCPT and the save script
behind the dot.
"""

import base64
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Final

import pytest

from tests.clients import Channel, Mail, Postfix, Route, require, run_client, running_postfix
from tests.phpfpm import open_folder, php_fpm
from tests.server_process import ServerProcess, eventually
from trio_fcgimail.config import read_document

AUTHOR: Final = "author@example.com"
CONTENT: Final = (
    b"From: author@example.com\r\nTo: all@example.com\r\nSubject: To all\r\n"
    b"Date: Mon, 2 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@example.com>\r\n\r\nHello.\r\n.\r\n"
)

VALIDATE: Final = """<?php
$later = file_exists('%(data)s/later');
echo match (strstr($_GET['rcpt_to'], '@', true)) {
    'unknown' => '550 5.1.1 Nobody of that name',
    'moving' => $later ? 'PASSED' : '450 4.2.1 Moving house',
    default => 'PASSED',
};
"""
SAVE: Final = """<?php
$later = file_exists('%(data)s/later');
$lines = [];
for ($i = 0; $i < (int) $_POST['rcpt_count']; $i++) {
    $lines[] = match (strstr($_POST["rcpt_to_$i"], '@', true)) {
        'picky' => '554 5.6.0 Not this one',
        'full' => $later ? 'SAVED' : '452 4.2.2 Mailbox full',
        'dies' => $later ? 'SAVED' : throw new Exception('died'),
        default => 'SAVED',
    };
}
foreach ($lines as $i => $line) { // nothing is stored before all is decided
    if ($line === 'SAVED') {
        $mail = ['to' => $_POST["rcpt_to_$i"], 'from' => $_POST['mail_from'], 'body' => base64_encode($_POST['body'])];
        file_put_contents('%(data)s/stored', json_encode($mail) . "\\n", FILE_APPEND | LOCK_EX);
    }
}
echo implode("\\n", $lines);
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """A mail as the script stored it for one recipient."""

    recipient: str
    sender: str
    body: bytes


@dataclass(frozen=True, slots=True)
class House:
    """Postfix in front of our server, and what the scripts stored."""

    postfix: Postfix
    data: Path

    def stored(self) -> list[Stored]:
        """Everything so far, in order."""
        path = self.data / "stored"
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [Stored(one["to"], one["from"], base64.b64decode(one["body"])) for one in map(json.loads, lines)]

    def later(self) -> None:
        """Have the scripts take what they put off, and Postfix try again."""
        (self.data / "later").touch()
        self.postfix.flush()


@pytest.fixture
def house() -> Iterator[House]:
    with open_folder() as folder:
        for php in php_fpm(children=2):
            (php.data / "stored").touch()
            (php.data / "stored").chmod(0o666)
            validate = php.script("validate.php", VALIDATE % {"data": php.data})
            save = php.script("save.php", SAVE % {"data": php.data})
            (folder / "fcgimail.toml").write_text(f"""
hostname = "mx.example.com"
allowed_hosts = ["example.com"]
[[listeners]]
address = "unix:{folder}/lmtp.sock"
mode = "0666"
protocol = "lmtp"
[fastcgi]
upstreams = ["{php.address}"]
max_connections = 2
[scripts]
validate = "{validate}"
save = "{save}"
""")
            route = Route(channel=Channel.LMTP, socket=folder / "lmtp.sock")
            with ServerProcess("serve", folder=folder, ready=_listening) as server, running_postfix(route) as postfix:
                yield House(postfix, php.data)
                assert server.stop() == 0


def _listening(server: ServerProcess) -> None:
    server.wait_for_log(r"\blistening\b")


def _to(*names: str) -> Mail:
    return Mail(CONTENT, tuple(f"{name}@example.com" for name in names), AUTHOR)


def test_each_recipient_fares_on_its_own(house: House) -> None:
    house.postfix.submit(_to("saved", "unknown", "moving", "picky", "full"))
    eventually(lambda: len(house.postfix.verdicts()) >= 6, "each recipient is tried once, and the bounce")
    verdicts = {recipient: (status, why) for recipient, status, why in house.postfix.verdicts()}
    for name, status, said in (
        ("saved", "sent", "250 2.0.0 OK: queued as "),
        ("unknown", "bounced", "550 5.1.1 Nobody of that name (in reply to RCPT TO command)"),
        ("moving", "deferred", "450 4.2.1 Moving house (in reply to RCPT TO command)"),
        ("picky", "bounced", "554 5.6.0 Not this one (in reply to end of DATA command)"),
        ("full", "deferred", "452 4.2.2 Mailbox full (in reply to end of DATA command)"),
        ("author", "sent", "250 2.0.0 OK: queued as "),
    ):
        told = verdicts[f"{name}@example.com"]
        assert told[0] == status, told
        assert said in told[1], told

    # What was refused goes back to who sent it, in one bounce, which comes to us as any other mail.
    mine, bounce = house.stored()
    assert (mine.recipient, mine.sender) == ("saved@example.com", AUTHOR)
    assert mine.body.endswith(CONTENT.replace(b"\r\n", b"\n"))
    assert (bounce.recipient, bounce.sender) == (AUTHOR, "")
    assert _reported(bounce) == {
        "unknown@example.com": ("failed", "5.1.1", "550 5.1.1 Nobody of that name"),
        "picky@example.com": ("failed", "5.6.0", "554 5.6.0 Not this one"),
    }

    # What was put off is in its queue, and nowhere else; it comes when it is taken, and nothing comes twice.
    waiting = house.postfix.queue()
    assert set(waiting) == {"moving@example.com", "full@example.com"}
    assert "450 4.2.1 Moving house" in waiting["moving@example.com"]
    assert "452 4.2.2 Mailbox full" in waiting["full@example.com"]
    house.later()
    eventually(lambda: not house.postfix.queue(), "the queue is empty")
    late = house.stored()[2:]
    assert sorted(one.recipient for one in late) == ["full@example.com", "moving@example.com"]
    assert all(one.sender == AUTHOR and one.body.endswith(b"\n\nHello.\n.\n") for one in late)
    statuses = [(recipient, status) for recipient, status, _ in house.postfix.verdicts()]
    assert statuses.count(("saved@example.com", "sent")) == 1


def _reported(bounce: Stored) -> dict[str, tuple[str, str, str]]:
    """What a delivery status notification says of each recipient: action, status, diagnostic (RFC 3464)."""
    report = message_from_bytes(bounce.body)
    assert report.get_content_type() == "multipart/report"
    (status,) = [part for part in report.walk() if part.get_content_type() == "message/delivery-status"]
    found = {}
    for block in status.get_payload():
        assert isinstance(block, Message)
        if "Final-Recipient" in block:
            address = block["Final-Recipient"].partition(";")[2].strip()
            diagnostic = " ".join(block["Diagnostic-Code"].partition(";")[2].split())
            found[address] = (block["Action"], block["Status"], diagnostic)
    return found


def test_a_script_that_dies_costs_a_retry_and_never_a_mail(house: House) -> None:
    house.postfix.submit(_to("saved", "dies"))
    eventually(lambda: len(house.postfix.verdicts()) == 2, "each recipient is tried once")
    assert {status for _, status, _ in house.postfix.verdicts()} == {"deferred"}
    waiting = house.postfix.queue()
    assert set(waiting) == {"saved@example.com", "dies@example.com"}
    assert all("451 4.3.0" in why for why in waiting.values())
    house.later()
    eventually(lambda: not house.postfix.queue(), "the queue is empty")
    assert sorted(one.recipient for one in house.stored()) == ["dies@example.com", "saved@example.com"]


def test_a_probe_is_answered_by_the_validate_script_alone(house: House) -> None:
    house.postfix.probe(_to("saved", "unknown", "moving"))
    eventually(lambda: len(house.postfix.verdicts()) == 4, "each recipient is asked for, and the report")
    statuses = {recipient: status for recipient, status, _ in house.postfix.verdicts()}
    assert statuses["saved@example.com"] == "deliverable"
    assert statuses["unknown@example.com"] == statuses["moving@example.com"] == "undeliverable"
    assert [one.recipient for one in house.stored()] == [AUTHOR]


# The page

PAGE: Final = (Path(__file__).parents[1] / "docs" / "postfix.md").read_text(encoding="utf-8")


def test_the_configuration_of_the_page_is_taken() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    read_document(tomllib.loads(example), file="postfix.md", default_hostname="mx.example.com")


def test_postfix_knows_the_settings_of_the_page_and_has_those_defaults() -> None:
    (example,) = re.findall(r"```sh\n# /etc/postfix/main.cf\n(.*?)```", PAGE, re.DOTALL)
    named = [line.partition(" = ")[0] for line in example.splitlines()]
    mentioned = re.findall(r"`([a-z]+(?:_[a-z]+)+)` \(([\d,]+)[^)]*\)", PAGE)
    ours = {"max_connections", "message_octets", "recipients"}
    defaults = {name: value.replace(",", "") for name, value in mentioned if name.rpartition(".")[2] not in ours}
    assert len(named) == 7
    assert len(defaults) == 6
    told = run_client([require("postconf", "postfix"), "-d", *named, *defaults]).said
    assert "unknown parameter" not in told
    settings = {line.partition(" = ")[0]: line.partition(" = ")[2] for line in told.splitlines()}
    for name, value in defaults.items():
        number = re.match(r"\d+", _expanded(settings, name))
        assert number is not None
        assert number[0] == value, name


def _expanded(settings: dict[str, str], name: str) -> str:
    """A default that refers to another."""
    value = settings[name]
    if not value.startswith("$"):
        return value
    return run_client([require("postconf", "postfix"), "-dh", value[1:]]).said.strip()
