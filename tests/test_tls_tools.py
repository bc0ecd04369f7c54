"""TLS of a running server, as programs see it that others wrote: openssl s_client, swaks, and a scanner."""

import importlib.util
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import trustme

from tests.certificates import Authority
from tests.clients import Outcome, missing, require, run_client
from tests.phpfpm import open_folder
from tests.server.responder_process import Store, storing
from tests.server_process import SECONDS, ServerProcess, eventually, free_port
from tests.support import Request

MAIL: Final = b"MAIL FROM:<alice@example.net>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\n"
BODY: Final = b"Subject: hello\r\n\r\nHello.\r\n.\r\nQUIT\r\n"
AES_256: Final = "ECDHE-ECDSA-AES256-GCM-SHA384"
WAYS: Final = ("smtp", "lmtp", "implicit")
VERSIONS: Final = ("1.2", "1.3")


@dataclass(frozen=True, slots=True)
class House:
    """A running server and its listeners.

    Attributes:
        authority: whom clients trust; of all certificates but one of RSA.
        ports: of each kind of listener.
        folder: With its ``ca.pem``, and ``sender.pem``, the certificate of a client.
    """

    authority: Authority
    server: ServerProcess
    store: Store
    ports: Mapping[str, int]
    folder: Path

    def taken(self) -> list[Request]:
        """The mails that came since the last time."""
        found = [request for request in self.store.requests if request.is_post]
        self.store.requests.clear()
        return found


def _issue(authority: Authority, path: Path, *names: str) -> Path:
    authority.issue_to(*names, common_name=names[0]).private_key_and_cert_chain_pem.write_to_path(path)
    return path


LISTENERS: Final[Mapping[str, str]] = {
    "smtp": 'tls = "starttls"',
    "lmtp": 'tls = "starttls"\nprotocol = "lmtp"',
    "implicit": 'tls = "implicit"',
    "rsa": 'tls = "implicit"',
    "1.3": 'tls = "implicit"\ntls_minimum = "1.3"',
    "1.2": f'tls = "implicit"\ntls_maximum = "1.2"\nciphers = ["{AES_256}"]',
    "required": 'tls = "starttls"\nclient_certificates = "required"\nclient_ca = "FOLDER/ca.pem"',
    "optional": 'tls = "starttls"\nclient_certificates = "optional"\nclient_ca = "FOLDER/ca.pem"',
}


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with open_folder() as folder, storing(folder / "fcgi") as store:
        authority = Authority(folder)  # with mx.pem and ca.pem
        _issue(authority, folder / "org.pem", "mx.example.org", "mail.example.org")
        _issue(authority, folder / "net.pem", "*.example.net")
        _issue(authority, folder / "sender.pem", "sender.example")
        rsa = trustme.CA(key_type=trustme.KeyType.RSA).issue_cert("mx.example.com", key_type=trustme.KeyType.RSA)
        rsa.private_key_and_cert_chain_pem.write_to_path(folder / "rsa.pem")
        trustme.CA().issue_cert("stranger.example").private_key_and_cert_chain_pem.write_to_path(
            folder / "stranger.pem"
        )
        ports = {name: free_port() for name in LISTENERS}
        text = 'hostname = "mx.example.com"\nallowed_hosts = ["example.com"]\nworkers = 2\n'
        for name, more in LISTENERS.items():
            own = "rsa" if name == "rsa" else "mx"
            text += f'[[listeners]]\naddress = "127.0.0.1:{ports[name]}"\ncertificate = "{folder}/{own}.pem"\n'
            text += more.replace("FOLDER", str(folder)) + "\n"
            for other in ("org", "net"):
                text += f'[[listeners.certificates]]\ncertificate = "{folder}/{other}.pem"\n'
        text += f'[fastcgi]\nupstreams = ["{store.address}"]\n[scripts]\nsave = "/srv/save.php"\n'
        (folder / "fcgimail.toml").write_text(text)
        with ServerProcess("serve", folder=folder) as server:
            yield House(authority, server, store, ports, folder)
            assert server.stop() == 0


