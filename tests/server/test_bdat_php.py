"""A mail by BDAT through a real server into a script on a real php-fpm, octet for octet, with what DSN asked for."""

import base64
import json
import random
from collections.abc import Iterator
from typing import Final

import pytest

from tests.phpfpm import PhpFpm, php_fpm
from tests.support import Dialogue, Journal, serving, settings

pytestmark = pytest.mark.trio

SAVE: Final = """<?php
file_put_contents('%(folder)s/body', $_POST['body']);
unset($_POST['body']);
file_put_contents('%(folder)s/fields', json_encode(array_map('base64_encode', $_POST)));
echo 'SAVED id=by-bdat';
"""
TEXT: Final = b"Subject: chunks\r\n\r\n.\r\n..\r\nQUIT\r\n\0\xff and no newline"
PICTURE: Final = b"Subject: picture\r\n\r\n" + random.Random(3030).randbytes(3_000_000)


@pytest.fixture(scope="module")
def php() -> Iterator[PhpFpm]:
    yield from php_fpm()


async def _send(client: Dialogue, content: bytes, chunk_octets: int) -> bytes:
    for at in range(0, len(content), chunk_octets):
        piece = content[at : at + chunk_octets]
        await client.send(b"BDAT %d\r\n%b" % (len(piece), piece))
        assert await client.reply() == b"250 2.0.0 Chunk received\r\n"
    return await client.ask(b"BDAT 0 LAST")


@pytest.mark.parametrize(
    ("body", "content", "expected", "chunk_octets"),
    [
        pytest.param(b"8BITMIME", TEXT, TEXT.replace(b"\r\n", b"\n"), 1, id="text-octet-by-octet"),
        pytest.param(b"8BITMIME", TEXT, TEXT.replace(b"\r\n", b"\n"), 1000, id="text-whole"),
        pytest.param(b"BINARYMIME", PICTURE, PICTURE, 65_521, id="binary"),
        pytest.param(b"BINARYMIME", PICTURE, PICTURE, 3_100_000, id="binary-whole"),
    ],
)
async def test_every_octet_and_every_wish_arrives(
    body: bytes, content: bytes, expected: bytes, chunk_octets: int, php: PhpFpm, journal: Journal
) -> None:
    config = settings(f"""
[[listeners]]
address = "127.0.0.1:0"
[fastcgi]
upstreams = ["{php.address}"]
[scripts]
save = "{php.script("bdat.php", SAVE % {"folder": php.data})}"
""")
    async with serving(config, journal) as house:
        client = await house.guest()
        assert (await client.ask(b"MAIL FROM:<a@b.example> RET=FULL ENVID=x+3Dy BODY=" + body)).startswith(b"250 ")
        recipient = b"RCPT TO:<b@example.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b+2Bc@example.org"
        assert (await client.ask(recipient)).startswith(b"250 ")
        assert await _send(client, content, chunk_octets) == b"250 2.0.0 OK: queued as by-bdat\r\n"
    stored = (php.data / "body").read_bytes()
    fields = {name: base64.b64decode(value) for name, value in json.loads((php.data / "fields").read_bytes()).items()}
    trace = stored.removesuffix(expected)
    assert len(trace) == len(stored) - len(expected)
    assert trace.startswith(b"Received: from client.example")
    assert trace.count(b"\n") == 4
    assert trace.endswith(b"\n")
    assert int(fields["size"]) == len(stored)
    wishes = {name: fields[name] for name in ("body_type", "dsn_envid", "dsn_ret", "rcpt_notify_0", "rcpt_orcpt_0")}
    assert wishes == {
        "body_type": body,
        "dsn_envid": b"x=y",
        "dsn_ret": b"FULL",
        "rcpt_notify_0": b"FAILURE,SUCCESS",
        "rcpt_orcpt_0": b"rfc822;b+c@example.org",
    }
