"""``call`` and ``version``, as commands."""

import base64
import json
import os
import re
import smtplib
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from tests.cli.support import HOSTNAME, NO_UPSTREAM, configuration, run_in_shell
from tests.phpfpm import PhpFpm
from tests.server_process import ServerProcess, free_port, run_command
from trio_fcgimail import __version__
from trio_fcgimail.cli import call
from trio_fcgimail.cli.callstage import Asked
from trio_fcgimail.cli.commands import cli, default_hostname
from trio_fcgimail.cli.problems import Failure
from trio_fcgimail.config import UnixAddress, UpstreamAddress
from trio_fcgimail.mail import BodyKind, Stage

ECHO: Final = """<?php
header('Content-Type: application/json');
echo json_encode(['get' => $_GET, 'method' => $_SERVER['REQUEST_METHOD'], 'type' => $_SERVER['CONTENT_TYPE'] ?? '',
    'post' => $_POST, 'body' => base64_encode(file_get_contents('php://input'))]);
"""
BINARY: Final = bytes(range(256)) * 300 + b"\r\n\r\nno newline"


def _split(output: bytes) -> tuple[list[str], bytes]:
    head, _, body = output.partition(b"\r\n\r\n")
    return head.decode().split("\r\n"), body


def test_version_is_one_line(folder: Path) -> None:
    done = run_command("version", folder=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"trio_fcgimail {__version__}\n".encode(), b"")


def test_fields_go_into_the_query_string_as_they_are(php: PhpFpm, folder: Path) -> None:
    script = php.script("echo.php", ECHO)
    fields = {"rcpt_to": "a+b@example.com", "empty": "", "odd": "1=2&3 %41;Grüße", "a&b;c": "1"}
    pairs = [f"{name}={value}" for name, value in fields.items()]
    done = run_command("call", script, *pairs, "--fastcgi", php.address, folder=folder)
    head, body = _split(done.stdout)
    assert done.returncode == 0
    assert head[0] == "Status: 200"
    assert "content-type: application/json" in [line.lower() for line in head]
    told = json.loads(body)
    assert told["get"] == fields
    assert told["method"] == "GET"
    time, verdict = done.stderr.decode().splitlines()[-2:]
    assert re.fullmatch(r"[0-9]+\.[0-9] ms, [0-9]+\.[0-9] of them to connect; appStatus 0", time)
    assert verdict == "as validate: refused, 550 5.1.1 No such user"


def test_a_field_need_not_be_utf8(php: PhpFpm, folder: Path) -> None:
    script = php.script("hex.php", "<?php echo bin2hex($_GET['name']);")
    done = run_command("call", script, os.fsdecode(b"name=\xff\xfe"), "--fastcgi", php.address, folder=folder)
    assert (done.returncode, _split(done.stdout)[1]) == (0, b"fffe")


def test_a_field_that_fits_no_record_is_told_and_1(php: PhpFpm, folder: Path) -> None:
    done = run_command("call", "/srv/save.php", f"name={'x' * 70_000}", "--fastcgi", php.address, folder=folder)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, b"", 3)
    assert b"65535" in done.stderr.splitlines()[0]


def test_a_file_is_posted_as_it_is(php: PhpFpm, folder: Path) -> None:
    script = php.script("echo.php", ECHO)
    (folder / "body.bin").write_bytes(BINARY)
    options = ("--post", "body.bin", "--content-type", "application/octet-stream")
    done = run_command("call", script, "name=value", *options, "--fastcgi", php.address, folder=folder)
    told = json.loads(_split(done.stdout)[1])
    assert (told["method"], told["type"], told["get"]) == ("POST", "application/octet-stream", {"name": "value"})
    assert told["body"] == base64.b64encode(BINARY).decode()


