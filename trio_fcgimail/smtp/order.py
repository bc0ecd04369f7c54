"""What is refused before its arguments are looked at: what nobody knows, nobody offers, or what comes out of place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from trio_fcgimail.smtp import catalogue
from trio_fcgimail.smtp.commands import Word
from trio_fcgimail.smtp.errors import CommandError
from trio_fcgimail.smtp.offer import Offer
from trio_fcgimail.smtp.options import Dialect, Extension
from trio_fcgimail.smtp.replies import Reply
from trio_fcgimail.smtp.state import State, Verb, is_legal

_BAD_SEQUENCE: Final[Mapping[tuple[State, Verb], Reply]] = {
    (State.START, Verb.MAIL): catalogue.GREET_FIRST,
    (State.START, Verb.RCPT): catalogue.GREET_FIRST,
    (State.START, Verb.DATA): catalogue.GREET_FIRST,
    (State.START, Verb.BDAT): catalogue.GREET_FIRST,
    (State.START, Verb.STARTTLS): catalogue.GREET_FIRST,
    (State.START, Verb.AUTH): catalogue.GREET_FIRST,
    (State.READY, Verb.RCPT): catalogue.NEED_MAIL,
    (State.READY, Verb.DATA): catalogue.NEED_MAIL,
    (State.READY, Verb.BDAT): catalogue.NEED_MAIL,
    (State.MAIL, Verb.MAIL): catalogue.NESTED_MAIL,
    (State.RCPT, Verb.MAIL): catalogue.NESTED_MAIL,
    (State.CHUNKING, Verb.MAIL): catalogue.NESTED_MAIL,
    (State.CHUNKS_REFUSED, Verb.MAIL): catalogue.NESTED_MAIL,
    (State.MAIL, Verb.DATA): catalogue.NEED_RECIPIENTS,
    (State.MAIL, Verb.BDAT): catalogue.NEED_RECIPIENTS,
}
_EXTENSION_OF: Final[Mapping[Verb, Extension]] = {
    Verb.BDAT: Extension.CHUNKING,
    Verb.STARTTLS: Extension.STARTTLS,
    Verb.AUTH: Extension.AUTH,
    Verb.XCLIENT: Extension.XCLIENT,
}
# What neither the dialect nor an extension has a say in; EXPN is known and never offered.
_UNCONDITIONAL: Final = frozenset(Verb) - {Verb.GREET, Verb.EXPN, Verb.UNKNOWN, *_EXTENSION_OF}


def check_order(state: State, word: Word, dialect: Dialect, offer: Offer) -> None:
    """Raises CommandError when the command cannot come now, whatever its arguments."""
    verb = word.verb
    if verb in _UNCONDITIONAL and is_legal(state, verb):
        return
    unknown = verb is Verb.UNKNOWN or (word.greeting is not None and word.greeting not in dialect.greetings)
    if state is State.REFUSED and verb is not Verb.QUIT:
        raise CommandError(catalogue.NO_SERVICE_HERE)
    if unknown:
        raise CommandError(catalogue.UNKNOWN_COMMAND)
    if verb is Verb.EXPN:
        raise CommandError(catalogue.NOT_OFFERED)
    extension = _EXTENSION_OF.get(verb)
    if extension is not None and extension not in offer.extensions:
        raise CommandError(offer.not_now.get(extension, catalogue.NOT_OFFERED))
    if not is_legal(state, verb):
        raise CommandError(_BAD_SEQUENCE.get((state, verb), catalogue.BAD_SEQUENCE))
