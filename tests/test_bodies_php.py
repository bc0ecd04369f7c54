"""Multipart and raw bodies as a real PHP sees them: every octet and every field, and what it says when it drops some.

Forms are in tests/test_form_php.py, mails of 200 MB in tests/server/test_large_php.py.
"""

from __future__ import annotations

import base64
import json
import os
import random
from collections.abc import Iterator
from typing import Final

import pytest

from tests.phpfpm import PhpFpm, php_fpm
from tests.test_form_php import HOST, MAIL, SECONDS
from trio_fcgimail.config import UnixAddress
from trio_fcgimail.mail import (
    BOUNDARY_RANDOM_OCTETS,
    Answer,
    BodyKind,
    BodyLines,
    Meaning,
    Stage,
    Unexpected,
    judge,
    mail_parameters,
    post_parameters,
    save_fields,
)
from trio_fcgimail.mail.multipart import boundary_of
from trio_fcgimail.server import upstream
from trio_fcgimail.server.message import IncomingMessage
from trio_fcgimail.server.spool import SpoolRoom

#: What came, apart from the mail, which it stores.
ECHO: Final = """<?php
copy($_FILES['body']['tmp_name'] ?? 'php://input', '%s');
$ours = array_filter($_SERVER, fn ($name) => str_starts_with($name, 'MAIL_'), ARRAY_FILTER_USE_KEY);
unset($_FILES['body']['tmp_name']);
echo json_encode([
    'get' => array_map('base64_encode', $_GET),
    'post' => array_map('base64_encode', $_POST),
    'mail' => array_map('base64_encode', $ours),
    'file' => $_FILES['body'] ?? null,
    'type' => $_SERVER['CONTENT_TYPE'],
]);
"""
RANDOM: Final = bytes(BOUNDARY_RANDOM_OCTETS)
BOUNDARY: Final = boundary_of(RANDOM)  # of these tests alone: elsewhere no content can know it
NEAR: Final = [
    b"--" + BOUNDARY[:-1],
    b"\r\n--" + BOUNDARY[:-1],
    b"\r\n--" + BOUNDARY[:-1] + b"1\r\n",
    b"\r\n-" + BOUNDARY + b"--\r\n",
    b"\r\n--" + BOUNDARY.upper() + b"\r\n",
    b'\r\nContent-Disposition: form-data; name="size"\r\n\r\n0',
    b"\r\n",
    b"\r",
    b"\n--",
]
ODD: Final = [
    pytest.param(b"", id="empty"),
    pytest.param(bytes(range(256)) * 300, id="every-octet"),
    pytest.param(b"\r\n\r\r\n\n\n\r", id="newlines"),
    pytest.param(b"\0", id="nul"),
    pytest.param(b".\r\n..\r\n.", id="dots"),
    pytest.param(b"".join(NEAR), id="like-the-boundary"),
    pytest.param(b"".join(random.Random(7).choices(NEAR, k=4000)), id="like-the-boundary-over-the-blocks-of-php"),
    pytest.param(b"\r\n--" * 30_000, id="beginnings-of-a-boundary"),
    pytest.param(random.Random(1).randbytes(1_000_000), id="random-megabyte"),
]
KINDS: Final = [BodyKind.MULTIPART, BodyKind.RAW]


@pytest.fixture(scope="module")
def php() -> Iterator[PhpFpm]:
    yield from php_fpm()


def new_message(kind: BodyKind, memory: int) -> IncomingMessage:
    room = SpoolRoom(directory=None, memory_octets=memory, total_octets=None)
    return IncomingMessage(MAIL, room, BodyLines.LF, kind)


async def ask(php: PhpFpm, script: str, message: IncomingMessage) -> Answer:
    """Hand a mail to a script as the server does."""
    asked = message.save_request(RANDOM)
    stream = await upstream.connect(UnixAddress(str(php.socket_path)), seconds=SECONDS)
    parameters = post_parameters(
        script,
        asked.octets,
        hostname=HOST,
        remote_ip="192.0.2.1",
        fields=asked.query,
        content_type=asked.content_type,
        more=asked.parameters,
    )
    return await upstream.request(stream, parameters, message.body(asked), seconds=SECONDS)


async def save(php: PhpFpm, script: str, content: bytes, kind: BodyKind, memory: int = 65_536) -> Answer:
    message = new_message(kind, memory)
    for at in range(0, len(content), 65_521):
        await message.add(content[at : at + 65_521])
    try:
        return await ask(php, script, message)
    finally:
        message.close()


