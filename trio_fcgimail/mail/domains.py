"""When two spellings of a domain are one name: U-labels and A-labels (RFC 5890 2.3.2.1)."""

from __future__ import annotations

from typing import Final

import idna

_MAX_DOMAIN_OCTETS: Final = 255  # RFC 5321 4.5.3.1.2


def comparable_domain(domain: str) -> str:
    """The form in which equal domains are equal texts: A-labels in lower case.

    U-labels are mapped as users expect (UTS #46, non-transitional: upper case, full width), then checked and encoded
    by IDNA 2008 (RFC 5891 4). What is in ASCII, an address literal too, is lower-cased only: an odd A-label is a name.

    Args:
        domain: a Domain or an address-literal of SMTP (RFC 5321 4.1.2, RFC 6531 3.3).

    Raises:
        ValueError: a U-label is not valid, or has no A-label of at most 63 octets, or the whole is above 255 octets.
    """
    if domain.isascii():
        return domain.lower()
    if len(domain) > _MAX_DOMAIN_OCTETS:  # before anything costs more
        raise ValueError("domain is too long")
    name = ".".join(map(_comparable_label, domain.split(".")))
    if len(name) > _MAX_DOMAIN_OCTETS:
        raise ValueError("domain is too long as A-labels")
    return name


def _comparable_label(label: str) -> str:
    """Label by label, since the mapping knows more dots than SMTP does: U+3002 must not part what SMTP took for one."""
    return label.lower() if label.isascii() else idna.alabel(idna.uts46_remap(label)).decode()
