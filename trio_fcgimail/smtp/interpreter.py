"""From a line of the client to what is to be done about it: the one place where every command is read.

Nothing changes here, but that an exchange of AUTH remembers its user. What a line comes to hangs on the line and on
where the session stands alone, and is told as a ``Step``, which the connection then takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, assert_never

from trio_fcgimail.smtp import catalogue, commands, plain
from trio_fcgimail.smtp.buffer import TooLong
from trio_fcgimail.smtp.content import Refused
from trio_fcgimail.smtp.errors import CommandError
from trio_fcgimail.smtp.events import Authenticate, DataBegun, DataCommand, Hello, MailFrom, RcptTo, StartTls, Xclient
from trio_fcgimail.smtp.order import check_order
from trio_fcgimail.smtp.parameters import BodyType
from trio_fcgimail.smtp.replies import Reply
from trio_fcgimail.smtp.sasl import Credentials, Login, SaslExchange, begin_auth
from trio_fcgimail.smtp.standing import Standing
from trio_fcgimail.smtp.state import Verb, is_legal
from trio_fcgimail.smtp.steps import Challenge, EatChunk, Lost, Refuse, Settle, Step, TakeChunk
from trio_fcgimail.smtp.xclient import parse_xclient


def interpret(line: bytes | TooLong, now: Standing) -> Step:
    """What a command line comes to."""
    if isinstance(line, TooLong):
        return _refuse(Verb.UNKNOWN, line.beginning, commands.refusal_of_long_line(line.beginning))
    verb = _UNKNOWN
    try:
        if (read_plain := _PLAIN.get(line[:5])) is not None:
            verb, read = read_plain
            if is_legal(now.state, verb) and (event := read(line, now)) is not None:
                return event
            verb = _UNKNOWN  # until the grammar says what it is
        word, rest = commands.split_line(line)
        verb = word.verb
        if verb is _BDAT:
            return _read_bdat(word, rest, now)
        check_order(now.state, word, now.options.dialect, now.offer)
        return _READERS[verb](word, rest, now)
    except CommandError as exc:
        return _refuse(verb, line, exc.reply)


def interpret_response(line: bytes | TooLong, exchange: SaslExchange) -> Step:
    """What a line within an exchange of AUTH comes to; refused, it ends the exchange."""
    if isinstance(line, TooLong):
        return Refuse(Verb.SASL_RESPONSE, catalogue.SASL_LINE_TOO_LONG)
    try:
        return _step_auth(Verb.SASL_RESPONSE, exchange, exchange.respond(line))
    except CommandError as exc:
        return Refuse(Verb.SASL_RESPONSE, exc.reply)


def _refuse(verb: Verb, line: bytes, reply: Reply) -> Step:
    if verb is Verb.UNKNOWN and commands.announces_chunk(line):
        return Lost("a BDAT cannot be read", reply)
    return Refuse(verb, reply)


def _read_greeting(word: commands.Word, rest: str, _now: Standing) -> Step:
    assert word.greeting is not None
    return Hello(word.greeting, commands.parse_greeting(rest))


def _read_starttls(_word: commands.Word, rest: str, _now: Standing) -> Step:
    _check_bare(rest)
    return StartTls()


def _read_auth(_word: commands.Word, rest: str, now: Standing) -> Step:
    if now.login is Login.DONE:
        raise CommandError(catalogue.AUTHENTICATED_ALREADY)
    return _step_auth(Verb.AUTH, *begin_auth(rest, now.options.auth_mechanisms))


def _read_xclient(_word: commands.Word, rest: str, _now: Standing) -> Step:
    return Xclient(parse_xclient(rest))


def _read_data(_word: commands.Word, rest: str, now: Standing) -> Step:
    _check_bare(rest)
    if now.transaction.body is _BINARY_MIME:
        raise CommandError(catalogue.NEED_BDAT)
    return DataBegun(_BY_DATA)


def _settle_bare(word: commands.Word, rest: str, now: Standing) -> Step:
    _check_bare(rest)
    return _settle(word, rest, now)


def _settle(word: commands.Word, _rest: str, _now: Standing) -> Step:
    return Settle(word.verb, _ANSWERS[word.verb])


def _read_vrfy(word: commands.Word, rest: str, now: Standing) -> Step:
    if not rest:
        raise CommandError(catalogue.BAD_ARGUMENTS)
    return _settle(word, rest, now)


def _check_bare(rest: str) -> None:
    if rest:
        raise CommandError(catalogue.NO_ARGUMENTS)


def _step_auth(verb: Verb, exchange: SaslExchange, step: Reply | Credentials) -> Step:
    match step:
        case Reply():
            return Challenge(verb, step, exchange)
        case Credentials():
            return Authenticate(step)
        case _:
            assert_never(step)


def _read_mail(_word: commands.Word, rest: str, now: Standing) -> Step:
    return _admit_mail(commands.parse_mail(rest, now.offer.extensions, now.options.paths), now)


def _admit_mail(event: MailFrom, now: Standing) -> MailFrom:
    """Hold a MAIL against the limits."""
    limit = now.options.max_message_octets
    if limit is not None and event.declared_octets is not None and event.declared_octets > limit:
        raise CommandError(catalogue.MESSAGE_TOO_BIG)
    now.tally.check_message()
    return event


def _read_plain_mail(line: bytes, now: Standing) -> MailFrom | None:
    event = plain.read_mail(line, now.offer.extensions)
    return None if event is None else _admit_mail(event, now)


def _read_rcpt(_word: commands.Word, rest: str, now: Standing) -> Step:
    now.tally.check_recipient()
    utf8 = now.transaction.smtputf8
    return _admit_rcpt(commands.parse_rcpt(rest, now.offer.extensions, now.options.paths, smtputf8=utf8), now)


def _admit_rcpt(event: RcptTo, now: Standing) -> RcptTo:
    """Hold a RCPT against the limit of its mail."""
    limit = now.options.max_recipients
    if limit is not None and now.transaction.recipients >= limit:
        raise CommandError(catalogue.TOO_MANY_RECIPIENTS)
    return event


def _read_plain_rcpt(line: bytes, now: Standing) -> RcptTo | None:
    now.tally.check_recipient()
    event = plain.read_rcpt(line)
    return None if event is None else _admit_rcpt(event, now)


def _read_bdat(word: commands.Word, rest: str, now: Standing) -> Step:
    """Wanted or not, the octets behind BDAT are data and no commands: a refused chunk is eaten before its reply."""
    try:
        chunk = commands.parse_chunk(rest)
    except CommandError as exc:
        return Lost("the size of a chunk cannot be read", exc.reply)
    try:
        check_order(now.state, word, now.options.dialect, now.offer)
    except CommandError as exc:
        return EatChunk(chunk, exc.reply, Refused.COMMAND)
    if (refusal := now.transaction.refusal_of(chunk)) is not None:
        return EatChunk(chunk, refusal, Refused.MESSAGE)
    return TakeChunk(chunk)


_ANSWERS: Final = {
    Verb.RSET: catalogue.RESET_OK,
    Verb.NOOP: catalogue.OK,
    Verb.HELP: catalogue.HELP,
    Verb.VRFY: catalogue.CANNOT_VERIFY,
    Verb.QUIT: catalogue.BYE,
}
_READERS: Final[Mapping[Verb, Callable[[commands.Word, str, Standing], Step]]] = {
    Verb.GREET: _read_greeting,
    Verb.STARTTLS: _read_starttls,
    Verb.AUTH: _read_auth,
    Verb.XCLIENT: _read_xclient,
    Verb.MAIL: _read_mail,
    Verb.RCPT: _read_rcpt,
    Verb.DATA: _read_data,
    Verb.RSET: _settle_bare,
    Verb.QUIT: _settle_bare,
    Verb.NOOP: _settle,
    Verb.HELP: _settle,
    Verb.VRFY: _read_vrfy,
}
_Plain = Callable[[bytes, Standing], MailFrom | RcptTo | None]
_PLAIN: Final[Mapping[bytes, tuple[Verb, _Plain]]] = {
    plain.MAIL: (Verb.MAIL, _read_plain_mail),
    plain.RCPT: (Verb.RCPT, _read_plain_rcpt),
}
_UNKNOWN: Final = Verb.UNKNOWN
_BDAT: Final = Verb.BDAT
_BINARY_MIME: Final = BodyType.BINARY_MIME
_BY_DATA: Final = DataCommand.DATA
