"""TOML text on the left, the attribute it becomes on the right."""

import os
from operator import attrgetter
from pathlib import Path

import pytest

from tests.config.support import read
from trio_fcgimail.config import (
    BareNewline,
    BodyKind,
    BodyLines,
    Extension,
    FastcgiSettings,
    HostList,
    LimitSettings,
    ListenerSettings,
    LogFormat,
    LogLevel,
    LogSettings,
    LogStream,
    Protocol,
    ScriptSettings,
    Settings,
    SpoolSettings,
    StatusSettings,
    TcpAddress,
    TlsMode,
    Unexpected,
    UnixAddress,
)


def test_minimal_document_gives_the_defaults_of_the_contract() -> None:
    assert read("") == Settings(
        hostname="mx.example.com",
        allowed_hosts=HostList.parse(["example.com"]),
        null_mx_hosts=HostList.parse([]),
        drain_seconds=30.0,
        listeners=(
            ListenerSettings(
                address=TcpAddress("127.0.0.1", 2525),
                protocol=Protocol.SMTP,
                tls=TlsMode.NONE,
                certificate=None,
                private_key=None,
                extensions="all",
                bare_newline=BareNewline.REJECT,
                lenient_paths=False,
                accepts_mail=True,
                require_auth=False,
                auth_any_recipient=False,
                auth_without_tls=False,
                mode=None,
                group=None,
            ),
        ),
        limits=LimitSettings(
            message_octets=26214400,
            recipients=100,
            connections=1000,
            connections_per_ip=50,
            messages_per_connection=1000,
            bad_commands=5,
            refused_recipients=20,
            tls_handshake_seconds=30.0,
            idle_seconds=300.0,
            data_seconds=600.0,
            data_floor_octets_per_second=100,
            max_received=100,
        ),
        spool=SpoolSettings(memory_octets=262144, directory=None, total_octets=None),
        fastcgi=FastcgiSettings(
            upstreams=(UnixAddress("/run/php/php-fpm.sock"),),
            max_connections=5,
            reserve_for_validate=1,
            keep_alive=True,
            connect_seconds=5.0,
            wait_seconds=20.0,
            clean_eof_means_unexecuted=False,
        ),
        scripts=ScriptSettings(
            connect=None,
            helo=None,
            auth=None,
            mail=None,
            validate=None,
            validate_seconds=5.0,
            save="/srv/mail/save.php",
            save_seconds=30.0,
            body=BodyKind.FORM,
            line_ends=BodyLines.LF,
            unexpected_output=Unexpected.TEMPFAIL,
        ),
        log=LogSettings(format=LogFormat.CONSOLE, level=LogLevel.INFO, file=LogStream.STDERR),
    )


def _listener(rest: str, address: str = "127.0.0.1:25") -> str:
    return f'[[listeners]]\naddress = "{address}"\n{rest}'


