"""Files of go-guerrilla: what they become, what is said about them, and that `convert` means the same."""

import re
import tomllib
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.config.guerrilla_files import (
    GO_GUERRILLA,
    MACHINE,
    MAILDIRANASAURUS,
    backend,
    files,
    minimal,
    server,
    text_of,
)
from trio_fcgimail.config import (
    ClientCertificates,
    Concern,
    ConfigErrors,
    Curve,
    LogLevel,
    LogStream,
    MaildirUser,
    PeerList,
    Processor,
    RemoteAddr,
    Settings,
    TcpAddress,
    TlsMode,
    TlsVersion,
    UnixAddress,
    convert_file,
    known_keys,
    load_configuration,
    read_document,
)
from trio_fcgimail.config.conversion import converted
from trio_fcgimail.config.guerrilla import Translation, servers, tls, translate
from trio_fcgimail.config.guerrilla import backend as backend_config
from trio_fcgimail.config.guerrilla.translation import KEYS as TOP_KEYS


def _translated(content: object, *, may_discard: bool = False) -> Translation:
    return translate(text_of(content), file="f", default_hostname=MACHINE, may_discard=may_discard)


def _modelled(content: object) -> Settings:
    return read_document(_translated(content).document, file="f", default_hostname=MACHINE)


def _errors(content: object) -> list[str]:
    try:
        _translated(content)
    except ConfigErrors as errors:
        return [line.removeprefix("f: ") for line in str(errors).split("\n")]
    return []


def _warnings(content: object) -> list[tuple[str, Concern]]:
    """Give all but the line that every start has."""
    return [
        (warning.key, warning.concern)
        for warning in _translated(content).warnings
        if warning.key != "backend_config.save_workers_size"
    ]


def test_smallest_file_has_the_defaults_of_go_guerrilla() -> None:
    settings = _modelled(minimal())
    (listener,) = settings.listeners
    assert listener.address == TcpAddress("127.0.0.1", 2525)
    assert settings.hostname == MACHINE
    assert (settings.limits.message_octets, settings.limits.idle_seconds, settings.limits.connections) == (
        10485760,
        30.0,
        100,
    )
    assert (settings.log.level, settings.log.file) == (LogLevel.DEBUG, LogStream.STDERR)
    assert (settings.scripts.save_seconds, settings.scripts.validate_seconds) == (30.0, 5.0)
    assert (settings.scripts.remote_addr, settings.scripts.server_software) == (
        RemoteAddr.LOOPBACK,
        "Go-guerrilla fastcgi",
    )
    assert settings.fastcgi.upstreams == (UnixAddress("/run/php/php8.2-fpm.sock"),)
    assert (settings.fastcgi.max_connections, settings.chain.trace_header) == (2, False)


def test_sample_of_go_guerrilla() -> None:
    settings = _modelled(GO_GUERRILLA)
    (listener,) = settings.listeners
    assert settings.chain.save == (
        Processor.HEADERS_PARSER,
        Processor.HEADER,
        Processor.DEBUGGER,
        Processor.FASTCGI,
    )
    assert (listener.tls, listener.tls_minimum, listener.tls_maximum) == (
        TlsMode.STARTTLS,
        TlsVersion.TLS_1_2,
        TlsVersion.TLS_1_2,
    )
    assert listener.ciphers == ("ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-AES256-GCM-SHA384")
    assert (listener.certificate, listener.client_certificates) == (Path("/path/to/cert.pem"), ClientCertificates.NONE)
    assert settings.header.primary_mail_host is None  # it is the hostname
    assert settings.debugger.log_received_mails
    assert settings.allowed_hosts.holds("a.b.wild.example")
    assert settings.allowed_hosts.holds("[IPv6:2001:DB8::7]")
    assert sorted(_warnings(GO_GUERRILLA)) == sorted(
        [
            *[("servers[0].tls.ciphers", Concern.WEAK_TLS)] * 3,
            ("servers[0].tls.curves", Concern.DIFFERENT),
            ("servers[0].tls.protocols", Concern.WEAK_TLS),
            ("backend_config.mail_table", Concern.UNUSED),
            ("backend_config.redis_expire_seconds", Concern.UNUSED),
            ("backend_config.redis_interface", Concern.UNUSED),
        ],
        key=lambda warning: (warning[0], warning[1].value),
    )


