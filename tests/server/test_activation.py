"""Sockets from systemd: whoever has them may come and go, and no client is refused."""

import os
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.cli.support import answers, configuration, deliver, write_configuration
from tests.clients import missing
from tests.phpfpm import children_of, open_folder, wait_gone
from tests.server.responder_process import Store, storing
from tests.server_process import SECONDS, ServerProcess, environment, eventually, run_command


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as path:
        yield path


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with open_folder() as path, storing(path / "fcgi") as store:
        yield store


def _listening(server: ServerProcess) -> object:
    return server.wait_for_log("listening")


def test_sockets_of_systemd_by_their_names(store: Store, folder: Path) -> None:
    path = folder / "lmtp.sock"
    more = '[[listeners]]\naddress = "systemd:mail"\nprotocol = "lmtp"'
    write_configuration(folder, configuration(listen="systemd:smtp", upstream=store.address, more=more))
    server_on = partial(socket.create_server, ("127.0.0.1", 0))
    with server_on() as one, server_on() as two, socket.socket(socket.AF_UNIX) as three:
        three.bind(str(path))
        three.listen()
        sockets = [("smtp", one), ("mail", three), ("smtp", two)]
        with ServerProcess("serve", folder=folder, ready=_listening, sockets=sockets) as server:
            for sock in (one, two):
                deliver(sock.getsockname()[1])
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                assert b" LMTP" in client.recv(100)
            (pid,) = children_of(server.pid)
            assert b"LISTEN_FDS" not in Path(f"/proc/{pid}/environ").read_bytes()
            assert server.stop() == 0
        assert path.is_socket()  # it is not ours to remove


def test_a_restart_refuses_nobody(store: Store, folder: Path) -> None:
    write_configuration(folder, configuration(listen="systemd:smtp", upstream=store.address))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with ServerProcess("serve", folder=folder, ready=_listening, sockets=[("smtp", sock)]) as server:
            deliver(port)
            assert server.stop(signal.SIGTERM) == 0
        again = ServerProcess("serve", folder=folder, ready=_listening, sockets=[("smtp", sock)])
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as waiting, again as server:
            assert waiting.recv(4) == b"220 "
            waiting.close()
            deliver(port)
            assert server.stop() == 0


def test_names_may_come_and_go_at_a_reload(store: Store, folder: Path) -> None:
    def text(name: str) -> str:
        more = '[[listeners]]\naddress = "127.0.0.1:0"'
        return configuration(listen=f"systemd:{name}", upstream=store.address, more=more)

    write_configuration(folder, text("one"))
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = {"one": one.getsockname()[1], "two": two.getsockname()[1]}
        sockets = [("one", one), ("two", two)]
        with ServerProcess("serve", folder=folder, ready=_listening, sockets=sockets) as server:
            for count, name in enumerate(("two", "one"), 1):
                write_configuration(folder, text(name))
                server.send(signal.SIGHUP)
                server.wait_for_log("] reloaded ", count)
                deliver(ports[name])
            assert server.stop() == 0


def test_a_name_that_was_not_handed_over(folder: Path) -> None:
    write_configuration(folder, configuration(listen="systemd:smtp"))
    done = run_command("serve", folder=folder)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == (
        "trio_fcgimail: cannot listen on systemd:smtp: no socket of that name was handed over"
    )


def test_check_leaves_it_to_systemd(folder: Path) -> None:
    write_configuration(folder, configuration(listen="systemd:smtp"))
    assert "?? listeners[0].address" in " ".join(run_command("check", folder=folder).stdout.decode().split())


def test_systemds_own_activation(store: Store, folder: Path) -> None:
    program = shutil.which("systemd-socket-activate")
    if program is None:
        missing("systemd-socket-activate is needed: on Debian or Ubuntu, apt-get install systemd")
    write_configuration(folder, configuration(listen="systemd:smtp", upstream=store.address))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    activated = ("--setenv=PYTHONPATH", sys.executable, "-m", "trio_fcgimail", "serve")
    process = subprocess.Popen(
        [program, f"--listen=127.0.0.1:{port}", "--fdname=smtp", *activated],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: answers(port), "it is activated by the first client, and greets it")
        with smtplib.SMTP("127.0.0.1", port, timeout=SECONDS) as client:
            client.noop()
        children = children_of(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
        for pid in children:
            wait_gone(pid)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(SECONDS)
