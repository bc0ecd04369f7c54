"""A parent and its children: real processes, signals, rights, deaths and reloads."""

import contextlib
import os
import pwd
import re
import signal
import smtplib
import socket
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cli.support import (
    MAIL,
    SENDER,
    answers,
    begin_mail,
    configuration,
    deliver,
    greeted,
    send_mail,
    write_configuration,
)
from tests.phpfpm import children_of, open_folder, wait_gone
from tests.server.responder_process import Store, storing
from tests.server_process import SECONDS, UNMEASURED, ServerProcess, eventually, free_port, run_command

NEEDS_ROOT: Final = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that every user may enter and write to."""
    with open_folder() as path:
        yield path


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """A save script that keeps what it gets."""
    with open_folder() as path, storing(path / "fcgi") as store:
        yield store


def _file(store: Store, top: str = "", **more: str) -> str:
    return top + "\n" + configuration(upstream=store.address, **more)


def _reload(server: ServerProcess, outcome: str = "] reloaded ") -> None:
    """HUP, and wait for what came of it."""
    before = len(re.findall(outcome, server.log))
    server.send(signal.SIGHUP)
    server.wait_for_log(outcome, before + 1)


def _idle_children(server: ServerProcess, count: int) -> list[int]:
    found: list[int] = []

    def there() -> bool:
        found[:] = children_of(server.pid)
        return len(found) == count

    eventually(there, f"there are {count} children")
    return found


# Serving


def test_workers_serve_on_all_sockets(store: Store, folder: Path) -> None:
    path, port = folder / "smtp.sock", free_port()
    more = f'[[listeners]]\naddress = "127.0.0.1:{port}"\n[[listeners]]\naddress = "unix:{path}"'
    write_configuration(folder, _file(store, "workers = 3", more=more))
    with ServerProcess("serve", folder=folder) as server:
        assert len(children_of(server.pid)) == 3
        for one in (server.port, port):
            deliver(one, recipient="tcp@example.com")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            assert sock.recv(4) == b"220 "
        assert server.stop() == 0
        assert "worker=" in server.log
    assert not path.exists()


def test_with_workers_all_of_them_take_connections(store: Store, folder: Path) -> None:
    write_configuration(folder, _file(store, "workers = 3"))
    with ServerProcess("serve", folder=folder) as server:
        pids = children_of(server.pid)
        for pid in pids:  # who is left, serves
            others = [one for one in pids if one != pid]
            for one in others:
                os.kill(one, signal.SIGSTOP)
            try:
                assert answers(server.port)
            finally:
                for one in others:
                    os.kill(one, signal.SIGCONT)
        assert server.stop() == 0


def test_clients_who_stay_are_not_all_with_one_worker(store: Store, folder: Path) -> None:
    clients = 12
    write_configuration(folder, _file(store, "workers = 2"))
    with ServerProcess("serve", folder=folder) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(clients):
                stack.enter_context(greeted(server.port))
        server.wait_for_log("connection closed .*worker=", clients)
        assert server.stop() == 0
        with_worker = Counter(re.findall(r"connection closed .*worker=(\d+)", server.log))
    assert with_worker.total() == clients
    assert min(with_worker["1"], with_worker["2"]) >= clients // 6, with_worker  # mostly as many; all with one, before


# Rights


def _status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


@NEEDS_ROOT
@pytest.mark.parametrize("group", ["", "mail"], ids=["group-of-the-user", "another-group"])
def test_children_become_the_user_for_good(group: str, store: Store, folder: Path) -> None:
    user = pwd.getpwnam("www-data")
    gid = str(pwd.getpwnam("mail").pw_gid if group else user.pw_gid)
    port = free_port()
    write_configuration(
        folder, _file(store, f'workers = 2\nuser = "www-data"\ngroup = "{group}"', listen=f"127.0.0.1:{port}")
    )
    with ServerProcess("serve", folder=folder, env=UNMEASURED) as server:
        for pid in children_of(server.pid):
            status = _status(pid)
            assert status["Uid"] == [str(user.pw_uid)] * 4
            assert status["Gid"] == [gid] * 4
            assert set(status["Groups"]) == set(map(str, os.getgrouplist("www-data", int(gid))))
            assert status["CapEff"] == status["CapPrm"] == ["0000000000000000"]
        assert _status(server.pid)["Uid"] == ["0"] * 4
        deliver(port)
        assert "serving as root" not in server.log
        assert server.stop() == 0


@NEEDS_ROOT
def test_a_group_alone_leaves_no_other_groups(store: Store, folder: Path) -> None:
    write_configuration(folder, _file(store, 'group = "mail"'))
    with ServerProcess("serve", folder=folder) as server:
        (pid,) = children_of(server.pid)
        assert _status(pid)["Groups"] == [str(pwd.getpwnam("mail").pw_gid)]
        assert _status(pid)["Uid"] == ["0"] * 4
        assert server.stop() == 0


@NEEDS_ROOT
def test_a_log_file_of_root_is_written_by_children_that_are_not(store: Store, folder: Path) -> None:
    folder.chmod(0o755)
    path, port = folder / "mail.log", free_port()
    more = f'[log]\nfile = "{path}"'
    write_configuration(folder, _file(store, 'user = "www-data"', more=more, listen=f"127.0.0.1:{port}"))

    def serves(_: ServerProcess) -> None:
        eventually(lambda: answers(port), "it serves")

    with ServerProcess("serve", folder=folder, env=UNMEASURED, ready=serves) as one:
        deliver(port, recipient="logged@example.com")
        assert one.stop() == 0
    assert "logged@example.com" in path.read_text()


@pytest.mark.parametrize(
    ("top", "told"),
    [
        pytest.param('user = "no-such-user"', "there is no user no-such-user", id="user"),
        pytest.param('group = "no-such-group"', "there is no group no-such-group", id="group"),
    ],
)
def test_nobody_to_become_is_one_line_and_1(top: str, told: str, store: Store, folder: Path) -> None:
    write_configuration(folder, _file(store, top))
    done = run_command("serve", folder=folder)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == f"trio_fcgimail: {told}"


# Death


def test_a_child_that_dies_is_replaced_and_the_others_notice_nothing(store: Store, folder: Path) -> None:
    write_configuration(folder, _file(store, "workers = 2"))
    with ServerProcess("serve", folder=folder) as server:
        with greeted(server.port) as client:
            served = _serving_child(server, client)
            (other,) = set(children_of(server.pid)) - {served}
            begin_mail(client)
            os.kill(other, signal.SIGKILL)
            server.wait_for_log(r"worker died .*worker=\d status=-9")
            assert client.data(MAIL)[0] == 250
        assert other not in _idle_children(server, 2)
        assert served in children_of(server.pid)
        deliver(server.port)
        assert server.stop() == 0
        assert server.log.count("worker died") == 1


def _serving_child(server: ServerProcess, client: smtplib.SMTP) -> int:
    """The child that has this client's connection."""
    assert client.sock is not None
    port = client.sock.getsockname()[1]
    (inode,) = re.findall(
        rf"^ *\d+: 0100007F:{server.port:04X} 0100007F:{port:04X} 01(?: +\S+){{5}} +(\d+) ",
        Path("/proc/net/tcp").read_text(),
        re.MULTILINE,
    )
    for pid in children_of(server.pid):
        for one in Path(f"/proc/{pid}/fd").iterdir():
            if one.readlink().name == f"socket:[{inode}]":
                return pid
    raise AssertionError("nobody has it")


