"""Where it all happens: a php-fpm, our server, a spool on a disk of its own, and a clock that can be set."""

import contextlib
import os
import random
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.certificates import HOSTNAME, Authority
from tests.phpfpm import PhpFpm, children_of
from tests.server_process import PROGRAM, environment, free_port
from tests.trust.chaos.attempts import Route
from tests.trust.chaos.wire import Doors

CHILDREN: Final = 4
_HERE: Final = Path(__file__).parent
_SPOOL_MIB: Final = 48
START_SECONDS: Final = 120.0  # a start takes one or two on a machine of its own
_TICK_SECONDS: Final = 0.05
_BAD: Final = (
    "this is no TOML",
    "hostnome = 'x'\n",
    "user = 'no-such-user'\n",
    "workers = -1\n",
    "[[listeners]]\naddress = '192.0.2.1:25'\n",
    "[[listeners]]\naddress = '127.0.0.1:0'\ntls = 'starttls'\ncertificate = '/nonexistent/mx.pem'\n",
)


class StageError(Exception):
    """The server does what it must not do, whatever happens."""


class Store:
    """What the script writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stored = folder / "stored"
        self.cut = folder / "cut"
        for one in (self.stored, self.cut, folder / "drafts"):
            one.mkdir()
            one.chmod(0o777)


class Spool:
    """The folder of the spool, on a small file system where we may mount one."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "spool"
        self.path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={_SPOOL_MIB}m,mode=0777", "fcgimail-spool", str(self.path)]
        done = subprocess.run(command, capture_output=True, check=False)
        self.missing = "" if done.returncode == 0 else f"no small file system: {done.stderr.decode().strip()}"
        self._ballast = self.path / "ballast"

    def fill(self, octets_left: int) -> None:
        """Leave no more than this."""
        free = shutil.disk_usage(self.path).free
        with self._ballast.open("wb") as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(1, free - octets_left))

    def clear(self) -> None:
        """Give all of it back."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Take it away."""
        if not self.missing:
            subprocess.run(["umount", "--lazy", str(self.path)], check=False)


class Clock:
    """The time of day as our server sees it; that of the machine is left alone."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._file.write_bytes(struct.pack("q", 0))
        self._library = folder / "clock.so"
        compiler = shutil.which("gcc") or shutil.which("cc")
        self.missing = "" if compiler else "no C compiler for the clock: on Debian or Ubuntu, apt-get install gcc"
        if compiler:
            command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(self._library), str(_HERE / "clock.c"), "-ldl"]
            subprocess.run(command, check=True)

    def set(self, offset: int) -> None:
        """So many seconds off from now on."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", offset))

    @property
    def environment(self) -> dict[str, str]:
        """For a program that goes by it."""
        return {} if self.missing else {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(self._file)}


