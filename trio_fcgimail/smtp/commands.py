"""One command line to one typed command (RFC 5321 4.1.1), or to the reply that refuses it.

Only the grammar is here. Whether a command may come now is the state table's business, whether it is wanted the
embedder's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, final

from . import catalogue, grammar
from .address import BadPathError, Mailbox, parse_path
from .options import Extension, GreetingWord
from .replies import Reply
from .state import Verb

_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # HT is white space to lenient senders

# A browser or an HTTP client was talked into sending a form to us: what follows would be run as commands.
_FOREIGN_WORDS: Final = frozenset(
    {"GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PATCH", "HOST:"}
)


class CommandError(Exception):
    """The line is refused. Internal to the core; ``reply`` goes to the client."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.text)
        self.reply = reply


class BodyType(Enum):
    """The value of BODY= (RFC 6152 2)."""

    SEVEN_BIT = "7BIT"
    EIGHT_BIT_MIME = "8BITMIME"


@final
@dataclass(frozen=True, slots=True)
class Word:
    """The first word of a line, and what it asks for; ``greeting`` is set for HELO, EHLO and LHLO only."""

    verb: Verb
    greeting: GreetingWord | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MailParameters:
    """What followed the path of MAIL. None means that the parameter was absent."""

    declared_octets: int | None = None  # SIZE, RFC 1870 3
    body: BodyType | None = None  # BODY, RFC 6152
    smtputf8: bool = False  # SMTPUTF8, RFC 6531 3.4


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


def split_line(line: bytes) -> tuple[Word, str]:
    """Take a line without its CRLF apart: the first word in upper case and what follows, outer blanks gone.

    Raises:
        CommandError: a control character, octets that are not UTF-8, or a word of another protocol (421).
    """
    if b"\r" in line or b"\n" in line:
        raise CommandError(catalogue.BARE_NEWLINE_IN_COMMAND)
    if _CONTROLS.search(line):
        raise CommandError(catalogue.SYNTAX_ERROR)
    try:
        text = line.decode()
    except UnicodeDecodeError as exc:
        raise CommandError(catalogue.SYNTAX_ERROR) from exc
    word, _, rest = text.replace("\t", " ").partition(" ")
    word, rest = grammar.fold(word), rest.strip(" ")
    if word in _FOREIGN_WORDS:
        raise CommandError(catalogue.NOT_SMTP)
    if not word:
        raise CommandError(catalogue.SYNTAX_ERROR)
    return WORDS.get(word, Word(Verb.UNKNOWN)), rest


def parse_greeting(rest: str) -> str:
    """The argument of HELO, EHLO or LHLO (RFC 5321 4.1.1.1): a name, a literal, or what senders make of it."""
    if len(rest) > grammar.MAX_DOMAIN_OCTETS or not grammar.GREETING_NAME.fullmatch(rest):
        raise CommandError(catalogue.BAD_GREETING_NAME)
    return rest


def parse_mail(rest: str, extensions: frozenset[Extension]) -> tuple[Mailbox | None, MailParameters]:
    """The argument of MAIL (RFC 5321 4.1.1.2): the reverse-path, None for ``<>``, and its parameters."""
    path_text, parameters_text = _split_path("FROM:", rest, catalogue.BAD_SENDER)
    parameters = _parse_mail_parameters(_split_parameters(parameters_text), extensions)
    path = _parse_path(path_text, catalogue.BAD_SENDER)
    if path is not None and path.domain is None:  # <postmaster> is a recipient only
        raise CommandError(catalogue.BAD_SENDER)
    if path is not None and not path.is_ascii and not parameters.smtputf8:
        raise CommandError(catalogue.NEED_SMTPUTF8)
    return path, parameters


def parse_rcpt(rest: str, *, smtputf8: bool) -> Mailbox:
    """The argument of RCPT (RFC 5321 4.1.1.3). No extension that we offer adds parameters to it."""
    path_text, parameters_text = _split_path("TO:", rest, catalogue.BAD_RECIPIENT)
    if _split_parameters(parameters_text):
        raise CommandError(catalogue.UNKNOWN_PARAMETER)
    path = _parse_path(path_text, catalogue.BAD_RECIPIENT)
    if path is None:
        raise CommandError(catalogue.BAD_RECIPIENT)
    if not path.is_ascii and not smtputf8:
        raise CommandError(catalogue.NEED_SMTPUTF8)
    return path


def parse_chunk_octets(rest: str) -> int:
    """The size that BDAT names (RFC 3030 2): 1 to 20 digits, then perhaps LAST."""
    size, _, last = rest.partition(" ")
    if not grammar.SIZE_VALUE.fullmatch(size) or grammar.fold(last.strip()) not in ("", "LAST"):
        raise CommandError(catalogue.BAD_CHUNK_SIZE)
    return int(size)


def _split_path(keyword: str, rest: str, bad: Reply) -> tuple[str, str]:
    """``FROM:<path> parameters`` to its two halves; blanks before the path are tolerated, many senders write one."""
    if rest[: len(keyword)].upper() != keyword:
        raise CommandError(catalogue.BAD_ARGUMENTS)
    text = rest[len(keyword) :].lstrip(" ")
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


def _split_parameters(text: str) -> Mapping[str, str | None]:
    """``KEYWORD[=value] ...`` (RFC 5321 4.1.2) as a mapping of upper-case keywords."""
    parameters: dict[str, str | None] = {}
    for token in filter(None, text.split(" ")):
        found = grammar.ESMTP_PARAMETER.fullmatch(token)
        if found is None:
            raise CommandError(catalogue.BAD_ARGUMENTS)
        keyword = found["keyword"].upper()
        if keyword in parameters:
            raise CommandError(catalogue.DOUBLED_PARAMETER)
        parameters[keyword] = found["value"]
    return parameters


def _parse_mail_parameters(parameters: Mapping[str, str | None], extensions: frozenset[Extension]) -> MailParameters:
    result = MailParameters()
    for keyword, value in parameters.items():
        extension, parse = _MAIL_PARAMETERS.get(keyword, (None, None))
        if extension not in extensions or parse is None:
            raise CommandError(catalogue.UNKNOWN_PARAMETER)
        result = parse(result, value)
    return result


def _parse_size(known: MailParameters, value: str | None) -> MailParameters:
    if value is None or not grammar.SIZE_VALUE.fullmatch(value):
        raise CommandError(catalogue.BAD_PARAMETER_VALUE)
    return replace(known, declared_octets=int(value))


def _parse_body(known: MailParameters, value: str | None) -> MailParameters:
    try:
        body = BodyType(grammar.fold(value or ""))
    except ValueError as exc:
        raise CommandError(catalogue.BAD_PARAMETER_VALUE) from exc
    return replace(known, body=body)


def _parse_smtputf8(known: MailParameters, value: str | None) -> MailParameters:
    if value is not None:
        raise CommandError(catalogue.BAD_PARAMETER_VALUE)
    return replace(known, smtputf8=True)


_ParameterParser = Callable[[MailParameters, str | None], MailParameters]
_MAIL_PARAMETERS: Final[Mapping[str, tuple[Extension, _ParameterParser]]] = {
    "SIZE": (Extension.SIZE, _parse_size),
    "BODY": (Extension.EIGHT_BIT_MIME, _parse_body),
    "SMTPUTF8": (Extension.SMTPUTF8, _parse_smtputf8),
}
