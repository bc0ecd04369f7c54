"""The settings as typed values (docs/configuration.md).

The fields drive the reader: a field's name is its key, its default is what an absent key means, no default makes
the key required, and its annotation says what the key takes.
"""

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Final, Literal, final

import msgspec

from trio_fcgimail.config.addresses import (
    ListenAddress,
    TcpAddress,
    UpstreamAddress,
    parse_listen_address,
    parse_upstream_address,
)
from trio_fcgimail.config.chain import ChainSettings, DebuggerSettings, HeaderSettings, MaildirSettings
from trio_fcgimail.config.hosts import HostList, is_domain
from trio_fcgimail.config.listening import CIPHERS, CURVES, LOG_FILE, ClientCertificates, Curve, LogStream, TlsVersion
from trio_fcgimail.config.networks import PeerList
from trio_fcgimail.config.rules import (
    Items,
    Rule,
    Table,
    Tables,
    absolute_path,
    file_path,
    flag,
    octal_mode,
    one_of,
    optional,
    seconds,
    text,
    whole,
)
from trio_fcgimail.mail import BodyKind, BodyLines, Unexpected
from trio_fcgimail.smtp import BareNewline, Extension

__all__ = [
    "DEFAULT_LISTEN",
    "BareNewline",
    "BodyKind",
    "BodyLines",
    "CertificateSettings",
    "Extension",
    "FastcgiSettings",
    "LimitSettings",
    "ListenerSettings",
    "LogFormat",
    "LogLevel",
    "LogSettings",
    "Protocol",
    "RemoteAddr",
    "ScriptSettings",
    "Settings",
    "SpoolSettings",
    "StatusSettings",
    "TlsMode",
    "Unexpected",
]

DEFAULT_LISTEN: Final = TcpAddress("127.0.0.1", 2525)  # docs/operating.md, "Commands"

_MAX_LISTENERS = 64  # ours
_MAX_CERTIFICATES = 256  # ours, beside the first of a listener
_MAX_WORKERS = 256  # ours
_MAX_COUNT = 1_000_000_000  # ours: any number that makes sense is far below
_MAX_OCTETS = 1 << 50  # ours: beyond any disk of today
_MAX_SOFTWARE_CHARS = 200  # ours
_MAX_CONNECTIONS = 10_000  # ours: more children than any php-fpm has


@final
class Protocol(Enum):
    """What a listener speaks."""

    SMTP = "smtp"  # RFC 5321
    LMTP = "lmtp"  # RFC 2033


@final
class TlsMode(Enum):
    """When a listener encrypts."""

    NONE = "none"
    STARTTLS = "starttls"  # RFC 3207
    IMPLICIT = "implicit"  # from the first octet, RFC 8314 3


@final
class RemoteAddr(Enum):
    """What scripts get as REMOTE_ADDR."""

    PEER = "peer"
    LOOPBACK = "127.0.0.1"  # as go-guerrilla always has it


@final
class LogFormat(Enum):
    """How a log line looks."""

    CONSOLE = "console"
    JSON = "json"


