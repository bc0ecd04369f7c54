"""Works of many sizes: what must take twice as long when there is twice as much of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, final

from benchmarks.cores import GET, answer_all, open_smtp, smtp_writes, take_mail
from benchmarks.workloads import PIECE_OCTETS, Work
from trio_fcgimail import fastcgi, smtp
from trio_fcgimail.mail.fields import parse_header
from trio_fcgimail.mail.headers import HeaderReader

_TO_A_THOUSAND: Final = (1, 3, 10, 30, 100, 300, 1000)
_OCTETS: Final = tuple(1 << exponent for exponent in range(10, 25, 2))  # 1 KiB to 16 MiB
_LINE: Final = b"The quick brown fox jumps over the lazy dog\r\n"
_CONTENT: Final = b"Subject: Growth\r\n\r\n" + _LINE * 8


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One thing that there can be more of.

    Args:
        unit: what is counted.
        sizes: to be timed, ascending.
        counted: where instructions are counted: so many, twice and four times as many.
        make: sets a work of one size up.
    """

    name: str
    unit: str
    sizes: tuple[int, ...]
    counted: int
    make: Callable[[int], Work]

    def names(self) -> tuple[str, str, str]:
        """The works of which instructions are counted."""
        one, two, four = (f"{self.name}:{times * self.counted}" for times in (1, 2, 4))
        return one, two, four


def _pieces(data: bytes, octets: int = PIECE_OCTETS) -> list[bytes]:
    return [data[at : at + octets] for at in range(0, len(data), octets)]


def _recipients(dialect: smtp.Dialect, size: int) -> Work:
    conn = open_smtp(dialect)
    rcpts = b"".join(b"RCPT TO:<user%d@example.com>\r\n" % number for number in range(size))
    writes = _pieces(b"MAIL FROM:<alice@example.net>\r\n" + rcpts + b"DATA\r\n" + _CONTENT + b".\r\n")
    return lambda: take_mail(conn, writes)


def _header(size: int) -> bytes:
    return b"".join(b"X-Field-%d: some value of no meaning\r\n" % number for number in range(size))


def _mail_headers(size: int) -> Work:
    pieces = _pieces(_header(size) + b"\r\nbody\r\n", 512)

    def run() -> None:
        reader = HeaderReader()
        for piece in pieces:
            reader.feed(piece)
        reader.facts()
        parse_header(reader.block())

    return run


def _response_headers(size: int) -> Work:
    pieces = _pieces(_header(size) + b"\r\nbody\r\n", 512)

    def run() -> None:
        reader = fastcgi.ResponseHeadReader(1 << 20)
        for piece in pieces:
            reader.receive_data(piece)
            while reader.next_event() is not fastcgi.NEED_DATA:
                pass

    return run


def _smtp_body(size: int) -> Work:
    conn, writes = open_smtp(), smtp_writes(size, pipelined=True)
    return lambda: take_mail(conn, writes)


def _smtp_small_pieces(size: int) -> Work:
    conn = open_smtp()
    envelope, *content = smtp_writes(16 * size, pipelined=True)
    writes = [envelope, *_pieces(b"".join(content), 16)]
    return lambda: take_mail(conn, writes)


def _smtp_odd_lines(line: bytes, size: int) -> Work:
    conn = open_smtp()
    writes = _pieces(b"MAIL FROM:<>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\n" + line * size + b"\r\n.\r\n")
    return lambda: take_mail(conn, writes)