class Stage:
    """All of it; a context manager that starts it and takes it away.

    Args:
        folder: open to every user.
        fsync: whether the script pushes each mail to the disk.
    """

    def __init__(self, folder: Path, *, seed: int, fsync: bool) -> None:
        self._folder = folder
        self._dice = random.Random(seed)
        self.store = Store(folder)
        self.spool = Spool(folder)
        self.clock = Clock(folder)
        self._authority = Authority(folder)
        self._ports: dict[Route, int] = {route: free_port() for route in Route if route is not Route.LMTP}
        self._server: subprocess.Popen[bytes] | None = None
        self._logs: list[Path] = []
        names = {"CHAOS_FOLDER": str(folder), "CHAOS_FSYNC": str(int(fsync))}
        self.php = PhpFpm(children=CHILDREN, env=names, ini={"opcache.enable": "1"}, pool="pm.max_requests = 500")
        self._scripts = [self.php.script(name, (_HERE / name).read_text()) for name in ("save.php", "validate.php")]

    def __enter__(self) -> "Stage":
        try:
            self.php.start()
            self.start_server()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave nothing behind."""
        if self._server is not None:
            self.kill_all()
        self.php.__exit__(None, None, None)
        self.spool.close()

    @property
    def doors(self) -> Doors:
        """Where the server listens."""
        return Doors(self._ports, self._folder / "lmtp.sock", self._authority.trusting())

    # The server

    def start_server(self) -> None:
        """Start it with a good file, and wait until it listens. Raises StageError when it does not."""
        self.write_good()
        log = self._folder / f"server-{len(self._logs)}.log"
        self._logs.append(log)
        with log.open("wb") as file:
            self._server = subprocess.Popen(
                [*PROGRAM, "serve", "-c", str(self._configuration)],
                cwd=self._folder,
                env=environment(self.clock.environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        self.wait_for_log('"event":"listening"', 1)

    @property
    def _configuration(self) -> Path:
        return self._folder / "fcgimail.toml"

    @property
    def server_pid(self) -> int:
        """Of the parent."""
        assert self._server is not None
        return self._server.pid

    def workers(self) -> list[int]:
        """Of the parent's children."""
        return children_of(self.server_pid)

    def kill_parent(self) -> None:
        """And leave its children to themselves."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()

    def kill_all(self) -> None:
        """The parent and its children at once, as a power cut would."""
        workers = self.workers()
        self.kill_parent()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop_server(self) -> int:
        """As an administrator does; its exit code. Raises StageError when it does not end."""
        assert self._server is not None
        self._server.terminate()
        try:
            return self._server.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            raise StageError("the server does not end after TERM") from None

    def hang_up(self) -> None:
        """Have it read its file anew."""
        assert self._server is not None
        self._server.send_signal(signal.SIGHUP)

    def count_log(self, text: str) -> int:
        """How often it stands in the log of the server that runs."""
        return self._logs[-1].read_text(errors="replace").replace('": "', '":"').count(text)

    def wait_for_log(self, text: str, times: int) -> None:
        """Wait until it stands there so often. Raises StageError when it does not."""
        assert self._server is not None
        deadline = time.monotonic() + START_SECONDS
        while self.count_log(text) < times:
            if self._server.poll() is not None or time.monotonic() > deadline:
                tail = self._logs[-1].read_text(errors="replace")[-2000:]
                raise StageError(f"no {text} in the log of the server, exit code {self._server.poll()}: {tail}")
            time.sleep(_TICK_SECONDS)

    def log_lines(self) -> Iterator[str]:
        """Of all servers, one after the other."""
        for log in self._logs:
            with log.open(errors="replace") as file:
                yield from file

    # Its file

    def write_good(self) -> None:
        """A file that can be served, each time another one."""
        self._configuration.write_text(self._good())

    def write_bad(self) -> str:
        """A file that cannot be; what is wrong with it."""
        good = self._good()
        bad = self._dice.choice((*_BAD, "", "half", "gone"))
        match bad:
            case "":
                text = ""
            case "half":
                text = good[: good.index("[scripts]") + len("[scripts]") + 8]
            case "gone":
                self._configuration.unlink(missing_ok=True)
                return "there is no file"
            case _:
                text = good + bad if bad.startswith("[") else bad + good
        self._configuration.write_text(text)
        return repr(bad)

    def _good(self) -> str:
        pick = self._dice.choice
        save, validate = self._scripts
        certificate = f'certificate = "{self._authority.certificate}"'
        plain, starttls, implicit = (self._ports[one] for one in (Route.PLAIN, Route.STARTTLS, Route.IMPLICIT))
        return f"""
hostname = "{HOSTNAME}"
allowed_hosts = ["example.com"]
workers = {pick((2, 3))}
drain_seconds = 5
[[listeners]]
address = "127.0.0.1:{plain}"
[[listeners]]
address = "127.0.0.1:{starttls}"
tls = "starttls"
{certificate}
[[listeners]]
address = "127.0.0.1:{implicit}"
tls = "implicit"
{certificate}
[[listeners]]
address = "unix:{self._folder}/lmtp.sock"
protocol = "lmtp"
[limits]
connections_per_ip = 0
idle_seconds = 20
data_seconds = 20
[spool]
directory = "{self.spool.path}"
memory_octets = {pick((16384, 262144))}
total_octets = {pick((0, 1 << 40))}
[fastcgi]
upstreams = ["{self.php.address}"]
max_connections = {pick((2, CHILDREN, CHILDREN, CHILDREN + 2))}
connect_seconds = 1
wait_seconds = 3
keep_alive = {pick(("true", "false"))}
clean_eof_means_unexecuted = {pick(("true", "false"))}
[scripts]
save = "{save}"
save_seconds = 2
validate = "{pick(("", validate))}"
validate_seconds = 2
body = "{pick(("form", "multipart", "raw"))}"
line_ends = "crlf"
[log]
format = "json"
"""