def _s_client(
    house: House, kind: str, *options: str, said: bytes = b"QUIT\r\n", name: str = "mx.example.com"
) -> Outcome:
    """Have it say something over TLS, to the end; it has to be content with the certificate of ``name``."""
    way = "smtp" if kind in ("required", "optional") else kind
    starttls = () if way not in ("smtp", "lmtp") else ("-starttls", way, "-name", "client.example")
    verify = ("-CAfile", str(house.folder / "ca.pem"), "-verify_return_error", "-verify_hostname", name)
    command = [require("openssl", "openssl"), "s_client", "-connect", f"127.0.0.1:{house.ports[kind]}"]
    return run_client([*command, *starttls, *verify, "-ign_eof", *options], said)


# openssl s_client


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_script_and_the_trace_know_of_tls(house: House, way: str, version: str) -> None:
    hello = b"LHLO client.example\r\n" if way == "lmtp" else b"EHLO client.example\r\n"
    outcome = _s_client(house, way, f"-tls{version.replace('.', '_')}", said=hello + MAIL + BODY)
    assert outcome.sent, outcome.said
    assert "Verification: OK" in outcome.said
    assert "250 2.0.0 OK: queued as" in outcome.said
    (request,) = house.taken()
    match = re.search(r"New, TLSv\S+, Cipher is (\S+)", outcome.said)
    assert match is not None, outcome.said
    fields = request.fields
    assert fields["tls_on"] == "true"
    assert (fields["tls_protocol"], fields["tls_cipher"]) == (f"TLSv{version}", match[1])
    assert fields["with"] == ("LMTPS" if way == "lmtp" else "ESMTPS")
    assert f"\n\t(using TLSv{version} with cipher {match[1]})\n" in fields["body"]
    assert "tls_client_subject" not in fields


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("asked", "name"),
    [
        pytest.param("mx.example.com", "mx.example.com", id="default"),
        pytest.param("mail.example.org", "mail.example.org", id="another"),
        pytest.param("a.example.net", "b.example.net", id="wildcard"),
        pytest.param("unknown.example", "mx.example.com", id="unknown"),
        pytest.param("", "mx.example.com", id="none"),
    ],
)
def test_the_certificate_is_that_of_the_name(house: House, way: str, asked: str, name: str) -> None:
    outcome = _s_client(house, way, *(("-servername", asked) if asked else ("-noservername",)), name=name)
    assert outcome.sent, outcome.said
    assert "Verification: OK" in outcome.said
    assert f"Verified peername: {name.replace('b.', '*.')}" in outcome.said


OLD: Final = ("-cipher", "ALL:@SECLEVEL=0")
ALERTS: Final = {"unsupported protocol": "protocol version", "no shared cipher": "handshake failure"}
WEAK: Final = "NULL:aNULL:AES128-SHA:CAMELLIA:@SECLEVEL=0"


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        pytest.param("smtp", ("-tls1", *OLD), "unsupported protocol", id="1.0-starttls"),
        pytest.param("smtp", ("-tls1_1", *OLD), "unsupported protocol", id="1.1-starttls"),
        pytest.param("implicit", ("-tls1", *OLD), "unsupported protocol", id="1.0"),
        pytest.param("implicit", ("-tls1_1", *OLD), "unsupported protocol", id="1.1"),
        pytest.param("1.3", ("-tls1_2",), "unsupported protocol", id="1.2-below-the-minimum"),
        pytest.param("1.2", ("-tls1_3",), "unsupported protocol", id="1.3-above-the-maximum"),
        pytest.param("1.2", ("-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"), "no shared cipher", id="another-cipher"),
        pytest.param("implicit", ("-tls1_2", "-cipher", WEAK), "no shared cipher", id="no-cipher-worth-it"),
    ],
)
def test_what_is_refused_ends_in_the_handshake(house: House, kind: str, options: Sequence[str], reason: str) -> None:
    told = f"TLS handshake failed: {reason}"
    before = house.server.log.count(told)
    outcome = _s_client(house, kind, *options)
    assert not outcome.sent
    assert "Cipher is (NONE)" in outcome.said
    assert f"alert {ALERTS[reason]}" in outcome.said
    eventually(lambda: house.server.log.count(told) > before, "the reason is logged")


def test_what_is_chosen_is_what_is_spoken(house: House) -> None:
    assert f"New, TLSv1.2, Cipher is {AES_256}" in _s_client(house, "1.2").said
    assert "New, TLSv1.3, Cipher is " in _s_client(house, "1.3").said


def test_neither_compression_nor_insecure_renegotiation(house: House) -> None:
    said = _s_client(house, "implicit", "-tls1_2").said
    assert "Compression: NONE" in said
    assert "Secure Renegotiation IS supported" in said


