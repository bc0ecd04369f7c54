"""What is stored against what was promised."""

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from tests.trust.chaos.attempts import Attempt, Attempts, Outcome
from tests.trust.chaos.mails import DOMAIN, Mail, Post
from tests.trust.chaos.stage import Store

_TRACE = re.compile(rb"Received: from c(\d+)\.load\.example(?: [^\r]*)?\r\n(?:[\t ][^\r]*\r\n)*")


@dataclass(frozen=True, slots=True)
class Breach:
    """A promise that was broken."""

    number: int
    problem: str


@dataclass(slots=True)
class Reckoning:
    """What came of it.

    Attributes:
        doubles: copies beyond the one of the answer 250, by what became of the attempt that they are of.
        octets: of all copies.
    """

    mails: int = 0
    copies: int = 0
    octets: int = 0
    doubled_mails: int = 0
    doubles: Counter[str] = field(default_factory=Counter)
    breaches: list[Breach] = field(default_factory=list)


def reckon(store: Store, attempts: Attempts, post: Post, mails: int) -> Reckoning:
    """Look at every mail and every copy."""
    copies = _copies(store)
    result = Reckoning(mails=mails)
    for number in range(1, mails + 1):
        _reckon_mail(result, post.mail(number), attempts.of(number), copies.pop(number, []))
    result.breaches += [Breach(number, "stored, and never sent") for number in copies]
    return result


def _copies(store: Store) -> dict[int, list[tuple[int, Path]]]:
    """Of each mail: the connections, and the files."""
    found: defaultdict[int, list[tuple[int, Path]]] = defaultdict(list)
    for path in store.stored.iterdir():
        number, connection, _ = path.name.split(".")
        found[int(number)].append((int(connection.removeprefix("c")), path))
    return dict(found)


def _reckon_mail(result: Reckoning, mail: Mail, attempts: list[Attempt], copies: list[tuple[int, Path]]) -> None:
    def broken(problem: str) -> None:
        result.breaches.append(Breach(mail.number, problem))

    by_connection = {attempt.connection: attempt for attempt in attempts}
    times = Counter(connection for connection, _ in copies)
    if not any(attempt.outcome is Outcome.SAVED for attempt in attempts):
        broken("never taken")
    if not copies:
        broken("LOST: stored nowhere")
    for attempt in attempts:
        if attempt.is_promised and not times[attempt.connection]:
            broken(f"LOST: answered 250 and not stored by connection c{attempt.connection}")
    for connection, count in times.items():
        attempt_of = by_connection.get(connection)
        if attempt_of is None or not attempt_of.may_have_run:
            broken(f"stored by connection c{connection}, which never sent the whole of it")
        elif count > 1:
            broken(f"stored {count} times by connection c{connection}, which sent it once")
        elif attempt_of.outcome is not Outcome.SAVED:
            result.doubles[_cause(attempt_of)] += 1
    for connection, path in copies:
        result.copies += 1
        result.octets += path.stat().st_size
        if problem := _difference(path, mail, connection):
            broken(f"{path.name}: {problem}")
    result.doubled_mails += len(copies) > 1


def _cause(attempt: Attempt) -> str:
    """Why a mail that is stored was sent again."""
    if attempt.outcome is Outcome.DEFERRED:
        return f"answered {attempt.replies[-1]}"
    return attempt.note or "no answer: the connection broke"


def _difference(path: Path, mail: Mail, connection: int) -> str:
    """What is wrong with a copy."""
    line, _, octets = path.read_bytes().partition(b"\n")
    fields = json.loads(line)
    trace = _TRACE.match(octets)
    if trace is None or int(trace[1]) != connection:
        return f"no trace header of this connection: {octets[:200]!r}"
    if octets[trace.end() :] != mail.content:
        return f"{len(octets) - trace.end()} octets, which are not the {len(mail.content)} that were sent"
    if fields["mail_digest"] != mail.digest:
        return f"digest {fields['mail_digest']}, not {mail.digest}"
    recipients = tuple(fields[f"rcpt_to_{which}"] for which in range(len(mail.recipients)))
    if recipients != mail.recipients or f"rcpt_to_{len(recipients)}" in fields:
        return f"recipients {recipients}, not those of {DOMAIN}"
    if fields["mail_from"] != mail.sender:
        return f"sender {fields['mail_from']}, not {mail.sender}"
    return ""
