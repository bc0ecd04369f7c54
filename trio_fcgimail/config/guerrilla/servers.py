"""`servers`: one listener for each that is enabled; nothing is looked at in the others."""

from dataclasses import dataclass
from typing import Final, final

from trio_fcgimail.config.errors import shown
from trio_fcgimail.config.guerrilla import tls
from trio_fcgimail.config.guerrilla.draft import Draft
from trio_fcgimail.config.guerrilla.fields import Fields, Notes
from trio_fcgimail.config.guerrilla.syntax import JsonObject, found
from trio_fcgimail.config.warnings import Concern

__all__ = ["KEYS", "ServerReader", "put_servers"]

KEYS: Final = (
    "is_enabled",
    "listen_interface",
    "host_name",
    "max_size",
    "timeout",
    "max_clients",
    "log_file",
    "xclient_on",
    "proxyon",
    "tls",
)
_DEFAULT_LISTEN = "127.0.0.1:2525"
_MAX_SIZE, _TIMEOUT, _MAX_CLIENTS = 10 << 20, 30, 100
_WILDCARDS: Final = ("", "0.0.0.0", "[::]")  # noqa: S104 - net.Listen takes both families for each of them
_LOOPBACK: Final = ["127.0.0.0/8", "::1/128"]
_EVERYBODY: Final = ["0.0.0.0/0", "::/0"]


@final
@dataclass(frozen=True, slots=True)
class _Server:
    """An enabled server; the parts that may become settings of all listeners are apart."""

    place: str
    hostname: str
    max_size: int
    timeout: int
    max_clients: int
    listener: dict[str, tuple[object, str]]


@final
class ServerReader:
    """Reads servers.

    Args:
        notes: of the file.
        default_hostname: of this machine.
    """

    def __init__(self, notes: Notes, default_hostname: str) -> None:
        self._notes = notes
        self._default_hostname = default_hostname

    def read(self, value: object) -> list[_Server]:
        """Give the enabled ones; without any in the file, the one of go-guerrilla."""
        if value is None or value == []:
            listener: dict[str, tuple[object, str]] = {"address": (_DEFAULT_LISTEN, "servers")}
            return [_Server("servers", self._default_hostname, _MAX_SIZE, _TIMEOUT, _MAX_CLIENTS, listener)]
        if not isinstance(value, list):
            self._notes.refuse("servers", found(value), "a list of objects")
            return []
        servers = [self._server(number, item) for number, item in enumerate(value)]
        if not any(isinstance(item, JsonObject) and _is_enabled(item) for item in value):
            self._notes.refuse("servers", "none that is enabled", "one with is_enabled = true")
        return [server for server in servers if server is not None]

    def _server(self, number: int, item: object) -> _Server | None:
        place = f"servers[{number}]"
        if not isinstance(item, JsonObject):
            self._notes.refuse(place, found(item), "an object")
            return None
        if not _is_enabled(item):
            quiet = Fields(Notes(self._notes.file), place, item, KEYS)
            if not isinstance(quiet.get("is_enabled"), bool | None):
                self._notes.refuse(quiet.path("is_enabled"), found(quiet.get("is_enabled")), "true or false")
            return None
        elsewhere = [f"tls.{name}" for name in tls.KEYS]
        fields = Fields(self._notes, place, item, KEYS, elsewhere=elsewhere)
        listener = self._listener(fields)
        inner = Fields(self._notes, fields.path("tls"), fields.table("tls"), tls.KEYS)
        listener |= {name: (value, inner.path(key)) for name, (value, key) in tls.tls_settings(inner).items()}
        return _Server(
            place,
            fields.string("host_name") or self._default_hostname,
            fields.positive("max_size", _MAX_SIZE),
            fields.positive("timeout", _TIMEOUT),
            fields.positive("max_clients", _MAX_CLIENTS),
            listener,
        )

    def _listener(self, fields: Fields) -> dict[str, tuple[object, str]]:
        taken: dict[str, tuple[object, str]] = {}
        address = fields.string("listen_interface")
        if address:
            taken["address"] = (_listen(address), fields.path("listen_interface"))
        elif fields.get("listen_interface") in (None, ""):
            fields.refuse("listen_interface", '"IP:PORT"')
        if log_file := fields.string("log_file"):
            taken["log_file"] = (log_file, fields.path("log_file"))
        if fields.flag("xclient_on"):
            done = "taken from this machine only; xclient_from in our own file names others"
            fields.warn("xclient_on", shown(True), done, Concern.DIFFERENT)
            taken["xclient_from"] = (_LOOPBACK, fields.path("xclient_on"))
        if fields.flag("proxyon"):
            done = "whoever reaches this address may claim any other; name the proxy in proxy_protocol_from"
            fields.warn("proxyon", shown(True), done, Concern.UNUSABLE)
            taken["proxy_protocol_from"] = (_EVERYBODY, fields.path("proxyon"))
        return taken


def put_servers(servers: list[_Server], draft: Draft, log_file: str) -> str | None:
    """Put listeners and limits into the draft: what all listeners have alike becomes a setting of all.

    Returns:
        The name of the first, which is the one for everything else.
    """
    if not servers:
        return None
    first, *_ = servers
    draft.put("hostname", first.hostname, f"{first.place}.host_name")
    sizes, times = {server.max_size for server in servers}, {server.timeout for server in servers}
    if len(sizes) == 1:
        draft.put("limits.message_octets", first.max_size, f"{first.place}.max_size")
    if len(times) == 1:
        draft.put("limits.idle_seconds", first.timeout, f"{first.place}.timeout")
    draft.put("limits.connections", sum(server.max_clients for server in servers), f"{first.place}.max_clients")
    for server in servers:
        own: dict[str, tuple[object, str]] = {}
        if server.hostname != first.hostname:
            own["hostname"] = (server.hostname, f"{server.place}.host_name")
        if len(sizes) > 1:
            own["message_octets"] = (server.max_size, f"{server.place}.max_size")
        if len(times) > 1:
            own["idle_seconds"] = (server.timeout, f"{server.place}.timeout")
        if len(servers) > 1:
            own["connections"] = (server.max_clients, f"{server.place}.max_clients")
        listener = server.listener
        if listener.get("log_file", ("", ""))[0] == log_file:
            listener = {name: value for name, value in listener.items() if name != "log_file"}
        draft.add_listener({**listener, **own})
    return first.hostname


def _is_enabled(item: JsonObject) -> bool:
    last = [value for key, value in item.pairs if key.lower() == "is_enabled"][-1:]
    return last == [True]


def _listen(address: str) -> str:
    """Give the address as ours: the wildcards of Go are every address, by IPv4 and IPv6."""
    host, colon, port = address.rpartition(":")
    return f"*:{port}" if colon and host in _WILDCARDS else address