def test_when_the_parent_is_killed_children_let_mails_end_and_go(store: Store, folder: Path) -> None:
    write_configuration(folder, _file(store, "workers = 2"))
    with ServerProcess("serve", folder=folder) as server:
        with greeted(server.port) as client:
            begin_mail(client)
            pids = children_of(server.pid)
            os.kill(server.pid, signal.SIGKILL)
            eventually(lambda: not answers(server.port), "no connection is taken any more")
            assert client.data(MAIL)[0] == 250
            assert client.noop()[0] == 421
        for pid in pids:
            wait_gone(pid)


# The end


def test_term_drains_all_children(store: Store, folder: Path) -> None:
    write_configuration(folder, _file(store, "workers = 3"))
    with ServerProcess("serve", folder=folder) as server:
        with greeted(server.port) as one, greeted(server.port) as two, greeted(server.port) as three:
            clients = (one, two, three)
            for client in clients:
                begin_mail(client)
            server.send(signal.SIGTERM)
            eventually(lambda: not answers(server.port), "no connection is taken any more")
            for client in clients:
                assert client.data(MAIL)[0] == 250
                assert client.noop()[0] == 421
        assert server.wait() == 0


def test_one_child_that_had_to_cut_makes_1_of_the_exit_code(store: Store, folder: Path) -> None:
    write_configuration(folder, _file(store, "workers = 3\ndrain_seconds = 0.2"))
    with ServerProcess("serve", folder=folder) as server:
        with greeted(server.port) as client:
            begin_mail(client)
            server.send(signal.SIGTERM)
            assert client.getreply()[0] == 421
        assert server.wait() == 1


