"""What a real PHP makes of our form, and what we make of what a real PHP prints."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import AsyncGenerator, Iterator
from typing import Final, assert_never

import pytest

from tests.mail.support import QUEUE_ID, envelope
from tests.phpfpm import PhpFpm, php_fpm
from trio_fcgimail.config import UnixAddress
from trio_fcgimail.mail import (
    BOUNDARY_RANDOM_OCTETS,
    Answer,
    BodyLines,
    Field,
    Meaning,
    Stage,
    Unexpected,
    auth_fields,
    encode_fields,
    get_parameters,
    judge,
    mail_fields,
    post_parameters,
    save_fields,
    session_fields,
    validate_fields,
)
from trio_fcgimail.server import upstream
from trio_fcgimail.server.message import IncomingMessage
from trio_fcgimail.server.spool import SpoolRoom
from trio_fcgimail.smtp import BodyType, Credentials, Mailbox, Mechanism, Secret, catalogue

HOST: Final = "mx.example.com"
SECONDS: Final = 20
ECHO_POST: Final = """<?php
file_put_contents('%s', $_POST['body']);
unset($_POST['body']);
echo json_encode(array_map('base64_encode', $_POST));
"""
ECHO_GET: Final = "<?php echo json_encode(array_map('base64_encode', $_GET));"
MAIL: Final = envelope(
    Mailbox('a "%&+;=\\', "example.com"),
    Mailbox("grün", "exämple.com"),
    *(Mailbox(f"r{number}", "example.com") for number in range(150)),
    mail_from=Mailbox("100%&+;=", "example.net"),
    helo="%41+&=x",
    body_type=BodyType.EIGHT_BIT_MIME,
    smtputf8=True,
)


@pytest.fixture(scope="module")
def php() -> Iterator[PhpFpm]:
    yield from php_fpm()


async def save(php: PhpFpm, script: str, content: bytes, lines: BodyLines, memory: int = 65_536) -> Answer:
    """Hand a mail to a script as the server does."""
    message = IncomingMessage(MAIL, SpoolRoom(directory=None, memory_octets=memory, total_octets=None), lines)
    for at in range(0, len(content), 65_521):
        await message.add(content[at : at + 65_521])
    body = message.body(message.save_request(bytes(BOUNDARY_RANDOM_OCTETS)))
    stream = await upstream.connect(UnixAddress(str(php.socket_path)), seconds=SECONDS)
    parameters = post_parameters(script, body.octets, hostname=HOST, remote_ip="192.0.2.1")
    answer = await upstream.request(stream, parameters, body, seconds=SECONDS)
    message.close()
    return answer


async def validate(php: PhpFpm, script: str, recipient: Mailbox) -> Answer:
    return await get(php, script, validate_fields(MAIL, recipient))


async def get(php: PhpFpm, script: str, fields: list[Field]) -> Answer:
    stream = await upstream.connect(UnixAddress(str(php.socket_path)), seconds=SECONDS)
    return await upstream.request(
        stream, get_parameters(script, fields, hostname=HOST, remote_ip="192.0.2.1"), None, seconds=SECONDS
    )


def decoded(answer: Answer) -> list[tuple[str, str]]:
    """The fields that a script echoed, in its order."""
    assert answer.stderr == b""
    return [(name, base64.b64decode(value).decode()) for name, value in json.loads(answer.output).items()]


ODD: Final = [
    pytest.param(b"", id="empty"),
    pytest.param(bytes(range(256)), id="every-octet"),
    pytest.param(bytes(reversed(range(256))) * 40, id="every-octet-many-times"),
    pytest.param(b"\r\n\r\r\n\n\n\r", id="newlines"),
    pytest.param(b"\0", id="nul"),
    pytest.param(b"%00%41%zz%%25&amp;body=x&size=0;a[b]=c+d%2B=&=&&", id="like-a-form"),
    pytest.param(b"%" * 40_000, id="three-octets-each"),
    pytest.param(b"a&" * 8191 + b"%\xff" * 8193, id="escapes-over-the-blocks-of-php"),
    pytest.param(random.Random(1).randbytes(1_000_000), id="random-megabyte"),
]


@pytest.mark.parametrize("content", ODD)
@pytest.mark.parametrize("lines", [pytest.param(one, id=one.value) for one in BodyLines])
@pytest.mark.trio
async def test_php_has_every_octet_and_every_field(php: PhpFpm, content: bytes, lines: BodyLines) -> None:
    stored = php.data / "body"
    answer = await save(php, php.script("echo_post.php", ECHO_POST % stored), content, lines)
    body = content.replace(b"\r\n", b"\n") if lines is BodyLines.LF else content
    assert stored.read_bytes() == body
    fields = decoded(answer)
    assert ("size", str(len(body))) in fields
    assert ("rcpt_to_151", "r149@example.com") in fields
    message = IncomingMessage(MAIL, SpoolRoom(directory=None, memory_octets=1 << 21, total_octets=None), lines)
    await message.add(content)
    assert fields == save_fields(MAIL, message.received())
    message.close()


@pytest.mark.parametrize(
    "recipient",
    [
        pytest.param(Mailbox("bob", "example.com"), id="plain"),
        pytest.param(Mailbox('"%&+;= \\', "example.com"), id="quoted"),
        pytest.param(Mailbox("grün", "exämple.com"), id="utf-8"),
    ],
)
@pytest.mark.trio
async def test_php_has_every_field_of_a_query(php: PhpFpm, recipient: Mailbox) -> None:
    answer = await validate(php, php.script("echo_get.php", ECHO_GET), recipient)
    assert decoded(answer) == validate_fields(MAIL, recipient)


@pytest.mark.trio
async def test_php_has_every_field_of_a_login(php: PhpFpm) -> None:
    script = php.script("echo_login.php", "<?php echo json_encode(array_map('base64_encode', $_POST));")
    assert decoded(await log_in(php, script)) == auth_fields(MAIL.session, CREDENTIALS)


BROKEN: Final = [
    pytest.param("echo 'WORD'; no_such_function();", id="fatal"),
    pytest.param("throw new Exception(str_repeat('why? ', 1000));", id="long-message"),
    pytest.param("echo 'WORD' oops", id="parse-error"),
    pytest.param("echo 'WORD'; $x = str_repeat('x', 1 << 30);", id="out-of-memory"),
    pytest.param("echo 'WORD'; trigger_error('enough', E_USER_ERROR);", id="user-error"),
    pytest.param("register_shutdown_function(fn () => oops()); echo 'WORD';", id="fatal-at-shutdown"),
    pytest.param("", id="no-output"),
    pytest.param("exit(3);", id="exit-without-output"),
    pytest.param("http_response_code(503); echo 'WORD';", id="status-503"),
    pytest.param("header('Location: /'); echo 'WORD';", id="redirect"),
]
DISPLAYS: Final = [
    pytest.param({"display_errors": "0"}, id="hidden"),
    pytest.param({"display_errors": "0", "output_buffering": "0"}, id="hidden-unbuffered"),
    pytest.param({"display_errors": "1", "html_errors": "0"}, id="text"),
    pytest.param({"display_errors": "1", "html_errors": "1"}, id="html"),
    pytest.param({"display_errors": "1", "html_errors": "1", "log_errors": "0"}, id="html-unlogged"),
]
WORDS: Final = dict.fromkeys(Stage, "PASSED") | {Stage.SAVE: "SAVED"}
CREDENTIALS: Final = Credentials(
    mechanism=Mechanism.PLAIN, identity="", username="bob", password=Secret("100%&+;= gr\u00fcn")
)
FAILURES: Final = {Stage.CONNECT: catalogue.LOCAL_ERROR_CLOSING, Stage.AUTH: catalogue.AUTH_FAILED_FOR_NOW}


@pytest.fixture(scope="module", params=DISPLAYS)
def careless(request: pytest.FixtureRequest) -> Iterator[PhpFpm]:
    """A PHP that shows its errors in one of the ways there are."""
    ini: dict[str, str] = request.param
    yield from php_fpm(children=1, ini=ini | {"memory_limit": "64M"})


async def ask(php: PhpFpm, stage: Stage, script: str) -> Answer:
    match stage:
        case Stage.CONNECT | Stage.HELO:
            return await get(php, script, session_fields(MAIL.session, stage.value))
        case Stage.AUTH:
            return await log_in(php, script)
        case Stage.MAIL:
            return await get(php, script, mail_fields(MAIL))
        case Stage.VALIDATE:
            return await validate(php, script, Mailbox("bob", "example.com"))
        case Stage.SAVE:
            return await save(php, script, b"Subject: hi\r\n\r\n", BodyLines.LF)
        case _:
            assert_never(stage)


async def log_in(php: PhpFpm, script: str) -> Answer:
    """Ask the auth script, as the server does."""
    form = encode_fields(auth_fields(MAIL.session, CREDENTIALS))

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield form

    stream = await upstream.connect(UnixAddress(str(php.socket_path)), seconds=SECONDS)
    parameters = post_parameters(script, len(form), hostname=HOST, remote_ip="192.0.2.1")
    return await upstream.request(stream, parameters, upstream.Body(len(form), pieces), seconds=SECONDS)


@pytest.mark.parametrize("source", BROKEN)
@pytest.mark.parametrize("stage", [pytest.param(one, id=one.value) for one in Stage])
@pytest.mark.trio
async def test_a_script_that_fails_neither_takes_nor_bounces_a_mail(
    careless: PhpFpm, stage: Stage, source: str
) -> None:
    script = careless.script("broken.php", "<?php " + source.replace("WORD", WORDS[stage]))
    answer = await ask(careless, stage, script)
    for unexpected in Unexpected:
        verdict = judge(stage, answer, unexpected=unexpected, queue_id=QUEUE_ID)
        expected = FAILURES.get(stage, catalogue.LOCAL_ERROR)
        assert (verdict.meaning, verdict.reply) == (Meaning.FAILED, expected), verdict.reason


@pytest.mark.parametrize("stage", [pytest.param(one, id=one.value) for one in Stage])
@pytest.mark.trio
async def test_a_warning_counts_when_it_is_shown(careless: PhpFpm, stage: Stage) -> None:
    script = careless.script("warning.php", f"<?php echo $nothing; echo '{WORDS[stage]}';")
    answer = await ask(careless, stage, script)
    verdict = judge(stage, answer, unexpected=Unexpected.REJECT, queue_id=QUEUE_ID)
    shown = b"Undefined variable" in answer.output
    assert verdict.meaning is (Meaning.FAILED if shown else Meaning.ACCEPTED), verdict.reason


@pytest.mark.parametrize(
    "ini",
    [
        pytest.param({"post_max_size": "1000"}, id="post-size"),
        pytest.param({"max_input_vars": "100"}, id="input-variables"),
    ],
)
@pytest.mark.trio
async def test_a_php_that_drops_input_is_believed_nothing(ini: dict[str, str]) -> None:
    with PhpFpm(children=1, ini=ini) as php:
        answer = await save(php, php.script("saved.php", "<?php echo 'SAVED';"), b"x" * 2000, BodyLines.LF)
    assert answer.output == b"SAVED"
    verdict = judge(Stage.SAVE, answer, unexpected=Unexpected.REJECT, queue_id=QUEUE_ID)
    assert verdict.meaning is Meaning.FAILED
