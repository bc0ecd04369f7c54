"""The classes of characters, which the grammar writes as what is not in them, beside what RFC 5321 and 6531 list."""

from __future__ import annotations

import re
import string
from typing import Final

import pytest

from trio_fcgimail.smtp import grammar

EVERY: Final = "".join(map(chr, range(0x110000)))
# RFC 6531 3.3 without the C1 controls and the two line ends; surrogates are no characters.
UTF8: Final = frozenset(EVERY[0xA0:0x2028] + EVERY[0x202A:0xD800] + EVERY[0xE000:])
PRINTABLE: Final = frozenset(EVERY[0x20:0x7F])
LET_DIG: Final = frozenset(string.ascii_letters + string.digits)


@pytest.mark.parametrize(
    ("expression", "ascii_part"),
    [
        pytest.param(grammar.TEXT, PRINTABLE, id="text"),
        pytest.param(grammar.ATEXT, LET_DIG | frozenset("!#$%&'*+-/=?^_`{|}~"), id="atext-of-rfc-5322-3.2.3"),
        pytest.param(grammar.QTEXT_SMTP, PRINTABLE - frozenset('"\\'), id="qtextSMTP-of-rfc-5321-4.1.2"),
        pytest.param(grammar.LET_DIG, LET_DIG, id="let-dig-of-rfc-5321-4.1.2"),
        pytest.param(grammar.LDH, LET_DIG | {"-"}, id="ldh-str-of-rfc-5321-4.1.2"),
        pytest.param(grammar.ESMTP_CHARACTER, PRINTABLE - frozenset(" ="), id="esmtp-value-of-rfc-5321-4.1.2"),
    ],
)
def test_class_has_all_that_its_rule_lists(expression: str, ascii_part: frozenset[str]) -> None:
    assert frozenset(re.findall(expression, EVERY)) == ascii_part | UTF8