def test_a_second_term_cuts_all_children(store: Store, folder: Path) -> None:
    # Both mails may come to one worker.
    text = _file(store, "workers = 2").replace("max_connections = 2", "max_connections = 4")
    write_configuration(folder, text)
    with store.held() as hold, ServerProcess("serve", folder=folder) as server:
        with greeted(server.port) as one, greeted(server.port) as two:
            for client in (one, two):
                send_mail(client)
            hold.wait_for(2)
            server.send(signal.SIGTERM)
            server.wait_for_log("stopping")
            server.send(signal.SIGTERM)
            for client in (one, two):
                assert client.getreply()[0] == 451
                assert client.getreply()[0] == 421
        assert server.wait() == 1


# Reloads


def test_a_reload_serves_with_the_new_settings(store: Store, folder: Path) -> None:
    write_configuration(folder, _file(store))
    with ServerProcess("serve", folder=folder) as server:
        old = children_of(server.pid)
        write_configuration(folder, _file(store, "workers = 2").replace("mx.example.com", "new.example.com"))
        _reload(server)
        for pid in old:
            wait_gone(pid)
        assert len(children_of(server.pid)) == 2
        with smtplib.SMTP("127.0.0.1", server.port, timeout=SECONDS) as client:  # port 0 keeps its number
            assert client.ehlo()[1].startswith(b"new.example.com")
        assert server.stop() == 0


def test_addresses_come_and_go_and_stay_at_a_reload(store: Store, folder: Path) -> None:
    kept, gone, come = free_port(), free_port(), free_port()

    def text(other: int) -> str:
        return _file(store, listen=f"127.0.0.1:{kept}", more=f'[[listeners]]\naddress = "127.0.0.1:{other}"')

    write_configuration(folder, text(gone))
    with ServerProcess("serve", folder=folder) as server:
        write_configuration(folder, text(come))
        with greeted(gone) as client:
            begin_mail(client)
            _reload(server)
            assert answers(kept)
            assert answers(come)
            eventually(lambda: not answers(gone), "nobody listens there any more")
            assert client.data(MAIL)[0] == 250
        assert server.stop() == 0


def test_who_was_connected_at_a_reload_has_one_transaction_more(store: Store, folder: Path) -> None:
    write_configuration(folder, _file(store))
    with ServerProcess("serve", folder=folder) as server:
        with greeted(server.port) as fresh, greeted(server.port) as busy, greeted(server.port) as served:
            begin_mail(busy)
            assert served.sendmail(SENDER, "info@example.com", MAIL) == {}
            _reload(server)
            eventually(lambda: served.noop()[0] == 421, "the old one has heard of it")
            assert busy.data(MAIL)[0] == 250
            assert busy.noop()[0] == 421
            assert fresh.noop()[0] == 250
            assert fresh.sendmail(SENDER, "info@example.com", MAIL) == {}
            assert fresh.noop()[0] == 421
        assert server.stop() == 0


def test_at_a_reload_who_stays_too_long_is_cut_and_the_exit_code_does_not_tell(store: Store, folder: Path) -> None:
    write_configuration(folder, _file(store, "drain_seconds = 1"))
    with ServerProcess("serve", folder=folder) as server:
        with greeted(server.port) as client:
            _reload(server)
            assert client.getreply()[0] == 421
        _idle_children(server, 1)
        assert server.stop() == 0, server.log


def test_a_hangup_during_a_reload_is_remembered_once(store: Store, folder: Path) -> None:
    write_configuration(folder, _file(store))
    with ServerProcess("serve", folder=folder) as server:
        server.send(signal.SIGHUP)
        eventually(lambda: len(children_of(server.pid)) == 2, "a new child starts")
        for _ in range(5):
            server.send(signal.SIGHUP)
        server.wait_for_log("] reloaded ", 2)
        deliver(server.port)
        assert server.stop() == 0
        assert server.log.count("] reloaded ") == 2


def test_a_term_during_a_reload_ends_it(store: Store, folder: Path) -> None:
    write_configuration(folder, _file(store))
    with ServerProcess("serve", folder=folder) as server:
        server.send(signal.SIGHUP)
        eventually(lambda: len(children_of(server.pid)) == 2, "a new child starts")
        assert server.stop(signal.SIGTERM) == 0
        assert "reloaded" not in server.log


