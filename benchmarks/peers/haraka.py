"""Haraka with a plugin that keeps FastCGI connections, from npm into a cache of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.outcome import BenchmarkError
from benchmarks.peers.peer import Peer, Place, Target, through_smtp
from benchmarks.processes import HOST, free_port, started, wait_for_port
from benchmarks.scenarios import GIB, MIB, Channel, Scenario

VERSION: Final = "3.1.6"
_PLUGIN: Final = Path(__file__).parents[1] / "haraka" / "fastcgi.js"


def cache() -> Path:
    """Where npm puts it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fcgimail-bench" / f"haraka-{VERSION}"


def _program() -> Path:
    return cache() / "node_modules" / "Haraka" / "bin" / "haraka"


def install() -> None:
    """Bring it from npm. Raises BenchmarkError."""
    if _program().exists():
        return
    npm = shutil.which("npm")
    if npm is None:
        raise BenchmarkError("npm is missing: apt-get install npm")
    options = ["--no-audit", "--no-fund", "--omit=optional", "--loglevel=error"]
    subprocess.run([npm, "install", *options, "--prefix", str(cache()), f"Haraka@{VERSION}"], check=True)


def _missing() -> str | None:
    if shutil.which("node") is None:
        return "apt-get install nodejs npm, then: python -m benchmarks --install"
    return None if _program().exists() else "python -m benchmarks --install (npm, into ~/.cache)"


@contextmanager
def _serve(scenario: Scenario, place: Place) -> Iterator[Target]:
    port, home = free_port(), place.folder / "haraka"
    for name in ("config", "plugins", "queue"):
        (home / name).mkdir(parents=True)
    shutil.copy(_PLUGIN, home / "plugins" / "fastcgi.js")
    config = home / "config"
    smtp = f"listen={HOST}:{port}\nnodes=0\n"
    plugins = "fastcgi\n"
    if scenario.channel is Channel.TLS:
        if place.certificate is None:
            raise BenchmarkError("TLS needs a certificate: pip install trustme")
        shutil.copy(place.certificate.chain, config / "tls_cert.pem")
        shutil.copy(place.certificate.key, config / "tls_key.pem")
        smtp += f"smtps_port={port}\n"
        plugins = f"tls\n{plugins}"
    (config / "smtp.ini").write_text(smtp)
    (config / "plugins").write_text(plugins)
    (config / "log.ini").write_text("[main]\nlevel=notice\n")  # its own default tells more than we do
    connection = (cache() / "node_modules" / "Haraka" / "config" / "connection.ini").read_text()
    (config / "connection.ini").write_text(re.sub(r"(?m)^bytes=.*$", f"bytes={64 * MIB}", connection))
    (config / "me").write_text("mx.example.com\n")
    log, php = place.folder / "output", place.php
    env = {"BENCH_SOCKET": str(php.socket), "BENCH_VALIDATE": php.validate, "BENCH_SAVE": php.save(scenario.script)}
    with started(["node", str(_program()), "-c", str(home)], log=log, env=env) as pid:
        wait_for_port(port, pid, log)
        yield Target(port, pid)


def _suits(scenario: Scenario) -> bool:
    return scenario.senders * scenario.octets < GIB


HARAKA: Final = Peer(
    name="haraka",
    about=f"Haraka {VERSION} and a plugin with kept FastCGI connections",
    missing=_missing,
    suits=_suits,
    measure=through_smtp(_serve),
)