TAKEN = [
    pytest.param('hostname = "a.example"', "hostname", "a.example", id="hostname"),
    pytest.param("null_mx_hosts = []", "null_mx_hosts", HostList.parse([]), id="no-null-mx"),
    pytest.param('null_mx_hosts = ["*.a.example"]', "null_mx_hosts", HostList.parse(["*.a.example"]), id="null-mx"),
    pytest.param("workers = 256", "workers", 256, id="workers"),
    pytest.param('workers = "auto"', "workers", os.cpu_count(), id="a-worker-for-each-core"),
    pytest.param('user = "mail"', "user", "mail", id="user"),
    pytest.param('group = "mail"', "group", "mail", id="group"),
    pytest.param("drain_seconds = 0", "drain_seconds", 0.0, id="drain-at-once"),
    pytest.param("drain_seconds = 1.5", "drain_seconds", 1.5, id="float-seconds"),
    pytest.param("[limits]\nidle_seconds = 7", "limits.idle_seconds", 7.0, id="integer-for-seconds"),
    pytest.param("[limits]\nmessage_octets = 0", "limits.message_octets", None, id="zero-is-none"),
    pytest.param("[limits]\nrecipients = 1", "limits.recipients", 1, id="count"),
    pytest.param(
        "[limits]\ndata_floor_octets_per_second = 0", "limits.data_floor_octets_per_second", None, id="no-floor"
    ),
    pytest.param("[spool]\nmemory_octets = 0", "spool.memory_octets", 0, id="nothing-in-memory"),
    pytest.param('[spool]\ndirectory = "/var/spool"', "spool.directory", Path("/var/spool"), id="directory"),
    pytest.param("[spool]\ntotal_octets = 5", "spool.total_octets", 5, id="total"),
    pytest.param(
        '[fastcgi]\nupstreams = ["tcp:[::1]:9000"]', "fastcgi.upstreams", (TcpAddress("::1", 9000),), id="tcp-upstream"
    ),
    pytest.param(
        '[fastcgi]\nupstreams = ["unix:/a", "localhost:9000", "unix:/a"]',
        "fastcgi.upstreams",
        (UnixAddress("/a"), TcpAddress("localhost", 9000)),
        id="several-upstreams-each-once",
    ),
    pytest.param("[fastcgi]\nkeep_alive = false", "fastcgi.keep_alive", False, id="no-kept-connections"),
    pytest.param(
        "[fastcgi]\nclean_eof_means_unexecuted = true",
        "fastcgi.clean_eof_means_unexecuted",
        True,
        id="a-clean-end-means-nothing",
    ),
    pytest.param("[fastcgi]\nmax_connections = 1", "fastcgi.reserve_for_validate", 0, id="one-connection-no-reserve"),
    pytest.param(
        "[fastcgi]\nmax_connections = 2", "fastcgi.reserve_for_validate", 1, id="two-connections-one-reserved"
    ),
    pytest.param('[scripts]\nvalidate = "/v.php"', "scripts.validate", "/v.php", id="validate"),
    pytest.param('[scripts]\nvalidate = ""', "scripts.validate", None, id="no-validate"),
    *(
        pytest.param(f'[scripts]\n{stage} = "{text}"', f"scripts.{stage}", text or None, id=f"{stage}={text}")
        for stage in ("connect", "helo", "auth", "mail")
        for text in ("/p.php", "")
    ),
    pytest.param("[limits]\ntls_handshake_seconds = 0.5", "limits.tls_handshake_seconds", 0.5, id="tls-handshake"),
    *(
        pytest.param(f'[scripts]\nbody = "{kind.value}"', "scripts.body", kind, id=f"body-{kind.value}")
        for kind in BodyKind
    ),
    pytest.param('[scripts]\nline_ends = "crlf"', "scripts.line_ends", BodyLines.CRLF, id="line-ends"),
    pytest.param(
        '[scripts]\nunexpected_output = "reject"', "scripts.unexpected_output", Unexpected.REJECT, id="unexpected"
    ),
    pytest.param('[log]\nformat = "json"', "log.format", LogFormat.JSON, id="log-format"),
    pytest.param('[log]\nlevel = "error"', "log.level", LogLevel.ERROR, id="log-level"),
    pytest.param('[log]\nfile = "stderr"', "log.file", LogStream.STDERR, id="log-stderr"),
    pytest.param('[log]\nfile = "stdout"', "log.file", LogStream.STDOUT, id="log-stdout"),
    pytest.param('[log]\nfile = "off"', "log.file", LogStream.OFF, id="log-off"),
    pytest.param('[log]\nfile = "fcgimail.log"', "log.file", Path("fcgimail.log"), id="log-file"),
    pytest.param('status = {address = ""}', "status", StatusSettings(), id="status-off"),
    pytest.param(
        '[status]\naddress = "localhost:8025"', "status.address", TcpAddress("localhost", 8025), id="status-loopback"
    ),
    pytest.param(
        '[status]\naddress = "*:8025"\npassword_file = "p"', "status.password_file", Path("p"), id="status-password"
    ),
]


@pytest.mark.parametrize(("text", "attribute", "value"), TAKEN)
def test_value_becomes_attribute(text: str, attribute: str, value: object) -> None:
    assert attrgetter(attribute)(read(text)) == value


_STARTTLS = 'tls = "starttls"\ncertificate = "/c.pem"\n'
_IMPLICIT = 'tls = "implicit"\ncertificate = "/c.pem"\n'
_AUTH = '\n[scripts]\nauth = "/a.php"'