def _fastcgi_body(size: int) -> Work:
    conn = fastcgi.ClientConnection()
    conn.begin_request(1, params=GET)
    pieces = _pieces(_LINE * (size // len(_LINE) + 1))

    def run() -> None:
        for piece in pieces:
            conn.send_stdin(1, piece)

    return run


def _fastcgi_params(size: int) -> Work:
    params = [(b"NAME_%d" % number, b"some value of no meaning") for number in range(size)]

    def run() -> None:
        fastcgi.encode_params(1, params)

    return run


def _fastcgi_records(step: int, size: int) -> Work:
    record = fastcgi.encode_record(fastcgi.RecordType.STDOUT, 1, _LINE)
    pieces = _pieces(record * size, step)
    conn = fastcgi.ClientConnection()
    conn.begin_request(1, params=GET)

    def run() -> None:
        for piece in pieces:
            conn.receive_data(piece)
            while conn.next_event() is not fastcgi.NEED_DATA:
                pass

    return run


def _connections(size: int) -> Work:
    writes = smtp_writes(300, pipelined=False)

    def run() -> None:
        conns = [open_smtp() for _ in range(size)]
        for data in writes:
            for conn in conns:
                conn.receive_data(data)
                answer_all(conn)

    return run


def _pipelined_mails(size: int) -> Work:
    conn = open_smtp()
    mail = b"MAIL FROM:<alice@example.net>\r\nRCPT TO:<bob@example.com>\r\nBDAT 7 LAST\r\nhello\r\n"
    writes = _pieces(mail * size)
    return lambda: take_mail(conn, writes)


def _requests(size: int) -> Work:
    """Requests on one connection, all begun before any is answered."""
    answers = [
        fastcgi.encode_record(fastcgi.RecordType.STDOUT, number, _LINE)
        + fastcgi.encode_record(fastcgi.RecordType.END_REQUEST, number, bytes(8))
        for number in range(1, size + 1)
    ]
    pieces = _pieces(b"".join(answers))

    def run() -> None:
        conn = fastcgi.ClientConnection()
        for number in range(1, size + 1):
            conn.request(number, params=GET, keep_connection=True)
        for piece in pieces:
            conn.receive_data(piece)
            while conn.next_event() is not fastcgi.NEED_DATA:
                pass

    return run


def _series() -> Iterator[Series]:
    few, many = _TO_A_THOUSAND, (*_TO_A_THOUSAND, 10_000, 100_000)
    smtp_recipients, lmtp_recipients = partial(_recipients, smtp.SMTP), partial(_recipients, smtp.LMTP)
    yield Series(name="recipients", unit="RCPT", sizes=few, counted=25, make=smtp_recipients)
    yield Series(name="recipients-lmtp", unit="RCPT", sizes=few, counted=25, make=lmtp_recipients)
    yield Series(name="headers", unit="fields of a mail", sizes=few, counted=50, make=_mail_headers)
    yield Series(name="response-headers", unit="fields of a response", sizes=few, counted=50, make=_response_headers)
    yield Series(name="body", unit="octets by DATA", sizes=_OCTETS, counted=1 << 18, make=_smtp_body)
    yield Series(name="small-pieces", unit="reads of 16 octets", sizes=few, counted=40, make=_smtp_small_pieces)
    yield Series(
        name="dots",
        unit="stuffed dots",
        sizes=many,
        counted=1000,
        make=partial(_smtp_odd_lines, b"..\r\n"),
    )
    yield Series(
        name="bare-newlines",
        unit="bare LFs",
        sizes=many,
        counted=1000,
        make=partial(_smtp_odd_lines, b"a\n"),
    )
    yield Series(name="connections", unit="connections", sizes=few, counted=4, make=_connections)
    yield Series(name="pipelining", unit="mails in one write", sizes=few, counted=8, make=_pipelined_mails)
    yield Series(name="stdin", unit="octets of a FastCGI body", sizes=_OCTETS, counted=1 << 18, make=_fastcgi_body)
    yield Series(name="params", unit="FastCGI params", sizes=few, counted=100, make=_fastcgi_params)
    yield Series(name="records", unit="records", sizes=few, counted=100, make=partial(_fastcgi_records, PIECE_OCTETS))
    yield Series(
        name="record-pieces",
        unit="records in reads of 7 octets",
        sizes=few,
        counted=20,
        make=partial(_fastcgi_records, 7),
    )
    yield Series(name="requests", unit="FastCGI requests at once", sizes=few, counted=12, make=_requests)


SERIES: Final = tuple(_series())
GROWTH_WORKS: Final[Mapping[str, Callable[[], Work]]] = {
    name: partial(series.make, int(name.rpartition(":")[2])) for series in SERIES for name in series.names()
}