def test_a_wrong_file_changes_nothing_and_each_error_is_a_line(store: Store, folder: Path) -> None:
    good = _file(store)
    write_configuration(folder, good)
    with ServerProcess("serve", folder=folder) as server:
        pids = children_of(server.pid)
        write_configuration(folder, 'hostnome = "x"\nallowed_hosts = []\n')
        _reload(server, "not reloaded")
        write_configuration(folder, "what = is this")
        server.send(signal.SIGHUP)
        server.wait_for_log("not reloaded .*: line ")
        (folder / "fcgimail.toml").unlink()
        server.send(signal.SIGHUP)
        server.wait_for_log("not reloaded .*file: found")
        assert children_of(server.pid) == pids
        deliver(server.port)
        assert server.stop() == 0
        lines = [line for line in server.log.splitlines() if "not reloaded" in line]
    assert any("hostnome: found" in line for line in lines)
    assert any("allowed_hosts: found" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param("address = '192.0.2.1:25'", "does not have that address", id="address"),
        pytest.param("address = 'unix:/nonexistent/smtp'", "No such file", id="folder"),
        pytest.param("address = 'systemd:smtp'", "no socket of that name", id="systemd"),
        pytest.param(
            "address = '127.0.0.1:0'\ntls = 'starttls'\ncertificate = '/dev/null'", "cannot do TLS", id="certificate"
        ),
    ],
)
def test_a_reload_that_cannot_be_changes_nothing(change: str, told: str, store: Store, folder: Path) -> None:
    write_configuration(folder, _file(store))
    with ServerProcess("serve", folder=folder) as server:
        pids = children_of(server.pid)
        other = f'[[listeners]]\naddress = "unix:{folder}/other"\n[[listeners]]\n{change}'
        write_configuration(folder, _file(store, more=other))
        _reload(server, f"not reloaded .*{told}")
        assert children_of(server.pid) == pids
        assert not (folder / "other").exists()
        deliver(server.port)
        assert server.stop() == 0


def test_a_reload_whose_children_cannot_start_changes_nothing(store: Store, folder: Path) -> None:
    write_configuration(folder, _file(store))
    with ServerProcess("serve", folder=folder) as server:
        pids = children_of(server.pid)
        write_configuration(folder, _file(store, "workers = 2", more='[log]\nfile = "/nonexistent/log"'))
        _reload(server, "not reloaded .*nonexistent")
        assert _idle_children(server, 1) == pids
        deliver(server.port)
        assert server.stop() == 0


def test_a_unix_socket_is_kept_at_a_reload_and_goes_at_the_end(store: Store, folder: Path) -> None:
    path = folder / "smtp.sock"

    def text(mode: str, listen: str = f"unix:{path}") -> str:
        return _file(store, listen=listen, listener=f'mode = "{mode}"', more='[[listeners]]\naddress = "127.0.0.1:0"')

    write_configuration(folder, text("0660"))
    with ServerProcess("serve", folder=folder) as server:
        before = path.stat()
        write_configuration(folder, text("0600"))
        _reload(server)
        after = path.stat()
        assert after.st_ino == before.st_ino
        assert [stat.S_IMODE(one.st_mode) for one in (before, after)] == [0o660, 0o600]
        write_configuration(folder, text("0600", f"unix:{folder}/other.sock"))
        _reload(server)
        assert not path.exists()
        assert (folder / "other.sock").is_socket()
        assert server.stop() == 0
    assert not (folder / "other.sock").exists()


def test_a_child_that_dies_during_its_retirement_is_not_replaced(store: Store, folder: Path) -> None:
    write_configuration(folder, _file(store))
    with ServerProcess("serve", folder=folder) as server:
        (old,) = children_of(server.pid)
        with greeted(server.port):
            _reload(server)
            os.kill(old, signal.SIGKILL)
            wait_gone(old)
            server.wait_for_log("worker failed at its end")
        assert len(children_of(server.pid)) == 1
        assert server.stop() == 0


def test_usr1_reaches_all_children(store: Store, folder: Path) -> None:
    path, port = folder / "mail.log", free_port()
    more = f'[log]\nfile = "{path}"'
    write_configuration(folder, _file(store, "workers = 2", more=more, listen=f"127.0.0.1:{port}"))
    with ServerProcess("serve", folder=folder, ready=lambda _: eventually(lambda: answers(port), "it serves")) as one:
        path.rename(folder / "mail.log.1")
        inode = (folder / "mail.log.1").stat().st_ino
        one.send(signal.SIGUSR1)

        def nobody_writes_there() -> bool:
            pids = [one.pid, *children_of(one.pid)]
            files = (file for pid in pids for file in Path(f"/proc/{pid}/fd").iterdir())
            return not any(file.exists() and file.stat().st_ino == inode for file in files)

        eventually(nobody_writes_there, "all of them have opened it anew")
        assert one.stop() == 0
