"""Making foreign text harmless: one line, no controls, bounded."""

from __future__ import annotations

import re
from typing import Final

# Controls, C1 controls, what turns the direction of text (Unicode Bidi_Control), the Unicode line ends, lone
# surrogates: all that a terminal or a log reader would act on, or show other than it is.
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")
_GAP: Final = " ... "


def is_clean(text: str, limit: int) -> bool:
    """Whether it is certain at a glance that :func:`clean` would change nothing."""
    return len(text) <= limit and text.isascii() and text.isprintable() and text[:1] != " " != text[-1:]


def clean(text: str | bytes, limit: int) -> str:
    """One printable line of at most ``limit`` characters; runs of controls become one blank, a cut shows as ``...``."""
    if isinstance(text, str) and is_clean(text, limit):
        return text
    text = _make_safe(text)
    return text if len(text) <= limit else text[: max(limit - 3, 0)] + "..."[:limit]


def clean_ends(text: str | bytes, limit: int) -> str:
    """As :func:`clean`, but a cut is made in the middle: of what programs say at length, both ends matter."""
    text = _make_safe(text)
    half = max(limit - len(_GAP), 0) // 2
    return text if len(text) <= limit else (text[:half] + _GAP + text[len(text) - half :])[:limit]


def _make_safe(text: str | bytes) -> str:
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return _UNSAFE.sub(" ", text).strip()


def cut_utf8(text: str, octets: int) -> str:
    """The longest beginning of ``text`` that takes at most ``octets`` in UTF-8."""
    encoded = text.encode("utf-8", "replace")
    return text if len(encoded) <= octets else encoded[:octets].decode("utf-8", "ignore")
