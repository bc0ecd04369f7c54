"""docs/scripts.md says what the code does: its fields, its answers, its digest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.mail.support import ALICE, BOB, CAROL, QUEUE_ID, envelope
from trio_fcgimail.mail import (
    BOUNDARY_RANDOM_OCTETS,
    MAX_ANSWER_OCTETS,
    MAX_STDERR_OCTETS,
    Answer,
    BodyKind,
    DsnWish,
    MailDigest,
    Meaning,
    Received,
    Stage,
    Unexpected,
    get_parameters,
    has_room,
    judge,
    mail_parameters,
    post_parameters,
    save_fields,
    save_request,
    validate_fields,
)
from trio_fcgimail.mail.headers import MAX_SUBJECT_OCTETS
from trio_fcgimail.mail.request import MAX_FIELDS, MAX_METADATA_OCTETS
from trio_fcgimail.smtp import BodyType, DsnNotify, DsnReturn, Mailbox, OriginalRecipient

PAGE: Final = (Path(__file__).parents[2] / "docs" / "scripts.md").read_text()
CONTENT: Final = b"Subject: Hi\r\n\r\nHello\r\n"
MAIL: Final = envelope(BOB, CAROL)
WISH: Final = DsnWish(frozenset({DsnNotify.FAILURE, DsnNotify.DELAY}), OriginalRecipient("rfc822", "bob@example.org"))
DECLARED: Final = envelope(
    BOB,
    CAROL,
    body_type=BodyType.EIGHT_BIT_MIME,
    dsn_wishes=(WISH, DsnWish()),
    dsn_return=DsnReturn.HEADERS,
    envelope_id="QQ314159",
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
        case Stage.VALIDATE:
            return dict(validate_fields(DECLARED, Mailbox("dave", "example.com")))
        case Stage.SAVE:
            fields = dict(save_fields(DECLARED, Received("Hi", digest(), 100)))
            first = {name[:-1] + "N": fields[name] for name in fields if re.fullmatch(r"rcpt_[a-z]+_0", name)}
            others = {name: value for name, value in fields.items() if not re.fullmatch(r"rcpt_[a-z]+_\d+", name)}
            return others | {"body": ""} | first


FIELDS: Final = list(rows("| field | validate | save | type | example | meaning |"))
COLUMNS: Final = {Stage.VALIDATE: 1, Stage.SAVE: 2}
STAGES: Final = pytest.mark.parametrize("stage", [pytest.param(one, id=one.value) for one in Stage])


@STAGES
def test_each_field_is_there_with_a_true_example(stage: Stage) -> None:
    documented = {row[0].strip("`"): row[4].strip("`") for row in FIELDS if row[COLUMNS[stage]]}
    given = given_fields(stage)
    assert documented.keys() == given.keys()
    assert {name: given[name] for name, example in documented.items() if example} == {
        name: example for name, example in documented.items() if example
    }


@STAGES
def test_only_what_is_marked_may_be_missing(stage: Stage) -> None:
    marked = {row[0].strip("`") for row in FIELDS if row[COLUMNS[stage]].startswith("with ")}
    parameters = {"BODY", "RET", "ENVID", *(("NOTIFY", "ORCPT") if stage is Stage.SAVE else ())}
    assert {row[COLUMNS[stage]] for row in FIELDS} == {"", "yes", *(f"with {parameter}" for parameter in parameters)}
    without = save_fields(MAIL, Received("", "", 0)) if stage is Stage.SAVE else validate_fields(MAIL, BOB)
    assert {name for name in given_fields(stage) if name not in dict(without)} - {"body", "rcpt_to_N"} == marked


def test_fields_are_in_order() -> None:
    names = [row[0].strip("`") for row in FIELDS]
    assert names == sorted(names)


ANSWERS: Final = list(rows("| printed | validate | save |"))


def reply_of(stage: Stage, printed: str, unexpected: Unexpected = Unexpected.TEMPFAIL) -> str:
    output = b"" if printed == "nothing" else printed.strip("`").encode()
    return judge(stage, Answer(200, output, b""), unexpected=unexpected, queue_id=QUEUE_ID).reply.text


@pytest.mark.parametrize("row", [pytest.param(row, id=row[0].strip("`")) for row in ANSWERS])
@STAGES
def test_each_answer_means_what_is_written(row: list[str], stage: Stage) -> None:
    cell = row[COLUMNS[stage]]
    match cell:
        case "failure":
            assert {reply_of(stage, row[0], one) for one in Unexpected} == {"451 4.3.0 Local error; try again later"}
        case "unexpected":
            assert stage is Stage.SAVE
            assert reply_of(stage, row[0]) == "451 4.3.0 Local error; try again later"
            assert reply_of(stage, row[0], Unexpected.REJECT) == "554 5.3.0 Message not accepted"
        case _:
            assert {reply_of(stage, row[0], one) for one in Unexpected} == {cell.strip("`")}


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
