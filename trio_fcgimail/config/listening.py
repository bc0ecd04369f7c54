"""The names that listeners and logs choose from."""

import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Final, TypeVar, final

from trio_fcgimail.config.rules import Items, file_path, text

__all__ = ["CIPHERS", "CURVES", "LOG_FILE", "ClientCertificates", "Curve", "LogStream", "TlsVersion"]

_CIPHER = re.compile(r"[A-Z][A-Z0-9]*(-[A-Z0-9]+)+")  # openssl-ciphers(1): a suite by name, no keyword, no "!"


@final
class TlsVersion(Enum):
    """A version of TLS that is still allowed (RFC 8996)."""

    TLS_1_2 = "1.2"
    TLS_1_3 = "1.3"


@final
class Curve(Enum):
    """A group for the exchange of keys (RFC 8446 4.2.7)."""

    P_256 = "P-256"
    P_384 = "P-384"
    P_521 = "P-521"
    X25519 = "X25519"


@final
class ClientCertificates(Enum):
    """What is asked of a client by TLS."""

    NONE = "none"
    OPTIONAL = "optional"  # one that is shown has to be good
    REQUIRED = "required"


@final
class LogStream(Enum):
    """Where log lines go that go to no file."""

    STDERR = "stderr"
    STDOUT = "stdout"
    OFF = "off"


_STREAMS: Final = {stream.value: stream for stream in LogStream}


def _log_file(name: str) -> Path | LogStream:
    return _STREAMS.get(name) or file_path(name)


def _cipher(name: str) -> str:
    if len(name) > 64 or _CIPHER.fullmatch(name) is None:
        raise ValueError("not the name of a cipher suite")
    return name


_T = TypeVar("_T")


def _each_once(read: Callable[[str], _T]) -> Callable[[list[str]], tuple[_T, ...]]:
    return lambda items: tuple(dict.fromkeys(map(read, items)))


_A_CIPHER = 'an OpenSSL name of TLS 1.2, such as "ECDHE-RSA-AES128-GCM-SHA256"'
_A_CURVE = ", ".join(f'"{curve.value}"' for curve in Curve)

CIPHERS: Final = Items(_cipher, _each_once(_cipher), "a list of cipher suites", _A_CIPHER, fewest=0)
CURVES: Final = Items(Curve, _each_once(Curve), "a list of curves", _A_CURVE, fewest=0)
LOG_FILE: Final = text(_log_file, 'the path of a file, "stderr", "stdout" or "off"')
