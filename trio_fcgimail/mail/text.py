"""Making foreign text harmless: one line, no controls, bounded."""

from __future__ import annotations

import re
from typing import Final

# Controls, C1 controls, the Unicode line ends, lone surrogates: all that a terminal or a log reader would act on.
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def clean(text: str | bytes, limit: int) -> str:
    """One printable line of at most ``limit`` characters; runs of controls become one blank, a cut shows as ``...``."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    text = _UNSAFE.sub(" ", text).strip()
    return text if len(text) <= limit else text[: max(limit - 3, 0)] + "..."[:limit]


def cut_utf8(text: str, octets: int) -> str:
    """The longest beginning of ``text`` that takes at most ``octets`` in UTF-8."""
    encoded = text.encode("utf-8", "replace")
    return text if len(encoded) <= octets else encoded[:octets].decode("utf-8", "ignore")
