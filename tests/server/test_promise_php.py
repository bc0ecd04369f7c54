"""An accepted mail is never lost: a real php-fpm that is stopped, killed, or whose scripts fail. Time is real."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.phpfpm import PhpFpm
from tests.support import MAIL, TEMPFAIL, Dialogue, Journal, elapsed, serving, settings
from trio_fcgimail.config import Settings

pytestmark = pytest.mark.trio

STORED: Final = b"250 2.0.0 OK: queued as "
#: On top of a deadline, for a machine under load.
SLACK_SECONDS: Final = 3.0
#: As a mail pool without care would have it: nothing reaches STDERR.
SILENT: Final = {"log_errors": "0", "display_errors": "0"}
BIG: Final = b"Subject: big\r\n\r\n" + 32_000 * (60 * b"x" + b"\r\n")


class Stage(Enum):
    """Which script fails."""

    VALIDATE = "PASSED"
    SAVE = "SAVED"


def _settings(php: PhpFpm, extra: str = "", *, save: str | None = None, validate: str | None = None) -> Settings:
    good = {stage: php.script(f"{stage.name.lower()}.php", f"<?php echo '{stage.value}';") for stage in Stage}
    return settings(f"""
[[listeners]]
address = "127.0.0.1:0"
[fastcgi]
upstreams = ["{php.address}"]
max_connections = 3
[scripts]
save = "{save or good[Stage.SAVE]}"
validate = "{good[Stage.VALIDATE] if validate is None else validate}"
{extra}
""")


def _faulty(php: PhpFpm, stage: Stage, script: str, extra: str = "") -> Settings:
    if stage is Stage.SAVE:
        return _settings(php, extra, save=script)
    return _settings(php, extra, validate=script)


async def _meet(client: Dialogue, stage: Stage, mail: bytes = MAIL) -> bytes:
    """Bring a session to where the script is asked; the reply there."""
    if stage is Stage.VALIDATE:
        assert (await client.ask(b"MAIL FROM:<a@client.example>")).startswith(b"250 ")
        return await client.ask(b"RCPT TO:<b@example.com>")
    return await client.mail(mail)


@dataclass(frozen=True)
class Fault:
    """A script that fails. TOKEN stands for the stage's yes, DATA for a folder that it may write to."""

    id: str
    source: str
    ini: dict[str, str] = field(default_factory=dict)
    mail: bytes = MAIL
    stages: tuple[Stage, ...] = tuple(Stage)


_SAVE: Final = (Stage.SAVE,)
_DIES: Final = "<?php undefined_function();"
_YES_AND_DIES: Final = "<?php echo 'TOKEN'; undefined_function();"
_YES: Final = "<?php echo 'TOKEN';"
_EATS: Final = "<?php $all = ''; while (true) { $all .= str_repeat('x', 1 << 20); }"
FAULTS: Final = [
    Fault("says-nothing", "<?php"),
    Fault("exits", "<?php exit(3);"),
    Fault("exits-after-words", "<?php echo 'working'; exit(3);", stages=_SAVE),
    Fault("dies-display-off", _DIES, {"display_errors": "0"}),
    Fault("dies-display-on", _DIES, {"display_errors": "1"}),
    Fault("dies-display-on-html", _DIES, {"display_errors": "1", "html_errors": "1"}),
    Fault("dies-in-silence", _DIES, SILENT),
    Fault("does-not-parse-display-off", "<?php echo 'TOKEN'"),
    Fault("does-not-parse-display-on", "<?php echo 'TOKEN'", {"display_errors": "1"}),
    Fault("throws", "<?php throw new Exception('full');", {"display_errors": "1"}),
    Fault("yes-and-dies-unbuffered-display-off", _YES_AND_DIES, {"output_buffering": "0", "display_errors": "0"}),
    Fault("yes-and-dies-unbuffered-display-on", _YES_AND_DIES, {"output_buffering": "0", "display_errors": "1"}),
    Fault("yes-and-dies-buffered-display-off", _YES_AND_DIES, {"output_buffering": "4096", "display_errors": "0"}),
    Fault("yes-and-dies-buffered-display-on", _YES_AND_DIES, {"output_buffering": "4096", "display_errors": "1"}),
    Fault("yes-and-dies-buffered-in-silence", _YES_AND_DIES, SILENT | {"output_buffering": "4096"}),
    Fault(
        "notices-yes-and-dies",
        "<?php for ($i = 0; $i < 900; $i++) { trigger_error('again and again and again'); } echo 'TOKEN'; f();",
        {"output_buffering": "0"},
    ),
    Fault("yes-after-a-warning-display-on", "<?php fopen('/nowhere', 'r'); echo 'TOKEN';", {"display_errors": "1"}),
    Fault("yes-and-status-500", "<?php http_response_code(500); echo 'TOKEN';"),
    Fault("redirects", "<?php header('Location: /'); echo 'TOKEN';"),
    Fault("yes-and-a-shutdown-function", "<?php register_shutdown_function(fn() => print(\"\\nbye\")); echo 'TOKEN';"),
    Fault("out-of-memory-display-off", _EATS, {"memory_limit": "8M"}),
    Fault("out-of-memory-display-on", _EATS, {"memory_limit": "8M", "display_errors": "1"}),
    Fault("out-of-memory-while-it-reads-the-form", _YES, {"memory_limit": "2M"}, BIG, _SAVE),
    Fault("post_max_size-exceeded", _YES, {"post_max_size": "100"}, stages=_SAVE),
    Fault("post_max_size-exceeded-big", _YES, {"post_max_size": "1M"}, BIG, _SAVE),
    Fault("max_input_vars-exceeded", _YES, {"max_input_vars": "12"}, stages=_SAVE),
    Fault("killed-by-itself", "<?php echo 'TOKEN'; flush(); posix_kill(getmypid(), 9);"),
    Fault("killed-by-itself-unbuffered", "<?php echo 'TOKEN'; posix_kill(getmypid(), 9);", {"output_buffering": "0"}),
    Fault("crashes", "<?php posix_kill(getmypid(), 11); sleep(60);"),
]
CASES: Final = [
    pytest.param(fault, stage, id=f"{fault.id}-{stage.name.lower()}") for fault in FAULTS for stage in fault.stages
]


