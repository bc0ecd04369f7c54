"""The two sans-IO cores alone, in memory: a mail through the SMTP core, two requests through the FastCGI core.

Writes a report as benchmarks/clients.py does:  python -m benchmarks.cores OCTETS SECONDS lockstep|pipelined
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from typing import Final

from benchmarks.clients import Report, message
from benchmarks.wire import form_value
from trio_fcgimail import fastcgi, smtp

_RECEIVE_OCTETS: Final = 65_536  # at a time, as the server reads
_ENVELOPE: Final = (b"MAIL FROM:<alice@example.net>\r\n", b"RCPT TO:<bob@example.com>\r\n", b"DATA\r\n")
PARAMETERS: Final = (
    (b"GATEWAY_INTERFACE", b"CGI/1.1"),
    (b"SERVER_PROTOCOL", b"HTTP/1.1"),
    (b"SERVER_SOFTWARE", b"trio_fcgimail"),
    (b"REMOTE_ADDR", b"127.0.0.1"),
    (b"SCRIPT_FILENAME", b"/srv/mail/script.php"),
    (b"SCRIPT_NAME", b"/script.php"),
    (b"REQUEST_URI", b"/script.php"),
)
GET: Final = (
    *PARAMETERS,
    (b"QUERY_STRING", b"mail_from=alice%40example.net&rcpt_to=bob%40example.com"),
    (b"REQUEST_METHOD", b"GET"),
)
_ANSWER: Final = b"X-Powered-By: PHP/8.2.0\r\nContent-type: text/html; charset=UTF-8\r\n\r\n"


def fpm_response(text: bytes) -> bytes:
    """What php-fpm sends back: it pads its output, and does not end it but by END_REQUEST."""
    output = _ANSWER + text
    return fastcgi.encode_record(
        fastcgi.RecordType.STDOUT, 1, output, padding=-len(output) % 8
    ) + fastcgi.encode_record(fastcgi.RecordType.END_REQUEST, 1, bytes(8))


def post_parameters(octets: int) -> tuple[tuple[bytes, bytes], ...]:
    """What goes with a body of so many octets."""
    return (*PARAMETERS, (b"REQUEST_METHOD", b"POST"), (b"CONTENT_LENGTH", b"%d" % octets))


def _pieces(data: bytes) -> Iterator[bytes]:
    for begin, end in pairwise([*range(0, len(data), _RECEIVE_OCTETS), len(data)]):
        yield data[begin:end]


def smtp_writes(octets: int, *, pipelined: bool) -> list[bytes]:
    """What a client's mail is received as."""
    envelope = [b"".join(_ENVELOPE)] if pipelined else list(_ENVELOPE)
    return [*envelope, *_pieces(message(octets) + b".\r\n")]


def open_smtp() -> smtp.ServerConnection:
    """Make a connection that has heard EHLO."""
    conn = smtp.ServerConnection(smtp.ServerOptions(hostname="mx.example.com", max_messages=None))
    conn.receive_data(b"EHLO client.example.net\r\n")
    _answer_all(conn)
    return conn


def _answer_all(conn: smtp.ServerConnection) -> None:
    while (event := conn.next_event()) is not smtp.NEED_DATA:
        match event:
            case smtp.MessageChunk():
                pass
            case (
                smtp.RcptTo() | smtp.MailFrom() | smtp.DataBegun() | smtp.MessageEnd() | smtp.Hello() | smtp.Connected()
            ):
                conn.accept(event)
            case other:
                raise AssertionError(other)


def take_mail(conn: smtp.ServerConnection, writes: list[bytes]) -> None:
    """Let one mail pass."""
    for data in writes:
        conn.receive_data(data)
        _answer_all(conn)


def call(conn: fastcgi.ClientConnection, params: tuple[tuple[bytes, bytes], ...], body: bytes, response: bytes) -> None:
    """Make one request, and read its response."""
    conn.begin_request(1, params=params, keep_connection=True)
    for piece in _pieces(body):
        conn.send_stdin(1, piece)
    conn.end_stdin(1)
    conn.receive_data(response)
    head = fastcgi.ResponseHeadReader()
    while (event := conn.next_event()) is not fastcgi.NEED_DATA:
        if isinstance(event, fastcgi.StdoutChunk):
            head.receive_data(event.data)
            while head.next_event() is not fastcgi.NEED_DATA:
                pass


def call_whole(
    conn: fastcgi.ClientConnection,
    constant: fastcgi.ConstantParams,
    params: tuple[tuple[bytes, bytes], ...],
    body: bytes,
    response: bytes,
) -> None:
    """Make one request, and read its response, in as few calls as there are."""
    conn.request(1, params=params, constant=constant, body=body, keep_connection=True)
    conn.receive_data(response)
    answer = conn.next_answer(1)
    assert answer is not None
    fastcgi.read_response(answer.stdout)


def run(octets: int, seconds: float, *, pipelined: bool) -> Report:
    """Take mails over and over; the encoding of the form is no part of it."""
    writes, passed, saved = smtp_writes(octets, pipelined=pipelined), fpm_response(b"PASSED"), fpm_response(b"SAVED")
    body = b"body=" + form_value(message(octets).replace(b"\r\n", b"\n"))
    post = post_parameters(len(body))
    server, client = open_smtp(), fastcgi.ClientConnection()
    mails = 0
    cpu, began = time.process_time(), time.perf_counter()
    while time.perf_counter() < began + seconds:
        take_mail(server, writes)
        call(client, GET, b"", passed)
        call(client, post, body, saved)
        mails += 1
    return Report(
        mails=mails,
        failures=0,
        first_failure="",
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu,
        milliseconds=[],
    )


if __name__ == "__main__":
    gc.disable()
    report = run(int(sys.argv[1]), float(sys.argv[2]), pipelined=sys.argv[3] == "pipelined")
    json.dump(asdict(report), sys.stdout)
