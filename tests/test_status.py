"""The status page of a real server: metrics over processes that come and go, health and rights; and it harms nobody."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.support import configuration, deliver, write_configuration
from tests.phpfpm import PhpFpm, children_of, open_folder
from tests.server.responder_process import Store, storing
from tests.server_process import SECONDS, UNMEASURED, ServerProcess, eventually, free_port, run_command
from tests.support import Journal, settings
from trio_fcgimail.cli.finding import State
from trio_fcgimail.cli.statuscheck import check_status
from trio_fcgimail.config import parse_upstream_address
from trio_fcgimail.server import ListenError, StartError, Supervisor, serve
from trio_fcgimail.server.status.readiness import answers
from trio_fcgimail.server.workers import statuskeeper
from trio_fcgimail.server.workers.statuskeeper import read_password

COUNTER: Final = re.compile(r"_(?:total|bucket|count|sum)(?:,|$)")
PASSWORD: Final = "correct h\u00f6rse"


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as path:
        yield path


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with open_folder() as path, storing(path / "fcgi") as store:
        yield store


@pytest.fixture(scope="module")
def plain(store: Store) -> Iterator[tuple[ServerProcess, int, Path]]:
    """A server with a status page, its port, and its folder; for tests that leave it as it was."""
    port = free_port()
    with open_folder() as folder:
        write_configuration(folder, text(store, port))
        with ServerProcess("serve", folder=folder) as server:
            eventually(lambda: status(port, "/healthz") == 200, "it is healthy")
            yield server, port, folder
            assert server.stop() == 0
            assert "status page failed" not in server.log


def get(
    port: int, path: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> tuple[int, dict[str, str], str]:
    """One request; status, headers, body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read().decode()
    finally:
        connection.close()


def status(port: int, path: str, headers: dict[str, str] | None = None) -> int:
    """The status, 0 when nobody listens."""
    try:
        return get(port, path, headers)[0]
    except (OSError, http.client.HTTPException):
        return 0