@pytest.mark.parametrize(("fault", "stage"), CASES)
async def test_a_failing_script_is_451_and_the_session_goes_on(fault: Fault, stage: Stage, journal: Journal) -> None:
    with PhpFpm(children=2, ini=fault.ini) as php:
        script = php.script("faulty.php", fault.source.replace("TOKEN", stage.value))
        async with serving(_faulty(php, stage, script), journal) as house:
            client = await house.guest()
            seconds = elapsed()
            assert await _meet(client, stage, fault.mail) == TEMPFAIL
            assert seconds() < SLACK_SECONDS
            await client.reset()
            php.script("faulty.php", f"<?php ini_set('memory_limit', '-1'); echo '{stage.value}';")
            if not fault.ini.keys() & {"post_max_size", "max_input_vars"}:
                assert (await client.mail()).startswith(STORED)


@dataclass(frozen=True)
class Unusable:
    """A script that php-fpm does not run."""

    id: str
    name: str
    mode: int | None


UNUSABLE: Final = [
    Unusable("missing", "missing.php", None),
    Unusable("wrong-extension", "save.txt", 0o644),
    Unusable("unreadable", "unreadable.php", 0o000),
]


@contextmanager
def _mode(path: Path, mode: int | None) -> Iterator[None]:
    if mode is None:
        path.unlink()
    else:
        path.chmod(mode)
    yield


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("unusable", [pytest.param(one, id=one.id) for one in UNUSABLE])
async def test_a_script_that_cannot_be_run_is_451(unusable: Unusable, stage: Stage, journal: Journal) -> None:
    with PhpFpm(children=2) as php:
        script = php.script(unusable.name, f"<?php echo '{stage.value}';")
        with _mode(Path(script), unusable.mode):
            async with serving(_faulty(php, stage, script), journal) as house:
                client = await house.guest()
                assert await _meet(client, stage) == TEMPFAIL
    event = "mail" if stage is Stage.SAVE else "recipient"
    assert str(journal.entries(event)[-1]["reason"]).startswith("HTTP status 40")


@pytest.mark.parametrize("stage", list(Stage))
async def test_a_stopped_php_is_451_within_two_seconds(stage: Stage, journal: Journal) -> None:
    with PhpFpm() as php:
        async with serving(_settings(php), journal) as house:
            client = await house.guest()
            if stage is Stage.SAVE:
                await client.begin()
            else:
                assert (await client.ask(b"MAIL FROM:<a@client.example>")).startswith(b"250 ")
            php.stop()
            seconds = elapsed()
            question = MAIL + b"." if stage is Stage.SAVE else b"RCPT TO:<b@example.com>"
            assert await client.ask(question) == TEMPFAIL
            assert seconds() < 2 + SLACK_SECONDS
            php.start()
            await client.reset()
            assert (await client.mail()).startswith(STORED)


@pytest.mark.parametrize("stage", list(Stage))
async def test_a_php_that_starts_within_the_retry_gets_its_request(stage: Stage, journal: Journal) -> None:
    with PhpFpm() as php:
        async with serving(_settings(php), journal) as house:
            client = await house.guest()
            if stage is Stage.SAVE:
                await client.begin()
            else:
                assert (await client.ask(b"MAIL FROM:<a@client.example>")).startswith(b"250 ")
            php.stop()
            await client.send(MAIL + b".\r\n" if stage is Stage.SAVE else b"RCPT TO:<b@example.com>\r\n")
            await trio.to_thread.run_sync(php.start)
            assert (await client.reply()).startswith(b"250 ")


