"""What a client may use at this moment: what was set, as far as it applies to the connection as it is now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, final

from trio_fcgimail.smtp import catalogue
from trio_fcgimail.smtp.options import AuthChannel, Extension, GreetingWord, ServerOptions, Tls, XclientUse
from trio_fcgimail.smtp.replies import Reply

_VARIANTS: Final = 64  # ours: of options, TLS and greeting, more than a server has; each is worked out once
_NOTHING: Final[Mapping[Extension, Reply]] = {}


@final
@dataclass(frozen=True, slots=True)
class Offer:
    """What EHLO lists, and what may be used.

    Args:
        extensions: that apply.
        not_now: those that would apply over another channel, and what asking for them is answered.
    """

    extensions: frozenset[Extension]
    not_now: Mapping[Extension, Reply]


@lru_cache(maxsize=_VARIANTS)
def make_offer(options: ServerOptions, tls: Tls, greeting: GreetingWord | None) -> Offer:
    """What is offered to a client that greeted so, or did not yet; after HELO nothing is (RFC 5321 4.1.1.1)."""
    if greeting is GreetingWord.HELO:
        return Offer(frozenset(), _NOTHING)
    not_now: dict[Extension, Reply] = {}
    if tls is Tls.ACTIVE:
        not_now[Extension.STARTTLS] = catalogue.TLS_IS_ACTIVE
    if tls is Tls.AVAILABLE and Extension.STARTTLS in options.extensions and options.auth_mechanisms:
        not_now[Extension.AUTH] = catalogue.ENCRYPTION_REQUIRED
    extensions = frozenset(one for one in options.extensions if _applies(one, options, tls))
    return Offer(
        extensions,
        {one: reply for one, reply in not_now.items() if one in options.extensions and one not in extensions},
    )


def _applies(extension: Extension, options: ServerOptions, tls: Tls) -> bool:
    match extension:
        case Extension.STARTTLS:
            return tls is Tls.AVAILABLE
        case Extension.AUTH:
            in_clear = tls is not Tls.ACTIVE
            return bool(options.auth_mechanisms) and not (in_clear and options.auth_channel is AuthChannel.TLS_ONLY)
        case Extension.REQUIRETLS:
            return tls is Tls.ACTIVE  # RFC 8689 2: never in the clear
        case Extension.XCLIENT:
            return options.xclient is XclientUse.ALLOWED
        case _:
            return True