def test_sample_of_maildiranasaurus_stores_mails_at_last() -> None:
    settings = _modelled(MAILDIRANASAURUS)
    assert settings.chain.save[-2:] == (Processor.MAILDIR, Processor.FASTCGI)
    assert settings.chain.validate == (Processor.MAILDIR, Processor.FASTCGI)
    assert settings.maildir.user_map == (MaildirUser("alice", 1000, 1000), MaildirUser("bob", None, None))
    assert settings.fastcgi.upstreams == (TcpAddress("127.0.0.1", 9000),)
    assert settings.listeners[0].address == TcpAddress("*", 25)
    assert _warnings(MAILDIRANASAURUS) == [
        ("primary_mail_host", Concern.UNKNOWN_KEY),
        ("backend_name", Concern.UNUSED),
        ("backend_config.save_processors", Concern.DIFFERENT),
        ("backend_config.validate_processors", Concern.DIFFERENT),
    ]


TAKEN = [
    pytest.param(server(Listen_Interface=":25"), "listeners", "*:25", id="key-in-any-case"),
    pytest.param(server(listen_interface="0.0.0.0:25"), "listeners", "*:25", id="wildcard-of-ipv4"),
    pytest.param(server(listen_interface="[::]:25"), "listeners", "*:25", id="wildcard-of-ipv6"),
    pytest.param(server(listen_interface="[::1]:25"), "listeners", "[::1]:25", id="ipv6"),
]


@pytest.mark.parametrize(("content", "attribute", "address"), TAKEN)
def test_address_of_a_server(content: object, attribute: str, address: str) -> None:
    (listener,) = _modelled(content).listeners
    assert str(listener.address) == address


