"""Checks across keys that concern chains and TLS; the reader's own concern single keys."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from trio_fcgimail.config.addresses import TcpAddress
from trio_fcgimail.config.chain import NamedProcessor, Processor
from trio_fcgimail.config.errors import shown
from trio_fcgimail.config.listening import ClientCertificates, TlsVersion

__all__ = ["Checks", "Read"]

_MAX_CURVES = 1  # ours: ssl.SSLContext.set_ecdh_curve takes one, up to Python 3.14
_STAGES = tuple(f"scripts.{stage}" for stage in ("connect", "helo", "auth", "mail", "validate"))
_ONLY_WITH_TLS = ("tls_maximum", "ciphers", "curves", "client_ca")


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

    def status(self) -> None:
        """Whoever can come from elsewhere needs a password."""
        address = self._value("status.address")
        has_password = self._value("status.password_file") is not None
        if isinstance(address, TcpAddress) and not address.is_loopback and not has_password:
            expected = "a file with the password, as other machines can reach status.address"
            self.refuse("status.password_file", "nothing", expected)
        if has_password and "status.address" in self.read and address is None:
            raw = shown(self.read["status.password_file"].raw)
            self.refuse("status.password_file", raw, "it only beside status.address")

    def listener(self, prefix: str) -> None:
        """Names of TLS are for those who have it, and go together."""
        tls = self._value(prefix + "certificate")
        for name in _ONLY_WITH_TLS if tls is None else ():
            if self._value(prefix + name):
                self.refuse(prefix + name, shown(self.read[prefix + name].raw), "it only beside a certificate")
        asked = self._value(prefix + "client_certificates")
        if self._is_absent(prefix + "certificate"):
            for key in [key for key in self.read if key.startswith(prefix + "certificates[")]:
                if key.endswith(".certificate"):
                    expected = "it only beside a certificate of the listener, for all other names"
                    self.refuse(key, shown(self.read[key].raw), expected)
        if tls is None and asked not in (None, ClientCertificates.NONE):
            raw = self.read[prefix + "client_certificates"].raw
            self.refuse(prefix + "client_certificates", shown(raw), "it only beside a certificate")
        if asked is ClientCertificates.NONE and self._value(prefix + "client_ca") is not None:
            expected = "it only beside client_certificates"
            self.refuse(prefix + "client_ca", shown(self.read[prefix + "client_ca"].raw), expected)
        curves = self._value(prefix + "curves")
        if isinstance(curves, tuple) and len(curves) > _MAX_CURVES:
            expected = "one curve (several: not yet in this version)"
            self.refuse(prefix + "curves", shown(self.read[prefix + "curves"].raw), expected)
        if (
            self._value(prefix + "tls_minimum") is TlsVersion.TLS_1_3
            and self._value(prefix + "tls_maximum") is TlsVersion.TLS_1_2
        ):
            raw = shown(self.read[prefix + "tls_maximum"].raw)
            self.refuse(prefix + "tls_maximum", raw, 'nothing below tls_minimum, which is "1.3"')

    def _is_absent(self, key: str) -> bool:
        read = self.read.get(key)
        return read is not None and read.value is None

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
