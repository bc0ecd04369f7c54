"""The embedded responder over a real unix socket: what it answers, and that nothing a client does can stop it."""

import errno
import os
import socket
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.demo.support import DIGEST, SECONDS, encode_body, running, save_parameters
from trio_fcgimail.demo.responder import ResponderLimits
from trio_fcgimail.fastcgi import (
    ClientConnection,
    ConnectionClosed,
    ProtocolStatus,
    RequestEnded,
    Role,
    Signal,
    StdoutChunk,
    ValuesReceived,
)
from trio_fcgimail.mail import Parameter, get_parameters
from trio_fcgimail.server.maildir import Delivery, Maildir
from trio_fcgimail.server.upstream import UpstreamBroken

MAIL: Final = b"Received: here\nSubject: a\n\n100 % & more + ;\n.dot\n\xff\x80\0\r\n"


def query(*fields: tuple[str, str]) -> list[Parameter]:
    return get_parameters("/embedded/validate", fields, hostname="mx.example.com", remote_ip="127.0.0.1")


@pytest.mark.trio
async def test_validate_takes_everyone(tmp_path: Path) -> None:
    async with running(tmp_path) as responder:
        answer = await responder.call(query(("rcpt_to", "me+tag@example.com"), ("stage", "validate")))
    assert (answer.status, answer.output) == (200, b"PASSED\n")
    assert not responder.maildir.exists()


@pytest.mark.trio
async def test_save_stores_octet_for_octet(tmp_path: Path) -> None:
    async with running(tmp_path) as responder:
        answer = await responder.save(MAIL)
    (path,) = (responder.maildir / "new").iterdir()
    assert path.read_bytes() == MAIL
    identifier = ".".join(path.name.split(".")[:2])
    assert (answer.status, answer.output) == (200, b"SAVED id=" + identifier.encode() + b"\n")


@pytest.mark.trio
async def test_retry_is_saved_and_stored_once(tmp_path: Path) -> None:
    async with running(tmp_path) as responder:
        first = await responder.save(MAIL)
        second = await responder.save(MAIL)
    assert second.output.startswith(first.output.strip() + b" before")
    assert responder.stored() == [MAIL]


FORM: Final = encode_body(MAIL) + b"&mail_digest=" + DIGEST.encode() + b"&size=%d&stage=save" % len(MAIL)
BAD_REQUESTS: Final = [
    pytest.param(query(("rcpt_to", "a@b")), None, id="get-without-a-stage"),
    pytest.param(query(("stage", "validate")), None, id="get-without-a-recipient"),
    pytest.param(query(("stage", "save"), ("rcpt_to", "a@b")), None, id="get-for-save"),
    pytest.param([(b"REQUEST_METHOD", b"GET"), (b"QUERY_STRING", b"stage=%")], None, id="query-that-is-no-form"),
    pytest.param([], None, id="no-parameters"),
    pytest.param([(b"REQUEST_METHOD", b"PUT"), (b"CONTENT_LENGTH", b"1")], b"x", id="put"),
    pytest.param(save_parameters(len(FORM), b"CONTENT_TYPE"), FORM, id="no-content-type"),
    pytest.param(save_parameters(len(FORM), b"CONTENT_LENGTH"), FORM, id="no-content-length"),
    pytest.param(
        save_parameters(0, replaced=[(b"CONTENT_TYPE", b"multipart/form-data")]), b"", id="another-content-type"
    ),
    pytest.param(save_parameters(0), b"", id="empty-body"),
    pytest.param(save_parameters(7), b"garbage", id="no-form"),
    pytest.param(save_parameters(len(FORM) - 1), FORM[:-1], id="stage-is-cut"),
    pytest.param(save_parameters(6), b"body=x", id="nothing-but-the-mail"),
    pytest.param(save_parameters(len(FORM) + 7), FORM + b"&body=x", id="two-mails"),
]


