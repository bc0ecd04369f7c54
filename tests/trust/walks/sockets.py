"""A server in a process of its own, over sockets, with a real php-fpm behind it."""

from __future__ import annotations

import base64
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, final

from tests.certificates import HOSTNAME, Authority
from tests.phpfpm import PhpFpm
from tests.server_process import SECONDS, ServerProcess, eventually, free_port
from tests.trust.walks.driver import SAVE_SECONDS, seen_of, settings_of
from tests.trust.walks.model import House, Seen
from tests.trust.walks.moods import MOODS, YES_OR_NO, Fault, Says

_PATIENCE_SECONDS: Final = 600  # nothing here is about a client that is too slow
_RELOADS: Final = {"reloaded", "reload failed", "not reloaded"}

#: Notes what it was asked, then does what its mood says.
SCRIPT: Final = """<?php
$isMail = $_SERVER['REQUEST_METHOD'] === 'POST';
$fields = $isMail ? $_POST : $_GET;
file_put_contents('%(log)s', json_encode(array_map('base64_encode', $fields)) . "\\n", FILE_APPEND | LOCK_EX);
$about = match ($fields['stage']) {
    'helo' => $fields['helo'], 'validate' => $fields['rcpt_to'], default => $fields['mail_from']
};
$name = preg_split('/[.@]/', $about)[in_array($fields['stage'], ['validate', 'save']) ? 1 : 0];
[$fault, $text] = json_decode('%(moods)s', true)[$name][$isMail ? 1 : 0];
$yes = $isMail ? 'SAVED' : 'PASSED';
switch ($fault) {
    case 'EACH':
        $lines = json_decode('%(lines)s');
        echo implode("\\n", array_map(fn ($at) => $lines[$at %% count($lines)], range(0, $fields['rcpt_count'] - 1)));
        break;
    case 'HALF':
        echo $yes;
        while (ob_get_level()) { ob_end_flush(); }
        flush();
        // falls through
    case 'CLOSES': posix_kill(getmypid(), SIGKILL);
    case 'HANGS': sleep(%(seconds)d); break;
    case 'STATUS': http_response_code(500); echo $yes; break;
    default: echo base64_decode($text);
}
"""


def script(log: Path) -> str:
    """The text of the script."""
    moods = {mood.name: [_spelled(mood.question), _spelled(mood.save)] for mood in MOODS}
    return SCRIPT.replace("SIGKILL", str(int(signal.SIGKILL))) % {
        "log": log,
        "moods": json.dumps(moods),
        "lines": json.dumps([line.decode() for line in YES_OR_NO]),
        "seconds": SAVE_SECONDS + 2,
    }


def _spelled(says: Says) -> list[str]:
    return [says.name, ""] if isinstance(says, Fault) else ["", base64.b64encode(says).decode()]


@final
class Tail:
    """What is written to a file from now on, line by line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0

    def lines(self) -> Iterator[bytes]:
        """The whole lines that are new."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._at += len(line)
                yield line