@pytest.mark.parametrize("kind", ["required", "optional"])
def test_a_client_that_proves_who_it_is(house: House, kind: str) -> None:
    own = ("-cert", str(house.folder / "sender.pem"), "-key", str(house.folder / "sender.pem"))
    outcome = _s_client(house, kind, *own, said=b"EHLO client.example\r\n" + MAIL + BODY)
    assert "250 2.0.0 OK: queued as" in outcome.said
    (request,) = house.taken()
    der = ssl.PEM_cert_to_DER_cert(_first_certificate(house.folder / "sender.pem"))
    fingerprint = subprocess.run(
        [require("openssl", "openssl"), "x509", "-inform", "DER", "-noout", "-fingerprint", "-sha256"],
        input=der,
        capture_output=True,
        check=True,
    ).stdout.decode()
    assert request.fields["tls_client_sha256"] == fingerprint.partition("=")[2].strip().replace(":", "").lower()
    assert request.fields["tls_client_subject"].startswith("CN=sender.example,OU=")


def _first_certificate(path: Path) -> str:
    match = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", path.read_text(), re.DOTALL)
    assert match is not None
    return match[0]


@pytest.mark.parametrize(
    ("kind", "shown", "is_served"),
    [
        pytest.param("required", (), False, id="none-where-one-is-required"),
        pytest.param("required", ("stranger.pem",), False, id="of-another-authority"),
        pytest.param("optional", ("stranger.pem",), False, id="of-another-authority-where-none-is-required"),
        pytest.param("optional", (), True, id="none"),
    ],
)
def test_a_client_that_does_not(house: House, kind: str, shown: Sequence[str], is_served: bool) -> None:
    options = [word for name in shown for word in ("-cert", f"{house.folder}/{name}", "-key", f"{house.folder}/{name}")]
    outcome = _s_client(house, kind, *options, said=b"EHLO client.example\r\n" + MAIL + BODY)
    assert ("250 2.0.0 OK: queued as" in outcome.said) is is_served, outcome.said
    assert len(house.taken()) == is_served


# swaks


def _swaks(house: House, kind: str, *options: str) -> Outcome:
    program = require("swaks", "swaks libnet-ssleay-perl")
    tls = "--tls-on-connect" if kind == "implicit" else "--tls"
    protocol = ("--protocol", "LMTP") if kind == "lmtp" else ()
    where = ("--server", "127.0.0.1", "--port", str(house.ports[kind]), "--helo", "client.example", *protocol)
    verify = ("--tls-verify", "--tls-ca-path", str(house.folder / "ca.pem"))
    envelope = ("--from", "alice@example.net", "--to", "bob@example.com")
    return run_client([program, *where, tls, *verify, *envelope, *options])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        pytest.param("mx.example.org", "mx.example.org", id="another"),
        pytest.param("a.example.net", "*.example.net", id="wildcard"),
    ],
)
def test_swaks(house: House, way: str, asked: str, shown: str) -> None:
    outcome = _swaks(house, way, "--tls-sni", asked)
    assert outcome.sent, outcome.said
    assert re.search(rf"TLS peer DN=.*CN={re.escape(shown)}", outcome.said), outcome.said
    (request,) = house.taken()
    assert (request.fields["tls_on"], request.fields["tls_protocol"]) == ("true", "TLSv1.3")


def test_swaks_with_a_certificate(house: House) -> None:
    own = str(house.folder / "sender.pem")
    assert _swaks(house, "required", "--tls-cert", own, "--tls-key", own).sent
    assert house.taken()[0].fields["tls_client_subject"].startswith("CN=sender.example,")
    assert not _swaks(house, "required").sent


def test_swaks_with_an_old_version(house: House) -> None:
    assert not _swaks(house, "smtp", "--tls-protocol", "tlsv1_1", "--tls-cipher", "ALL:@SECLEVEL=0").sent
    assert house.taken() == []


# Injection (RFC 3207 4.2, CVE-2011-0411)


INJECTED: Final = b"MAIL FROM:<mallory@example.net>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\n"


@dataclass(frozen=True, slots=True)
class Attack:
    """What somebody in the middle writes in the clear, before the client's own handshake.

    Attributes:
        writes: one after the other, the first with STARTTLS.
        waits: whether for the reply to STARTTLS, before the rest.
    """

    writes: tuple[bytes, ...]
    waits: bool = False


