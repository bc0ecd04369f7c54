"""Who a client is by the certificate that it has shown, once that was verified."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Final

from trio_fcgimail.mail import ClientCertificate

MAX_SUBJECT_OCTETS: Final = 512  # ours, in UTF-8; a field of it has to fit beside the others
_SHORT: Final[Mapping[str, str]] = {  # OpenSSL's long names, and what RFC 4514 3 calls them
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
_TO_ESCAPE: Final = re.compile(r'["+,;<>\\=]|^[ #]| $')  # RFC 4514 2.4


def client_certificate(facts: Mapping[str, object] | None, der: bytes | None) -> ClientCertificate | None:
    """What the ssl module tells of the other end, by its two ``getpeercert``; None without a certificate."""
    if not facts or der is None:
        return None
    names = facts.get("subject")
    subject = ",".join(_relative_names(names if isinstance(names, tuple) else ()))
    return ClientCertificate(_bounded(subject), hashlib.sha256(der).hexdigest())


def client_of_proxy(common_name: str) -> ClientCertificate:
    """What a proxy tells of a certificate that it has verified."""
    return ClientCertificate(_bounded(f"CN={_escaped(common_name)}" if common_name else ""))


def _relative_names(names: tuple[object, ...]) -> Iterator[str]:
    """From the last to the first (RFC 4514 2.1)."""
    for relative in reversed(names):
        pairs = relative if isinstance(relative, tuple) else ()
        yield "+".join(f"{_SHORT.get(str(kind), str(kind))}={_escaped(str(value))}" for kind, value in pairs)


def _escaped(value: str) -> str:
    """A value as RFC 4514 2.4 writes it, controls and what cannot be shown by their octets."""
    marked = _TO_ESCAPE.sub(lambda match: "\\" + match[0], value)
    return "".join(one if one.isprintable() else _in_hex(one) for one in marked)


def _in_hex(character: str) -> str:
    return "".join(f"\\{octet:02x}" for octet in character.encode(errors="backslashreplace"))


def _bounded(subject: str) -> str:
    return subject if len(subject.encode()) <= MAX_SUBJECT_OCTETS else ""
