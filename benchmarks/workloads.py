"""What the cores are measured by, in memory: one piece of work each, and what each is compared with.

The yardsticks are h11, a sans-IO core as well, and the passes in C that no Python can do without. Nothing here checks
a clock, so that instructions can be counted over the same work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

import h11

from benchmarks.clients import message
from benchmarks.cores import (
    GET,
    PARAMETERS,
    call,
    call_whole,
    fpm_response,
    open_smtp,
    post_parameters,
    smtp_writes,
    take_mail,
)
from benchmarks.wire import form_value
from trio_fcgimail import fastcgi

Work = Callable[[], None]

MAIL_OCTETS: Final = 2048
LARGE_OCTETS: Final = 1 << 20
PIECE_OCTETS: Final = 65_536  # of a large content, as it is received and sent
_REPEATS: Final = 40  # of what takes microseconds, in one piece of work


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """A piece of work of ours beside one that is known.

    Args:
        most: how many times as long as the yardstick ours may take.
        make: sets both up; ours, then the yardstick.
    """

    name: str
    yardstick: str
    most: float
    make: Callable[[], tuple[Work, Work]]


def _repeated(work: Work) -> Work:
    def run() -> None:
        for _ in range(_REPEATS):
            work()

    return run


def smtp_mail(*, pipelined: bool) -> Work:
    """One mail of 2 KB, each command in a read of its own or all in one."""
    conn, writes = open_smtp(), smtp_writes(MAIL_OCTETS, pipelined=pipelined)
    return lambda: take_mail(conn, writes)


def h11_server() -> Work:
    """One POST of 2 KB to h11's server, in one read, with its response."""
    conn = h11.Connection(h11.SERVER)
    body = message(MAIL_OCTETS)
    request = (
        b"POST /mail HTTP/1.1\r\nHost: mx.example.com\r\nContent-Type: message/rfc822\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    response = h11.Response(status_code=200, headers=[(b"Content-Type", b"text/plain"), (b"Content-Length", b"2")])
    data, end = h11.Data(data=b"OK"), h11.EndOfMessage()

    def run() -> None:
        conn.receive_data(request)
        while type(conn.next_event()) is not h11.EndOfMessage:
            pass
        conn.send(response)
        conn.send(data)
        conn.send(end)
        conn.start_next_cycle()

    return run


def fastcgi_get() -> Work:
    """One request without a body, and its response."""
    conn, response = fastcgi.ClientConnection(), fpm_response(b"PASSED")
    return lambda: call(conn, GET, b"", response)


def fastcgi_post() -> Work:
    """One request with 2 KB, and its response."""
    conn, response = fastcgi.ClientConnection(), fpm_response(b"SAVED")
    body = b"body=" + form_value(message(MAIL_OCTETS).replace(b"\r\n", b"\n"))
    params = post_parameters(len(body))
    return lambda: call(conn, params, body, response)


def fastcgi_whole_get() -> Work:
    """As `fastcgi_get`, in one call for the request and one for the answer."""
    conn, response, constant = fastcgi.ClientConnection(), fpm_response(b"PASSED"), fastcgi.ConstantParams(PARAMETERS)
    params = GET[len(PARAMETERS) :]
    return lambda: call_whole(conn, constant, params, b"", response)


def fastcgi_whole_post() -> Work:
    """As `fastcgi_post`, likewise."""
    conn, response, constant = fastcgi.ClientConnection(), fpm_response(b"SAVED"), fastcgi.ConstantParams(PARAMETERS)
    body = b"body=" + form_value(message(MAIL_OCTETS).replace(b"\r\n", b"\n"))
    params = post_parameters(len(body))[len(PARAMETERS) :]
    return lambda: call_whole(conn, constant, params, body, response)


def h11_client(body: bytes) -> Work:
    """One request of h11's client as small as can be, and its response."""
    conn = h11.Connection(h11.CLIENT)
    headers = [(b"Host", b"mx.example.com"), (b"User-Agent", b"trio_fcgimail")]
    if body:
        headers.append((b"Content-Length", b"%d" % len(body)))
    method, target = (
        ("POST", "/script.php")
        if body
        else ("GET", "/script.php?mail_from=alice%40example.net&rcpt_to=bob%40example.com")
    )
    response = (
        b"HTTP/1.1 200 OK\r\nX-Powered-By: PHP/8.2.0\r\nContent-Type: text/html; charset=UTF-8\r\n"
        b"Content-Length: 6\r\n\r\nPASSED"
    )

    def run() -> None:
        conn.send(h11.Request(method=method, target=target, headers=headers))
        if body:
            conn.send(h11.Data(data=body))
        conn.send(h11.EndOfMessage())
        conn.receive_data(response)
        while type(conn.next_event()) is not h11.EndOfMessage:
            pass
        conn.start_next_cycle()

    return run


def _pieces(content: bytes) -> Sequence[bytes]:
    return [content[at : at + PIECE_OCTETS] for at in range(0, len(content), PIECE_OCTETS)]


def large_data(octets: int = LARGE_OCTETS) -> Work:
    """One mail with a large content."""
    conn, writes = open_smtp(), smtp_writes(octets, pipelined=True)
    return lambda: take_mail(conn, writes)


def bare_passes(octets: int = LARGE_OCTETS) -> Work:
    """What has to be looked at in a content, without anything around it: newlines counted, the end found, a copy."""
    pieces = _pieces(message(octets))

    def run() -> None:
        for piece in pieces:
            piece.count(b"\r")
            piece.count(b"\n")
            piece.count(b"\r\n")
            piece.find(b"\r\n.\r\n")
            bytes(memoryview(piece))

    return run


def fastcgi_output(octets: int = LARGE_OCTETS) -> Work:
    """A large body on its way to the application."""
    pieces, conn = _pieces(message(octets)), fastcgi.ClientConnection()
    conn.begin_request(1, params=GET)

    def run() -> None:
        for piece in pieces:
            conn.send_stdin(1, piece)

    return run


def fastcgi_input(octets: int = LARGE_OCTETS) -> Work:
    """A large answer on its way back, each read as long as a record."""
    pieces = [
        fastcgi.encode_record(fastcgi.RecordType.STDOUT, 1, piece[: fastcgi.MAX_RECORD_CONTENT])
        for piece in _pieces(message(octets))
    ]

    conn = fastcgi.ClientConnection()
    conn.begin_request(1, params=GET)

    def run() -> None:
        for piece in pieces:
            conn.receive_data(piece)
            while conn.next_event() is not fastcgi.NEED_DATA:
                pass

    return run


def bare_copy(octets: int = LARGE_OCTETS) -> Work:
    """A content copied once, piece by piece."""
    pieces = _pieces(message(octets))

    def run() -> None:
        for piece in pieces:
            bytes(memoryview(piece))

    return run