@pytest.mark.trio
@pytest.mark.parametrize(("parameters", "body"), BAD_REQUESTS)
async def test_request_that_is_not_understood_is_500(
    tmp_path: Path, parameters: list[Parameter], body: bytes | None
) -> None:
    with capture_logs() as logs:
        async with running(tmp_path) as responder:
            answer = await responder.call(parameters, body)
            assert answer.status == 500
            assert b"SAVED" not in answer.output
            assert [line["event"] for line in logs] == ["request not understood"]
            assert (await responder.save(MAIL)).output.startswith(b"SAVED")
    assert responder.stored() == [MAIL]
    assert responder.drafts() == []


@pytest.mark.trio
@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"size": str(len(MAIL) - 1)}, id="mail-is-longer-than-its-size"),
        pytest.param({"size": str(len(MAIL) + 1)}, id="mail-was-cut"),
        pytest.param({"size": "-1"}, id="size-is-no-number"),
        pytest.param({"mail_digest": "../../../etc/x"}, id="digest-is-a-path"),
        pytest.param({"mail_digest": DIGEST[:-1]}, id="digest-is-short"),
        pytest.param({"stage": "validate"}, id="another-stage"),
    ],
)
async def test_mail_that_does_not_fit_its_fields_is_not_saved(tmp_path: Path, other: dict[str, str]) -> None:
    with capture_logs():
        async with running(tmp_path) as responder:
            answer = await responder.save(MAIL, **other)
    assert answer.status == 500
    assert responder.stored() == []
    assert responder.drafts() == []


@pytest.mark.trio
async def test_disk_error_is_451(tmp_path: Path) -> None:
    (tmp_path / "Maildir").write_bytes(b"a file")
    with capture_logs() as logs:
        async with running(tmp_path) as responder:
            answer = await responder.save(b"x" * 1_000_000)
    assert (answer.status, answer.output) == (200, b"451 4.3.0 The mail cannot be stored now\n")
    assert [line["event"] for line in logs] == ["the mail cannot be stored"]


@pytest.mark.trio
async def test_disk_that_fills_up_within_a_mail_is_451(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with capture_logs():
        async with running(tmp_path) as responder:
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", full)
                answer = await responder.save(b"x" * 1_000_000)
            assert (answer.status, answer.output[:9]) == (200, b"451 4.3.0")
            assert responder.drafts() == []
            assert (await responder.save(MAIL)).output.startswith(b"SAVED")


@pytest.mark.trio
async def test_fault_of_our_own_ends_its_own_connection_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(maildir: Maildir) -> Delivery:
        raise RuntimeError("a fault")

    with capture_logs() as logs, trio.fail_after(SECONDS):
        async with running(tmp_path, ResponderLimits(connections=1)) as responder:
            with monkeypatch.context() as patch:
                patch.setattr(Maildir, "delivery", faulty)
                with pytest.raises(UpstreamBroken):
                    await responder.save(MAIL)
            assert (await responder.save(MAIL)).output.startswith(b"SAVED")
    assert [line["event"] for line in logs] == ["FastCGI connection failed"]


GARBAGE: Final = [
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
    pytest.param(b"\0" * 100_000, id="zeros"),
    pytest.param(b"\xff" * 100_000, id="ones"),
    pytest.param(b"\1", id="one-octet"),
    pytest.param(b"\1\1\0\1\0\4\0\0" + b"\0\1\0\0", id="begin-too-short"),
    pytest.param(b"\1\1\0\0\0\10\0\0" + b"\0\1\0\0\0\0\0\0", id="begin-with-the-null-id"),
    pytest.param(b"\1\5\0\1\0\1\0\0x" * 1000, id="stdin-without-a-request"),
    pytest.param(b"\1\143\0\0\0\0\0\0" * 1000, id="unknown-management-records"),
    pytest.param(
        b"\1\1\0\1\0\10\0\0" + b"\0\1\0\0\0\0\0\0" + b"\1\4\0\1\0\2\0\0\377\377" + b"\1\4\0\1\0\0\0\0",
        id="params-that-cannot-be-read",
    ),
    pytest.param(
        b"\1\1\0\1\0\10\0\0" + b"\0\1\1\0\0\0\0\0" + b"\1\4\0\1\377\377\0\0" * 9 + b"x" * 65_535,
        id="params-without-end",
    ),
    pytest.param(
        ClientConnection().begin_request(1, params=save_parameters(len(FORM))),
        id="gone-before-the-body",
    ),
]


async def throw(stream: trio.SocketStream, wire: bytes) -> None:
    """Send, say that this was all, and read whatever comes until the other side closes."""
    async with stream:
        try:
            await stream.send_all(wire)
            await stream.send_eof()
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass


@pytest.mark.trio
@pytest.mark.parametrize("wire", GARBAGE)
async def test_garbage_ends_its_own_connection_only(tmp_path: Path, wire: bytes) -> None:
    with capture_logs() as logs, trio.fail_after(SECONDS):
        async with running(tmp_path, ResponderLimits(connections=2)) as responder:
            for _ in range(4):
                await throw(await responder.connect(), wire)
            assert (await responder.save(MAIL)).output.startswith(b"SAVED")
    assert "FastCGI connection failed" not in [line["event"] for line in logs]
    assert responder.drafts() == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.builds(
            lambda kind, request, content: (
                bytes((1, kind)) + request.to_bytes(2) + len(content).to_bytes(2) + b"\0\0" + content
            ),
            st.integers(0, 12),
            st.integers(0, 2),
            st.one_of(
                st.just(b""), st.just(b"\0\1\1\0\0\0\0\0"), st.just(b"\x0e\4REQUEST_METHODPOST"), st.binary(max_size=20)
            ),
        ),
        max_size=12,
    )
)
def test_no_order_of_records_kills_it(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]) -> None:
    async def attack() -> None:
        async with running(tmp_path_factory.mktemp("r")) as responder:
            with trio.fail_after(SECONDS):
                await throw(await responder.connect(), b"".join(pieces))
                assert (await responder.save(MAIL)).output.startswith(b"SAVED")

    with capture_logs() as logs:
        trio.run(attack)
    assert "FastCGI connection failed" not in [line["event"] for line in logs]


