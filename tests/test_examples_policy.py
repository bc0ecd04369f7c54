"""The example policy.php, stage by stage through a real php-fpm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import pytest

from tests.phpfpm import PhpFpm, call_script, php_fpm

POLICY: Final = (Path(__file__).parents[1] / "examples" / "php" / "policy.php").read_text()
CANNOT: Final = "451 4.3.0 Cannot tell now, try again later"
WRONG: Final = "535 5.7.8 Wrong name or password"
GREY: Final = "450 4.7.1 Greylisted, try again in some minutes"
PASSWORD: Final = "s\u00e9cr&t =+"


@pytest.fixture(scope="module")
def php() -> Iterator[PhpFpm]:
    yield from php_fpm()


class Policy:
    """policy.php with a memory of its own."""

    def __init__(self, php: PhpFpm, name: str) -> None:
        self.state = php.data / name
        self.users = php.data / f"{name}.users"
        self._php, self._name = php, name
        self._constants: dict[str, str] = {}

    def set(self, constant: str, value: str) -> None:
        """Change a constant of the script."""
        self._constants[constant] = value

    def ask(self, stage: str, **fields: str) -> str:
        """What it answers; everything else is as if nothing were special."""
        text = POLICY
        for constant, value in self._constants.items():
            line = next(one for one in text.splitlines() if one.startswith(f"const {constant} = "))
            text = text.replace(line, f"const {constant} = {value};")
        setting = f"putenv('FCGIMAIL_STATE={self.state}'); putenv('FCGIMAIL_USERS={self.users}');"
        setting += " $_SERVER['SERVER_NAME'] = 'mx.example.com';"
        text = text.replace("declare(strict_types=1);", f"declare(strict_types=1); {setting}")
        script = self._php.script(f"{self._name}.php", text)
        given = {"stage": stage, "remote_ip": "192.0.2.1", "helo": "client.example"} | fields
        if stage == "auth":
            post: dict[str, str | bytes] = dict(given)
            answer = call_script(self._php.socket_path, script, post=post)
        else:
            answer = call_script(self._php.socket_path, script, get=urlencode(given))
        assert PASSWORD not in answer.text + answer.stderr
        return answer.text


@pytest.fixture
def policy(php: PhpFpm, request: pytest.FixtureRequest) -> Policy:
    return Policy(php, str(request.node.name).replace("[", "-").strip("]"))


@pytest.mark.parametrize("stage", ["connect", "helo", "mail"])
def test_most_pass(policy: Policy, stage: str) -> None:
    assert policy.ask(stage, mail_from="a@client.example") == "PASSED"


def test_a_blocked_address_is_not_served(policy: Policy) -> None:
    policy.set("BLOCKED", "['192.0.2.66']")
    assert policy.ask("connect", remote_ip="192.0.2.66") == "554 5.7.1 You are not served here"
    assert policy.ask("connect", remote_ip="192.0.2.6") == "PASSED"


def test_nobody_else_has_our_name(policy: Policy) -> None:
    assert policy.ask("helo", helo="MX.example.com") == "550 5.7.1 That is my name"


def test_who_knows_the_password_logs_in(policy: Policy, php: PhpFpm) -> None:
    hasher = php.script("hash.php", "<?php echo password_hash($_POST['p'], PASSWORD_DEFAULT, ['cost' => 4]);")
    hashed = call_script(php.socket_path, hasher, post={"p": PASSWORD}).text
    policy.users.write_text(f"alice@example.com:nonsense\nbob@example.com:{hashed}\n\n")
    policy.set("WRONG_PASSWORDS", "3")
    assert policy.ask("auth", username="bob@example.com", password=PASSWORD) == "PASSED"
    assert policy.ask("auth", username="bob@example.com", password=PASSWORD + "x") == WRONG
    assert policy.ask("auth", username="carol@example.com", password="nobody") == WRONG
    assert policy.ask("auth", username="alice@example.com", password=PASSWORD) == WRONG
    assert policy.ask("auth", username="bob@example.com", password=PASSWORD).startswith("421 4.7.0 Too many")
    assert policy.ask("auth", username="bob@example.com", password=PASSWORD, remote_ip="192.0.2.2") == "PASSED"


def test_without_a_file_of_users_nobody_is_refused_for_ever(policy: Policy) -> None:
    assert policy.ask("auth", username="bob@example.com", password=PASSWORD) == CANNOT


def test_a_user_sends_as_itself_and_not_too_much(policy: Policy) -> None:
    policy.set("MAILS_PER_HOUR", "2")
    user = {"auth_user": "bob@example.com"}
    assert policy.ask("mail", mail_from="alice@example.com", **user) == "553 5.7.1 That is not your address"
    for _ in range(2):
        assert policy.ask("mail", mail_from="Bob@example.com", **user) == "PASSED"
    assert policy.ask("mail", mail_from="bob@example.com", **user) == "450 4.7.1 Too many mails in an hour"


def test_a_stranger_waits_once(policy: Policy) -> None:
    mail = {"mail_from": "a@client.example", "rcpt_to": "b@example.com"}
    assert policy.ask("validate", **mail) == GREY
    assert policy.ask("validate", **mail) == GREY
    (memory,) = policy.state.iterdir()
    since, times = memory.read_text().split()
    assert times == "2"
    memory.write_text(f"{int(since) - 300} {times}")
    assert policy.ask("validate", **mail) == "PASSED"
    assert policy.ask("validate", **mail, remote_ip="192.0.2.99") == "PASSED"  # another server of that network
    assert policy.ask("validate", **mail, remote_ip="2001:db8::1") == GREY
    memory.write_text(f"{int(since) - 8 * 86400} {times}")
    assert policy.ask("validate", **mail) == GREY


@pytest.mark.parametrize(
    "known",
    [
        pytest.param({"auth_user": "bob@example.com"}, id="a-user"),
        pytest.param({"remote_ip": ""}, id="by-a-unix-socket"),
        pytest.param({"remote_ip": "127.0.0.1"}, id="from-here"),
    ],
)
def test_whom_we_know_does_not_wait(policy: Policy, known: dict[str, str]) -> None:
    assert policy.ask("validate", mail_from="a@client.example", rcpt_to="b@example.com", **known) == "PASSED"


@pytest.mark.parametrize("stage", ["save", "", "CONNECT"])
def test_what_it_does_not_know_is_told_to_come_again(policy: Policy, stage: str) -> None:
    assert policy.ask(stage) == CANNOT


def test_what_cannot_be_remembered_is_told_to_come_again(policy: Policy) -> None:
    policy.state.write_text("a file where the folder should be")
    assert policy.ask("validate", mail_from="a@client.example", rcpt_to="b@example.com") == CANNOT
