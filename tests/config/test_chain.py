"""Chains, their processors' settings, and TLS: what goes with what."""

import pytest

from tests.config.support import document_with
from trio_fcgimail.config import (
    ClientCertificates,
    ConfigErrors,
    Curve,
    LogStream,
    MaildirUser,
    NamedProcessor,
    Processor,
    RemoteAddr,
    Settings,
    TlsVersion,
    read_document,
)

NO_SCRIPTS = '[fastcgi]\nupstreams = []\n[scripts]\nsave = ""\n'


def _modelled(text: str) -> Settings:
    document = document_with(text)
    for section in ("fastcgi", "scripts"):  # for those who want to do without
        values = document[section]
        assert isinstance(values, dict)
        document[section] = {name: value for name, value in values.items() if value not in ("", [])}
    return read_document(document, file="f", default_hostname="mx.example.com")


def _errors(text: str) -> list[str]:
    try:
        _modelled(text)
    except ConfigErrors as errors:
        return str(errors).split("\n")
    return []


def test_names_are_read_in_any_case() -> None:
    chain = _modelled('[chain]\nsave = ["headersparser", " HEADER ", "Debugger", "fastCGI"]\nvalidate = []').chain
    assert chain.save == (Processor.HEADERS_PARSER, Processor.HEADER, Processor.DEBUGGER, Processor.FASTCGI)
    assert chain.validate == ()


def test_maildir_alone_needs_no_scripts() -> None:
    settings = _modelled(
        NO_SCRIPTS + '[chain]\nsave = ["MailDir"]\nvalidate = ["MailDir"]\n'
        '[maildir]\npath = "/home/[user]/Maildir"\nuser_map = {Alice = "1000:-1", bob = "", carol = "-1:4294967294"}'
    )
    assert (settings.scripts.save, settings.fastcgi.upstreams) == (None, ())
    assert settings.maildir.user_map == (
        MaildirUser("alice", 1000, None),
        MaildirUser("bob", None, None),
        MaildirUser("carol", None, 4294967294),
    )


def test_what_is_for_one_listener_and_for_its_tls() -> None:
    (listener,) = _modelled(
        '[[listeners]]\naddress = "127.0.0.1:25"\ntls = "starttls"\ncertificate = "/c"\nhostname = "b.example"\n'
        'message_octets = 5\nidle_seconds = 1.5\nconnections = 3\nlog_file = "off"\ntls_minimum = "1.2"\n'
        'tls_maximum = "1.2"\nciphers = ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"]\n'
        'curves = ["X25519"]\nclient_certificates = "required"\nclient_ca = "/ca"'
    ).listeners
    assert (listener.hostname, listener.message_octets, listener.idle_seconds) == ("b.example", 5, 1.5)
    assert (listener.connections, listener.log_file) == (3, LogStream.OFF)
    assert (listener.tls_minimum, listener.tls_maximum) == (TlsVersion.TLS_1_2, TlsVersion.TLS_1_2)
    assert (listener.ciphers, listener.curves) == (("ECDHE-RSA-AES128-GCM-SHA256",), (Curve.X25519,))
    assert listener.client_certificates is ClientCertificates.REQUIRED


def test_what_scripts_of_go_guerrilla_see() -> None:
    scripts = _modelled('[scripts]\nremote_addr = "127.0.0.1"\nserver_software = "Go-guerrilla fastcgi"').scripts
    assert (scripts.remote_addr, scripts.server_software) == (RemoteAddr.LOOPBACK, "Go-guerrilla fastcgi")


_TLS = '[[listeners]]\naddress = "127.0.0.1:25"\ntls = "starttls"\ncertificate = "/c"\n'
_CLEAR = '[[listeners]]\naddress = "127.0.0.1:25"\n'

