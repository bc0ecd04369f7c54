"""One command line to one typed command (RFC 5321 4.1.1), or to the reply that refuses it.

Only the grammar is here. Whether a command may come now is the state table's business, whether it is wanted the
embedder's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from trio_fcgimail.smtp import catalogue, grammar
from trio_fcgimail.smtp.address import BadPathError, Mailbox, parse_path
from trio_fcgimail.smtp.content import Chunk
from trio_fcgimail.smtp.errors import CommandError
from trio_fcgimail.smtp.events import MailFrom, RcptTo
from trio_fcgimail.smtp.options import Extension, GreetingWord, Paths
from trio_fcgimail.smtp.parameters import read_mail_parameters, read_rcpt_parameters
from trio_fcgimail.smtp.replies import Reply
from trio_fcgimail.smtp.state import Verb

_CHUNK_WORD: Final = re.compile(rb"[\x00-\x20]*BDAT(?![!-~])", re.IGNORECASE)
_AUTH_WORD: Final = re.compile(rb"AUTH[ \t]", re.IGNORECASE)
AUTH_WORD_OCTETS: Final = 5  # that begins_auth() needs
_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # HT is white space to lenient senders

# A browser or an HTTP client was talked into sending a form to us: what follows would be run as commands.
_HTTP: Final = (
    rb"(?:GET|POST|PUT|HEAD|DELETE|OPTIONS|CONNECT|TRACE|PATCH|PRI)(?=[ \t]|\Z)|HOST:"  # RFC 9110 9, 9113 3.4
)
# A header of the PROXY protocol that nobody asked for: forged, or of a proxy that would pass for all its clients.
# Version 2 begins with two empty lines and one of a NUL.
_PROXY: Final = rb"PROXY(?=[ \t]|\Z)|\0\Z"
_FOREIGN: Final = re.compile(_HTTP + b"|" + _PROXY, re.IGNORECASE)


@final
@dataclass(frozen=True, slots=True)
class Word:
    """The first word of a line, and what it asks for; ``greeting`` is set for HELO, EHLO and LHLO only."""

    verb: Verb
    greeting: GreetingWord | None = None


WORDS: Final[Mapping[str, Word]] = {
    **{word.value: Word(Verb.GREET, word) for word in GreetingWord},
    **{
        verb.value: Word(verb)
        for verb in (
            Verb.MAIL,
            Verb.RCPT,
            Verb.DATA,
            Verb.BDAT,
            Verb.RSET,
            Verb.NOOP,
            Verb.HELP,
            Verb.VRFY,
            Verb.EXPN,
            Verb.QUIT,
            Verb.STARTTLS,
            Verb.AUTH,
            Verb.XCLIENT,
        )
    },
}


_BARE_LINES: Final[Mapping[bytes, Word]] = {word.encode(): meaning for word, meaning in WORDS.items()}


def split_line(line: bytes) -> tuple[Word, str]:
    """Take a line without its CRLF apart: the first word in upper case and what follows, outer blanks gone.

    Raises:
        CommandError: a control character, octets that are not UTF-8, or a word of another protocol (421).
    """
    if (bare := _BARE_LINES.get(line)) is not None:
        return bare, ""
    if b"\r" in line or b"\n" in line:
        raise CommandError(catalogue.BARE_NEWLINE_IN_COMMAND)
    if _FOREIGN.match(line):
        raise CommandError(catalogue.NOT_SMTP)
    if _CONTROLS.search(line):
        raise CommandError(catalogue.SYNTAX_ERROR)
    try:
        text = line.decode()
    except UnicodeDecodeError as exc:
        raise CommandError(catalogue.SYNTAX_ERROR) from exc
    word, _, rest = text.replace("\t", " ").partition(" ")
    word, rest = grammar.fold(word), rest.strip(" ")
    if not word:
        raise CommandError(catalogue.SYNTAX_ERROR)
    return WORDS.get(word, Word(Verb.UNKNOWN)), rest


def refusal_of_long_line(beginning: bytes) -> Reply:
    """What a line is answered of which only its beginning was kept."""
    if _FOREIGN.match(beginning):  # the path of a request to HTTP can be as long as an attacker likes
        return catalogue.NOT_SMTP
    return catalogue.SASL_LINE_TOO_LONG if begins_auth(beginning) else catalogue.LINE_TOO_LONG


def parse_greeting(rest: str) -> str:
    """The argument of HELO, EHLO or LHLO (RFC 5321 4.1.1.1): a name, a literal, or what senders make of it."""
    is_name = len(rest) <= grammar.MAX_DOMAIN_OCTETS and grammar.GREETING_NAME.fullmatch(rest) is not None
    if not is_name and not grammar.is_address_literal(rest):
        raise CommandError(catalogue.BAD_GREETING_NAME)
    return rest


def parse_mail(rest: str, extensions: frozenset[Extension], paths: Paths) -> MailFrom:
    """The argument of MAIL (RFC 5321 4.1.1.2): the reverse-path and its parameters."""
    path_text, parameters_text = _split_path("FROM:", rest, paths, catalogue.BAD_SENDER)
    parameters = read_mail_parameters(parameters_text, extensions)
    path = _parse_path(path_text, catalogue.BAD_SENDER)
    if path is not None and path.domain is None:  # <postmaster> is a recipient only
        raise CommandError(catalogue.BAD_SENDER)
    mailboxes = (path, parameters.submitter)
    if not parameters.smtputf8 and not all(mailbox is None or mailbox.is_ascii for mailbox in mailboxes):
        raise CommandError(catalogue.NEED_SMTPUTF8)
    return MailFrom(
        path=path,
        declared_octets=parameters.declared_octets,
        body=parameters.body,
        smtputf8=parameters.smtputf8,
        dsn_return=parameters.dsn_return,
        envelope_id=parameters.envelope_id,
        require_tls=parameters.require_tls,
        submitter=parameters.submitter,
    )


def parse_rcpt(rest: str, extensions: frozenset[Extension], paths: Paths, *, smtputf8: bool) -> RcptTo:
    """The argument of RCPT (RFC 5321 4.1.1.3): the forward-path and its parameters."""
    path_text, parameters_text = _split_path("TO:", rest, paths, catalogue.BAD_RECIPIENT)
    parameters = read_rcpt_parameters(parameters_text, extensions)
    path = _parse_path(path_text, catalogue.BAD_RECIPIENT)
    if path is None:
        raise CommandError(catalogue.BAD_RECIPIENT)
    is_ascii = path.is_ascii and (parameters.original is None or parameters.original.address.isascii())
    if not is_ascii and not smtputf8:
        raise CommandError(catalogue.NEED_SMTPUTF8)
    return RcptTo(path, parameters.notify, parameters.original)


def parse_chunk(rest: str) -> Chunk:
    """The argument of BDAT (RFC 3030 2): a size of 1 to 20 digits, then perhaps LAST."""
    size, _, last = rest.partition(" ")
    last = grammar.fold(last.strip(" "))
    if not grammar.SIZE_VALUE.fullmatch(size) or last not in ("", "LAST"):
        raise CommandError(catalogue.BAD_CHUNK_SIZE)
    return Chunk(int(size), Verb.BDAT_LAST if last else Verb.BDAT)


def announces_chunk(line: bytes) -> bool:
    """Whether a line that is no command was to be a BDAT all the same, so that what follows it is no command either."""
    return _CHUNK_WORD.match(line) is not None


def begins_auth(line: bytes) -> bool:
    """Whether a line is an AUTH with an argument, which may be longer than other commands (RFC 4954 4)."""
    return _AUTH_WORD.match(line) is not None


def _split_path(keyword: str, rest: str, paths: Paths, bad: Reply) -> tuple[str, str]:
    """``FROM:<path> parameters`` to its two halves; blanks before the path are tolerated, many senders write one."""
    if grammar.fold(rest[: len(keyword)]) != keyword:
        raise CommandError(catalogue.BAD_ARGUMENTS)
    text = rest[len(keyword) :].lstrip(" ")
    if paths is Paths.LENIENT and text and not text.startswith("<"):
        bare, blank, after = text.partition(" ")
        return f"<{bare}>", blank + after
    found = grammar.PATH_TOKEN.match(text)
    if found is None:
        raise CommandError(bad)
    after = text[found.end() :]
    if after and not after.startswith(" "):
        raise CommandError(catalogue.BAD_ARGUMENTS)
    return found[0], after


def _parse_path(text: str, bad: Reply) -> Mailbox | None:
    try:
        return parse_path(text)
    except BadPathError as exc:
        raise CommandError(bad) from exc