VALUES = [
    pytest.param(server(max_size=0), "limits.message_octets", 10485760, id="zero-is-the-default"),
    pytest.param(server(timeout=90.0), "limits.idle_seconds", 90.0, id="whole-float"),
    pytest.param(server(host_name="mx.example.com"), "hostname", "mx.example.com", id="hostname"),
    pytest.param(backend(gw_save_timeout="1m30s"), "scripts.save_seconds", 90.0, id="duration"),
    pytest.param(backend(gw_save_timeout="1.5h"), "scripts.save_seconds", 5400.0, id="fraction"),
    pytest.param(backend(gw_save_timeout=".5s"), "scripts.save_seconds", 0.5, id="no-digit-before"),
    pytest.param(backend(gw_save_timeout="500ms"), "scripts.save_seconds", 0.5, id="milliseconds"),
    pytest.param(backend(gw_save_timeout="7µs"), "scripts.save_seconds", 7e-06, id="microseconds"),
    pytest.param(backend(gw_val_rcpt_timeout=3), "scripts.validate_seconds", 3.0, id="number-of-seconds"),
    pytest.param(backend(gw_save_timeout="30"), "scripts.save_seconds", 30.0, id="no-unit"),
    pytest.param(backend(gw_save_timeout="-5s"), "scripts.save_seconds", 30.0, id="negative"),
    pytest.param(backend(gw_save_timeout="0s"), "scripts.save_seconds", 30.0, id="zero"),
    pytest.param(backend(gw_save_timeout="1s "), "scripts.save_seconds", 30.0, id="blank"),
    pytest.param(backend(gw_save_timeout="99999999999h"), "scripts.save_seconds", 30.0, id="for-ever"),
    pytest.param(backend(save_workers_size=8), "fastcgi.max_connections", 8, id="workers"),
    pytest.param(backend(save_workers_size=8.9), "fastcgi.max_connections", 8, id="workers-cut-off"),
    pytest.param(backend(save_workers_size="8"), "fastcgi.max_connections", 2, id="workers-as-text"),
    pytest.param(backend(save_workers_size=0), "fastcgi.max_connections", 2, id="no-workers"),
    pytest.param(backend(validate_process=""), "scripts.validate", None, id="nobody-is-asked"),
    pytest.param(backend(validate_process=None), "scripts.validate", None, id="nobody-is-asked-by-default"),
    pytest.param(
        backend(fcgi_connection_type="tcp", fcgi_connection_address=":9000"),
        "fastcgi.upstreams",
        (TcpAddress("127.0.0.1", 9000),),
        id="tcp-without-a-host",
    ),
    pytest.param(
        backend(fcgi_connection_type="tcp6", fcgi_connection_address="[::1]:9000"),
        "fastcgi.upstreams",
        (TcpAddress("::1", 9000),),
        id="tcp6",
    ),
    pytest.param(minimal(log_file=""), "log.file", LogStream.STDERR, id="no-log-file"),
    pytest.param(minimal(log_file="off"), "log.file", LogStream.OFF, id="log-off"),
    pytest.param(minimal(log_level="fatal"), "log.level", LogLevel.ERROR, id="fatal"),
    pytest.param(minimal(log_level="warn"), "log.level", LogLevel.WARNING, id="warn"),
    pytest.param(minimal(log_level="loud"), "log.level", LogLevel.DEBUG, id="no-level"),
    pytest.param(minimal(pid_file="x.pid"), "pid_file", Path("x.pid"), id="pid-file"),
    pytest.param({**minimal(), "PID_FILE": "y.pid"}, "pid_file", Path("y.pid"), id="top-level-in-any-case"),
    pytest.param(minimal(pid_file=None), "pid_file", None, id="null-is-absent"),
]


@pytest.mark.parametrize(("content", "attribute", "value"), VALUES)
def test_value_becomes_attribute(content: object, attribute: str, value: object) -> None:
    assert attrgetter(attribute)(_modelled(content)) == value


def _tls(**keys: object) -> dict[str, object]:
    return server(tls={"tls_always_on": True, "public_key_file": "/c", "private_key_file": "/k", **keys})


TLS = [
    pytest.param(_tls(), "tls", TlsMode.IMPLICIT, [], id="implicit"),
    pytest.param(_tls(start_tls_on=True), "tls", TlsMode.IMPLICIT, [Concern.DIFFERENT], id="both"),
    pytest.param(_tls(protocols=["tls1.3"]), "tls_minimum", TlsVersion.TLS_1_3, [], id="minimum"),
    pytest.param(
        _tls(protocols=["tls1.1", "tls1.0"]), "tls_maximum", TlsVersion.TLS_1_2, [Concern.WEAK_TLS] * 2, id="dead"
    ),
    pytest.param(
        _tls(protocols=["ssl9", "tls1.3"]), "tls_minimum", TlsVersion.TLS_1_2, [Concern.WEAK_TLS], id="unknown"
    ),
    pytest.param(
        _tls(protocols=["ssl9", "tls1.3"]), "tls_maximum", TlsVersion.TLS_1_3, [Concern.WEAK_TLS], id="place-kept"
    ),
    pytest.param(_tls(curves=["P384"]), "curves", (Curve.P_384,), [], id="curve"),
    pytest.param(_tls(curves=["P384", "P25519"]), "curves", (Curve.P_384,), [Concern.WEAK_TLS], id="unknown-curve"),
    pytest.param(
        _tls(ciphers=["TLS_AES_128_GCM_SHA256", "TLS_RSA_WITH_AES_128_CBC_SHA256"]),
        "ciphers",
        ("AES128-SHA256",),
        [Concern.UNUSED],
        id="ciphers",
    ),
    pytest.param(
        _tls(root_cas_file="/ca"), "client_certificates", ClientCertificates.OPTIONAL, [], id="authorities-alone"
    ),
    pytest.param(
        _tls(root_cas_file="/ca", client_auth_type="RequireAndVerifyClientCert"), "client_ca", Path("/ca"), [], id="ca"
    ),
    pytest.param(
        _tls(client_auth_type="RequireAnyClientCert"),
        "client_certificates",
        ClientCertificates.NONE,
        [Concern.WEAK_TLS],
        id="unverified",
    ),
    pytest.param(
        _tls(root_cas_file="/ca", client_auth_type="NoClientCert"),
        "client_ca",
        None,
        [Concern.UNUSED],
        id="ca-for-nobody",
    ),
    pytest.param(_tls(prefer_server_cipher_suites=False), "ciphers", (), [Concern.DIFFERENT], id="order-of-the-client"),
    pytest.param(
        server(tls={"private_key_file": "/k", "curves": ["P256"]}), "tls", TlsMode.NONE, [Concern.UNUSED] * 2, id="off"
    ),
]


