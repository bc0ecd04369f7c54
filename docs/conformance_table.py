"""Print docs/conformance.md from the tests of the core; ``python -m docs.conformance_table --write`` writes the page.

A row of a table of the tests names the points that it shows by ``row n`` in its ``why``. What needs more than a row is
named in ``OTHERS``.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.smtp import (
    test_auth,
    test_bdat,
    test_dsn,
    test_lmtp,
    test_path_rows,
    test_session_rows,
    test_starttls,
    test_xclient,
)
from tests.smtp.support import Row

PAGE: Final = Path(__file__).with_name("conformance.md")
POINTS: Final = range(1, 173)

TABLES: Final[Mapping[str, Sequence[Row]]] = {
    "test_session_rows": test_session_rows.ROWS,
    "test_path_rows": test_path_rows.ROWS,
    "test_dsn": test_dsn.ROWS,
    "test_bdat": test_bdat.ROWS,
    "test_starttls": test_starttls.ROWS,
    "test_auth": test_auth.ROWS,
    "test_lmtp": test_lmtp.ROWS,
    "test_xclient": test_xclient.ROWS,
}
# What the client does, what it is answered, and which test shows it
OTHERS: Final[Mapping[int, tuple[str, str, str]]] = {
    1: ("connects", "220", "smtp/test_session_rows.py::test_greeting_and_keywords"),
    66: ("100 recipients", "250 2.1.5 to each", "smtp/test_limits.py::test_recipients"),
    67: ("more recipients than allowed", "452 4.5.3 to each of them", "smtp/test_limits.py::test_recipients"),
    68: ("refused recipients without end", "550 5.1.1, then 421 4.7.0", "smtp/test_limits.py::test_refused_recipients"),
    76: ("a mail of one octet more, NOOP", "552 5.3.4, 250 2.0.0", "smtp/test_limits.py::test_message_octets"),
    77: ("a mail of the limit, and stuffed dots", "250 2.0.0", "smtp/test_limits.py::test_message_octets"),
    94: ("a stuffed dot", "250 2.0.0", "smtp/test_session_rows.py::test_content_arrives_unstuffed_and_whole"),
    95: ("8-bit octets", "250 2.0.0", "smtp/test_session_rows.py::test_content_arrives_unstuffed_and_whole"),
    96: (
        "an end of data in pieces",
        "250 2.0.0",
        "smtp/test_smuggling.py::test_true_end_is_seen_whatever_stands_before_it",
    ),
    97: ("what looks like an end of data", "one mail, or 550 5.5.2", "smtp/test_smuggling_grid.py::test_data"),
    99: (
        "closes before the dot",
        "nothing, and no mail",
        "smtp/test_smuggling.py::test_lone_dot_and_end_of_file_deliver_nothing",
    ),
    106: (
        "EHLO before the banner",
        "220, then 250",
        "smtp/test_session_rows.py::test_commands_before_the_greeting_wait_for_it",
    ),
    108: ("a command octet by octet", "250 2.0.0", "smtp/test_limits.py::test_command_line"),
    109: (
        "reads our codes",
        "x.y.z, but in banner, EHLO, HELO and 3xx",
        "smtp/test_replies.py::test_catalogue_carries_enhanced_codes_but_for_3xx",
    ),
    129: (
        "EHLO within TLS",
        "no STARTTLS among the keywords",
        "smtp/test_starttls.py::test_what_ehlo_lists_changes_with_tls",
    ),
    133: (
        "STARTTLS and more in one write",
        "554 5.5.1, and we close",
        "smtp/test_starttls.py::test_plaintext_in_the_same_piece_closes",
    ),
    157: (
        "LHLO",
        "PIPELINING, ENHANCEDSTATUSCODES, 8BITMIME are there",
        "smtp/test_lmtp.py::test_greeting_words_and_keywords",
    ),
    158: (
        "EHLO where there are limits",
        "LIMITS with MAILMAX, RCPTMAX",
        "smtp/test_session_rows.py::test_keywords_follow_the_options",
    ),
    159: ("more mails than allowed", "421 4.7.0", "smtp/test_limits.py::test_messages"),
    160: ("a host or a domain that takes no mail", "521 5.3.2; 556 5.1.10", "dialogues/recipients-null-mx.txt"),
    166: (
        "a header of PROXY, not being a proxy",
        "421 4.7.0, and we close",
        "server/test_proxied.py::test_from_others_it_is_never_honoured",
    ),
    167: ("a command of 512 octets", "250 2.0.0", "smtp/test_limits.py::test_command_line"),
    168: ("a command of 20000 octets", "500 5.5.2", "smtp/test_limits.py::test_command_line"),
    171: ("unknown words without end", "500 5.5.1, then 421 4.7.0", "smtp/test_limits.py::test_bad_commands"),
    172: (
        "reads our replies",
        "512 octets at most, nothing of the client",
        "smtp/test_session_rows.py::test_no_reply_echoes_the_client",
    ),
}
_POINTS: Final = re.compile(r"\brows? (?P<numbers>\d+(?:(?:, | and )\d+)*)")
_RUN: Final = re.compile(r"([!-~])\1{20,}")
_MAX_SHOWN: Final = 90  # of the octets of a row

HEAD: Final = """# Conformance