@pytest.mark.trio
async def test_mail_cut_by_its_client_is_not_stored(tmp_path: Path) -> None:
    conn = ClientConnection()
    wire = conn.begin_request(1, params=save_parameters(len(FORM))) + conn.send_stdin(1, FORM[:-20])
    async with running(tmp_path) as responder:
        await throw(await responder.connect(), wire)
    assert responder.stored() == []
    assert responder.drafts() == []


@pytest.mark.trio
async def test_aborted_mail_is_not_stored_and_the_connection_goes_on(tmp_path: Path) -> None:
    conn = ClientConnection()
    wire = conn.begin_request(1, params=save_parameters(len(FORM)), keep_connection=True)
    wire += conn.send_stdin(1, FORM[:-20]) + conn.abort_request(1)
    with trio.fail_after(SECONDS):
        async with running(tmp_path) as responder, await responder.connect() as stream:
            assert await ask(stream, conn, wire) == (ProtocolStatus.REQUEST_COMPLETE, b"")
            again = conn.begin_request(2, params=save_parameters(len(FORM)), keep_connection=True)
            again += conn.send_stdin(2, FORM) + conn.end_stdin(2)
            status, output = await ask(stream, conn, again)
    assert status is ProtocolStatus.REQUEST_COMPLETE
    assert b"SAVED" in output
    assert responder.stored() == [MAIL]
    assert responder.drafts() == []


@pytest.mark.trio
async def test_other_roles_are_refused(tmp_path: Path) -> None:
    conn = ClientConnection()
    wire = conn.begin_request(1, role=Role.AUTHORIZER, params=[])
    with trio.fail_after(SECONDS):
        async with running(tmp_path) as responder, await responder.connect() as stream:
            assert await ask(stream, conn, wire) == (ProtocolStatus.UNKNOWN_ROLE, b"")


@pytest.mark.trio
async def test_get_values_tells_the_limits(tmp_path: Path) -> None:
    conn = ClientConnection()
    async with running(tmp_path, ResponderLimits(connections=3)) as responder, await responder.connect() as stream:
        await stream.send_all(conn.get_values([b"FCGI_MAX_CONNS", b"FCGI_MPXS_CONNS"]))
        conn.receive_data(await stream.receive_some())
        assert conn.next_event() == ValuesReceived(values=((b"FCGI_MAX_CONNS", b"3"), (b"FCGI_MPXS_CONNS", b"0")))


