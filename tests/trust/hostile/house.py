"""The server under attack, as an operator would set it up, and what its processes have of the machine."""

from __future__ import annotations

import contextlib
import operator
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, final

from benchmarks.processes import Meter, free_port, tree
from tests.certificates import Authority
from tests.phpfpm import PhpFpm
from tests.server_process import ServerProcess, eventually
from tests.trust.hostile.field import HOST

CHILDREN: Final = 6
WORKERS: Final = 2
_TIRING_SECONDS: Final = 0.5  # in which a worker has found out that a crowd has left
_RELIEF_SECONDS: Final = 1200.0  # for that: the more often, the longer it takes
#: Who behaves well is a known peer; an attacker is not. It comes from another address.
_CONFIGURATION: Final = """
hostname = "mx.example.com"
allowed_hosts = ["example.com"]
workers = {workers}
drain_seconds = 5
[[listeners]]
address = "{host}:{port}"
tls = "starttls"
certificate = "{certificate}"
[limits]
exempt_from = ["127.0.0.1"]
{limits}
[log]
format = "json"
file = "{log}"
[fastcgi]
upstreams = ["{upstream}"]
max_connections = {children}
clean_eof_means_unexecuted = true
[scripts]
save = "{save}"
validate = "{validate}"
auth = "{auth}"
"""
_SAVE: Final = """<?php
if (str_contains($_POST['mail_from'], 'evil')) {
    file_put_contents('%s', $_POST['mail_from'] . "\\n", FILE_APPEND);
}
echo strlen($_POST['body']) == $_POST['size'] ? 'SAVED' : '554 5.6.0 Not as it was sent';
"""
_LOG_OF_FAULTS: Final = (
    "session failed",
    "observer failed",
    "worker died",
    "worker does not",
    "worker failed",
    "worker not understood",
    "Traceback",
    "log lines lost",
)


class Guard(Enum):
    """What the limits are.

    Those of an operator turn most attackers away; without any by address, the server has to bear them.
    """

    OPEN = """connections = 12000
connections_per_ip = 0
connections_per_minute_per_ip = 0
messages_per_minute_per_ip = 0
recipients_per_minute_per_ip = 0
messages_per_connection = 0"""
    LIMITED = "connections = 1000"  # and what the defaults are


@final
@dataclass(frozen=True, slots=True)
class State:
    """What the server's processes have.

    Args:
        descriptors: of each process.
    """

    resident_mib: float
    descriptors: Mapping[int, int]


@final
class House:
    """A running server.

    Attributes:
        port: where it listens.
    """

    def __init__(self, server: ServerProcess, port: int, php: PhpFpm, log: Path) -> None:
        self.server = server
        self.port = port
        self.php = php
        self._log = log
        self.meter = Meter(server.pid)

    def state(self) -> State:
        """At present."""
        resident = self.meter.resident_mib()
        assert resident is not None
        return State(resident, {pid: descriptors_of(pid) for pid in tree(self.server.pid)})

    def cpu_share(self, seconds: float) -> float:
        """How much of one core all its processes use, for so long."""
        cpu, began = self.meter.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        return (self.meter.cpu_seconds() - cpu) / (time.monotonic() - began)

    def settled(self, before: State) -> State:
        """Wait until it has as many processes as before, with no more descriptors; AssertionError if never."""
        eventually(lambda: _is_back(self.state().descriptors, before.descriptors), "the descriptors are back")
        return self.state()

    def relieved(self, before: State) -> State:
        """Wait until others serve in the place of workers that want to be relieved; AssertionError if never."""
        time.sleep(_TIRING_SECONDS)
        eventually(self._is_relieved, "workers are relieved", _RELIEF_SECONDS)
        return self.settled(before)

    def _is_relieved(self) -> bool:
        log = self.log
        return log.count('"worker relieved"') >= log.count('"worker wants to be relieved"')

    @property
    def smuggled(self) -> str:
        """What came to the script that nobody has sent."""
        path = self.php.data / "smuggled"
        return path.read_text() if path.exists() else ""

    @property
    def log(self) -> str:
        """What the server has logged."""
        return self._log.read_text(errors="replace")

    def faults(self) -> list[str]:
        """Lines of the log that tell of faults of ours."""
        with self._log.open(errors="replace") as lines:
            return [line for line in lines if any(fault in line for fault in _LOG_OF_FAULTS)]


def descriptors_of(pid: int) -> int:
    """How many files a process has open; 0 when it is gone."""
    with contextlib.suppress(OSError):
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return 0


def _is_back(now: Mapping[int, int], before: Mapping[int, int]) -> bool:
    return len(now) == len(before) and all(map(operator.le, sorted(now.values()), sorted(before.values())))


@contextmanager
def house(folder: Path, guard: Guard, *, limits: str = "", descriptors: int | None = None) -> Iterator[House]:
    """Run a server with a php-fpm; at its end it has to stop in time.

    Args:
        limits: further ones.
        descriptors: how many files each of its processes may have open.
    """
    log, port = folder / "log", free_port()
    with PhpFpm(children=CHILDREN) as php:
        (folder / "fcgimail.toml").write_text(
            _CONFIGURATION.format(
                host=HOST,
                port=port,
                workers=WORKERS,
                certificate=Authority(folder).certificate,
                limits=f"{guard.value}\n{limits}",
                log=log,
                upstream=php.address,
                children=CHILDREN,
                save=php.script("save.php", _SAVE % (php.data / "smuggled")),
                validate=php.script("validate.php", "<?php echo 'PASSED';"),
                auth=php.script("auth.php", "<?php echo '535 5.7.8 Nobody';"),
            )
        )

        def listens(_: ServerProcess) -> None:
            eventually(lambda: log.exists() and '"listening"' in log.read_text(), "the server listens")

        arguments = ("serve", "-c", "fcgimail.toml")
        with ServerProcess(*arguments, folder=folder, ready=listens, descriptors=descriptors) as server:
            yield House(server, port, php, log)
            assert server.stop() == 0