@final
class Place:
    """A server for one kind of house, which serves one walk after the other."""

    def __init__(self, house: House, php: PhpFpm, authority: Authority, folder: Path) -> None:
        self.php = php
        self.authority = authority
        self.port = free_port()
        self.log = folder / "server.log"
        self.asked = php.data / f"{folder.name}.asked"
        self._settings = folder / "fcgimail.toml"
        self._text = self._toml(house, php.script(f"{folder.name}.php", script(self.asked)))
        self._settings.write_text(self._text)
        self.descriptors_at_first = 0
        self.process = ServerProcess("serve", "-c", str(self._settings), folder=folder, ready=self._is_up)

    def _toml(self, house: House, path: str) -> str:
        tls = f'tls = "starttls"\ncertificate = "{self.authority.certificate}"' if house.offers_tls else ""
        return f"""
            hostname = "{HOSTNAME}"
            allowed_hosts = ["example.com"]
            workers = {2 if house.asks else 1}
            drain_seconds = {_PATIENCE_SECONDS}
            [[listeners]]
            address = "127.0.0.1:{self.port}"
            protocol = "{"lmtp" if house.lmtp else "smtp"}"
            {tls}
            [log]
            format = "json"
            file = "{self.log}"
        """ + settings_of(house, idle_seconds=_PATIENCE_SECONDS).replace("{script}", path).replace(
            "[fastcgi]", f'[fastcgi]\nupstreams = ["{self.php.address}"]'
        )

    def _is_up(self, _: ServerProcess) -> None:
        def answers() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), SECONDS) as sock:
                return sock.recv(1) == b"2"
            return False

        eventually(answers, "the server listens")
        eventually(lambda: b"connection closed" in self.log.read_bytes(), "the server has noted the first visit")
        self.descriptors_at_first = self.descriptors()

    def write(self, *, is_good: bool) -> None:
        """Leave a file for the next reload."""
        self._settings.write_text(self._text if is_good else "hostnome = 'x'\n" + self._text)

    def is_empty(self) -> bool:
        """Whether no process has more open than the first had before the first client."""
        return self.descriptors() <= self.descriptors_at_first

    def descriptors(self) -> int:
        """How many files and sockets the process of the server has open that has the most."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        most = 0
        for pid in (self.process.pid, *children):
            with suppress(FileNotFoundError):  # it has just ended
                most = max(most, len(list(Path(f"/proc/{pid}/fd").iterdir())))
        return most


@final
class SocketDriver:
    """One walk through a place."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._is_down = False
        self._asked = Tail(place.asked)
        self._log = Tail(place.log)
        self._events: list[str] = []
        self._visits = 0
        self._seen: list[Seen] = []
        self._socket: socket.socket | None = None
        self._unread = b""
        place.write(is_good=True)

    @property
    def can_wait(self) -> bool:
        return False

    @property
    def can_reload(self) -> bool:
        return True

    @property
    def sock(self) -> socket.socket:
        """The client's end."""
        assert self._socket is not None
        return self._socket

    def connect(self) -> None:
        self._visits += 1
        self._unread = b""
        self._socket = socket.create_connection(("127.0.0.1", self._place.port), SECONDS)

    def send(self, data: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the server has closed, as the model knows
            self.sock.sendall(data)

    def reply(self) -> int:
        while True:
            line = self._line()
            if line[3:4] != b"-":
                return int(line[:3])

    def _line(self) -> bytes:
        while b"\r\n" not in self._unread:
            data = self.sock.recv(65_536)
            if not data:
                raise EOFError(self._unread)
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\r\n")
        return line

    def rest(self) -> bytes:
        while data := self.sock.recv(65_536):
            self._unread += data
        return self._unread

    def shake_hands(self) -> None:
        self._socket = self._place.authority.trusting().wrap_socket(self.sock, server_hostname=HOSTNAME)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def vanish(self) -> None:
        self._close()
        self._wait_for({"connection closed"}, self._visits, "the server is through with this client")

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _wait_for(self, events: set[str], times: int, what: str) -> None:
        def is_there() -> bool:
            self._events += [json.loads(line)["event"] for line in self._log.lines()]
            return sum(event in events for event in self._events) >= times

        eventually(is_there, what)

    def set_down(self, is_down: bool) -> None:
        self._is_down = is_down
        if is_down:
            self._place.php.stop()
        else:
            self._place.php.start()

    def reload(self, *, is_good: bool) -> None:
        """SIGHUP, with a good file or a bad one; returns when it was dealt with."""
        self._place.write(is_good=is_good)
        self._wait_for(_RELOADS, 0, "what there is was read")
        before = sum(event in _RELOADS for event in self._events)
        self._place.process.send(signal.SIGHUP)
        self._wait_for(_RELOADS, before + 1, "the server has looked at its settings")

    def seen(self) -> list[Seen]:
        for line in self._asked.lines():
            self._seen.append(seen_of({name: base64.b64decode(text) for name, text in json.loads(line).items()}))
        return self._seen

    def check_nothing_is_left(self) -> None:
        """That shows at the end, in the descriptors of the whole place."""

    def close(self) -> None:
        """The walk is over; the server stays."""
        if self._socket is not None:
            self.vanish()
        if self._is_down:
            self.set_down(False)


@final
class Street:
    """Places of all kinds, with one php-fpm behind them; each is opened when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._places: dict[House, Place] = {}
        self._authority = Authority(folder)

    def __enter__(self) -> Street:
        self._php = self._stack.enter_context(PhpFpm(children=12))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def driver(self, house: House) -> SocketDriver:
        """A walk through a house of this kind."""
        if house not in self._places:
            folder = self._folder / f"house{len(self._places)}"
            folder.mkdir()
            place = Place(house, self._php, self._authority, folder)
            self._stack.enter_context(place.process)
            self._places[house] = place
        return SocketDriver(self._places[house])

    def stop(self) -> None:
        """End all servers, none of which may have anything left open or end otherwise than well."""
        for place in self._places.values():
            eventually(place.is_empty, "all is closed again")
            assert place.process.stop() == 0