ATTACKS: Final = [
    pytest.param(Attack((b"STARTTLS\r\n" + INJECTED,)), id="one-packet"),
    pytest.param(Attack((b"STARTTLS\r\nRSET\r\n",)), id="a-harmless-command"),
    pytest.param(Attack((b"STARTTLS\r\n", INJECTED)), id="two-packets"),
    pytest.param(Attack((b"STARTTLS\r", b"\n" + INJECTED)), id="cut-in-the-line-end"),
    pytest.param(Attack((b"STARTTLS\r\n", INJECTED), waits=True), id="behind-the-reply"),
    pytest.param(Attack((b"NOOP\r\nSTARTTLS\r\nNOOP\r\n" + INJECTED,)), id="among-others"),
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_said_in_the_clear_behind_starttls_never_reaches_tls(house: House, attack: Attack) -> None:
    context = ssl.create_default_context(cafile=str(house.folder / "ca.pem"))
    with socket.create_connection(("127.0.0.1", house.ports["smtp"]), SECONDS) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert sock.recv(1000).startswith(b"220 ")
        sock.sendall(b"EHLO client.example\r\n")
        assert sock.recv(1000).startswith(b"250")
        first, *rest = attack.writes
        sock.sendall(first)
        if attack.waits:
            assert sock.recv(1000).startswith(b"220 ")
        for write in rest:
            sock.sendall(write)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            # Of the replies in the clear it sees what is no TLS; when there are none, a refusal by TLS.
            context.wrap_socket(sock, server_hostname="mx.example.com").recv(1)
    # Whoever it was, a client that comes in peace is served, and nothing of this was heard by a script.
    assert _s_client(house, "smtp", said=b"EHLO client.example\r\n" + MAIL + BODY).sent
    assert [request.fields["mail_from"] for request in house.taken()] == ["alice@example.net"]


# Names that are none


@pytest.mark.parametrize("name", [pytest.param(b"\xff\n", id="not-ascii"), pytest.param(b"\0a", id="nul")])
def test_a_name_that_cannot_be_is_refused_without_a_traceback(house: House, name: bytes) -> None:
    """The ssl module decodes it before anybody is asked. That nothing else is on standard error is seen at the end."""
    context = ssl.create_default_context(cafile=str(house.folder / "ca.pem"))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="zz.example.com")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    before = house.server.log.count("TLS handshake failed")
    with socket.create_connection(("127.0.0.1", house.ports["implicit"]), SECONDS) as sock:
        sock.sendall(outgoing.read().replace(b"zz.example.com", name + b".example.com"))
        assert sock.recv(1) == b""
    eventually(lambda: house.server.log.count("TLS handshake failed") > before, "it is logged")
    assert "Traceback" not in house.server.log


# The scanner

SCANS: Final = (
    *("--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3", "--compression", "--reneg", "--robot"),
    *("--heartbleed", "--openssl_ccs", "--fallback", "--early_data", "--elliptic_curves", "--ems"),
)
SCANNED: Final[Mapping[str, Sequence[str]]] = {"smtp": ("--starttls=smtp",), "rsa": ()}
#: With an ephemeral key, so that whoever gets the server's key later can read nothing; no hash or cipher of old.
WORTH_IT: Final = re.compile(
    "TLS_(AES_128_GCM|AES_256_GCM|CHACHA20_POLY1305)_SHA(256|384)"
    "|TLS_ECDHE_(ECDSA|RSA)_WITH_(AES_(128|256)_(GCM|CBC)_SHA(256|384)|CHACHA20_POLY1305_SHA256)"
)

Scans = Mapping[str, dict[str, dict[str, object]]]


@pytest.fixture(scope="module")
def scans(house: House) -> Scans:
    """What sslyze finds of two listeners: one of STARTTLS with an elliptic key, one of implicit TLS with RSA."""
    if importlib.util.find_spec("sslyze") is None:
        missing("sslyze is needed: pip install sslyze")
    found = {}
    for kind, options in SCANNED.items():
        path = house.folder / f"{kind}.json"
        command = [sys.executable, "-m", "sslyze", *SCANS, *options, f"--json_out={path}", "--mozilla_config=disable"]
        outcome = run_client([*command, "--sni=mx.example.com", f"127.0.0.1:{house.ports[kind]}"])
        assert path.exists(), outcome.said
        (scan,) = json.loads(path.read_text())["server_scan_results"]
        assert scan["scan_status"] == "COMPLETED", scan["connectivity_error_trace"]
        attempts = {name: one for name, one in scan["scan_result"].items() if one["status"] != "NOT_SCHEDULED"}
        assert {one["status"] for one in attempts.values()} == {"COMPLETED"}, attempts
        found[kind] = {name: one["result"] for name, one in attempts.items()}
    return found