async def ask(stream: trio.SocketStream, conn: ClientConnection, wire: bytes) -> tuple[ProtocolStatus, bytes]:
    """Send a request and read to its end."""
    await stream.send_all(wire)
    output = b""
    while True:
        match conn.next_event():
            case Signal.NEED_DATA:
                conn.receive_data(await stream.receive_some())
            case StdoutChunk(data=data):
                output += data
            case RequestEnded(protocol_status=status):
                return status, output
            case ConnectionClosed():
                raise AssertionError("closed without an answer")
            case _:
                pass


@pytest.mark.trio
async def test_who_comes_beyond_the_limit_waits(tmp_path: Path) -> None:
    conn = ClientConnection()
    with trio.fail_after(SECONDS):
        async with (
            running(tmp_path, ResponderLimits(connections=1)) as responder,
            await responder.connect() as stream,
            trio.open_nursery() as nursery,
        ):
            await stream.send_all(conn.begin_request(1, params=save_parameters(len(FORM))))
            nursery.start_soon(partial(responder.save, b"the one that waits", mail_digest=DIGEST[::-1]))
            await trio.testing.wait_all_tasks_blocked()
            assert responder.stored() == []
            await ask(stream, conn, conn.send_stdin(1, FORM) + conn.end_stdin(1))
    assert responder.stored() == [MAIL, b"the one that waits"]


@pytest.mark.trio
@pytest.mark.parametrize(
    ("limits", "wire"),
    [
        pytest.param(ResponderLimits(silence_seconds=0.02), b"", id="nothing-comes"),
        pytest.param(ResponderLimits(begin_seconds=0.02, silence_seconds=3600), b"", id="no-request-begins"),
        pytest.param(
            ResponderLimits(request_seconds=0.02, silence_seconds=3600),
            ClientConnection().begin_request(1, params=save_parameters(9)),
            id="the-body-does-not-come",
        ),
    ],
)
async def test_client_that_says_no_more_is_left(tmp_path: Path, limits: ResponderLimits, wire: bytes) -> None:
    with capture_logs() as logs, trio.fail_after(SECONDS):
        async with running(tmp_path, limits) as responder, await responder.connect() as stream:
            await stream.send_all(wire)
            assert await stream.receive_some() == b""
    assert [line["event"] for line in logs] == ["FastCGI client too slow"]


@pytest.mark.trio
async def test_client_that_never_reads_is_left(tmp_path: Path) -> None:
    """Replies to ten thousand GET_VALUES fill the socket; then the deadline passes."""
    wire = ClientConnection().get_values([b"FCGI_MAX_CONNS", b"FCGI_MAX_REQS", b"FCGI_MPXS_CONNS"]) * 20_000
    with capture_logs() as logs, trio.fail_after(SECONDS):
        async with running(tmp_path, ResponderLimits(silence_seconds=0.1)) as responder:
            stream = await responder.connect()
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(wire)
            await stream.aclose()
    assert [line["event"] for line in logs] == ["FastCGI client too slow"]


@pytest.mark.trio
async def test_memory_does_not_grow_with_the_mail(tmp_path: Path) -> None:
    mail = (b"0123456789 % & + ; " + b"x" * 980 + b"\n") * 12_000  # 12 MB
    async with running(tmp_path) as responder:
        conn = ClientConnection()
        form = encode_body(mail) + b"&mail_digest=" + DIGEST.encode() + b"&size=%d&stage=save" % len(mail)
        async with await responder.connect() as stream:
            await stream.send_all(conn.begin_request(1, params=save_parameters(len(form))))
            tracemalloc.start()
            try:
                for start in range(0, len(form), 60_000):
                    await stream.send_all(conn.send_stdin(1, form[start : start + 60_000]))
                _, output = await ask(stream, conn, conn.end_stdin(1))
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
    assert b"SAVED" in output
    assert responder.stored() == [mail]
    assert peak < 4_000_000
