"""What a script of go-guerrilla's FastCGI processor sees: the same as before, and more. On a real php-fpm.

The requests of the contract are written by hand, as that processor sends them, and go to the same php-fpm as ours.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.phpfpm import PhpFpm, call_script, php_fpm
from tests.support import Journal, serving, settings

pytestmark = pytest.mark.trio

#: Tells all that a script can see of a request, octet for octet.
RECORD: Final = """<?php
$enc = fn($all) => array_map('base64_encode', array_filter($all, 'is_string'));
$seen = ['get' => $enc($_GET), 'post' => $enc($_POST), 'server' => $enc($_SERVER)];
file_put_contents('%(folder)s/' . $_SERVER['REQUEST_METHOD'] . '.json', json_encode($seen));
echo $_SERVER['REQUEST_METHOD'] === 'GET' ? 'PASSED' : 'SAVED';
"""

SOFTWARE: Final = "Go-guerrilla fastcgi"
CONTENT: Final = (
    b"Subject: =?utf-8?q?h=C3=A9llo?=\r\nX: 1 + 1 = 2 & 100% ; ~\r\n\r\n.dot\r\n\xe4\xf6 \xc3\xa9 \t=\r\n\r\nend\r\n"
)

#: One POST for each mail, its fields sorted by name, in Go's url.Values encoding; lines end with LF.
SAVE_FORM: Final = (
    b"body=Subject%3A+%3D%3Futf-8%3Fq%3Fh%3DC3%3DA9llo%3F%3D%0AX%3A+1+%2B+1+%3D+2+%26+100%25+%3B+~%0A%0A"
    b".dot%0A%E4%F6+%C3%A9+%09%3D%0A%0Aend%0A"
    b"&helo=client.example&mail_from=a%40client.example&rcpt_to_0=b%40example.com&rcpt_to_1=c.d%2Be%40example.com"
    b"&remote_ip=127.0.0.5&subject=h%C3%A9llo&tls_on=false"
)
SAVE_PARAMS: Final = {
    "SERVER_SOFTWARE": SOFTWARE,
    "REMOTE_ADDR": "127.0.0.1",
    "REQUEST_METHOD": "POST",
    "CONTENT_TYPE": "application/x-www-form-urlencoded",
}
VALIDATE_PARAMS: Final = {
    "SERVER_SOFTWARE": SOFTWARE,
    "REMOTE_ADDR": "127.0.0.1",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REQUEST_METHOD": "GET",
    "QUERY_STRING": "rcpt_to=c.d%2Be%40example.com",
}
#: What we add, which such a script does not look at.
OURS: Final = {
    "mail_digest", "protocol", "queue_id", "rcpt_count", "remote_port", "size", "smtputf8", "stage", "with",
}  # fmt: skip

TOML: Final = """
fastcgi.upstreams = ["{address}"]
listeners = [{{ address = "127.0.0.1:0" }}]
maildir = {{ path = "{folder}/[user]", user_map = {{ b = "", "c.d+e" = "" }} }}
header.primary_mail_host = "mail.example"
[chain]
save = [{save}]
trace_header = false
[scripts]
validate = "{script}"
save = "{script}"
remote_addr = "127.0.0.1"
server_software = "Go-guerrilla fastcgi"
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as the script saw it."""

    get: Mapping[str, bytes]
    post: Mapping[str, bytes]
    server: Mapping[str, bytes]


@pytest.fixture(scope="module")
def php() -> Iterator[PhpFpm]:
    yield from php_fpm(children=2)


@pytest.fixture(scope="module")
def script(php: PhpFpm) -> str:
    return php.script("record.php", RECORD % {"folder": php.data})


def seen(php: PhpFpm, method: str) -> Seen:
    """The latest request, which is forgotten."""
    path = php.data / f"{method}.json"
    told = json.loads(path.read_text())
    path.unlink()
    # An empty array of PHP is a list in JSON.
    return Seen(*({name: base64.b64decode(text) for name, text in dict(told[kind]).items()} for kind in told))


async def send(php: PhpFpm, script: str, chain: str, folder: Path, journal: Journal) -> bytes:
    """Send the mail of the contract through our server; the reply."""
    config = settings(TOML.format(address=php.address, script=script, save=chain, folder=folder))
    async with serving(config, journal) as served:
        client = await served.dial("127.0.0.5")
        await client.hello()
        await client.begin(b"b@example.com", b"c.d+e@example.com")
        return await client.ask(CONTENT.replace(b"\r\n.dot", b"\r\n..dot") + b".")


async def test_script_sees_what_it_saw_before(php: PhpFpm, script: str, journal: Journal, tmp_path: Path) -> None:
    def contract(params: Mapping[str, str], form: bytes | None) -> None:
        call_script(php.socket_path, script, post=form, instead={"SCRIPT_FILENAME": script, **params})

    await trio.to_thread.run_sync(contract, VALIDATE_PARAMS, None)
    await trio.to_thread.run_sync(contract, SAVE_PARAMS, SAVE_FORM)
    validated, saved = seen(php, "GET"), seen(php, "POST")

    assert (await send(php, script, '"HeadersParser", "FastCGI"', tmp_path, journal)).startswith(b"250 ")
    ours_validated, ours_saved = seen(php, "GET"), seen(php, "POST")

    assert {name: ours_saved.post[name] for name in saved.post} == saved.post
    assert set(ours_saved.post) - set(saved.post) == OURS
    assert {name: ours_validated.get[name] for name in validated.get} == validated.get
    for theirs, ours, params in (
        (validated, ours_validated, VALIDATE_PARAMS),
        (saved, ours_saved, SAVE_PARAMS),
    ):
        names = {"SCRIPT_FILENAME", *params} - {"QUERY_STRING"}
        assert {name: ours.server[name] for name in names} == {name: theirs.server[name] for name in names}
    assert ours_saved.post["body"] == CONTENT.replace(b"\r\n", b"\n")


async def test_header_is_in_front_and_all_stores_get_one_mail_under_one_id(
    php: PhpFpm, script: str, journal: Journal, tmp_path: Path
) -> None:
    chain = '"HeadersParser", "Header", "Hasher", "Compressor", "Debugger", "FastCGI", "MailDir"'
    reply = await send(php, script, chain, tmp_path, journal)
    post = seen(php, "POST").post
    seen(php, "GET")
    header, body = post["body"][: -len(CONTENT.replace(b"\r\n", b"\n"))], post["body"]
    lines = header.decode().split("\n")
    assert lines[0] == "Received: from client.example ([127.0.0.5])"
    queue_id = post["queue_id"].decode()
    assert lines[1] == f"\tby mx.example.com with ESMTP id {queue_id};"
    assert (len(lines), lines[3]) == (4, "")
    assert reply.decode() == f"250 2.0.0 OK: queued as {queue_id}\r\n"
    assert int(post["size"]) == len(body)
    for user in ("b", "c.d+e"):
        (path,) = (tmp_path / user / "new").glob("*")
        assert path.read_bytes() == body
        assert path.name.endswith(f",D={post['mail_digest'].decode()}")


async def test_script_that_dies_behind_a_maildir_is_451_and_the_retry_is_stored_once(
    php: PhpFpm, script: str, journal: Journal, tmp_path: Path
) -> None:
    dies = php.script(
        "dies.php", "<?php if ($_SERVER['REQUEST_METHOD'] === 'GET') exit('PASSED'); throw new Exception();"
    )
    chain = '"MailDir", "FastCGI"'
    assert (await send(php, dies, chain, tmp_path, journal)).startswith(b"451 4.3.0 ")
    assert (await send(php, script, chain, tmp_path, journal)).startswith(b"250 ")
    assert [len(list((tmp_path / user / "new").iterdir())) for user in ("b", "c.d+e")] == [1, 1]