@pytest.mark.parametrize(
    "shell",
    [
        pytest.param('cat | "$@" --post -', id="pipe-as-dash"),
        pytest.param('cat | "$@" --post /dev/stdin', id="pipe-as-path"),
        pytest.param('"$@" --post <(cat)', id="fifo"),
        pytest.param('cat >body; "$@" --post - <body', id="file-as-dash"),
        pytest.param('(echo -n before; cat) >body; (head -c 6 >/dev/null; "$@" --post -) <body', id="rest-of-a-file"),
    ],
)
def test_what_can_only_be_read_is_posted_whole(php: PhpFpm, folder: Path, shell: str) -> None:
    options = ("--content-type", "application/octet-stream", "--fastcgi", php.address)
    done = run_in_shell(shell, "call", php.script("echo.php", ECHO), *options, folder=folder, stdin=BINARY)
    assert done.returncode == 0, done.stderr
    assert json.loads(_split(done.stdout)[1])["body"] == base64.b64encode(BINARY).decode()


def test_a_file_whose_size_nobody_knows_is_posted_whole(php: PhpFpm, folder: Path) -> None:
    options = ("--post", "/proc/version", "--content-type", "text/plain", "--fastcgi", php.address)
    done = run_command("call", php.script("echo.php", ECHO), *options, folder=folder)
    assert base64.b64decode(json.loads(_split(done.stdout)[1])["body"]) == Path("/proc/version").read_bytes()


def test_what_never_ends_is_not_read_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call, "_MAX_PIPED_OCTETS", 1_000_000)
    with (
        Path("/dev/zero").open("rb") as endless,
        pytest.raises(Failure, match="the body is larger than 1000000 octets"),
        call.of_known_length(endless),
    ):
        pass


def test_output_that_cannot_be_written_is_one_line_and_1(php: PhpFpm, folder: Path) -> None:
    script = php.script("short.php", "<?php echo 'the answer';")
    done = run_in_shell('"$@" >/dev/full', "call", script, "--fastcgi", php.address, folder=folder)
    assert done.returncode == 1
    assert done.stderr == b"trio_fcgimail: cannot write to standard output: No space left on device\n"


def test_nobody_reading_any_more_is_1_and_no_traceback(php: PhpFpm, folder: Path) -> None:
    script = php.script("long.php", "<?php echo str_repeat('x', 10000000);")
    shell = '"$@" | true; exit ${PIPESTATUS[0]}'  # who is gone before the first octet is written
    done = run_in_shell(shell, "call", script, "--fastcgi", php.address, folder=folder)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_a_reader_that_goes_in_the_midst_makes_no_traceback(php: PhpFpm, folder: Path) -> None:
    script = php.script("long.php", "<?php echo str_repeat('x', 10000000);")
    done = run_in_shell('"$@" | head -c 1', "call", script, "--fastcgi", php.address, folder=folder)
    assert done.stdout == b"S"
    assert b"Traceback" not in done.stderr


def test_a_posted_form_is_one_by_default(php: PhpFpm, folder: Path) -> None:
    script = php.script("echo.php", ECHO)
    (folder / "form").write_bytes(b"body=a%26b&size=3")
    done = run_command("call", script, "--post", "form", "--fastcgi", php.address, folder=folder)
    assert json.loads(_split(done.stdout)[1])["post"] == {"body": "a&b", "size": "3"}


def test_a_binary_answer_is_unchanged(php: PhpFpm, folder: Path) -> None:
    data = php.data / "answer.bin"
    data.write_bytes(BINARY)
    script = php.script("binary.php", f"<?php readfile('{data}');")
    done = run_command("call", script, "--fastcgi", php.address, folder=folder)
    assert (done.returncode, _split(done.stdout)[1]) == (0, BINARY)


def test_a_status_other_than_2xx_is_1_and_shown(php: PhpFpm, folder: Path) -> None:
    script = php.script("gone.php", "<?php http_response_code(404); echo 'nothing here';")
    done = run_command("call", script, "--fastcgi", php.address, folder=folder)
    head, body = _split(done.stdout)
    assert (done.returncode, head[0], body) == (1, "Status: 404", b"nothing here")


def test_a_script_that_is_not_there_is_1(php: PhpFpm, folder: Path) -> None:
    done = run_command("call", "/nonexistent/script.php", "--fastcgi", php.address, folder=folder)
    assert (done.returncode, _split(done.stdout)[0][0]) == (1, "Status: 404")
    assert b"Primary script unknown" in done.stderr


def test_stderr_of_the_script_is_kept_apart(php: PhpFpm, folder: Path) -> None:
    script = php.script("noisy.php", "<?php echo 'the answer'; error_log('the remark');")
    done = run_command("call", script, "--fastcgi", php.address, folder=folder)
    assert (done.returncode, _split(done.stdout)[1]) == (0, b"the answer")
    assert b"the remark" in done.stderr