@pytest.mark.parametrize(("content", "attribute", "value", "concerns"), TLS)
def test_name_of_go_becomes_one_of_openssl_or_a_warning(
    content: object, attribute: str, value: object, concerns: list[Concern]
) -> None:
    (listener,) = _modelled(content).listeners
    assert getattr(listener, attribute) == value
    assert [concern for _, concern in _warnings(content)] == concerns


HOSTS = [
    pytest.param(["Example.COM"], ["example.com"], ["a.example.com"], id="exact-in-any-case"),
    pytest.param(["*.wild.com"], ["a.b.wild.com"], ["wild.com"], id="subdomains"),
    pytest.param(["*"], ["a.example", "[192.0.2.1]"], [], id="star-is-everything"),
    pytest.param(["."], ["a.example", "[IPv6:::1]"], [], id="dot-is-everything"),
    pytest.param([".", "*.a.example"], ["b.example"], [], id="dot-beside-patterns"),
    pytest.param([".", "a.example"], ["a.example"], ["b.example"], id="dot-beside-names-is-nothing"),
    pytest.param(["mx?.*.example"], ["mx1.a.example"], ["mx.a.example"], id="pattern"),
    pytest.param(["[::1]"], ["[IPv6:0:0::1]"], ["[IPv6:::2]"], id="literal-without-a-tag"),
    pytest.param(["[IPv6:::1]"], ["[IPv6:::1]"], [], id="literal-with-its-tag"),
    pytest.param([], [MACHINE], ["a.example"], id="empty-is-this-machine"),
    pytest.param(["a b", "[x]", "[z-a]*", "a.example"], ["a.example"], ["b.example"], id="what-cannot-match"),
]


@pytest.mark.parametrize(("entries", "held", "others"), HOSTS)
def test_allowed_hosts_are_those_of_go_guerrilla(entries: list[str], held: list[str], others: list[str]) -> None:
    hosts = _modelled(minimal(allowed_hosts=entries)).allowed_hosts
    assert [host for host in (*held, *others) if hosts.holds(host)] == held


def test_hosts_that_are_left_out_are_named() -> None:
    content = minimal(allowed_hosts=[".", "a b", "a.example"])
    assert _warnings(content) == [("allowed_hosts", Concern.UNUSABLE)] * 2