LISTENERS = [
    pytest.param(_listener(_STARTTLS), "tls", TlsMode.STARTTLS, id="starttls"),
    pytest.param(_listener(_IMPLICIT), "tls", TlsMode.IMPLICIT, id="implicit"),
    pytest.param(_listener(_IMPLICIT), "certificate", Path("/c.pem"), id="certificate"),
    pytest.param(_listener(_IMPLICIT), "private_key", None, id="key-in-the-certificate"),
    pytest.param(_listener(_IMPLICIT + 'private_key = "k.pem"'), "private_key", Path("k.pem"), id="key"),
    pytest.param(_listener('tls = "none"\ncertificate = ""\nprivate_key = ""'), "certificate", None, id="tls-off"),
    pytest.param(
        _listener(_STARTTLS + 'extensions = ["starttls", "RequireTLS", "AUTH"]' + _AUTH),
        "extensions",
        (Extension.STARTTLS, Extension.REQUIRETLS, Extension.AUTH),
        id="keywords-of-tls-and-auth",
    ),
    pytest.param(_listener(_STARTTLS + "require_auth = true" + _AUTH), "require_auth", True, id="require-auth"),
    pytest.param(
        _listener("auth_without_tls = true\nrequire_auth = true" + _AUTH), "require_auth", True, id="auth-in-clear"
    ),
    pytest.param(
        _listener('auth_without_tls = true\nextensions = ["AUTH"]' + _AUTH), "auth_without_tls", True, id="auth-alone"
    ),
    pytest.param(
        _listener(_IMPLICIT + "auth_any_recipient = true" + _AUTH), "auth_any_recipient", True, id="any-recipient"
    ),
    pytest.param(_listener(""), "extensions", "all", id="all-extensions"),
    pytest.param(
        _listener('extensions = ["size", "SIZE", "8BITMIME"]'),
        "extensions",
        (Extension.SIZE, Extension.EIGHT_BIT_MIME),
        id="some",
    ),
    pytest.param(
        _listener('extensions = ["CHUNKING", "BinaryMIME", "DSN", "LIMITS"]'),
        "extensions",
        (Extension.CHUNKING, Extension.BINARYMIME, Extension.DSN, Extension.LIMITS),
        id="chunks-and-notifications",
    ),
    pytest.param(_listener("lenient_paths = true"), "lenient_paths", True, id="lenient-paths"),
    pytest.param(_listener("accepts_mail = false"), "accepts_mail", False, id="no-mail"),
    pytest.param(_listener("extensions = []"), "extensions", (), id="no-extensions"),
    pytest.param(_listener('bare_newline = "close"'), "bare_newline", BareNewline.CLOSE, id="close"),
    pytest.param(_listener('bare_newline = "normalize"'), "bare_newline", BareNewline.NORMALIZE, id="normalize"),
    pytest.param(_listener("", "*:25"), "address", TcpAddress("*", 25), id="every-address"),
    pytest.param(_listener("", "[::]:25"), "address", TcpAddress("::", 25), id="ipv6"),
    pytest.param(_listener('mode = "0660"', "unix:/s"), "mode", 0o660, id="mode"),
    pytest.param(_listener('mode = ""', "unix:/s"), "mode", None, id="mode-by-umask"),
    pytest.param(_listener('group = "mail"', "unix:/s"), "group", "mail", id="group"),
    pytest.param(_listener('group = ""\nmode = ""'), "group", None, id="off-beside-tcp"),
]


@pytest.mark.parametrize(("text", "attribute", "value"), LISTENERS)
def test_listener_value_becomes_attribute(text: str, attribute: str, value: object) -> None:
    (listener,) = read(text).listeners
    assert attrgetter(attribute)(listener) == value


def test_several_listeners_keep_their_order_and_port_0_may_repeat() -> None:
    texts = ["127.0.0.1:0", "127.0.0.1:0", "unix:/a", "127.0.0.1:25"]
    settings = read("".join(f'[[listeners]]\naddress = "{text}"\n' for text in texts))
    assert [str(listener.address) for listener in settings.listeners] == texts