def decoded(values: dict[str, str]) -> dict[str, str]:
    return {name: base64.b64decode(value).decode() for name, value in values.items()}


@pytest.mark.parametrize("content", ODD)
@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.value) for kind in KINDS])
@pytest.mark.trio
async def test_php_has_every_octet_and_every_field(php: PhpFpm, content: bytes, kind: BodyKind) -> None:
    stored = php.data / "body"
    stored.unlink(missing_ok=True)
    answer = await save(php, php.script("echo.php", ECHO % stored), content, kind)
    assert answer.stderr == b""
    assert stored.read_bytes() == content
    seen = json.loads(answer.output)
    message = new_message(kind, 1 << 21)
    await message.add(content)
    fields = dict(save_fields(MAIL, message.received()))
    assert fields["size"] == str(len(content))  # CRLF kept, whatever line_ends says
    if kind is BodyKind.MULTIPART:
        assert (decoded(seen["post"]), seen["get"], seen["mail"]) == (fields, [], [])
        name = f"{MAIL.queue_id}.eml"
        told = {"name": name, "full_path": name, "type": "message/rfc822", "error": 0, "size": len(content)}
        assert seen["file"] == told
    else:
        assert (decoded(seen["get"]), seen["post"], seen["file"]) == (fields, [], None)
        ours = {name.decode(): value.decode() for name, value in mail_parameters(fields.items())}
        assert decoded(seen["mail"]) == ours
        assert seen["type"] == "message/rfc822"


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.value) for kind in BodyKind])
@pytest.mark.trio
async def test_a_body_can_be_read_again(php: PhpFpm, kind: BodyKind) -> None:
    """For another try, after one that was cut within the body."""
    message = new_message(kind, 10_000)
    content = b"Subject: again\r\n\r\n" + os.urandom(600_000)
    await message.add(content)
    body = message.body(message.save_request(RANDOM))
    first = body.pieces()
    cut = [await anext(first) for _ in range(3)]
    await first.aclose()
    whole = b"".join([piece async for piece in body.pieces()])
    assert whole.startswith(b"".join(cut))
    assert len(whole) == body.octets
    answer = await ask(php, php.script("size.php", "<?php echo $_SERVER['CONTENT_LENGTH'];"), message)
    assert int(answer.output) == body.octets
    message.close()


@pytest.mark.parametrize(
    ("kind", "ini"),
    [
        pytest.param(BodyKind.MULTIPART, {"post_max_size": "1000"}, id="multipart-post-size"),
        pytest.param(BodyKind.MULTIPART, {"max_input_vars": "100"}, id="multipart-input-variables"),
        pytest.param(BodyKind.MULTIPART, {"max_multipart_body_parts": "100"}, id="multipart-parts"),
        pytest.param(BodyKind.MULTIPART, {"max_file_uploads": "0"}, id="multipart-uploads"),
        pytest.param(BodyKind.RAW, {"max_input_vars": "100"}, id="raw-input-variables"),
        pytest.param(BodyKind.RAW, {"post_max_size": "1000"}, id="raw-post-size"),
    ],
)
@pytest.mark.trio
async def test_a_php_that_says_that_it_dropped_input_is_believed_nothing(kind: BodyKind, ini: dict[str, str]) -> None:
    with PhpFpm(children=1, ini=ini) as php:
        answer = await save(php, php.script("saved.php", "<?php echo 'SAVED';"), b"x" * 2000, kind)
    assert answer.output == b"SAVED"
    verdict = judge(Stage.SAVE, answer, unexpected=Unexpected.REJECT, queue_id="q")
    assert verdict.meaning is Meaning.FAILED


@pytest.mark.parametrize(
    ("ini", "error"),
    [
        pytest.param({"upload_max_filesize": "1000"}, 1, id="too-large"),
        pytest.param({"file_uploads": "0"}, None, id="no-uploads"),
        pytest.param({"enable_post_data_reading": "0"}, None, id="no-reading"),
    ],
)
@pytest.mark.trio
async def test_what_php_drops_without_a_word_a_script_can_see(ini: dict[str, str], error: int | None) -> None:
    """Nothing on STDERR: only $_FILES['body']['error'] tells, and docs/scripts.md says so."""
    with PhpFpm(children=1, ini=ini) as php:
        script = php.script("error.php", "<?php echo json_encode($_FILES['body']['error'] ?? null);")
        answer = await save(php, script, b"x" * 2000, BodyKind.MULTIPART)
    assert (json.loads(answer.output), answer.stderr) == (error, b"")