STAGE: Final = """<?php
$stage = $_POST['stage'] ?? $_GET['stage'] ?? '';
echo $stage === 'auth' ? ($_POST['password'] === 'a&b=+%41' ? 'PASSED' : 'no') : ($_GET['say'] ?? "SAVED id=$stage");
"""


@pytest.mark.parametrize(
    ("arguments", "verdict"),
    [
        pytest.param(("say=PASSED",), "as validate: accepted, 250 2.1.5 Recipient OK", id="validate"),
        pytest.param(
            ("say=550 5.1.1 gone",), "as validate: refused, 550 5.1.1 gone", id="validate-with-a-reply-of-its-own"
        ),
        pytest.param(
            ("say=",),
            "as validate: failed, 451 4.3.0 Local error; try again later (the output is empty)",
            id="validate-says-nothing",
        ),
        pytest.param(("--stage", "connect", "say=PASSED"), "as connect: accepted, greeted", id="connect"),
        pytest.param(
            ("--stage", "connect", "say=no"), "as connect: refused, 554 5.7.1 No service for you", id="refuses"
        ),
        pytest.param(("--stage", "helo", "say=PASS"), "as helo: accepted, greeted", id="helo"),
        pytest.param(("--stage", "mail", "say=450 4.7.1 later"), "as mail: refused, 450 4.7.1 later", id="mail"),
        pytest.param(
            ("--stage", "mail"),
            "as mail: failed, 451 4.3.0 Local error; try again later (unexpected output: SAVED id=mail)",
            id="mail-is-told-its-stage",
        ),
        pytest.param(("--stage", "save"), "as save: accepted, 250 2.0.0 OK: queued as save", id="save-by-get"),
        pytest.param(("--stage", "save", "say=SAVED"), "as save: accepted, 250 2.0.0 OK: queued as ID", id="no-id"),
        pytest.param(
            ("--stage", "save", "say=DISCARD"), "as save: discarded, 250 2.0.0 OK: queued as ID", id="discard"
        ),
        pytest.param(
            ("--stage", "auth", "username=bob", "password=a&b=+%41"),
            "as auth: accepted, 235 2.7.0 Authentication succeeded",
            id="auth-is-a-form",
        ),
        pytest.param(
            ("--stage", "auth", "password=x"),
            "as auth: refused, 535 5.7.8 Authentication credentials invalid",
            id="auth-refuses",
        ),
        pytest.param(
            ("--stage", "mail", "stage=x"),
            "as mail: failed, 451 4.3.0 Local error; try again later (unexpected output: SAVED id=x)",
            id="a-stage-of-ones-own",
        ),
    ],
)
def test_the_verdict_is_that_of_the_stage(
    php: PhpFpm, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], verdict: str
) -> None:
    """In this process, as there are many and each would start another."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["call", php.script("stage.php", STAGE), *arguments, "--fastcgi", php.address])
    assert ended.value.code == 0
    assert capfd.readouterr().err.splitlines()[-1] == verdict


def test_a_post_is_judged_as_save(php: PhpFpm, folder: Path) -> None:
    (folder / "form").write_bytes(b"stage=42")
    script = php.script("stage.php", STAGE)
    done = run_command("call", script, "--post", "form", "--fastcgi", php.address, folder=folder)
    assert done.stderr.decode().splitlines()[-1] == "as save: accepted, 250 2.0.0 OK: queued as 42"


@pytest.mark.parametrize("address", [pytest.param(NO_UPSTREAM, id="unix"), pytest.param("", id="tcp")])
def test_without_a_server_it_says_so_and_what_a_sender_would_be_told(folder: Path, address: str) -> None:
    address = address or f"127.0.0.1:{free_port()}"
    done = run_command("call", "/srv/save.php", "--fastcgi", address, folder=folder)
    assert (done.returncode, done.stdout) == (1, b"")
    problem, took, verdict = done.stderr.decode().splitlines()
    assert problem.startswith(f"trio_fcgimail: {address}: ")
    assert re.fullmatch(r"[0-9]+\.[0-9] ms, not connected", took)
    assert verdict.startswith("as validate: failed, 451 4.3.0 Local error; try again later (")


@pytest.mark.parametrize("kind", BodyKind, ids=attrgetter("value"))
def test_a_mail_is_handed_over_as_the_server_would(kind: BodyKind, php: PhpFpm, folder: Path) -> None:
    """Against the server itself, side by side: what the script sees is the same, save for id, port and time."""
    mail = b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\n\n.\n..two & 100%\n\0\xff\n"
    (folder / "mail.eml").write_bytes(mail)
    script = php.script("seen.php", SEEN.format(folder=php.data))
    done = run_command(
        *("call", script, "--mail", "mail.eml", "--body", kind.value, "--fastcgi", php.address),
        *("mail_from=alice@example.net", "rcpt_to=bob@example.com", "rcpt_to=carol@example.com", "helo=client.example"),
        folder=folder,
    )
    assert done.returncode == 0, done.stderr
    by_hand = _seen(php)
    verdict = done.stderr.decode().splitlines()[-1]
    assert verdict == f"as save: accepted, 250 2.0.0 OK: queued as {by_hand[0]['queue_id']}"
    toml = configuration(upstream=php.address, save=script, more=f'body = "{kind.value}"')
    (folder / "fcgimail.toml").write_text(toml.replace(HOSTNAME, default_hostname()))
    with ServerProcess("serve", folder=folder) as server:
        with smtplib.SMTP("127.0.0.1", server.port, local_hostname="client.example") as client:
            client.sendmail("alice@example.net", ["bob@example.com", "carol@example.com"], mail.replace(b"\n", b"\r\n"))
        assert server.stop() == 0
    by_server = _seen(php)
    assert by_hand[0].keys() == by_server[0].keys()
    for name in by_hand[0].keys() - {"queue_id", "remote_port", "size"}:
        assert by_hand[0][name] == by_server[0][name], name
    assert by_hand[1].partition(b"Subject: ")[2] == by_server[1].partition(b"Subject: ")[2] != b""
    assert by_hand[1].startswith(b"Received: from client.example ([127.0.0.1])")
    assert len(by_hand[1]) == int(by_hand[0]["size"])


#: What a save script is given, for tests to look at.
SEEN: Final = """<?php
$file = $_FILES['body']['tmp_name'] ?? null;
$body = $_POST['body'] ?? file_get_contents($file ?? 'php://input');
$fields = $_POST ?: $_GET;
unset($fields['body']);
file_put_contents('{folder}/body', $body);
file_put_contents('{folder}/fields', json_encode($fields));
echo 'SAVED';
"""


def _seen(php: PhpFpm) -> tuple[dict[str, str], bytes]:
    return json.loads((php.data / "fields").read_text()), (php.data / "body").read_bytes()


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        (Stage.CONNECT, {"helo", "protocol", "rcpt_count", "remote_ip", "remote_port", "stage", "tls_on"}),
        (Stage.HELO, {"helo", "protocol", "rcpt_count", "remote_ip", "remote_port", "stage", "tls_on"}),
        (
            Stage.MAIL,
            {"helo", "mail_from", "protocol", "rcpt_count", "remote_ip", "remote_port"}
            | {"smtputf8", "stage", "tls_on", "with"},
        ),
        (
            Stage.VALIDATE,
            {"helo", "mail_from", "protocol", "rcpt_count", "rcpt_to", "remote_ip", "remote_port"}
            | {"smtputf8", "stage", "tls_on", "with"},
        ),
    ],
    ids=lambda value: value.value if isinstance(value, Stage) else None,
)
def test_a_stage_has_all_its_fields_and_those_given_by_hand(
    stage: Stage, names: set[str], php: PhpFpm, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["call", php.script("echo.php", ECHO), "--stage", stage.value, "helo=me", "--fastcgi", php.address])
    told = json.loads(capfd.readouterr().out.partition("\r\n\r\n")[2])["get"]
    assert told.keys() == names
    assert (told["stage"], told["helo"]) == (stage.value, "me")


def test_when_the_script_dies_its_stderr_and_the_verdict_are_shown(php: PhpFpm, folder: Path) -> None:
    source = "<?php error_log('last words'); echo 'x'; while (ob_get_level()) ob_end_flush(); flush();"
    script = php.script("dies.php", source + "posix_kill(posix_getpid(), 9);")
    done = run_command("call", script, "--stage", "save", "--fastcgi", php.address, folder=folder)
    assert (done.returncode, done.stdout) == (1, b"")
    told = done.stderr.decode()
    assert "last words" in told
    assert re.search(r"(?m)^[0-9.]+ ms, [0-9.]+ of them to connect$", told)
    assert told.splitlines()[-1].startswith("as save: failed, 451 4.3.0 Local error; try again later (")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(("rcpt_to=nobody",), "'nobody' is no address", id="no-domain"),
        pytest.param(("mail_from=a@b c",), "'a@b c' is no address", id="bad-domain"),
    ],
)
def test_a_mail_with_an_address_that_cannot_be(arguments: tuple[str, ...], told: str, folder: Path) -> None:
    (folder / "mail.eml").write_bytes(b"")
    done = run_command("call", "/save.php", "--mail", "mail.eml", *arguments, "--fastcgi", NO_UPSTREAM, folder=folder)
    assert done.returncode == 1
    assert told in done.stderr.decode()


def test_a_script_that_hangs_is_1_when_the_time_is_over(php: PhpFpm, folder: Path) -> None:
    script = php.script("hang.php", "<?php sleep(2);")
    done = run_command("call", script, "--fastcgi", php.address, "--seconds", "0.2", folder=folder)
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.search(rb"no complete answer within 0\.[0-9]+ s", done.stderr)  # what connecting has left of 0.2


@pytest.mark.trio
async def test_one_deadline_holds_for_connecting_and_the_answer(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async def connect(address: UpstreamAddress, *, seconds: float) -> trio.abc.Stream:
        await trio.sleep(20)
        ours, theirs = memory_stream_pair()
        streams.append(theirs)
        return ours

    streams: list[trio.abc.Stream] = []
    began = trio.current_time()
    asked = Asked([], None, Stage.VALIDATE)
    code = await call.call_script(UnixAddress("/s"), asked, seconds=30, connect=connect)
    assert (code, trio.current_time() - began) == (1, 30)
    assert "no complete answer within 10 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("--fastcgi", NO_UPSTREAM), id="no-script"),
        pytest.param(("/srv/save.php",), id="no-address"),
        pytest.param(("/srv/save.php", "--fastcgi", "nonsense"), id="no-such-address"),
        pytest.param(("save.php", "--fastcgi", NO_UPSTREAM), id="relative-script"),
        pytest.param(("/srv/save.php", "word", "--fastcgi", NO_UPSTREAM), id="field-without-a-value"),
        pytest.param(("/srv/save.php", "=value", "--fastcgi", NO_UPSTREAM), id="field-without-a-name"),
        pytest.param(("/srv/save.php", "--post", "missing", "--fastcgi", NO_UPSTREAM), id="no-such-file"),
        pytest.param(("/srv/save.php", "--stage", "rcpt", "--fastcgi", NO_UPSTREAM), id="no-such-stage"),
        pytest.param(("/srv/save.php", "--mail", "missing", "--fastcgi", NO_UPSTREAM), id="no-such-mail"),
        pytest.param(("/x.php", "--mail", "-", "--post", "-", "--fastcgi", NO_UPSTREAM), id="two-bodies"),
        pytest.param(("/x.php", "--mail", "-", "--stage", "helo", "--fastcgi", NO_UPSTREAM), id="mail-to-helo"),
        pytest.param(("/x.php", "--mail", "-", "subject=x", "--fastcgi", NO_UPSTREAM), id="field-of-the-mail"),
        pytest.param(("/x.php", "--mail", "-", "--body", "xml", "--fastcgi", NO_UPSTREAM), id="no-such-body"),
        pytest.param(("/srv/save.php", "--seconds", "0", "--fastcgi", NO_UPSTREAM), id="no-time"),
        pytest.param(("/srv/save.php", "--seconds", "nan", "--fastcgi", NO_UPSTREAM), id="time-is-no-number"),
    ],
)
def test_wrong_usage_is_2(usage_error: Callable[..., str], arguments: tuple[str, ...]) -> None:
    assert usage_error("call", *arguments).splitlines()[-1].startswith("Error: ")
