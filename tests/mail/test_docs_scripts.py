"""docs/scripts.md says what the code does: its fields, its answers, its digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, assert_never

import pytest

from tests.mail.support import ALICE, BOB, CAROL, PEER, QUEUE_ID, TLS, envelope
from trio_fcgimail.mail import (
    BOUNDARY_RANDOM_OCTETS,
    MAX_ANSWER_OCTETS,
    MAX_STDERR_OCTETS,
    Answer,
    BodyKind,
    ClientCertificate,
    DsnWish,
    MailDigest,
    Meaning,
    Received,
    Session,
    Stage,
    Unexpected,
    Verdict,
    auth_fields,
    get_parameters,
    has_room,
    judge,
    mail_fields,
    mail_parameters,
    post_parameters,
    save_fields,
    save_request,
    session_fields,
    validate_fields,
)
from trio_fcgimail.mail.headers import MAX_SUBJECT_OCTETS
from trio_fcgimail.mail.request import MAX_FIELDS, MAX_METADATA_OCTETS
from trio_fcgimail.smtp import (
    BodyType,
    Credentials,
    DsnNotify,
    DsnReturn,
    GreetingWord,
    Mailbox,
    Mechanism,
    OriginalRecipient,
    Secret,
)

PAGE: Final = (Path(__file__).parents[2] / "docs" / "scripts.md").read_text()
CONTENT: Final = b"Subject: Hi\r\n\r\nHello\r\n"
MAIL: Final = envelope(BOB, CAROL)
WISH: Final = DsnWish(frozenset({DsnNotify.FAILURE, DsnNotify.DELAY}), OriginalRecipient("rfc822", "bob@example.org"))
SHOWN: Final = replace(TLS, client=ClientCertificate("CN=client.example,O=Example", hashlib.sha256(b"0").hexdigest()))
DECLARED: Final = envelope(
    BOB,
    CAROL,
    tls=SHOWN,
    auth_user="alice@example.net",
    require_tls=True,
    body_type=BodyType.EIGHT_BIT_MIME,
    dsn_wishes=(WISH, DsnWish()),
    dsn_return=DsnReturn.HEADERS,
    envelope_id="QQ314159",
)

SESSION: Final = Session(PEER, GreetingWord.EHLO, "client.example", tls=SHOWN)
CREDENTIALS: Final = Credentials(
    mechanism=Mechanism.PLAIN, identity="", username="alice@example.net", password=Secret("open sesame")
)


def rows(head: str) -> Iterator[list[str]]:
    """The rows of the table with this head, as their cells."""
    lines = iter(PAGE.splitlines())
    assert head in lines, head
    assert set(next(lines)) <= set("| -")
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def digest() -> str:
    one = MailDigest(ALICE, [BOB, CAROL])
    one.update(CONTENT)
    return one.hexdigest()


def given_fields(stage: Stage) -> dict[str, str]:
    """Every field that there can be, the recipients under one name."""
    match stage:
        case Stage.CONNECT | Stage.HELO:
            return dict(session_fields(replace(SESSION, auth_user="alice@example.net"), stage.value))
        case Stage.AUTH:
            return dict(auth_fields(SESSION, CREDENTIALS))
        case Stage.MAIL:
            return dict(mail_fields(DECLARED))
        case Stage.VALIDATE:
            return dict(validate_fields(DECLARED, Mailbox("dave", "example.com")))
        case Stage.SAVE:
            fields = dict(save_fields(DECLARED, Received("Hi", digest(), 100)))
            first = {name[:-1] + "N": fields[name] for name in fields if re.fullmatch(r"rcpt_[a-z]+_0", name)}
            others = {name: value for name, value in fields.items() if not re.fullmatch(r"rcpt_[a-z]+_\d+", name)}
            return others | {"body": ""} | first
        case _:
            assert_never(stage)


def least_fields(stage: Stage) -> dict[str, str]:
    """The fields when the client gave nothing that it need not."""
    bare = Session(PEER, GreetingWord.EHLO, "client.example")
    match stage:
        case Stage.CONNECT | Stage.HELO:
            return dict(session_fields(bare, stage.value))
        case Stage.AUTH:
            return dict(auth_fields(bare, CREDENTIALS))
        case Stage.MAIL:
            return dict(mail_fields(MAIL))
        case Stage.VALIDATE:
            return dict(validate_fields(MAIL, BOB))
        case Stage.SAVE:
            return dict(save_fields(MAIL, Received("", "", 0)))
        case _:
            assert_never(stage)


FIELDS: Final = list(rows("| field | connect, helo | auth | mail | validate | save | type | example | meaning |"))
COLUMNS: Final = {Stage.CONNECT: 1, Stage.HELO: 1, Stage.AUTH: 2, Stage.MAIL: 3, Stage.VALIDATE: 4, Stage.SAVE: 5}
EXAMPLE: Final = 7
STAGES: Final = pytest.mark.parametrize("stage", [pytest.param(one, id=one.value) for one in Stage])


@STAGES
def test_each_field_is_there_with_a_true_example(stage: Stage) -> None:
    documented = {row[0].strip("`"): row[EXAMPLE].strip("`") for row in FIELDS if row[COLUMNS[stage]]}
    given = given_fields(stage)
    assert documented.keys() == given.keys()
    assert {name: given[name] for name, example in documented.items() if example} == {
        name: example for name, example in documented.items() if example
    }


#: What has to be done for a field that is not always there.
MARKS: Final = {
    "auth_user": "after AUTH",
    "body_type": "with BODY",
    "dsn_envid": "with ENVID",
    "dsn_ret": "with RET",
    "rcpt_notify_N": "with NOTIFY",
    "rcpt_orcpt_N": "with ORCPT",
    "require_tls": "with REQUIRETLS",
    "tls_cipher": "over TLS",
    "tls_client_sha256": "with a client certificate",
    "tls_client_subject": "with a client certificate",
    "tls_protocol": "over TLS",
}


@STAGES
def test_only_what_is_marked_may_be_missing(stage: Stage) -> None:
    marked = {row[0].strip("`"): row[COLUMNS[stage]] for row in FIELDS if row[COLUMNS[stage]] not in ("", "yes")}
    assert marked.items() <= MARKS.items()
    assert given_fields(stage).keys() - least_fields(stage).keys() - {"body", "rcpt_to_N"} == marked.keys()


def test_each_stage_has_a_row() -> None:
    stages = [row[0] for row in rows("| stage | when | request | says yes with |")]
    assert stages == [stage.value for stage in Stage]


def test_fields_are_in_order() -> None:
    names = [row[0].strip("`") for row in FIELDS]
    assert names == sorted(names)


ANSWERS: Final = [
    pytest.param(stage, row[0], row[column], id=f"{stage.value}-{row[0].strip('`')}")
    for head, stages in (
        ("| printed | validate | save |", (Stage.VALIDATE, Stage.SAVE)),
        ("| printed | connect | helo | auth | mail |", (Stage.CONNECT, Stage.HELO, Stage.AUTH, Stage.MAIL)),
    )
    for row in rows(head)
    for column, stage in enumerate(stages, 1)
]
FAILURES: Final = {
    Stage.CONNECT: "421 4.3.0 Local error; closing",
    Stage.AUTH: "454 4.7.0 Temporary authentication failure",
}


def verdict_of(stage: Stage, printed: str, unexpected: Unexpected = Unexpected.TEMPFAIL) -> Verdict:
    output = b"" if printed == "nothing" else printed.strip("`").encode()
    return judge(stage, Answer(200, output, b""), unexpected=unexpected, queue_id=QUEUE_ID)


@pytest.mark.parametrize(("stage", "printed", "cell"), ANSWERS)
def test_each_answer_means_what_is_written(stage: Stage, printed: str, cell: str) -> None:
    verdicts = {one: verdict_of(stage, printed, one) for one in Unexpected}
    told = {verdict.reply.text for verdict in verdicts.values()}
    match cell:
        case "failure":
            assert told == {FAILURES.get(stage, "451 4.3.0 Local error; try again later")}
        case "unexpected":
            assert stage is Stage.SAVE
            assert verdicts[Unexpected.TEMPFAIL].reply.text == "451 4.3.0 Local error; try again later"
            assert verdicts[Unexpected.REJECT].reply.text == "554 5.3.0 Message not accepted"
        case "greeted":
            assert {verdict.meaning for verdict in verdicts.values()} == {Meaning.ACCEPTED}
        case _:
            assert told == {cell.strip("`")}


@pytest.mark.parametrize("stage", [pytest.param(stage, id=stage.value) for stage in FAILURES])
def test_the_failure_of_a_stage_is_named(stage: Stage) -> None:
    assert f"`{FAILURES[stage]}`" in PAGE


def test_the_switch_is_that_of_the_example() -> None:
    (switch,) = re.findall(r"```php\n(\$answer = match.*?)```", PAGE, re.DOTALL)
    example = (Path(__file__).parents[2] / "examples" / "php" / "policy.php").read_text()
    assert re.sub(r"\s+", " ", switch) in re.sub(r"\s+", " ", example)


def test_the_reply_in_two_lines_is_one() -> None:
    (example,) = re.findall(r"```\n(550-.*?)```", PAGE, re.DOTALL)
    verdict = judge(Stage.SAVE, Answer(200, example.encode(), b""), unexpected=Unexpected.TEMPFAIL, queue_id=QUEUE_ID)
    assert verdict.meaning is Meaning.REFUSED
    assert verdict.reply.render() == example.replace("\n", "\r\n").encode()


def test_the_digest_of_the_example() -> None:
    (printed,) = re.findall(r"printf '(.*?)' \| sha256sum", PAGE)
    told = printed.encode().decode("unicode_escape").encode()
    assert told == b"alice@example.net\0bob@example.com\0carol@example.com\0\0" + CONTENT


def test_each_parameter_is_named() -> None:
    names = {
        name.decode()
        for name, _ in [
            *get_parameters("/s.php", [], hostname="mx.example.com", remote_ip=""),
            *post_parameters("/s.php", 0, hostname="mx.example.com", remote_ip=""),
        ]
    }
    (sentence,) = re.findall(r"usual CGI parameters \(`\$_SERVER`\): (.*?)\n\n", PAGE, re.DOTALL)
    assert set(re.findall(r"`([A-Z_]+)`", sentence)) == names


def test_each_kind_of_body_is_told() -> None:
    told = {
        row[0].strip('`"'): row[1].strip("`")
        for row in rows("| `scripts.body` | `CONTENT_TYPE` | the mail | the other fields | lines end in |")
    }
    asked = {
        kind: save_request(kind, [], 0, queue_id="q", randomness=bytes(BOUNDARY_RANDOM_OCTETS)) for kind in BodyKind
    }
    assert told == {kind.value: request.content_type.partition(";")[0] for kind, request in asked.items()}


def test_the_parameters_of_raw_are_named_as_is_told() -> None:
    (sentence,) = re.findall(r"without a second `MAIL_`: (.*?)\. Only", PAGE, re.DOTALL)
    names = {name.decode() for name, _ in mail_parameters(save_fields(MAIL, Received("", "", 0)))}
    assert set(re.findall(r"`([A-Z_0-9]+)`", sentence)) <= names


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"at most {MAX_FIELDS} fields" in PAGE
    assert f"at most {MAX_METADATA_OCTETS:,} octets written as a query" in PAGE
    assert f"at most {MAX_SUBJECT_OCTETS} octets" in PAGE
    assert f"more than {MAX_ANSWER_OCTETS:,} octets" in PAGE
    assert f"up to {MAX_STDERR_OCTETS:,} octets" in PAGE
    assert "at most 860 recipients" in PAGE
    assert has_room(860, 0)
    assert not has_room(861, 0)