REFUSED = [
    pytest.param('[chain]\nsave = ["Debugger"]', ["chain.save"], id="stores-nowhere"),
    pytest.param("[chain]\nsave = []", ["chain.save"], id="empty"),
    pytest.param('[chain]\nsave = ["SQL", "FastCGI"]', ["chain.save[0]"], id="needs-a-database"),
    pytest.param('[chain]\nsave = ["a b", "FastCGI"]', ["chain.save[0]"], id="no-name"),
    pytest.param('[chain]\nsave = ["FastCGI", "fastcgi"]', ["chain.save"], id="twice"),
    pytest.param('[chain]\nsave = ["FastCGI", "MailDir"]', ["maildir.path", "maildir.user_map"], id="maildir-bare"),
    pytest.param('[maildir]\npath = "Maildir"', ["maildir.path"], id="relative"),
    pytest.param('[maildir]\nuser_map = {a = "0"}', ["maildir.user_map"], id="no-ids"),
    pytest.param('[maildir]\nuser_map = {a = "4294967295:1"}', ["maildir.user_map"], id="no-such-id"),
    pytest.param('[maildir]\nuser_map = {a = "", A = ""}', ["maildir.user_map"], id="user-twice"),
    pytest.param('[maildir]\nuser_map = {".." = ""}', ["maildir.user_map"], id="user-climbs"),
    pytest.param('[maildir]\nuser_map = {"a/b" = ""}', ["maildir.user_map"], id="user-is-a-path"),
    pytest.param(NO_SCRIPTS, ["fastcgi.upstreams", "scripts.save"], id="fastcgi-without-scripts"),
    pytest.param(
        NO_SCRIPTS + 'validate = "/v.php"\n[chain]\nsave = []\ndiscard = true',
        ["fastcgi.upstreams"],
        id="script-without-server",
    ),
    pytest.param(_CLEAR + 'tls_maximum = "1.2"', ["listeners[0].tls_maximum"], id="maximum-in-the-clear"),
    pytest.param(_CLEAR + 'ciphers = ["A-B"]', ["listeners[0].ciphers"], id="ciphers-in-the-clear"),
    pytest.param(
        _CLEAR + 'client_certificates = "optional"', ["listeners[0].client_certificates"], id="clients-in-the-clear"
    ),
    pytest.param(_TLS + 'client_ca = "/ca"', ["listeners[0].client_ca"], id="authorities-for-nobody"),
    pytest.param(_TLS + 'tls_minimum = "1.1"', ["listeners[0].tls_minimum"], id="dead-version"),
    pytest.param(
        _TLS + 'tls_minimum = "1.3"\ntls_maximum = "1.2"', ["listeners[0].tls_maximum"], id="maximum-below-minimum"
    ),
    pytest.param(_TLS + 'curves = ["P-256", "X25519"]', ["listeners[0].curves"], id="two-curves"),
    pytest.param(_TLS + 'ciphers = ["ALL:!aNULL"]', ["listeners[0].ciphers[0]"], id="string-of-openssl"),
    pytest.param('[scripts]\nserver_software = "a\\nb"', ["scripts.server_software"], id="software-of-two-lines"),
]


@pytest.mark.parametrize(("text", "keys"), REFUSED)
def test_what_does_not_go_together_is_refused(text: str, keys: list[str]) -> None:
    assert [line.split(": ")[1] for line in _errors(text)] == keys


def test_a_chain_that_stores_nowhere_may_be_asked_for() -> None:
    assert _errors(NO_SCRIPTS + '[chain]\nsave = ["Debugger"]\ndiscard = true') == []


def test_chain_that_the_server_can_do_is_served() -> None:
    document = document_with('[chain]\nsave = ["HeadersParser", "FastCGI"]')
    assert read_document(document, file="f", default_hostname="a.example").chain.save[-1] is Processor.FASTCGI


def test_name_that_is_none_of_ours_is_left_to_the_start() -> None:
    chain = _modelled('[chain]\nsave = ["Header", "My.Archive"]\nvalidate = ["my-users"]').chain
    assert chain.save == (Processor.HEADER, NamedProcessor("my.archive"))
    assert chain.validate == (NamedProcessor("my-users"),)