def metrics(port: int) -> dict[str, float]:
    """All metrics, each as Prometheus writes it."""
    code, _, page = get(port, "/metrics")
    assert code == 200
    return {
        sample.name + "".join(f",{label}={value}" for label, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def until(port: int, name: str, value: float) -> dict[str, float]:
    """All metrics, once one of them has a value. No counter ever goes back on the way."""
    found = metrics(port)

    def there() -> bool:
        before = found.copy()
        found.update(metrics(port))
        for counter in before:
            assert found[counter] >= before[counter] or COUNTER.search(counter) is None, counter
        return found.get(name) == value

    eventually(there, f"{name} is {value}")
    return found


ACCEPTED: Final = "fcgimail_mails_total,outcome=accepted"


def text(store: Store, port: int, top: str = "", more: str = "", upstream: str = "") -> str:
    section = f'[status]\naddress = "127.0.0.1:{port}"\n' if port else ""
    return top + configuration(upstream=upstream or store.address, validate="/v.php", more=section + more)


def reload(server: ServerProcess, outcome: str = r"\] reloaded ") -> None:
    before = len(re.findall(outcome, server.log))
    server.send(signal.SIGHUP)
    server.wait_for_log(outcome, before + 1)


def workers(server: ServerProcess) -> list[int]:
    """The processes that serve mail."""
    return [pid for pid in children_of(server.pid) if b"workers.child" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def page_of(server: ServerProcess) -> int:
    """The process of the page."""
    (pid,) = set(children_of(server.pid)) - set(workers(server))
    return pid


def test_numbers_of_all_processes_live_and_dead_are_added_up(store: Store, folder: Path) -> None:
    port = free_port()
    write_configuration(folder, text(store, port, "workers = 2\n"))
    with ServerProcess("serve", folder=folder) as server:
        for _ in range(10):
            deliver(server.port)
        found = until(port, ACCEPTED, 10)
        assert found["fcgimail_workers"] == 2
        assert found["fcgimail_commands_total,command=MAIL"] == 10
        assert found["fcgimail_replies_total,code=354"] == 10
        assert found["fcgimail_connections_total"] == 10
        upstream = f",upstream={store.address}"
        assert found[f"fcgimail_script_seconds_count,stage=save{upstream}"] == 10
        assert found[f"fcgimail_script_seconds_count,stage=validate{upstream}"] == 10
        assert found[f"fcgimail_upstream_requests_total{upstream}"] == 20
        assert found[f"fcgimail_upstream_connection_limit{upstream}"] == 2
        for pid in workers(server):
            os.kill(pid, signal.SIGKILL)
        found = until(port, "fcgimail_worker_deaths_total", 2)
        assert found[ACCEPTED] == 10
        eventually(lambda: metrics(port)["fcgimail_workers"] == 2, "they were replaced")
        deliver(server.port)
        until(port, ACCEPTED, 11)
        reload(server)
        found = until(port, "fcgimail_reloads_total,outcome=done", 1)
        assert found[ACCEPTED] == 11
        deliver(server.port)
        until(port, ACCEPTED, 12)
        assert server.stop() == 0


# Health


def test_ready_while_a_fastcgi_server_answers_and_clients_are_served(folder: Path) -> None:
    port, path = free_port(), folder / "fcgi"
    write_configuration(folder, text(Store(path), port, "drain_seconds = 20\n"))
    with ServerProcess("serve", folder=folder) as server:
        eventually(lambda: status(port, "/healthz") == 200, "it is healthy")
        assert status(port, "/readyz") == 503
        with socket.socket(socket.AF_UNIX) as deaf:  # whoever takes connections and does not answer
            deaf.bind(str(path))
            deaf.listen()
            time.sleep(1.1)  # what was learnt is good for a second
            assert status(port, "/readyz") == 503
        path.unlink()
        with storing(path):
            eventually(lambda: status(port, "/readyz") == 200, "it is ready")
            os.kill(server.pid, signal.SIGSTOP)  # the parent
            try:
                eventually(lambda: status(port, "/healthz") == 503, "nobody answers for it")
            finally:
                os.kill(server.pid, signal.SIGCONT)
            eventually(lambda: status(port, "/readyz") == 200, "it is ready again")
            with socket.create_connection(("127.0.0.1", server.port)) as sock, sock.makefile("rb") as lines:
                lines.readline()
                sock.sendall(b"HELO c.example\r\nMAIL FROM:<>\r\n")
                assert [lines.readline()[:4], lines.readline()[:4]] == [b"250 ", b"250 "]
                server.send(signal.SIGTERM)
                eventually(lambda: status(port, "/readyz") == 503, "it is not ready any more")
                assert status(port, "/healthz") == 200
        assert server.wait() == 0


@pytest.mark.trio
async def test_a_real_php_fpm_answers_the_question(tmp_path: Path) -> None:
    with PhpFpm(children=1) as fpm:
        assert await answers(parse_upstream_address(fpm.address))
    assert not await answers(parse_upstream_address(fpm.address))


# Whom it serves


def test_only_this_machine_without_a_password(plain: tuple[ServerProcess, int, Path]) -> None:
    _, port, _ = plain
    for path in ("/", "/metrics", "/state.json?moment=0&mail=0", "/healthz"):
        code, headers, _ = get(port, path)
        assert code == 200, path
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert get(port, path, {"Host": "rebound.example"})[0] == 403
        assert get(port, path, method="POST")[0] == 405
    assert get(port, "/../../etc/passwd")[0] == 404
    for query in ("moment=x&mail=-1", "moment=" + "9" * 400, "moment=%C2%B2", "moment", "mail=1e9"):
        assert get(port, f"/state.json?{query}")[0] == 200


def basic(password: str, user: str = "any") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_a_password_elsewhere(store: Store, folder: Path) -> None:
    port, secret = free_port(), folder / "password"
    secret.write_text(f"{PASSWORD}\nand a comment\n")
    section = f'[status]\naddress = "0.0.0.0:{port}"\npassword_file = "{secret}"\n'
    write_configuration(folder, text(store, 0, more=section))
    with ServerProcess("serve", folder=folder) as server:
        eventually(lambda: status(port, "/healthz") == 200, "it is healthy")
        assert status(port, "/readyz") == 200
        for path in ("/", "/metrics", "/state.json", "/page.js", "/nothing"):
            code, headers, _ = get(port, path)
            assert code == 401, path
            assert headers["www-authenticate"].startswith("Basic realm=")
        for wrong in (
            basic("wrong"),
            basic(""),
            basic(PASSWORD + "x"),
            {"Authorization": "Basic !"},
            {"Authorization": basic(PASSWORD)["Authorization"].replace("Basic", "Bearer")},
        ):
            assert get(port, "/metrics", wrong)[0] == 401
        for user in ("any", "prometheus", ""):
            assert get(port, "/metrics", basic(PASSWORD, user) | {"Host": "mx.example.com"})[0] == 200
        secret.write_text("another password\n")
        reload(server)
        eventually(lambda: status(port, "/metrics", basic("another password")) == 200, "the new password holds")
        assert get(port, "/metrics", basic(PASSWORD))[0] == 401
        assert server.stop() == 0
        assert PASSWORD not in server.log
        assert "another password" not in server.log


@pytest.mark.trio
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(None, "No such file or directory", id="missing"),
        pytest.param(b"short\n", "has to be 8 to 1000 printable characters", id="short"),
        pytest.param(b"\n", "has to be 8 to 1000", id="empty"),
        pytest.param(b"\xff" * 20, "no UTF-8", id="binary"),
        pytest.param(b"p" * 1001, "has to be 8 to 1000", id="long"),
    ],
)
async def test_a_password_that_is_none(content: bytes | None, problem: str, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    if content is not None:
        secret.write_bytes(content)
    with pytest.raises(ListenError, match=problem):
        read_password(secret)
    config = settings(f'[status]\naddress = "127.0.0.1:0"\npassword_file = "{secret}"')
    _, finding = await check_status(config)
    assert finding.state is State.BAD
    assert problem in finding.detail


@pytest.mark.trio
async def test_check_says_who_may_read_the_password(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    config = settings(f'[status]\naddress = "127.0.0.1:0"\npassword_file = "{secret}"')
    states = []
    for mode in (0o644, 0o640, 0o600):
        secret.chmod(mode)
        states.append((await check_status(config))[1].state)
    assert states == [State.UNKNOWN, State.UNKNOWN, State.GOOD]


@pytest.mark.trio
async def test_without_the_packages_nothing_starts(monkeypatch: pytest.MonkeyPatch, journal: Journal) -> None:
    monkeypatch.setattr(statuskeeper, "PACKAGES", ("no_such_package", "trio"))
    config = settings('[[listeners]]\naddress = "127.0.0.1:0"\n[status]\naddress = "127.0.0.1:0"')
    said = "needs no_such_package, not installed here: pip install hypercorn prometheus-client starlette"
    (finding,) = await check_status(config)
    assert (finding.state, said in finding.detail) == (State.BAD, True)
    with pytest.RaisesGroup(pytest.RaisesExc(ListenError, match=said), flatten_subgroups=True):
        await Supervisor(config, log=journal.log, reread=lambda: config).run()


@pytest.mark.trio
async def test_within_a_program_there_is_no_page(journal: Journal) -> None:
    config = settings('[[listeners]]\naddress = "127.0.0.1:0"\n[status]\naddress = "127.0.0.1:0"')
    with pytest.raises(StartError, match=r"status\.address: only the command"):
        await serve(config, log=journal.log)


# Change


def test_a_reload_turns_it_on_moves_it_and_turns_it_off(store: Store, folder: Path) -> None:
    first, second = free_port(), free_port()
    write_configuration(folder, text(store, 0))
    with ServerProcess("serve", folder=folder) as server:
        assert status(first, "/healthz") == 0
        write_configuration(folder, text(store, first))
        reload(server)
        eventually(lambda: status(first, "/healthz") == 200, "it is on")
        deliver(server.port)
        until(first, ACCEPTED, 1)
        write_configuration(folder, text(store, second))
        reload(server)
        eventually(lambda: status(second, "/healthz") == 200, "it has moved")
        assert status(first, "/healthz") == 0
        assert metrics(second)[ACCEPTED] == 1
        with socket.create_server(("127.0.0.1", 0)) as taken:
            write_configuration(folder, text(store, taken.getsockname()[1]))
            reload(server, "not reloaded")
        assert status(second, "/healthz") == 200
        write_configuration(folder, text(store, 0))
        reload(server)
        eventually(lambda: status(second, "/healthz") == 0, "it is off")
        deliver(server.port)
        assert server.stop() == 0


def test_an_address_that_is_taken_is_no_start(store: Store, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        write_configuration(folder, text(store, port))
        done = run_command("serve", folder=folder)
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}: " in done.stderr.decode()
        assert "choose another address" in run_command("check", folder=folder).stdout.decode()


def test_check_knows_our_own(plain: tuple[ServerProcess, int, Path]) -> None:
    _, port, folder = plain
    shown = run_command("check", folder=folder).stdout.decode()
    assert f"ok  status.address          127.0.0.1:{port}: our server is running there" in re.sub(
        " {3,}", " " * 10, shown
    )


# What it never harms


def test_mail_goes_on_whatever_becomes_of_the_page(store: Store, folder: Path) -> None:
    port = free_port()
    is_root = os.geteuid() == 0
    write_configuration(folder, text(store, port, 'user = "www-data"\n' if is_root else ""))
    with ServerProcess("serve", folder=folder, env=UNMEASURED) as server:
        eventually(lambda: status(port, "/healthz") == 200, "it is on")
        pid = page_of(server)
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
        assert "0" not in fields["Uid"] + fields["Gid"] + fields["Groups"]
        os.kill(pid, signal.SIGSTOP)
        for _ in range(3):
            deliver(server.port)
        os.kill(pid, signal.SIGKILL)
        deliver(server.port)
        server.wait_for_log("status page ended; starting it again")
        eventually(lambda: status(port, "/healthz") == 200, "it is on again")
        assert page_of(server) != pid
        until(port, ACCEPTED, 4)
        assert server.stop() == 0


def test_what_it_reads_is_bounded(plain: tuple[ServerProcess, int, Path]) -> None:
    server, port, _ = plain
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock:
        head = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "
        try:
            for piece in (head, *(b"x" * 65_536,) * 50):
                sock.sendall(piece)
            answer = sock.recv(100)
        except ConnectionError:
            answer = b""
        assert not answer.startswith(b"HTTP/1.1 200")
    crowd = [socket.create_connection(("127.0.0.1", port), timeout=SECONDS) for _ in range(200)]
    deliver(server.port)  # mail has its own descriptors
    for one in crowd:
        one.close()
    eventually(lambda: status(port, "/healthz") == 200, "it serves again")


def test_the_view_has_mails(store: Store, plain: tuple[ServerProcess, int, Path]) -> None:
    server, port, _ = plain
    before = metrics(port).get(ACCEPTED, 0)
    deliver(server.port, b"Subject: <b>&amp;\x1b[31m\r\n\r\n")
    until(port, ACCEPTED, before + 1)
    view = json.loads(get(port, "/state.json?moment=0&mail=0")[2])
    shown = view["mails"][-1]
    assert shown["mail"]["subject"].startswith("<b>&amp;")
    assert "\x1b" not in shown["mail"]["subject"]
    assert (shown["number"], shown["mail"]["verdict"]) == (before + 1, "accepted")
    assert view["upstreams"][0]["address"] == store.address
    assert view["state"] == "serving"
    last = view["moments"][-1]["number"]
    again = json.loads(get(port, f"/state.json?moment={last}&mail={shown['number']}")[2])
    assert again["mails"] == []
    assert all(moment["number"] > last for moment in again["moments"])