def _pipes(php: PhpFpm) -> tuple[Path, Path]:
    """Two pipes by which a script tells that it runs, and waits to be told to go on."""
    pipes = (php.data / "pid", php.data / "go")
    for pipe in pipes:
        os.mkfifo(pipe)
        pipe.chmod(0o666)
    return pipes


def _waiting(pid: Path, go: Path, then: str) -> str:
    return f"<?php file_put_contents('{pid}', getmypid()); file_get_contents('{go}'); {then}"


@pytest.mark.parametrize("stage", list(Stage))
async def test_a_child_killed_within_the_script_is_451(stage: Stage, journal: Journal) -> None:
    with PhpFpm(children=1) as php:
        pid, go = _pipes(php)
        script = php.script("faulty.php", _waiting(pid, go, f"echo '{stage.value}';"))
        async with serving(_faulty(php, stage, script), journal) as house:
            client = await house.guest()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_kill, php, pid, 2 if stage is Stage.VALIDATE else 1)
                assert await _meet(client, stage) == TEMPFAIL
            await client.reset()
            php.script("faulty.php", f"<?php echo '{stage.value}';")
            assert (await client.mail()).startswith(STORED)


async def _kill(php: PhpFpm, pid: Path, tries: int) -> None:
    for _ in range(tries):
        php.kill_child(int(await trio.to_thread.run_sync(pid.read_text)))


@pytest.mark.parametrize("stage", list(Stage))
async def test_php_stopped_within_the_script_is_451(stage: Stage, journal: Journal) -> None:
    with PhpFpm(children=1) as php:
        pid, go = _pipes(php)
        script = php.script("faulty.php", _waiting(pid, go, f"echo '{stage.value}';"))
        async with serving(_faulty(php, stage, script), journal) as house:
            client = await house.guest()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stop, php, pid)
                assert await _meet(client, stage) == TEMPFAIL


async def _stop(php: PhpFpm, pid: Path) -> None:
    await trio.to_thread.run_sync(pid.read_text)
    await trio.to_thread.run_sync(php.stop)


@pytest.mark.parametrize("stage", list(Stage))
async def test_a_script_that_exceeds_its_time_is_451_on_time(stage: Stage, journal: Journal) -> None:
    with PhpFpm(children=2) as php:
        script = php.script("faulty.php", f"<?php sleep(60); echo '{stage.value}';")
        extra = "validate_seconds = 0.5\nsave_seconds = 0.5"
        async with serving(_faulty(php, stage, script, extra), journal) as house:
            client = await house.guest()
            seconds = elapsed()
            assert await _meet(client, stage) == TEMPFAIL
            assert 0.5 <= seconds() < 0.5 + SLACK_SECONDS


@pytest.mark.parametrize("stage", list(Stage))
async def test_a_script_that_php_ends_is_451(stage: Stage, journal: Journal) -> None:
    with PhpFpm(children=2, request_terminate_timeout=1, ini={"output_buffering": "0"}) as php:
        script = php.script("faulty.php", f"<?php echo '{stage.value}'; flush(); sleep(60);")
        async with serving(_faulty(php, stage, script), journal) as house:
            client = await house.guest()
            seconds = elapsed()
            assert await _meet(client, stage) == TEMPFAIL
            assert seconds() < 1 + SLACK_SECONDS


async def test_a_hung_script_delays_nobody_else(journal: Journal) -> None:
    with PhpFpm(children=3) as php:
        pid, go = _pipes(php)
        hang = _waiting(pid, go, "").removeprefix("<?php")
        source = f"<?php if ($_POST['subject'] === 'hang') {{ {hang} }} echo 'SAVED';"
        script = php.script("faulty.php", source)
        async with serving(_faulty(php, Stage.SAVE, script), journal) as house:
            hung, other = await house.guest(), await house.guest()
            await hung.begin()
            await hung.send(b"Subject: hang\r\n\r\n.\r\n")
            await trio.to_thread.run_sync(pid.read_text)
            for _ in range(5):
                assert (await other.mail()).startswith(STORED)
            await trio.to_thread.run_sync(go.write_text, "go")
            assert (await hung.reply()).startswith(STORED)


async def test_hundreds_of_recipients_reach_the_script(journal: Journal) -> None:
    with PhpFpm(ini={"max_input_vars": "1000"}) as php:
        script = php.script(
            "count.php",
            "<?php $n = count(preg_grep('/^rcpt_to_/', array_keys($_POST)));"
            "echo $n == $_POST['rcpt_count'] && $n == 860 ? 'SAVED' : \"450 $n of $_POST[rcpt_count]\";",
        )
        config = _settings(php, "[limits]\nrecipients = 0", save=script, validate="")
        async with serving(config, journal) as house:
            client = await house.guest()
            await client.begin(*(b"u%d@example.com" % number for number in range(860)))
            assert (await client.ask(MAIL + b".")).startswith(STORED)