WARNED = [
    pytest.param(minimal(hosts=[]), [("hosts", Concern.UNKNOWN_KEY)], id="unknown"),
    pytest.param(backend(Save_Process="x"), [("backend_config.Save_Process", Concern.UNKNOWN_KEY)], id="exact-case"),
    pytest.param(server(start_tls_on=True), [("servers[0].start_tls_on", Concern.UNKNOWN_KEY)], id="out-of-its-table"),
    pytest.param(server(TIMEOUT=4, timeout=5), [("servers[0].timeout", Concern.REPEATED_KEY)], id="twice"),
    pytest.param(
        backend(gw_save_timeout=True), [("backend_config.gw_save_timeout", Concern.WRONG_TYPE)], id="no-duration"
    ),
    pytest.param(
        backend(validate_process=5), [("backend_config.validate_process", Concern.WRONG_TYPE)], id="wrong-type"
    ),
    pytest.param(
        backend(save_process="FastCGI|fastcgi"), [("backend_config.save_process", Concern.REPEATED_KEY)], id="runs-once"
    ),
    pytest.param(
        backend(save_processors="x"), [("backend_config.save_processors", Concern.UNUSED)], id="both-of-two-names"
    ),
    pytest.param(backend(sleep_seconds=1), [("backend_config.sleep_seconds", Concern.UNUSABLE)], id="sleep"),
    pytest.param(minimal(log_level="loud"), [("log_level", Concern.UNUSABLE)], id="level"),
    pytest.param(minimal(log_level="panic"), [("log_level", Concern.DIFFERENT)], id="nearest-level"),
]


@pytest.mark.parametrize(("content", "warned"), WARNED)
def test_nothing_is_ignored_without_a_word(content: object, warned: list[tuple[str, Concern]]) -> None:
    others = [entry for entry in _warnings(content) if entry[0] != "backend_config.fcgi_script_filename_validate"]
    assert others == warned


def test_warning_is_one_line_with_a_hint() -> None:
    warning, _ = _translated(backend(Save_Process="a\nb")).warnings
    assert str(warning) == (
        'f: backend_config.Save_Process: found "a\\u000ab": an unknown key, left out (did you mean "save_process"?)'
    )


def test_start_says_how_to_raise_the_number_of_requests() -> None:
    (warning,) = _translated(backend(save_workers_size=4)).warnings
    assert str(warning).startswith(
        "f: backend_config.save_workers_size: found 4: at most 4 requests run at a time; raise it"
    )


