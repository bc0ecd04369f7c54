"""From a line of the client to what is to be done about it: the one place where every command is read.

Nothing changes here, but that an exchange of AUTH remembers its user. What a line comes to hangs on the line and on
where the session stands alone, and is told as a ``Step``, which the connection then takes.
"""

from __future__ import annotations

from typing import Final, assert_never

from trio_fcgimail.smtp import catalogue, commands
from trio_fcgimail.smtp.buffer import Length, Line
from trio_fcgimail.smtp.content import Refused
from trio_fcgimail.smtp.errors import CommandError
from trio_fcgimail.smtp.events import Authenticate, DataBegun, DataCommand, Hello, StartTls, Xclient
from trio_fcgimail.smtp.order import check_order
from trio_fcgimail.smtp.parameters import BodyType
from trio_fcgimail.smtp.replies import Reply
from trio_fcgimail.smtp.sasl import Credentials, Login, SaslExchange, begin_auth
from trio_fcgimail.smtp.standing import Standing
from trio_fcgimail.smtp.state import Verb
from trio_fcgimail.smtp.steps import Ask, Challenge, EatChunk, Lost, Refuse, Settle, Step, TakeChunk
from trio_fcgimail.smtp.xclient import parse_xclient

_BARE_VERBS: Final = frozenset({Verb.DATA, Verb.RSET, Verb.QUIT, Verb.STARTTLS})


def interpret(line: Line, now: Standing) -> Step:
    """What a command line comes to."""
    verb = Verb.UNKNOWN
    try:
        if line.length is Length.TOO_LONG:
            raise CommandError(commands.refusal_of_long_line(line.octets))
        word, rest = commands.split_line(line.octets)
        verb = word.verb
        if verb is Verb.BDAT:
            return _read_bdat(word, rest, now)
        check_order(now.state, word, now.options.dialect, now.offer)
        return _read(word, rest, now)
    except CommandError as exc:
        if verb is Verb.UNKNOWN and commands.announces_chunk(line.octets):
            return Lost("a BDAT cannot be read", exc.reply)
        return Refuse(verb, exc.reply)


def interpret_response(line: Line, exchange: SaslExchange) -> Step:
    """What a line within an exchange of AUTH comes to; refused, it ends the exchange."""
    try:
        if line.length is Length.TOO_LONG:
            raise CommandError(catalogue.SASL_LINE_TOO_LONG)
        return _step_auth(Verb.SASL_RESPONSE, exchange, exchange.respond(line.octets))
    except CommandError as exc:
        return Refuse(Verb.SASL_RESPONSE, exc.reply)


def _read(word: commands.Word, rest: str, now: Standing) -> Step:
    """A command that may come now, by its arguments."""
    verb = word.verb
    if verb in _BARE_VERBS and rest:
        raise CommandError(catalogue.NO_ARGUMENTS)
    match verb:
        case Verb.GREET if word.greeting is not None:
            return Ask(Hello(word.greeting, commands.parse_greeting(rest)))
        case Verb.STARTTLS:
            return Ask(StartTls())
        case Verb.AUTH if now.login is Login.DONE:
            raise CommandError(catalogue.AUTHENTICATED_ALREADY)
        case Verb.AUTH:
            return _step_auth(verb, *begin_auth(rest, now.options.auth_mechanisms))
        case Verb.XCLIENT:
            return Ask(Xclient(parse_xclient(rest)))
        case Verb.MAIL:
            return _read_mail(rest, now)
        case Verb.RCPT:
            return _read_rcpt(rest, now)
        case Verb.DATA if now.transaction.body is BodyType.BINARY_MIME:
            raise CommandError(catalogue.NEED_BDAT)
        case Verb.DATA:
            return Ask(DataBegun(DataCommand.DATA))
        case Verb.VRFY if not rest:
            raise CommandError(catalogue.BAD_ARGUMENTS)
        case _:  # check_order lets no other verb pass
            return Settle(verb, _ANSWERS[verb])


def _step_auth(verb: Verb, exchange: SaslExchange, step: Reply | Credentials) -> Step:
    match step:
        case Reply():
            return Challenge(verb, step, exchange)
        case Credentials():
            return Ask(Authenticate(step))
        case _:
            assert_never(step)


def _read_mail(rest: str, now: Standing) -> Step:
    event = commands.parse_mail(rest, now.offer.extensions, now.options.paths)
    limit = now.options.max_message_octets
    if limit is not None and event.declared_octets is not None and event.declared_octets > limit:
        raise CommandError(catalogue.MESSAGE_TOO_BIG)
    now.tally.check_message()
    return Ask(event)


def _read_rcpt(rest: str, now: Standing) -> Step:
    now.tally.check_recipient()
    transaction, options = now.transaction, now.options
    event = commands.parse_rcpt(rest, now.offer.extensions, options.paths, smtputf8=transaction.smtputf8)
    if options.max_recipients is not None and transaction.recipients >= options.max_recipients:
        raise CommandError(catalogue.TOO_MANY_RECIPIENTS)
    return Ask(event)


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
