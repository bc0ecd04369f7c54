"""``multipart/form-data`` (RFC 7578) around a mail that is streamed: what stands in front of it and behind it.

The mail is the first part: PHP drops what follows the parts it is willing to count, and never the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

BOUNDARY_RANDOM_OCTETS: Final = 24  # with the 15 characters in front 63 octets; RFC 2046 5.1.1 allows 70


def boundary_of(randomness: bytes) -> bytes:
    """A boundary that no content holds, given that nobody was shown the randomness before.

    Whoever wrote the content could then not know these 192 bits: that n octets hold the boundary by chance has a
    probability below n / 2**192, which for a terabyte is 1 in 10**45. So there is no need to read the content again.

    Args:
        randomness: so many octets as ``BOUNDARY_RANDOM_OCTETS``.

    Raises:
        ValueError: another number of octets.
    """
    if len(randomness) != BOUNDARY_RANDOM_OCTETS:
        raise ValueError(f"a boundary takes {BOUNDARY_RANDOM_OCTETS} octets of randomness, not {len(randomness)}")
    return b"trio-fcgimail--" + randomness.hex().encode()


def multipart_type(boundary: bytes) -> str:
    """The CONTENT_TYPE."""
    return f"multipart/form-data; boundary={boundary.decode()}"


def multipart_ends(boundary: bytes, filename: str, fields: Iterable[tuple[str, str]]) -> tuple[bytes, bytes]:
    """What stands in front of the mail and what behind it.

    Args:
        filename: of the mail, safe within quotes.
        fields: they follow the mail, in the order given; the names need no escapes, and no value has the boundary.
    """
    mark = b"--" + boundary
    head = _disposition("body") + f'; filename="{filename}"\r\nContent-Type: message/rfc822\r\n\r\n'.encode()
    parts = [
        mark + b"\r\n" + _disposition(name) + b"\r\n\r\n" + value.encode("utf-8", "replace") + b"\r\n"
        for name, value in fields
    ]
    return mark + b"\r\n" + head, b"\r\n" + b"".join(parts) + mark + b"--\r\n"


def _disposition(name: str) -> bytes:
    return f'Content-Disposition: form-data; name="{name}"'.encode()