REFUSED = [
    pytest.param(
        backend(save_process="HeadersParser|SQL|FastCGI"),
        'backend_config.save_process: found "SQL", expected HeadersParser, Header, Hasher, Debugger, Compressor, '
        "FastCGI, MailDir, with | between them; what needs a database belongs into the script or a processor of "
        "your own: docs/migrating.md",
        id="database",
    ),
    pytest.param(
        backend(save_process="Gmail|FastCGI"),
        'backend_config.save_process: found "Gmail", expected Headers',
        id="unknown",
    ),
    pytest.param(
        backend(save_process="Debugger"),
        'backend_config.save_process: found "Debugger", expected FastCGI or MailDir among them, or the option',
        id="stores-nowhere",
    ),
    pytest.param(
        backend(save_process=None),
        'backend_config.save_process: found "HeadersParser|Header|Debugger", the default, expected FastCGI or',
        id="stores-nowhere-by-default",
    ),
    pytest.param(
        {"allowed_hosts": ["a.example"]},
        'backend_config.save_process: found "HeadersParser|Header|Debugger", the default, expected FastCGI or',
        id="no-backend",
    ),
    pytest.param(
        backend(fcgi_script_filename_save=5),
        "backend_config.fcgi_script_filename_save: found 5, expected the absolute path of a script",
        id="required-of-another-type",
    ),
    pytest.param(
        backend(fcgi_script_filename_validate=None),
        "backend_config.fcgi_script_filename_validate: found nothing, expected the absolute path",
        id="required-missing",
    ),
    pytest.param(
        backend(fcgi_script_filename_save="save.php"),
        'backend_config.fcgi_script_filename_save: found "save.php", expected the absolute path',
        id="relative-script",
    ),
    pytest.param(
        backend(fcgi_connection_type="udp"),
        'backend_config.fcgi_connection_type: found "udp", expected "unix" or',
        id="udp",
    ),
    pytest.param(
        backend(fcgi_connection_address="php.sock"),
        'backend_config.fcgi_connection_address: found "php.sock", expected an address for unix',
        id="relative-socket",
    ),
    pytest.param(
        backend(save_process="MailDir"),
        "backend_config.maildir_path: found nothing, expected a path such",
        id="maildir",
    ),
    pytest.param(
        backend(save_process="MailDir", maildir_path="/m", maildir_user_map="a=b:c"),
        'backend_config.maildir_user_map: found "a=b:c", expected USER=UID:GID',
        id="user-without-ids",
    ),
    pytest.param(server(timeout="30"), 'servers[0].timeout: found "30", expected a whole number above 0', id="text"),
    pytest.param(server(timeout=-1), "servers[0].timeout: found -1, expected a whole number above 0", id="negative"),
    pytest.param(
        server(listen_interface=None), 'servers[0].listen_interface: found nothing, expected "IP:PORT"', id="nowhere"
    ),
    pytest.param(
        server(listen_interface="25"), 'servers[0].listen_interface: found "25", expected "127.0.0.1', id="no-address"
    ),
    pytest.param(server(host_name="a_b"), 'servers[0].host_name: found "a_b", expected a domain', id="hostname"),
    pytest.param(server(tls=[]), "servers[0].tls: found an empty list, expected an object", id="tls-no-object"),
    pytest.param(
        server(tls={"start_tls_on": True, "public_key_file": "/c"}),
        "servers[0].tls.private_key_file: found nothing, expected the path of a PEM file",
        id="no-key",
    ),
    pytest.param(
        _tls(protocols=["tls1.3", "tls1.2"]),
        'servers[0].tls.protocols: found ["tls1.3", "tls1.2"], expected the',
        id="order",
    ),
    pytest.param(
        minimal(servers=[{"is_enabled": False}]), "servers: found none that is enabled, expected one with", id="none"
    ),
    pytest.param(
        minimal(servers=[{"is_enabled": "yes"}]), 'servers[0].is_enabled: found "yes", expected true or', id="enabled"
    ),
    pytest.param(minimal(servers={}), "servers: found an object, expected a list of objects", id="servers-no-list"),
    pytest.param(minimal(servers=[1]), "servers[0]: found 1, expected an object", id="server-no-object"),
    pytest.param(
        minimal(allowed_hosts="a"), 'allowed_hosts: found "a", expected a list of strings', id="hosts-no-list"
    ),
    pytest.param(
        minimal(allowed_hosts=["a b"]), "allowed_hosts: found an empty list, expected a list of", id="no-host-left"
    ),
    pytest.param(minimal(pid_file=1), "pid_file: found 1, expected a string", id="pid-file-no-string"),
    pytest.param([], "file: found an empty list, expected a JSON object", id="no-object"),
]


@pytest.mark.parametrize(("content", "line"), REFUSED)
def test_what_cannot_be_served_is_an_error(content: object, line: str) -> None:
    assert _errors(content)[0].startswith(line)


TEXTS = [
    pytest.param("{,}", 'line 1: found "{,}", expected JSON (Expecting property name', id="syntax"),
    pytest.param('{\n "a": 1 // b\n}', 'line 2: found ""a\\": 1 // b"', id="comment"),
    pytest.param('{"a": NaN}', "file: found a number that is none, expected JSON (NaN is no", id="nan"),
    pytest.param('{"a": ' + "1" * 5000 + "}", "file: found a number that is none", id="huge-number"),
    pytest.param("[" * 100_000, "file: found values nested too deeply, expected JSON", id="deep"),
    pytest.param("", 'line 1: found "", expected JSON', id="empty"),
    pytest.param("{} {}", 'line 1: found "{} {}", expected JSON (Extra data)', id="two"),
]


