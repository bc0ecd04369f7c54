"""Quoting of values in a query, as ``urllib.parse.quote_plus`` does it, in a fraction of its time."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import quote_plus

_PLAIN: Final = re.compile("[A-Za-z0-9_.~-]*")  # RFC 3986 2.3: never quoted
_QUOTED: Final = tuple(quote_plus(bytes((octet,))) for octet in range(256))


@lru_cache(maxsize=64)  # most values of a mail are asked for several times while it passes
def quote(value: str, errors: str = "strict") -> str:
    """Quote a value for a query string; a blank becomes ``+``.

    Args:
        errors: what to do about a lone surrogate, as for ``str.encode``.
    """
    if _PLAIN.fullmatch(value):
        return value
    return "".join([_QUOTED[octet] for octet in value.encode("utf-8", errors)])
