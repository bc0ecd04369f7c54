"""Mails of 200 MB into a script on a real php-fpm, in each kind of body: every octet arrives, our memory stays flat.

The server runs in a fresh process for each kind, so that the most memory it ever had is that of this kind.
"""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.phpfpm import PhpFpm, php_fpm
from tests.server.test_memory import peak_kib
from tests.support import Journal, serving, settings
from trio_fcgimail.mail import BodyKind

SMALL: Final = 5
LARGE: Final = 200  # MB
ALLOWED_GROWTH_KIB: Final = 8192  # a twentieth of what the larger mail has more
SECONDS: Final = 120
#: The first line of a mail of ours; what stands in front of it is the trace header.
MARK: Final = b"X-Begin: here\r\n"
#: Digests the mail behind the trace header, piece by piece, and says the digest as its id.
SAVE: Final = r"""<?php
$kind = strtok($_SERVER['CONTENT_TYPE'], ';');
$fields = $kind === 'message/rfc822' ? $_GET : $_POST;
$hash = hash_init('sha256');
if ($kind === 'application/x-www-form-urlencoded') {
    $octets = strlen($_POST['body']);
    $begin = strpos($_POST['body'], 'X-Begin');
    for ($at = $begin; $at < $octets; $at += 1 << 20) {
        hash_update($hash, substr($_POST['body'], $at, 1 << 20));
    }
} else {
    $file = fopen($_FILES['body']['tmp_name'] ?? 'php://input', 'rb');
    $head = fread($file, 8192);
    hash_update($hash, substr($head, strpos($head, 'X-Begin')));
    $octets = strlen($head);
    while (($piece = fread($file, 1 << 20)) !== '') {
        hash_update($hash, $piece);
        $octets += strlen($piece);
    }
}
echo (string) $octets === $fields['size'] ? 'SAVED id=' . hash_final($hash) : "451 4.3.0 $octets of {$fields['size']}";
"""


def _chunk() -> bytes:
    """About a megabyte of whatever may be trouble; it begins and ends with a whole line."""
    dice = random.Random(200)
    line = bytes(octet for octet in range(256) if octet not in b"\r\n")
    lines = [b".", b"..", b".a", b"", b"\0", line, b"%00%0d%0A&size=1;a=b+c", b"--", b"--trio-fcgimail--"]
    lines += [b"--trio-fcgimail--" + dice.randbytes(24).hex().encode() + end for end in (b"", b"--")]
    lines += [b'Content-Disposition: form-data; name="body"', b"." + line, line * 3]
    return b"".join(one + b"\r\n" for one in dice.choices(lines, k=10_000))


CHUNK: Final = _chunk()


def test_the_chunk_is_what_it_should_be() -> None:
    assert 900_000 <= len(CHUNK) <= 3_000_000
    assert set(range(256)) == set(CHUNK)
    assert b"\r\n.\r\n" in CHUNK
    assert max(map(len, CHUNK.split(b"\r\n"))) <= 998


@pytest.fixture(scope="module")
def php() -> Iterator[PhpFpm]:
    yield from php_fpm(children=1, ini={"memory_limit": "3G", "opcache.enable": "0"})


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.value) for kind in BodyKind])
def test_200_megabytes_arrive_and_take_no_more_memory_than_5(kind: BodyKind, php: PhpFpm) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.server.test_large_php", php.address, php.script("large.php", SAVE), kind.value],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = re.fullmatch(r"peak KiB: (\d+) small, (\d+) large\n", run.stdout)
    assert found, run.stdout
    small, large = map(int, found.groups())
    assert large - small <= ALLOWED_GROWTH_KIB, run.stdout


async def measure(folder: Path, address: str, script: str, kind: str) -> None:
    """Send both mails, see that PHP had every octet, and print the peaks."""
    journal = Journal(folder / "log")
    config = settings(
        f"""
        listeners = [{{ address = "127.0.0.1:0" }}]
        limits.message_octets = 0
        spool.directory = "{folder}"
        fastcgi.upstreams = ["{address}"]
        scripts.save = "{script}"
        scripts.save_seconds = {SECONDS}
        scripts.body = "{kind}"
        """
    )
    peaks = []
    stuffed = re.sub(rb"(?m)^\.", b"..", CHUNK)
    seen = CHUNK.replace(b"\r\n", b"\n") if kind == BodyKind.FORM.value else CHUNK
    async with serving(config, journal) as served:
        client = await served.guest()
        for megabytes in (SMALL, LARGE):
            await client.begin()
            digest = hashlib.sha256(MARK.replace(b"\r\n", b"\n") if kind == BodyKind.FORM.value else MARK)
            await client.send(MARK)
            for _ in range(-(-megabytes * 1_000_000 // len(CHUNK))):
                await client.send(stuffed)
                digest.update(seen)
            reply = await client.ask(b".")
            assert reply == b"250 2.0.0 OK: queued as " + digest.hexdigest().encode() + b"\r\n", reply
            peaks.append(peak_kib())
    journal.file.close()
    print("peak KiB: {} small, {} large".format(*peaks))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        trio.run(partial(measure, Path(name), *sys.argv[1:]))
