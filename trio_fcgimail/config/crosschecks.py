"""Checks across keys that concern chains; the reader's own concern single keys."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from trio_fcgimail.config.chain import NamedProcessor, Processor
from trio_fcgimail.config.errors import shown

__all__ = ["Checks", "Read"]

_STAGES = tuple(f"scripts.{stage}" for stage in ("connect", "helo", "auth", "mail", "validate"))


@final
@dataclass(frozen=True, slots=True)
class Read:
    """A value that was taken.

    Args:
        raw: as in the document, for an error line.
        value: the attribute.
    """

    raw: object
    value: object


@final
@dataclass(frozen=True, slots=True)
class Checks:
    """Judges what was read; a key that was refused is not there and is left alone.

    Args:
        read: by the path of the key, counters included.
        refuse: takes the key, what was found, and what was expected.
    """

    read: Mapping[str, Read]
    refuse: Callable[[str, str, str], None]

    def chain(self) -> None:
        """A mail has to be stored somewhere, and each processor needs its settings."""
        save, validate = self._processors("chain.save"), self._processors("chain.validate")
        self._each_once("chain.save", save)
        self._each_once("chain.validate", validate)
        if save is not None and not any(map(_stores, save)) and self._value("chain.discard") is False:
            expected = '"FastCGI" or "MailDir" among them, or discard = true, which answers 250 and drops every mail'
            self.refuse("chain.save", shown(self.read["chain.save"].raw), expected)
        used = {*(save or ()), *(validate or ())}
        if Processor.FASTCGI in (save or ()) or any(map(self._value, _STAGES)):
            self._required("fastcgi.upstreams", "a list of one address")
        if Processor.FASTCGI in (save or ()):
            self._required("scripts.save", 'the absolute path of a script, such as "/srv/mail/save.php"')
        if Processor.MAILDIR in used:
            self._required("maildir.path", 'a path such as "/home/[user]/Maildir", for MailDir in the chain')
            self._required("maildir.user_map", "at least one user, for MailDir in the chain")

    def _value(self, key: str) -> object:
        read = self.read.get(key)
        return None if read is None else read.value

    def _processors(self, key: str) -> tuple[object, ...] | None:
        value = self._value(key)
        return value if isinstance(value, tuple) else None

    def _each_once(self, key: str, processors: tuple[object, ...] | None) -> None:
        if processors is not None and max(Counter(processors).values(), default=0) > 1:
            self.refuse(key, shown(self.read[key].raw), "each processor once")

    def _required(self, key: str, expected: str) -> None:
        read = self.read.get(key)
        if read is not None and not read.value:
            self.refuse(key, "nothing", expected)


def _stores(processor: object) -> bool:
    return isinstance(processor, Processor | NamedProcessor) and processor.stores