@pytest.mark.parametrize(("text", "line"), TEXTS)
def test_what_is_no_json_is_one_line(text: str, line: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        translate(text, file="f", default_hostname=MACHINE)
    (error,) = str(caught.value).split("\n")
    assert error.removeprefix("f: ").startswith(line.replace('""a', '"\\"a'))


def test_every_error_is_told_at_once() -> None:
    content = {
        "servers": [{"is_enabled": True, "timeout": "x", "tls": {"start_tls_on": 1}}],
        "pid_file": 3,
        "backend_config": {"save_process": "Redis|FastCGI", "fcgi_connection_type": "unix"},
    }
    assert [line.split(": ")[0] for line in _errors(content)] == [
        "servers[0].listen_interface",
        "servers[0].tls.start_tls_on",
        "servers[0].timeout",
        "pid_file",
        "backend_config.save_process",
        "backend_config.fcgi_connection_address",
        "backend_config.fcgi_script_filename_save",
    ]


def test_disabled_server_is_not_looked_at() -> None:
    disabled = {"is_enabled": False, "timeout": "x", "nonsense": [], "tls": {"tls_always_on": True}, "host_name": "a_b"}
    both = [{"is_enabled": True, "listen_interface": "127.0.0.1:25"}, disabled]
    assert _errors(minimal(servers=both)) == []
    assert _warnings(minimal(servers=both)) == []


def test_what_servers_have_alike_is_for_all_and_the_rest_their_own() -> None:
    both = [
        {"is_enabled": True, "listen_interface": "127.0.0.1:25", "max_size": 5, "timeout": 9, "host_name": "a.example"},
        {"is_enabled": True, "listen_interface": "127.0.0.1:26", "max_size": 6, "timeout": 9, "max_clients": 7},
    ]
    settings = _modelled(minimal(servers=both, log_file="/var/log/all.log"))
    first, second = settings.listeners
    assert (settings.hostname, first.hostname, second.hostname) == ("a.example", None, MACHINE)
    assert (first.message_octets, second.message_octets) == (5, 6)
    assert (settings.limits.idle_seconds, first.idle_seconds) == (9.0, None)
    assert (settings.limits.connections, first.connections, second.connections) == (107, 100, 7)


def test_peers_that_may_tell_of_clients() -> None:
    (listener,) = _modelled(server(xclient_on=True, proxyon=True)).listeners
    assert listener.xclient_from == PeerList.parse(["127.0.0.0/8", "::1"])
    assert listener.proxy_protocol_from == PeerList.parse(["0.0.0.0/0", "::/0"])


def test_chain_that_stores_nowhere_can_be_asked_for() -> None:
    translation = _translated(backend(save_process="Debugger"), may_discard=True)
    chain = translation.document["chain"]
    assert isinstance(chain, Mapping)
    assert (chain["save"], chain["discard"]) == (["Debugger"], True)


def _same(content: object) -> None:
    translation = _translated(content)
    text = converted(translation, "goguerrilla.conf.json")
    document = tomllib.loads(text)
    assert document == translation.document
    assert read_document(document, file="f", default_hostname="other.example") == _modelled(content)


FILES = [
    pytest.param(GO_GUERRILLA, id="go-guerrilla"),
    pytest.param(MAILDIRANASAURUS, id="maildiranasaurus"),
    *(case for case in (*TAKEN, *VALUES, *TLS, *WARNED)),
    pytest.param(minimal(allowed_hosts=["mx*.example.com", "*.a.example", "[::1]", "bücher.example"]), id="hosts"),
    pytest.param(server(xclient_on=True, proxyon=True), id="proxies"),
    pytest.param(minimal(log_file='/var/log/"odd" \\ name é\u2764'), id="odd-characters"),
    pytest.param(minimal(allowed_hosts=[f"a{number}.example" for number in range(50)]), id="many-hosts"),
    pytest.param(
        backend(save_process="MailDir", maildir_path="~/[user]", maildir_user_map="a.b=1:2,c d=1:2".replace(" ", "+")),
        id="maildir-of-odd-users",
    ),
]


@pytest.mark.parametrize("content", [pytest.param(case.values[0], id=case.id) for case in FILES])
def test_converted_file_means_the_same(content: object) -> None:
    _same(content)


@settings(deadline=None, max_examples=150)
@given(files())
def test_any_converted_file_means_the_same(content: dict[str, object]) -> None:
    _same(content)


def test_converted_file_says_what_it_leaves_out() -> None:
    text = converted(_translated(GO_GUERRILLA), "goguerrilla.conf.json")
    lines = text.split("\n")
    comment = (
        '# backend_config.mail_table: found "new_mail": of the processor SQL, which is in no chain, so it has no effect'
    )
    assert lines[0].startswith("# Made of goguerrilla.conf.json")
    assert comment in lines
    above = lines[lines.index("max_connections = 2") - 1]
    assert above.startswith("# backend_config.save_workers_size: found 1: at most 2 requests")


def test_file_is_recognised_by_its_name_or_its_content(tmp_path: Path) -> None:
    for name in ("goguerrilla.conf", "a.json"):
        path = tmp_path / name
        path.write_text(text_of(MAILDIRANASAURUS))
        text = convert_file(path, default_hostname=MACHINE)
        assert text.startswith(f"# Made of {name}")


def test_toml_is_not_converted(tmp_path: Path) -> None:
    path = tmp_path / "fcgimail.toml"
    path.write_text('allowed_hosts = ["a.example"]')
    with pytest.raises(ConfigErrors, match="found no JSON, expected a file of go-guerrilla"):
        convert_file(path, default_hostname=MACHINE)


def test_servers_that_differ_have_settings_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "goguerrilla.conf.json"
    one, other = (
        {
            "is_enabled": True,
            "listen_interface": f"127.0.0.1:{port}",
            "host_name": f"mx{port}.example",
            "timeout": port,
            "max_clients": port + 1,
            "log_file": f"/var/log/{port}",
        }
        for port in (2525, 2526)
    )
    path.write_text(text_of(minimal(servers=[one, other])))
    settings = load_configuration(path, default_hostname=MACHINE).settings
    assert settings.limits.connections == 2526 + 2527
    assert [
        (one.hostname or settings.hostname, one.idle_seconds, one.connections, str(one.log_file))
        for one in settings.listeners
    ] == [(f"mx{port}.example", port, port + 1, f"/var/log/{port}") for port in (2525, 2526)]


def test_whole_chain_is_served_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "goguerrilla.conf.json"
    keys = {"maildir_path": "/home/[user]/Maildir", "maildir_user_map": "test=-1:-1", "log_received_mails": True}
    path.write_text(
        text_of(backend(save_process="HeadersParser|Header|Hasher|Debugger|compressor| FastCGI |MailDir", **keys))
    )
    settings = load_configuration(path, default_hostname=MACHINE).settings
    assert [step.value for step in settings.chain.save][3:] == ["Debugger", "Compressor", "FastCGI", "MailDir"]
    assert (settings.chain.trace_header, settings.debugger.log_received_mails) == (False, True)


_DOCUMENTATION = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("key", sorted({*TOP_KEYS, *servers.KEYS, *tls.KEYS, *backend_config.KEYS}))
def test_documentation_has_a_row_for_every_key_of_theirs(key: str) -> None:
    rows = [line.split("|")[1] for line in _DOCUMENTATION.split("\n") if line.startswith("| `")]
    assert any(f"`{key}`" in row for row in rows) or key == "tls"


def test_documentation_names_keys_of_ours_that_there_are() -> None:
    sections = "listeners|limits|fastcgi|scripts|chain|header|debugger|maildir|log"
    named = set(re.findall(rf"`((?:{sections})\.[a-z_]+)`", _DOCUMENTATION))
    assert named <= set(known_keys())


def test_clean_end_of_php_fpm_means_unexecuted() -> None:
    fastcgi = _translated(minimal()).document["fastcgi"]
    assert isinstance(fastcgi, Mapping)
    assert fastcgi.get("clean_eof_means_unexecuted") is True
