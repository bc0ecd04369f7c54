"""FastCGI application servers that others wrote, each started for real on a socket of its own.

Each runs the trial of its language (tests/trials): the example of docs/scripts.md, save for some recipients that make
it fail. The columns of the table say what differs between the servers, and why.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Self, assert_never

from tests.clients import SECONDS, missing, require
from tests.phpfpm import PhpFpm, require_php
from tests.server_process import eventually, free_port
from trio_fcgimail.server.php import PhpKind

ROOT: Final = Path(__file__).parents[1]
EXAMPLES: Final = ROOT / "examples"
TRIALS: Final = ROOT / "tests" / "trials"
STOP_SECONDS: Final = 10.0
#: Enough that one that sleeps and two that were killed leave somebody.
WORKERS: Final = 4
#: Of the domain example.com; whoever else is refused by the validate scripts.
KNOWN: Final = ("info", "rejects", "noisy", "slow", "dies", "half")


class Transport(Enum):
    """What the server listens on."""

    UNIX = auto()
    TCP = auto()


class Death(Enum):
    """What becomes of the server when the process that runs the script is killed."""

    REPLACED = auto()
    """A master starts another one."""
    FATAL = auto()
    """It was the only one: the server is down until a supervisor starts it again."""


class Half(Enum):
    """What we see of a script that was killed behind "SAVED"."""

    BROKEN = auto()
    """The end of the connection, without END_REQUEST: no answer."""
    COMPLETE = auto()
    """A complete answer. The script did say that the mail is stored, so this is for the script to keep true."""


class Ending(Enum):
    """How STDOUT ends."""

    EXPLICIT = auto()
    """With an empty record, as the specification has it (FastCGI 1.0, 3.3)."""
    IMPLIED = auto()
    """By END_REQUEST alone."""


class Asked(Enum):
    """What becomes of a connection that was asked to be kept."""

    KEPT = auto()
    UNUSED = auto()
    """It stays, but each request starts a program, which takes so long that we gain nothing and close it."""
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server runs.

    Attributes:
        folder: For its socket and what is built; everybody may enter it.
        mails: Where its scripts put the mails.
        env: What its scripts see.
    """

    folder: Path
    mails: Path
    env: Mapping[str, str]


class Running:
    """A server that runs while the context lasts.

    Attributes:
        script: The script as the configuration names it.
        address: Likewise, of the server.
    """

    def __init__(self, address: str, script: str, command: Sequence[str] = (), env: Mapping[str, str] | None = None):
        self.address = address
        self.script = script
        self._command = list(command)
        self._env = os.environ | dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, also again, as a supervisor does; returns when it takes connections."""
        self.stop()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._env,
            start_new_session=True,
        )
        eventually(self._listens, f"{self._command[0]} listens on {self.address}")

    def stop(self) -> None:
        """End it with all its workers."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(STOP_SECONDS)
        if self.address.startswith("unix:"):
            Path(self.address.removeprefix("unix:")).unlink(missing_ok=True)

    def connect(self) -> socket.socket:
        """A connection of a client."""
        kind, _, rest = self.address.partition(":")
        family, where = (socket.AF_UNIX, rest) if kind == "unix" else (socket.AF_INET, _host_and_port(rest))
        sock = socket.socket(family)
        try:
            sock.settimeout(STOP_SECONDS)
            sock.connect(where)
        except OSError:
            sock.close()
            raise
        return sock

    def _listens(self) -> bool:
        with suppress(OSError), self.connect():
            return True
        return False


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def spawn_fcgi(place: Place, *program: str, workers: int = WORKERS) -> Running:
    """A program under spawn-fcgi, on a unix socket; for several processes of it with multiwatch between the two."""
    path = place.folder / "app.sock"
    watch = (require("multiwatch", "multiwatch"), "-f", str(workers), "--") if workers > 1 else ()
    command = [require("spawn-fcgi", "spawn-fcgi"), "-n", "-s", str(path), "--", *watch, *program]
    return Running(f"unix:{path}", "/handler", command, place.env)


