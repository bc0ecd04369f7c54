"""The keys that are promised, the documentation, and arbitrary documents."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.config.support import document_with, error_lines, read
from trio_fcgimail.config import ConfigErrors, Settings, known_keys, read_document

# Every key that is promised, with a value that it takes.
CONTRACT = {
    "hostname": '"mx.example.com"',
    "allowed_hosts": '["example.com", "*.example.org"]',
    "null_mx_hosts": '["www.example.com", "*.example.net"]',
    "workers": '"auto"',
    "user": '"fcgimail"',
    "group": '"mail"',
    "drain_seconds": "30",
    "pid_file": '"/run/fcgimail.pid"',
    "listeners.address": '"127.0.0.1:2525"',
    "listeners.mode": '"0660"',
    "listeners.group": '"mail"',
    "listeners.protocol": '"smtp"',
    "listeners.tls": '"none"',
    "listeners.certificate": '"/etc/ssl/mx.pem"',
    "listeners.private_key": '"/etc/ssl/mx.key"',
    "listeners.certificates.certificate": '"/etc/ssl/mx2.pem"',
    "listeners.certificates.private_key": '"/etc/ssl/mx2.key"',
    "listeners.extensions": '"all"',
    "listeners.proxy_protocol_from": '["10.0.0.0/8"]',
    "listeners.xclient_from": "[]",
    "listeners.bare_newline": '"reject"',
    "listeners.lenient_paths": "false",
    "listeners.accepts_mail": "true",
    "listeners.require_auth": "false",
    "listeners.auth_any_recipient": "false",
    "listeners.auth_without_tls": "false",
    "listeners.tls_minimum": '"1.3"',
    "listeners.tls_maximum": '"1.2"',
    "listeners.ciphers": '["ECDHE-RSA-AES128-GCM-SHA256"]',
    "listeners.curves": '["X25519"]',
    "listeners.client_certificates": '"optional"',
    "listeners.client_ca": '"/etc/ssl/ca.pem"',
    "listeners.hostname": '"mx2.example.com"',
    "listeners.message_octets": "1000000",
    "listeners.idle_seconds": "30",
    "listeners.connections": "100",
    "listeners.log_file": '"/var/log/mx2.log"',
    "limits.message_octets": "26214400",
    "limits.recipients": "100",
    "limits.connections": "1000",
    "limits.connections_per_ip": "50",
    "limits.connections_per_minute_per_ip": "300",
    "limits.messages_per_connection": "1000",
    "limits.messages_per_minute_per_ip": "600",
    "limits.recipients_per_minute_per_ip": "3000",
    "limits.exempt_from": '["127.0.0.0/8", "::1/128"]',
    "limits.banner_delay_seconds": "0",
    "limits.proxy_header_seconds": "5",
    "limits.bad_commands": "5",
    "limits.refused_recipients": "20",
    "limits.tls_handshake_seconds": "30",
    "limits.idle_seconds": "300",
    "limits.data_seconds": "600",
    "limits.data_floor_octets_per_second": "100",
    "limits.max_received": "100",
    "spool.memory_octets": "262144",
    "spool.directory": '""',
    "spool.total_octets": "0",
    "fastcgi.upstreams": '["unix:/run/php/php-fpm.sock", "tcp:10.0.0.2:9000"]',
    "fastcgi.max_connections": "5",
    "fastcgi.reserve_for_validate": "1",
    "fastcgi.keep_alive": "true",
    "fastcgi.connect_seconds": "5",
    "fastcgi.wait_seconds": "20",
    "fastcgi.clean_eof_means_unexecuted": "false",
    "scripts.validate": '"/srv/mail/validate.php"',
    "scripts.validate_seconds": "5",
    "scripts.save": '"/srv/mail/save.php"',
    "scripts.save_seconds": "30",
    "scripts.body": '"raw"',
    "scripts.line_ends": '"lf"',
    "scripts.unexpected_output": '"tempfail"',
    "scripts.remote_addr": '"127.0.0.1"',
    "scripts.server_software": '"Go-guerrilla fastcgi"',
    "chain.save": '["HeadersParser", "Header", "Debugger", "FastCGI"]',
    "chain.validate": '["FastCGI"]',
    "chain.discard": "true",
    "chain.trace_header": "false",
    "header.primary_mail_host": '"example.com"',
    "debugger.log_received_mails": "true",
    "maildir.path": '"/home/[user]/Maildir"',
    "maildir.user_map": '{alice = "1000:1000"}',
    "scripts.auth": '"/srv/mail/auth.php"',
    "scripts.connect": '"/srv/mail/connect.php"',
    "scripts.helo": '"/srv/mail/helo.php"',
    "scripts.mail": '"/srv/mail/mail.php"',
    "log.format": '"console"',
    "log.level": '"info"',
    "log.file": '"stderr"',
    "status.address": '"127.0.0.1:8025"',
    "status.password_file": '"/run/fcgimail/password"',
}

_WITH_TLS = 'tls = "starttls"\ncertificate = "/c"\n'

# What a key of a listener needs beside it.
_BESIDE = {
    **dict.fromkeys(("tls_maximum", "ciphers", "curves", "client_certificates"), _WITH_TLS),
    "client_ca": f'{_WITH_TLS}client_certificates = "optional"\n',
    "certificate": 'tls = "starttls"\n',
    "private_key": _WITH_TLS,
    "status.password_file": 'address = "127.0.0.1:8025"\n',
    "certificates.certificate": _WITH_TLS,
    "certificates.private_key": _WITH_TLS,
}


def _toml(key: str, value: str, beside: str = "") -> str:
    """Write one key as a document; a listener is a unix socket, so that mode and group apply."""
    section, _, name = key.rpartition(".")
    if section == "listeners.certificates":
        pair = "" if name == "certificate" else 'certificate = "/c"\n'
        address = 'address = "unix:/run/mail.sock"\n'
        return f"[[listeners]]\n{address}{beside or _WITH_TLS}[[listeners.certificates]]\n{pair}{name} = {value}"
    if section == "listeners":
        address = "" if name == "address" else 'address = "unix:/run/mail.sock"\n'
        return f"[[listeners]]\n{address}{beside}{name} = {value}"
    return f"[{section}]\n{beside}{name} = {value}" if section else f"{name} = {value}"


@pytest.mark.parametrize(("key", "value"), CONTRACT.items(), ids=CONTRACT)
def test_key_of_the_contract_is_taken(key: str, value: str) -> None:
    assert error_lines(_toml(key, value, _BESIDE.get(key.removeprefix("listeners."), ""))) == []


def test_there_is_no_key_beyond_the_contract() -> None:
    assert sorted(known_keys()) == sorted(CONTRACT)


_ROW = re.compile(r"^\| `([a-z_.]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
_DOCUMENTATION = Path(__file__).parents[2] / "docs" / "configuration.md"
_ROWS = [match.groups() for match in _ROW.finditer(_DOCUMENTATION.read_text(encoding="utf-8"))]
_NO_DEFAULT = ("*required*", "*name of the machine*")


def test_documentation_has_a_row_for_every_key() -> None:
    assert sorted(row[0] for row in _ROWS) == sorted(known_keys())


@pytest.mark.parametrize(("key", "kind", "default", "meaning"), _ROWS, ids=[row[0] for row in _ROWS])
def test_documented_default_is_what_an_absent_key_means(key: str, kind: str, default: str, meaning: str) -> None:
    if default in _NO_DEFAULT:
        return
    assert read(_toml(key, default.strip("`"))) == read(_absent(key))


def _absent(key: str) -> str:
    if key.startswith("listeners.certificates."):
        return _toml("listeners.certificates.certificate", '"/c"')
    return '[[listeners]]\naddress = "unix:/run/mail.sock"' if key.startswith("listeners.") else ""


_EXAMPLES = re.findall(r"```toml\n(.*?)```", _DOCUMENTATION.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", _EXAMPLES, ids=["smallest", "tls-and-auth", "certificates-by-name"])
def test_example_in_the_documentation_is_taken(example: str) -> None:
    assert error_lines(example) == []


_NAMES = st.sampled_from(sorted({part for key in known_keys() for part in key.split(".")})) | st.text(max_size=8)
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
    | st.times()
    | st.datetimes()
    | st.sampled_from([2**70, "unix:/a", "127.0.0.1:25", "lmtp", "all", "SIZE", "/x.php", ".", "0660", "systemd:x"])
)
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4))
_SECTION = st.dictionaries(_NAMES, _VALUES, max_size=6)
_KNOWN_SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("limits", "spool", "fastcgi", "scripts", "log", "status"), _SECTION),
        "listeners": st.lists(_SECTION, max_size=3),
    },
)


@settings(deadline=None)
@given(st.dictionaries(_NAMES, _VALUES, max_size=6), _KNOWN_SECTIONS, st.booleans(), st.text(max_size=10))
def test_any_document_gives_settings_or_config_errors(
    top: dict[str, object], sections: dict[str, object], is_complete: bool, hostname: str
) -> None:
    document = {**(document_with("") if is_complete else {}), **top, **sections}
    try:
        outcome: Settings | ConfigErrors = read_document(document, file="f", default_hostname=hostname)
    except ConfigErrors as errors:
        outcome = errors
    if isinstance(outcome, ConfigErrors):
        assert outcome.errors
        assert all(line.isprintable() and line.startswith("f: ") for line in str(outcome).split("\n"))
    else:
        assert (outcome.scripts.save or "/").startswith("/")
