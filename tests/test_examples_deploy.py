"""What is to be copied for a real deployment: units of systemd, a container file, a compose file, HAProxy's."""

import configparser
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.clients import missing, require
from trio_fcgimail.config import Settings, SystemdAddress, load_settings
from trio_fcgimail.server.workers.generation import GRACE_SECONDS, START_SECONDS

ROOT: Final = Path(__file__).parents[1]
SYSTEMD: Final = ROOT / "examples" / "systemd"
CONTAINER: Final = ROOT / "examples" / "container"
PYTHON: Final = "/opt/fcgimail/bin/python"
MAX_EXPOSURE: Final = 15  # of 100: what is left is that it talks to the network and has a user of its own


def _load(path: Path) -> Settings:
    return load_settings(path, default_hostname="mx.example.com")


# systemd


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a program that there is."""
    for path in SYSTEMD.glob("fcgimail.*"):
        if path.suffix != ".toml":
            (tmp_path / path.name).write_text(path.read_text().replace(PYTHON, sys.executable))
    return tmp_path


def _analyze(*arguments: str) -> str:
    program = require("systemd-analyze", "systemd")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_understands_the_units(units: Path) -> None:
    said = _analyze("verify", "--man=no", f"{units}/fcgimail.service", f"{units}/fcgimail.socket")
    assert "fcgimail" not in said, said


def test_the_service_is_hardened(units: Path) -> None:
    program = require("systemd-analyze", "systemd")
    if "--offline" not in subprocess.run([program, "--help"], capture_output=True, text=True, check=False).stdout:
        missing("systemd-analyze is older than 250")
    _analyze("security", "--no-pager", "--offline=true", f"--threshold={MAX_EXPOSURE}", f"{units}/fcgimail.service")


class _Units(configparser.ConfigParser):
    """Whose keys are not made lower case."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def _unit(name: str) -> configparser.ConfigParser:
    parser = _Units(strict=False, interpolation=None)
    parser.read_string((SYSTEMD / name).read_text())
    return parser


def test_the_units_fit_the_server_and_each_other() -> None:
    service, addresses = _unit("fcgimail.service")["Service"], _unit("fcgimail.socket")["Socket"]
    settings = _load(SYSTEMD / "fcgimail.toml")
    assert [one.address for one in settings.listeners] == [SystemdAddress(addresses["FileDescriptorName"])]
    assert float(service["TimeoutStopSec"]) > settings.drain_seconds + GRACE_SECONDS
    assert float(service["TimeoutStartSec"]) > START_SECONDS
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")
    assert f"{PYTHON} -m trio_fcgimail serve -c /etc/fcgimail/fcgimail.toml" == service["ExecStart"]


# Containers


def _check_keys(node: object) -> None:
    """YAML takes a key that stands twice; we do not."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"twice: {keys}"
        for _, inner in node.value:
            _check_keys(inner)
    elif isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            _check_keys(inner)


def _table(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return {str(key): inner for key, inner in value.items()}


def _texts(value: object) -> list[str]:
    assert isinstance(value, list)
    return [str(one) for one in value]


@pytest.fixture(scope="module")
def compose() -> dict[str, object]:
    """The compose file."""
    text = (CONTAINER / "compose.yaml").read_text()
    _check_keys(yaml.compose(text))
    return _table(yaml.safe_load(text))


def _services(compose: dict[str, object]) -> dict[str, dict[str, object]]:
    return {name: _table(service) for name, service in _table(compose["services"]).items()}


# https://github.com/compose-spec/compose-spec/blob/main/spec.md, those that are used here
_KEYS: Final = {
    *("build", "image", "init", "restart", "depends_on", "networks", "network_mode", "environment", "ports"),
    *("stop_grace_period", "group_add", "read_only", "tmpfs", "cap_drop", "security_opt", "ulimits", "volumes"),
}


def test_compose_has_two_of_ours_behind_haproxy_and_names_what_there_is(compose: dict[str, object]) -> None:
    services = _services(compose)
    assert set(services) == {"haproxy", "mail1", "mail2", "php"}
    assert {name for name in compose if not name.startswith("x-")} == {"name", "services", "networks", "volumes"}
    for service in services.values():
        assert set(service) <= _KEYS
        assert set(_texts(service.get("depends_on", []))) <= set(services)
        assert set(_texts(service.get("networks", []))) <= set(_table(compose["networks"]))
        for source, *_ in _mounts(service):
            if source.startswith("."):
                assert (CONTAINER / source).exists(), source
            else:
                assert source in _table(compose["volumes"])
    build = _table(services["mail1"]["build"])
    assert (CONTAINER / str(build["context"])).resolve() == ROOT
    assert (ROOT / str(build["dockerfile"])).is_file()


def _mounts(service: dict[str, object]) -> Iterator[list[str]]:
    for mount in _texts(service.get("volumes", [])):
        yield mount.split(":")


def test_compose_fits_the_settings(compose: dict[str, object]) -> None:
    settings = _load(CONTAINER / "fcgimail.toml")
    services = _services(compose)
    mail, php = services["mail1"], services["php"]
    assert int(str(mail["stop_grace_period"]).removesuffix("s")) > settings.drain_seconds + GRACE_SECONDS
    (upstream,) = settings.fastcgi.upstreams
    pool = (CONTAINER / "../php/php-fpm-pool.conf").read_text()
    assert f"listen = {str(upstream).removeprefix('unix:')}\n" in pool
    assert f"pm.max_children = {2 * settings.fastcgi.max_connections}\n" in pool
    scripts = {target: source for source, target, *_ in _mounts(php)}["/srv/mail"]
    for script in (settings.scripts.save, settings.scripts.validate):
        assert script is not None
        assert (CONTAINER / scripts / Path(script).relative_to("/srv/mail")).is_file()
    assert {target for _, target, *_ in _mounts(mail)} & {target for _, target, *_ in _mounts(php)} == {"/run/php"}


def test_proxy_networks_agree(compose: dict[str, object]) -> None:
    pools = _table(_table(_table(compose["networks"])["mail"])["ipam"])["config"]
    assert isinstance(pools, list)
    (subnet,) = (_table(pool)["subnet"] for pool in pools)
    assert f'proxy_protocol_from = ["{subnet}"]' in (CONTAINER / "fcgimail.toml").read_text()


def test_haproxy_understands_its_file() -> None:
    program = require("haproxy", "haproxy")
    done = subprocess.run(
        [program, "-c", "-f", str(CONTAINER / "haproxy.cfg")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"\[(\w+)\]", done.stderr)) <= {"NOTICE", "WARNING"}
    assert all("could not resolve" in line for line in done.stderr.splitlines() if "[WARNING]" in line), done.stderr


def test_haproxy_and_compose_name_the_same_servers(compose: dict[str, object]) -> None:
    text = (CONTAINER / "haproxy.cfg").read_text()
    servers = re.findall(r"^ +server (\w+) (\w+):(\d+)$", text, re.MULTILINE)
    assert servers == [(name, name, "2525") for name in _services(compose) if name.startswith("mail")]
    assert text.count("send-proxy-v2") == 1


def test_the_container_file_copies_what_there_is_and_runs_what_there_is() -> None:
    text = (CONTAINER / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    words = {line.split()[0] for line in lines}
    assert words == {"FROM", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    for line in lines:
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
    user = next(line for line in lines if line.startswith("USER"))
    assert user == "USER fcgimail"
    assert 'CMD ["serve", "-c", "/etc/fcgimail/fcgimail.toml"]' in lines
