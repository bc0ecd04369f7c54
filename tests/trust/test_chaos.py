"""Accounting under chaos, the short form; and that the reckoning finds what is wrong."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.clients import missing
from tests.phpfpm import open_folder, require_php
from tests.trust.chaos.attempts import Attempt, Attempts, Phase, Route
from tests.trust.chaos.books import Books
from tests.trust.chaos.course import Account, Course, run
from tests.trust.chaos.faults import Fault
from tests.trust.chaos.mails import Mail, Post
from tests.trust.chaos.reckoning import Reckoning, reckon
from tests.trust.chaos.stage import Store

SEED: Final = 20_261_122
COURSE: Final = Course(
    mails=300, faults=len(Fault), seed=SEED, senders=16, cut_share=0.25, tempo=0.2, largest=1_000_000
)


def test_nothing_is_lost() -> None:
    require_php()
    with open_folder() as folder:
        account = trio.run(run, COURSE, folder)
    assert account.breaches == [], "\n".join(account.traces)
    assert account.reckoning.mails == COURSE.mails
    assert account.reckoning.copies == COURSE.mails + account.reckoning.doubles.total()
    assert set(account.faults) == set(Fault) - set(account.left_out)
    assert set(account.cuts) == set(Phase)
    if reason := account.left_out.get(Fault.CLOCK_JUMPED):
        missing(reason)
    if reason := account.left_out.get(Fault.SPOOL_FULL):
        pytest.skip(reason)  # a matter of rights, which no installation brings


@dataclass(frozen=True, slots=True)
class Bench:
    """A store and a sender's notes of two mails, each sent and stored once."""

    store: Store
    attempts: Attempts
    post: Post

    def path(self, number: int) -> Path:
        """The only copy of a mail."""
        (found,) = self.store.stored.glob(f"{number}.*")
        return found

    def attempt(self, number: int, connection: int, *, is_sent: bool = True, replies: tuple[str, ...] = ()) -> None:
        """Note one."""
        self.attempts.add(Attempt(number, connection, Route.PLAIN, 0.0, is_sent=is_sent, replies=list(replies)))

    def write(self, mail: Mail, connection: int, content: bytes | None = None) -> None:
        """Store a mail as the script does."""
        fields = {"mail_digest": mail.digest, "mail_from": mail.sender}
        fields |= {f"rcpt_to_{which}": one for which, one in enumerate(mail.recipients)}
        trace = b"Received: from c%d.load.example ([127.0.0.1])\r\n\tby mx.example.com\r\n" % connection
        path = self.store.stored / f"{mail.number}.c{connection}.{sum(1 for _ in self.store.stored.iterdir())}"
        path.write_bytes(json.dumps(fields).encode() + b"\n" + trace + (mail.content if content is None else content))


@pytest.fixture(scope="module")
def post() -> Post:
    return Post(SEED, 2048)


@pytest.fixture
def books(tmp_path: Path, post: Post) -> Bench:
    found = Bench(Store(tmp_path), Attempts(), post)
    for number in (1, 2):
        found.write(post.mail(number), number)
        found.attempt(number, number, replies=("250 2.0.0 OK",))
    return found


def _lost(books: Bench) -> None:
    books.path(2).unlink()


def _cut_short(books: Bench) -> None:
    mail = books.post.mail(2)
    books.path(2).unlink()
    books.write(mail, 2, mail.content[:-1])


def _unsent(books: Bench) -> None:
    books.attempt(2, 3, is_sent=False)
    books.write(books.post.mail(2), 3)


def _twice(books: Bench) -> None:
    books.write(books.post.mail(2), 2)


def _spool_was_full(books: Bench) -> None:
    books.attempt(2, 3, replies=("452 4.3.1 Insufficient storage",))
    books.write(books.post.mail(2), 3)


def _nobody_sent(books: Bench) -> None:
    books.write(books.post.mail(2), 4)


def _untaken(books: Bench) -> None:
    books.attempt(3, 5, replies=("451 4.3.0 Later",))


@pytest.mark.parametrize(
    ("spoil", "problems"),
    [
        pytest.param(_lost, ["LOST: stored nowhere", "LOST: answered 250 and not stored"], id="lost"),
        pytest.param(_cut_short, ["octets, which are not the"], id="cut short"),
        pytest.param(_unsent, ["which never sent the whole of it"], id="stored from a part"),
        pytest.param(_twice, ["stored 2 times by connection c2, which sent it once"], id="doubled by us"),
        pytest.param(_spool_was_full, ["which never sent the whole of it"], id="stored after 452"),
        pytest.param(_nobody_sent, ["which never sent the whole of it"], id="from nowhere"),
    ],
)
def test_what_is_wrong_is_found(books: Bench, spoil: Callable[[Bench], None], problems: list[str]) -> None:
    spoil(books)
    breaches = reckon(books.store, books.attempts, books.post, 2).breaches
    assert [breach.number for breach in breaches] == [2] * len(problems)
    for problem in problems:
        assert any(problem in breach.problem for breach in breaches), breaches


def test_a_mail_that_is_never_taken_is_found(books: Bench) -> None:
    _untaken(books)
    breaches = reckon(books.store, books.attempts, books.post, 3).breaches
    assert [breach.problem for breach in breaches] == ["never taken", "LOST: stored nowhere"]


@pytest.mark.parametrize("replies", [(), ("451 4.3.0 Later",)], ids=["no answer", "451"])
def test_a_double_is_explained_by_a_lost_answer(books: Bench, replies: tuple[str, ...]) -> None:
    books.attempt(2, 3, replies=replies)
    books.write(books.post.mail(2), 3)
    result = reckon(books.store, books.attempts, books.post, 2)
    assert result.breaches == []
    assert (result.doubled_mails, result.doubles.total(), result.copies) == (1, 1, 3)


def test_each_mail_can_be_made_again(post: Post) -> None:
    assert post.mail(7) == Post(SEED, 2048).mail(7)
    assert post.mail(7).digest != post.mail(8).digest


def test_the_figures_of_several_runs_are_added(tmp_path: Path) -> None:
    account = Account(Reckoning(mails=7, copies=8), 1.0)
    account.cuts.update([Phase.ANSWER])
    path = tmp_path / "account.json"
    Books.of(account, 1).added_to(path)
    books = Books.of(account, 2).added_to(path)
    assert (books.figures["mails"], books.figures["copies stored"], books.seeds) == (14, 16, [1, 2])
    assert books.cuts == {Phase.ANSWER.value: 2}
    assert "seeds: 1, 2" in books.text()