A list of what an SMTP and LMTP server is asked again and again, by the RFCs and by those who attack it, and what ours
answers. The page is printed from the tables that the tests walk (`python -m docs.conformance_table --write`), so it
cannot say anything else than they do. Each row is played whole, octet by octet, and with more commands behind it.

The state is that of [the table](design.md#the-smtp-state-table) before the first octet. CR LF is left out at the end,
and is a broken bar elsewhere; `x...x (998)` stands for so many of one octet. What each RFC asks for, and
what we do not do, is in [protocol-support.md](protocol-support.md).

| | state | the client | our answer | test |
| --- | --- | --- | --- | --- |
"""


def points(why: str) -> Iterator[int]:
    """The points that the ``why`` of a row names."""
    for found in _POINTS.finditer(why):
        yield from map(int, re.findall(r"\d+", found["numbers"]))


def rows_by_point() -> Mapping[int, Sequence[tuple[str, Row]]]:
    """Which rows show a point, and the file of tests that each stands in."""
    result: dict[int, list[tuple[str, Row]]] = {}
    for file, rows in TABLES.items():
        for row in rows:
            for point in points(row.why):
                result.setdefault(point, []).append((file, row))
    return result


def _shown(wire: bytes) -> str:
    text = repr(wire.removesuffix(b"\r\n"))[2:-1].replace("\\r\\n", " ¦ ").replace("\\'", "'").replace("|", "¦")
    text = _RUN.sub(lambda run: f"{run[1]}...{run[1]} ({len(run[0])})", text)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _line(point: int, rows: Sequence[tuple[str, Row]]) -> str:
    """The first row with the usual options stands for all."""
    file, row = next((one for one in rows if one[1].options is None), rows[0])
    ids = ", ".join(one.id for where, one in rows if where == file)
    answer = row.replies.replace(" | ", ", ") or "nothing"
    return f"| {point} | {row.start.name} | `` {_shown(row.wire)} `` | {answer} | `tests/smtp/{file}.py[{ids}]` |"


def _lines() -> Iterator[str]:
    by_point = rows_by_point()
    for point in POINTS:
        if point in by_point:
            yield _line(point, by_point[point])
        else:
            does, answer, test = OTHERS[point]
            yield f"| {point} | | {does} | {answer} | `tests/{test}` |"


def render() -> str:
    """The page."""
    return HEAD + "\n".join(_lines()) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/conformance.md")
    if parser.parse_args(arguments).write:
        PAGE.write_text(render(), encoding="utf-8")
    else:
        sys.stdout.write(render())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