KINDS: Final = pytest.mark.parametrize("kind", SCANNED)


@KINDS
@pytest.mark.parametrize("version", ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"])
def test_no_version_of_old(scans: Scans, kind: str, version: str) -> None:
    result = scans[kind][f"{version}_cipher_suites"]
    assert result["accepted_cipher_suites"] == []
    assert result["is_tls_version_supported"] is False


@KINDS
@pytest.mark.parametrize("version", ["tls_1_2", "tls_1_3"])
def test_every_cipher_is_worth_it(scans: Scans, kind: str, version: str) -> None:
    accepted = scans[kind][f"{version}_cipher_suites"]["accepted_cipher_suites"]
    assert isinstance(accepted, list)
    names = [one["cipher_suite"]["name"] for one in accepted]
    assert len(names) >= 3
    assert [name for name in names if not WORTH_IT.fullmatch(name)] == []
    assert all(one["ephemeral_key"] for one in accepted)


@KINDS
@pytest.mark.parametrize(
    ("scan", "name", "value"),
    [
        pytest.param("tls_compression", "supports_compression", False, id="compression"),
        pytest.param("tls_1_3_early_data", "supports_early_data", False, id="early-data"),
        pytest.param("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", False, id="ccs-injection"),
        pytest.param("heartbleed", "is_vulnerable_to_heartbleed", False, id="heartbleed"),
        pytest.param("tls_fallback_scsv", "supports_fallback_scsv", True, id="fallback"),
        pytest.param("tls_extended_master_secret", "supports_ems_extension", True, id="extended-master-secret"),
        pytest.param("session_renegotiation", "supports_secure_renegotiation", True, id="secure-renegotiation"),
        pytest.param("session_renegotiation", "client_renegotiations_success_count", 0, id="no-renegotiation"),
        pytest.param(
            "session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", False, id="no-renegotiation-flood"
        ),
        pytest.param("robot", "robot_result", "NOT_VULNERABLE_RSA_NOT_SUPPORTED", id="robot"),
    ],
)
def test_nothing_is_found(scans: Scans, kind: str, scan: str, name: str, value: object) -> None:
    assert scans[kind][scan][name] == value


# Reload


def test_a_hup_changes_all_certificates_and_a_broken_one_changes_none(house: House) -> None:
    before = [_shown(house, name) for name in ("mx.example.com", "mx.example.org")]
    for name, text in (("org.pem", "broken"), ("net.pem", None)):
        path = house.folder / name
        good = path.read_text()
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        count = house.server.log.count("not reloaded")
        house.server.send(signal.SIGHUP)
        house.server.wait_for_log("not reloaded", count + 1)
        path.write_text(good)
    assert (
        f"cannot do TLS on 127.0.0.1:{house.ports['smtp']}: {house.folder}/org.pem: no certificate" in house.server.log
    )
    assert [_shown(house, name) for name in ("mx.example.com", "mx.example.org")] == before
    house.authority.issue().private_key_and_cert_chain_pem.write_to_path(house.authority.certificate)
    _issue(house.authority, house.folder / "org.pem", "mx.example.org", "mail.example.org")
    house.server.send(signal.SIGHUP)
    house.server.wait_for_log(r"\] reloaded ")
    # The old children may still have a connection in their hands when the parent says so.
    eventually(lambda: _shown(house, "mx.example.com") != before[0], "another certificate of the listener")
    eventually(lambda: _shown(house, "mx.example.org") != before[1], "another certificate by name")


def _shown(house: House, name: str) -> str:
    """The certificate that a client gets who asks for a name."""
    context = ssl.create_default_context(cafile=str(house.folder / "ca.pem"))
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", house.ports["implicit"]), SECONDS) as sock,
        context.wrap_socket(sock, server_hostname=name) as encrypted,
    ):
        der = encrypted.getpeercert(binary_form=True)
    assert der is not None
    return ssl.DER_cert_to_PEM_cert(der)
