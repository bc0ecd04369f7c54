"""The FastCGI examples, run as a reader would run them, one against the other over a real socket."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from trio_fcgimail.fastcgi import NEED_DATA, ClientConnection, RequestEnded, StdoutChunk

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
USAGE_STATUS = 2


@contextmanager
def echo_server(address: str) -> Iterator[str]:
    """Run the asyncio example; yields the address it listens on."""
    command = [sys.executable, str(ROOT / "examples/fastcgi_asyncio.py"), address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
        try:
            assert process.stdout is not None
            ready, _, bound = process.stdout.readline().decode().strip().partition(" ")
            assert ready == "ready"
            yield bound
        finally:
            process.terminate()
            _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, b"")


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with echo_server(f"unix:{tmp_path}/s" if request.param == "unix" else "tcp:127.0.0.1:0") as bound:
        yield bound


def call(arguments: Sequence[str], body: bytes = b"") -> tuple[int, bytes, bytes]:
    """Run the blocking example; returns its exit status and what it printed on either stream."""
    command = [sys.executable, str(ROOT / "examples/fastcgi_blocking.py"), *arguments]
    done = subprocess.run(command, input=body, capture_output=True, env=ENVIRONMENT, timeout=30, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_request_comes_back(address: str) -> None:
    status, out, err = call([address, "/srv/x.php", "QUERY_STRING=a=b", "X=\xe9"], b"hello\r\n\0")
    assert out == (
        b"Status: 200 OK\ncontent-type: text/plain\n\n"
        b"CONTENT_LENGTH=8\nQUERY_STRING=a=b\nREQUEST_METHOD=POST\nSCRIPT_FILENAME=/srv/x.php\nX=\xc3\xa9\n"
        b"\nhello\r\n\0"
    )
    assert (status, err) == (0, b"echoed 8 octets\n")


def test_a_large_body_crosses_many_records(address: str) -> None:
    body = bytes(range(256)) * 3000
    status, out, err = call([address, "/x"], body)
    assert (status, err) == (0, b"echoed 768000 octets\n")
    assert out.endswith(b"\n\n" + body)


def test_a_body_over_the_limit_is_refused(address: str) -> None:
    status, out, _ = call([address, "/x"], bytes((1 << 20) + 1))
    assert status == 1
    assert out.startswith(b"Status: 413 Content Too Large\n")


def test_a_kept_connection_serves_several_requests(address: str) -> None:
    kind, _, rest = address.partition(":")
    conn = ClientConnection()
    sock = socket.socket(socket.AF_UNIX) if kind == "unix" else socket.socket()
    with sock:
        sock.settimeout(30)
        sock.connect(rest if kind == "unix" else ("127.0.0.1", int(rest.rpartition(":")[2])))
        for turn in (b"1", b"2"):
            sock.sendall(conn.begin_request(params=[(b"TURN", turn)], keep_connection=True) + conn.end_stdin(1))
            output = b""
            while not isinstance(event := conn.next_event(), RequestEnded):
                if event is NEED_DATA:
                    conn.receive_data(sock.recv(65_536))
                elif isinstance(event, StdoutChunk):
                    output += event.data
            assert output.endswith(b"TURN=" + turn + b"\n\n")


def test_nobody_listens(tmp_path: Path) -> None:
    status, out, err = call([f"unix:{tmp_path}/none", "/x"])
    assert (status, out) == (1, b"")
    assert err.count(b"\n") == 1


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"", id="closes-at-once"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="speaks-http"),
        pytest.param(b"\x01\x06\0\1\0\7\0\0\nSAVED\n", id="no-end-request"),
        pytest.param(b"\x01\x03\0\1\0\x08\0\0\0\0\0\0\2\0\0\0", id="overloaded"),
        pytest.param(b"\x01\x03\0\1\0\x08\0\0\0\0\0\0\0\0\0\0", id="no-output"),
    ],
)
def test_a_broken_answer_is_a_failure(reply: bytes, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/s")
        listener.listen()
        command = [sys.executable, str(ROOT / "examples/fastcgi_blocking.py"), f"unix:{tmp_path}/s", "/x"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=ENVIRONMENT) as process:
            assert process.stdin is not None
            process.stdin.close()
            process.stdin = None
            peer, _ = listener.accept()
            with peer:
                request = b""
                while not request.endswith(b"\x01\x05\0\1\0\0\0\0"):
                    request += peer.recv(65_536)
                peer.sendall(reply)
            out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (1, b"")
        assert err.count(b"\n") == 1


@pytest.mark.parametrize("name", ["fastcgi_blocking.py", "fastcgi_asyncio.py"])
def test_wrong_usage(name: str) -> None:
    command = [sys.executable, str(ROOT / "examples" / name), "http://x"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, env=ENVIRONMENT, timeout=30, check=False
    )
    assert done.returncode == USAGE_STATUS
    assert done.stderr.startswith(b"usage: ")