def compiled(place: Place, *arguments: str) -> str:
    """A program in C, linked with libfcgi; the path of the executable."""
    if not Path("/usr/include/fcgi_stdio.h").exists():
        missing("libfcgi is needed: on Debian or Ubuntu, apt-get install libfcgi-dev")
    program = place.folder / "handler"
    command = [require("cc", "gcc libc6-dev"), "-Wall", "-Wextra", "-Werror", "-o", str(program), *arguments, "-lfcgi"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return str(program)


def perl() -> str:
    """Perl, with FCGI."""
    path = require("perl", "perl")
    if subprocess.run([path, "-MFCGI", "-e", "1"], capture_output=True, check=False).returncode:
        missing("Perl's FCGI is needed: on Debian or Ubuntu, apt-get install libfcgi-perl")
    return path


def python_with(module: str) -> str:
    """This Python, if it has a module."""
    if find_spec(module) is None:
        missing(f"{module} is needed: pip install {module}")
    return sys.executable


@contextmanager
def _php_fpm(place: Place) -> Iterator[Running]:
    with PhpFpm(children=WORKERS, env=place.env) as php:
        yield Running(php.address, php.script("trial.php", (TRIALS / "trial.php").read_text()))


def _php_cgi(place: Place) -> Running:
    where = f"127.0.0.1:{free_port()}"
    settings = {"display_errors": "0", "log_errors": "1", "output_buffering": "65536", "post_max_size": "0"}
    options = [word for name, value in settings.items() for word in ("-d", f"{name}={value}")]
    command = [str(require_php(PhpKind.CGI).path), "-b", where, *options]
    env = {**place.env, "PHP_FCGI_CHILDREN": str(WORKERS)}
    return Running(f"tcp:{where}", str(TRIALS / "trial.php"), command, env)


def _libfcgi(place: Place) -> Running:
    example = EXAMPLES / "c" / "handler.c"
    return spawn_fcgi(place, compiled(place, f'-DEXAMPLE="{example}"', str(TRIALS / "trial.c")))


def _perl_fcgi(place: Place) -> Running:
    return spawn_fcgi(place, perl(), str(TRIALS / "trial.pl"))


def _fcgisgi(place: Place) -> Running:
    return spawn_fcgi(place, python_with("fcgisgi"), str(TRIALS / "trial.py"), "fcgisgi", workers=1)


def _flup(place: Place) -> Running:
    return spawn_fcgi(place, python_with("flup"), str(TRIALS / "trial.py"), "flup", workers=1)


def _node(place: Place) -> Running:
    # Where Debian has it; Debian's own node looks there by itself, others do not.
    env = {**place.env, "NODE_PATH": "/usr/share/nodejs"}
    program = require("node", "nodejs")
    found = subprocess.run(
        [program, "-e", 'require("node-fastcgi")'], env=os.environ | env, capture_output=True, check=False
    )
    if found.returncode:
        missing("node-fastcgi is needed: on Debian or Ubuntu, apt-get install node-fastcgi")
    port = free_port()
    command = [program, str(TRIALS / "trial.js"), str(port)]
    return Running(f"tcp:127.0.0.1:{port}", "/trial.js", command, env)


def _fcgiwrap(place: Place) -> Running:
    perl()
    # It runs what the mail server names, if that may be executed; -f sends STDERR to us, not into a log of its own.
    program = place.folder / "trial.pl"
    shutil.copyfile(TRIALS / "trial.pl", program)
    program.chmod(0o755)
    where = f"tcp:127.0.0.1:{free_port()}"
    command = [require("fcgiwrap", "fcgiwrap"), "-f", "-c", str(WORKERS), "-s", where]
    return Running(where, str(program), command, place.env)


def configuration(app: Running, *, save_seconds: float = SECONDS, line_ends: str = "crlf") -> str:
    """A configuration of the mail server in front of it."""
    return f"""
hostname = "mx.example.com"
allowed_hosts = ["example.com"]
[[listeners]]
address = "127.0.0.1:0"
[limits]
connections_per_ip = 0
[fastcgi]
upstreams = ["{app.address}"]
max_connections = {WORKERS - 1}
[scripts]
validate = "{app.script}"
save = "{app.script}"
save_seconds = {save_seconds}
line_ends = "{line_ends}"
"""


def _readable_examples(folder: Path) -> Path:
    """A copy of examples/ that every user may read, wherever this repository lies."""
    copy = shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755)
    return copy


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationServer:
    """A row of the table."""

    id: str
    start: Callable[[Place], AbstractContextManager[Running]]
    transport: Transport
    death: Death
    half: Half = Half.BROKEN
    ending: Ending = Ending.EXPLICIT
    asked: Asked = Asked.KEPT

    @contextmanager
    def running(self, folder: Path) -> Iterator[tuple[Running, Place]]:
        """Start it.

        Args:
            folder: Empty, and open to all: php-fpm may run scripts as another user.
        """
        mails = folder / "mails"
        mails.mkdir()
        mails.chmod(0o777)
        env = {
            "FCGIMAIL_EXAMPLES": str(_readable_examples(folder)),
            "FCGIMAIL_DIR": str(mails),
            "FCGIMAIL_RCPTS": " ".join(f"{name}@example.com" for name in KNOWN),
        }
        place = Place(folder, mails, env)
        with self.start(place) as running:
            yield running, place

    def revive(self, running: Running) -> None:
        """Do what a supervisor does after a worker was killed, where the server does not do it itself."""
        match self.death:
            case Death.REPLACED:
                pass
            case Death.FATAL:
                running.start()
            case other:
                assert_never(other)


SERVERS: Final = (
    # It never ends a stream: END_REQUEST ends them all. The specification asks for more, nobody waits for it.
    ApplicationServer(
        id="php-fpm",
        start=_php_fpm,
        transport=Transport.UNIX,
        death=Death.REPLACED,
        ending=Ending.IMPLIED,
    ),
    # The code that speaks FastCGI is php-fpm's; without PHP_FCGI_CHILDREN there would be nobody to replace a worker.
    ApplicationServer(
        id="php-cgi",
        start=_php_cgi,
        transport=Transport.TCP,
        death=Death.REPLACED,
        ending=Ending.IMPLIED,
    ),
    # multiwatch replaces workers; spawn-fcgi alone starts them and leaves them alone.
    ApplicationServer(id="libfcgi", start=_libfcgi, transport=Transport.UNIX, death=Death.REPLACED),
    ApplicationServer(id="perl-fcgi", start=_perl_fcgi, transport=Transport.UNIX, death=Death.REPLACED),
    # Threads of one process.
    ApplicationServer(id="fcgisgi", start=_fcgisgi, transport=Transport.UNIX, death=Death.FATAL),
    ApplicationServer(id="flup", start=_flup, transport=Transport.UNIX, death=Death.FATAL),
    # One thread of one process. Its responses are those of node's HTTP server, which takes the FastCGI connection for
    # one of HTTP without "Connection: keep-alive", and closes it.
    ApplicationServer(id="node-fastcgi", start=_node, transport=Transport.TCP, death=Death.FATAL, asked=Asked.CLOSED),
    # The script is a CGI program, started for each request: its death is the end of its output, like any other end.
    ApplicationServer(
        id="fcgiwrap",
        start=_fcgiwrap,
        transport=Transport.TCP,
        death=Death.REPLACED,
        half=Half.COMPLETE,
        asked=Asked.UNUSED,
    ),
)