@final
class LogLevel(Enum):
    """The least important line that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _hostname(name: str) -> str:
    if not is_domain(name):
        raise ValueError("not a domain")
    return name


def _extensions(value: object) -> Literal["all"] | tuple[Extension, ...]:
    if value == "all":
        return "all"
    keywords = tuple(dict.fromkeys(Extension(name.upper()) for name in msgspec.convert(value, list[str])))
    if Extension.BINARYMIME in keywords and Extension.CHUNKING not in keywords:
        raise ValueError("BINARYMIME without CHUNKING")  # RFC 3030 3
    return keywords


def _hosts(expected: str, fewest: int) -> Items:
    return Items(lambda entry: HostList.parse([entry]), HostList.parse, expected, _HOST_ENTRY, fewest)


def _workers(value: object) -> int:
    if value == "auto":
        return os.cpu_count() or 1
    count: int = msgspec.convert(value, Annotated[int, msgspec.Meta(ge=1, le=_MAX_WORKERS)])
    return count


def _account(name: str) -> str:
    if not name or not name.isprintable() or any(char in name for char in " :/"):  # passwd(5), group(5)
        raise ValueError("not the name of an account")
    return name


def _peers(expected: str) -> Items:
    return Items(lambda entry: PeerList.parse([entry]), PeerList.parse, expected, _PEER_ENTRY, 0)


def _upstreams(items: list[str]) -> tuple[UpstreamAddress, ...]:
    return tuple(dict.fromkeys(map(parse_upstream_address, items)))


def _status_address(address: str) -> TcpAddress:
    parsed = parse_listen_address(address)
    if not isinstance(parsed, TcpAddress):
        raise ValueError("no address of HTTP")
    return parsed


def _software(name: str) -> str:
    if not (name.isascii() and name.isprintable() and len(name) <= _MAX_SOFTWARE_CHARS):
        raise ValueError("not a name of software")
    return name


_DOMAIN = text(_hostname, 'a domain such as "mx.example.com" (when absent, the name of this machine)')
_HOST_ENTRY = (
    '"example.com", "*.example.com", "[192.0.2.1]", "[IPv6:2001:db8::1]", "glob:mx*.example.com" or "." for any domain'
)
_PEER_ENTRY = 'a network such as "10.0.0.0/8" or "2001:db8::/32", an address, or "unix"'
_PROXIES = _peers("a list of the proxies that send a PROXY header")
_XCLIENTS = _peers("a list of the peers that may use XCLIENT")
_EXEMPTED = _peers("a list of the peers that the limits per minute leave alone")
_NOBODY = PeerList()
_LOOPBACK = PeerList.parse(("127.0.0.0/8", "::1/128"))
_NO_HOSTS = HostList.parse(())
_LISTEN = text(
    parse_listen_address,
    '"127.0.0.1:2525", "[::1]:2525", "*:2525", "unix:/PATH" (at most 107 octets) or "systemd:NAME"',
)
_UPSTREAMS = "a list of addresses, not empty"
_UPSTREAM_ENTRY = '"unix:/PATH" (at most 107 octets), "tcp:HOST:PORT" or "tcp:[IPV6]:PORT"'
_MODE = optional(text(octal_mode, 'an octal mode as a string, such as "0660"'), "", '"" for the umask')
_GROUP = optional(text(lambda name: file_path(name).name, "the name of a group"), "", '"" for our own')
_KEYWORDS = ", ".join(f'"{keyword.value}"' for keyword in Extension)
_EXTENSIONS = Rule(_extensions, f'"all" or a list of {_KEYWORDS}; BINARYMIME only beside CHUNKING')
_COUNT = optional(whole(1, _MAX_COUNT), 0, "0 for none")
_MESSAGE_OCTETS = optional(whole(1, _MAX_OCTETS, "of octets"), 0, "0 for none")
_TOTAL_OCTETS = optional(whole(1, _MAX_OCTETS, "of octets"), 0, "0 for the free space less 5 %")
_DIRECTORY = optional(text(file_path, "the path of a folder"), "", '"" for that of the system')
_SCRIPT = text(absolute_path, 'the absolute path of a script, such as "/srv/mail/save.php"')
_OPTIONAL_SCRIPT = optional(_SCRIPT, "", '"" for none')
_PEM_FILE = text(file_path, "the path of a PEM file")
_CERTIFICATE = optional(_PEM_FILE, "", '"" for none')
_PRIVATE_KEY = optional(_PEM_FILE, "", '"" when it is in that of the certificate')
_WORKERS = Rule(_workers, f'a whole number from 1 to {_MAX_WORKERS}, or "auto" for one per core')
_USER = optional(text(_account, "the name of a user"), "", '"" to stay who we are')
_OWN_GROUP = optional(text(_account, "the name of a group"), "", '"" for the user\'s own')
_SOFTWARE = optional(text(_software, f"at most {_MAX_SOFTWARE_CHARS} printable ASCII characters"), "", '"" for ours')
_PID_FILE = optional(text(file_path, "the path of a file"), "", '"" for none')
_CHAIN, _HEADER, _DEBUGGER, _MAILDIR = ChainSettings(), HeaderSettings(), DebuggerSettings(), MaildirSettings()
# Of one listener, where it differs from the rest.
_OWN_DOMAIN = optional(text(_hostname, 'a domain such as "mx.example.com"'), "", '"" for hostname')
_OWN_OCTETS = optional(whole(1, _MAX_OCTETS, "of octets"), 0, "0 for limits.message_octets")
_OWN_SECONDS = optional(seconds(), 0, "0 for limits.idle_seconds")
_OWN_COUNT = optional(whole(1, _MAX_COUNT), 0, "0 for no more than limits.connections")
_OWN_LOG = optional(LOG_FILE, "", '"" for log.file')
_STATUS = optional(text(_status_address, '"127.0.0.1:8025", "[::1]:8025" or "*:8025"'), "", '"" for none')
_PASSWORD_FILE = optional(text(file_path, "the path of a file"), "", '"" for none')
_TLS_MAXIMUM = optional(one_of(TlsVersion), "", '"" for the newest')
_CLIENT_CA = optional(_PEM_FILE, "", '"" for the authorities of the system')


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSettings:
    """One `[[listeners.certificates]]`: a pair for clients that ask for one of its names (RFC 6066 3).

    `certificate` holds the whole chain, and the key as well when `private_key` is None.
    """

    certificate: Annotated[Path, _PEM_FILE]
    private_key: Annotated[Path | None, _PRIVATE_KEY] = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSettings:
    """One `[[listeners]]`.

    `mode` (permission bits) and `group` are those of a unix socket, None when they are left to the umask and to
    our own group. `certificate` holds the whole chain, and the key as well when `private_key` is None. `ciphers`
    are those of TLS 1.2. `certificates` are for clients that ask for them by name. What is None from `hostname` on is
    as it is for all listeners.
    """

    address: Annotated[ListenAddress, _LISTEN]
    protocol: Annotated[Protocol, one_of(Protocol)] = Protocol.SMTP
    tls: Annotated[TlsMode, one_of(TlsMode)] = TlsMode.NONE
    certificate: Annotated[Path | None, _CERTIFICATE] = None
    private_key: Annotated[Path | None, _PRIVATE_KEY] = None
    certificates: Annotated[tuple[CertificateSettings, ...], Tables(CertificateSettings, _MAX_CERTIFICATES)] = ()
    extensions: Annotated[Literal["all"] | tuple[Extension, ...], _EXTENSIONS] = "all"
    proxy_protocol_from: Annotated[PeerList, _PROXIES] = _NOBODY
    xclient_from: Annotated[PeerList, _XCLIENTS] = _NOBODY
    bare_newline: Annotated[BareNewline, one_of(BareNewline)] = BareNewline.REJECT
    lenient_paths: Annotated[bool, flag()] = False
    accepts_mail: Annotated[bool, flag()] = True
    require_auth: Annotated[bool, flag()] = False
    auth_any_recipient: Annotated[bool, flag()] = False
    auth_without_tls: Annotated[bool, flag()] = False
    mode: Annotated[int | None, _MODE] = None
    group: Annotated[str | None, _GROUP] = None
    tls_minimum: Annotated[TlsVersion, one_of(TlsVersion)] = TlsVersion.TLS_1_2
    tls_maximum: Annotated[TlsVersion | None, _TLS_MAXIMUM] = None
    ciphers: Annotated[tuple[str, ...], CIPHERS] = ()
    curves: Annotated[tuple[Curve, ...], CURVES] = ()
    client_certificates: Annotated[ClientCertificates, one_of(ClientCertificates)] = ClientCertificates.NONE
    client_ca: Annotated[Path | None, _CLIENT_CA] = None
    hostname: Annotated[str | None, _OWN_DOMAIN] = None
    message_octets: Annotated[int | None, _OWN_OCTETS] = None
    idle_seconds: Annotated[float | None, _OWN_SECONDS] = None
    connections: Annotated[int | None, _OWN_COUNT] = None
    log_file: Annotated[Path | LogStream | None, _OWN_LOG] = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """`[limits]`; None means no limit."""

    message_octets: Annotated[int | None, _MESSAGE_OCTETS] = 26_214_400
    recipients: Annotated[int | None, _COUNT] = 100
    connections: Annotated[int | None, _COUNT] = 1000
    connections_per_ip: Annotated[int | None, _COUNT] = 50
    connections_per_minute_per_ip: Annotated[int | None, _COUNT] = 300
    messages_per_connection: Annotated[int | None, _COUNT] = 1000
    messages_per_minute_per_ip: Annotated[int | None, _COUNT] = 600
    recipients_per_minute_per_ip: Annotated[int | None, _COUNT] = 3000
    exempt_from: Annotated[PeerList, _EXEMPTED] = _LOOPBACK
    bad_commands: Annotated[int | None, _COUNT] = 5
    refused_recipients: Annotated[int | None, _COUNT] = 20
    banner_delay_seconds: Annotated[float, seconds(zero=True)] = 0.0
    proxy_header_seconds: Annotated[float, seconds()] = 5.0
    tls_handshake_seconds: Annotated[float, seconds()] = 30.0
    idle_seconds: Annotated[float, seconds()] = 300.0
    data_seconds: Annotated[float, seconds()] = 600.0
    data_floor_octets_per_second: Annotated[int | None, _COUNT] = 100
    max_received: Annotated[int | None, _COUNT] = 100


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """`[spool]`; `directory` None is the system's, `total_octets` None the free space less 5 %."""

    memory_octets: Annotated[int, whole(0, _MAX_OCTETS, "of octets")] = 262_144
    directory: Annotated[Path | None, _DIRECTORY] = None
    total_octets: Annotated[int | None, _TOTAL_OCTETS] = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FastcgiSettings:
    """`[fastcgi]`; `max_connections` and the reserve are those of each upstream. Without scripts there may be none."""

    upstreams: Annotated[
        tuple[UpstreamAddress, ...],
        Items(parse_upstream_address, _upstreams, _UPSTREAMS, _UPSTREAM_ENTRY),
    ] = ()
    max_connections: Annotated[int, whole(1, _MAX_CONNECTIONS)] = 5
    reserve_for_validate: Annotated[int, whole(0, _MAX_CONNECTIONS)] = 1
    keep_alive: Annotated[bool, flag()] = True
    connect_seconds: Annotated[float, seconds()] = 5.0
    wait_seconds: Annotated[float, seconds()] = 20.0
    clean_eof_means_unexecuted: Annotated[bool, flag()] = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptSettings:
    """`[scripts]`; without `validate` every recipient of the allowed hosts is taken, without `auth` nobody logs in.
    `save` is there whenever FastCGI is in the chain.

    `validate_seconds` is the time of a try of every stage but save; `line_ends` is of a form only.
    """

    connect: Annotated[str | None, _OPTIONAL_SCRIPT] = None
    helo: Annotated[str | None, _OPTIONAL_SCRIPT] = None
    auth: Annotated[str | None, _OPTIONAL_SCRIPT] = None
    mail: Annotated[str | None, _OPTIONAL_SCRIPT] = None
    validate: Annotated[str | None, _OPTIONAL_SCRIPT] = None
    validate_seconds: Annotated[float, seconds()] = 5.0
    save: Annotated[str | None, _OPTIONAL_SCRIPT] = None
    save_seconds: Annotated[float, seconds()] = 30.0
    body: Annotated[BodyKind, one_of(BodyKind)] = BodyKind.FORM
    line_ends: Annotated[BodyLines, one_of(BodyLines)] = BodyLines.LF
    unexpected_output: Annotated[Unexpected, one_of(Unexpected)] = Unexpected.TEMPFAIL
    remote_addr: Annotated[RemoteAddr, one_of(RemoteAddr)] = RemoteAddr.PEER
    server_software: Annotated[str | None, _SOFTWARE] = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """`[log]`."""

    format: Annotated[LogFormat, one_of(LogFormat)] = LogFormat.CONSOLE
    level: Annotated[LogLevel, one_of(LogLevel)] = LogLevel.INFO
    file: Annotated[Path | LogStream, LOG_FILE] = LogStream.STDERR


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StatusSettings:
    """`[status]`; without an address nothing is served. Any address but loopback has a `password_file`."""

    address: Annotated[TcpAddress | None, _STATUS] = None
    password_file: Annotated[Path | None, _PASSWORD_FILE] = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole configuration; durations are in seconds, sizes in octets."""

    hostname: Annotated[str, _DOMAIN]
    allowed_hosts: Annotated[HostList, _hosts("a list of recipient domains, not empty", 1)]
    null_mx_hosts: Annotated[HostList, _hosts("a list of recipient domains", 0)] = _NO_HOSTS
    workers: Annotated[int, _WORKERS] = 1
    user: Annotated[str | None, _USER] = None
    group: Annotated[str | None, _OWN_GROUP] = None
    pid_file: Annotated[Path | None, _PID_FILE] = None
    drain_seconds: Annotated[float, seconds(zero=True)] = 30.0
    listeners: Annotated[tuple[ListenerSettings, ...], Tables(ListenerSettings, _MAX_LISTENERS)] = (
        ListenerSettings(address=DEFAULT_LISTEN),
    )
    limits: Annotated[LimitSettings, Table(LimitSettings)] = LimitSettings()
    spool: Annotated[SpoolSettings, Table(SpoolSettings)] = SpoolSettings()
    fastcgi: Annotated[FastcgiSettings, Table(FastcgiSettings)]
    scripts: Annotated[ScriptSettings, Table(ScriptSettings)]
    chain: Annotated[ChainSettings, Table(ChainSettings)] = _CHAIN
    header: Annotated[HeaderSettings, Table(HeaderSettings)] = _HEADER
    debugger: Annotated[DebuggerSettings, Table(DebuggerSettings)] = _DEBUGGER
    maildir: Annotated[MaildirSettings, Table(MaildirSettings)] = _MAILDIR
    log: Annotated[LogSettings, Table(LogSettings)] = LogSettings()
    status: Annotated[StatusSettings, Table(StatusSettings)] = StatusSettings()
