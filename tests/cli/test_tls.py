"""Certificates, as the commands tell of them."""

import smtplib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.certificates import Authority
from tests.cli.support import MAIL, SENDER, configuration, write_configuration
from tests.phpfpm import PhpFpm
from tests.server_process import SECONDS, ServerProcess, free_port, run_command

#: Writes what is bad; the two paths, and what is told of them.
Bad = Callable[[Path, Authority], tuple[Path, Path, str]]

SAVED: Final = "<?php echo $_POST['with'] === 'ESMTPS' ? 'SAVED' : '550 in the clear';"


def _write(folder: Path, listen: str, tls: str, certificate: Path, key: Path, **more: str) -> None:
    listener = f'tls = "{tls}"\ncertificate = "{certificate}"\nprivate_key = "{key}"'
    write_configuration(folder, configuration(listen=listen, listener=listener, **more))


def _missing(folder: Path, authority: Authority) -> tuple[Path, Path, str]:
    gone = folder / "gone.pem"
    return gone, authority.certificate, f"{gone}: No such file or directory"


def _wrong_key(folder: Path, authority: Authority) -> tuple[Path, Path, str]:
    key = folder / "other.key"
    authority.issue().private_key_pem.write_to_path(key)
    return authority.certificate, key, f"{key}: the key is not that of {authority.certificate}"


def _no_pem(folder: Path, authority: Authority) -> tuple[Path, Path, str]:
    key = folder / "mx.key"
    key.write_bytes(b"\x30\x82")
    return authority.certificate, key, f"{key}: no private key in PEM form"


BAD: Final = [
    pytest.param(_missing, id="missing"),
    pytest.param(_wrong_key, id="wrong-key"),
    pytest.param(_no_pem, id="no-pem"),
]


@pytest.mark.parametrize("bad", BAD)
def test_a_certificate_that_cannot_be_used_is_one_line_and_1(folder: Path, authority: Authority, bad: Bad) -> None:
    certificate, key, told = bad(folder, authority)
    _write(folder, "127.0.0.1:0", "starttls", certificate, key)
    done = run_command("serve", folder=folder)
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = [line for line in done.stderr.decode().splitlines() if "serving as root" not in line]
    assert line == f"trio_fcgimail: cannot do TLS on 127.0.0.1:0: {told}"


@pytest.mark.parametrize("bad", BAD)
def test_check_tells_what_is_wrong_with_a_certificate(
    php: PhpFpm, folder: Path, authority: Authority, bad: Bad
) -> None:
    certificate, key, told = bad(folder, authority)
    _write(folder, "127.0.0.1:0", "implicit", certificate, key, upstream=php.address)
    done = run_command("check", folder=folder)
    (line,) = [line for line in done.stdout.decode().splitlines() if line.startswith("NO")]
    assert done.returncode == 1
    assert told in line
    assert "correct certificate and private_key" in line


def test_check_looks_for_the_name_of_the_listener_in_its_certificate(
    php: PhpFpm, folder: Path, authority: Authority
) -> None:
    port, pem = free_port(), authority.certificate
    own = f'tls = "starttls"\ncertificate = "{pem}"\nhostname = "other.example.com"'
    write_configuration(folder, configuration(listen=f"127.0.0.1:{port}", upstream=php.address, listener=own))
    with ServerProcess("serve", folder=folder):
        out = run_command("check", folder=folder).stdout.decode()
    assert "our server is running there" in out  # which calls itself by that name
    (row,) = [line for line in out.splitlines() if "listeners[0].certificate" in line]
    assert "other.example.com" in row


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_mail_over_tls_and_a_check_of_the_running_server(
    php: PhpFpm, folder: Path, authority: Authority, tls: str
) -> None:
    port = free_port()
    save = php.script("over-tls.php", SAVED)
    certificate = authority.certificate
    _write(folder, f"127.0.0.1:{port}", tls, certificate, certificate, upstream=php.address, save=save)
    with ServerProcess("serve", folder=folder) as server:
        with _client(port, tls, authority.trusting()) as client:
            assert client.sendmail(SENDER, "info@example.com", MAIL) == {}
        done = run_command("check", folder=folder)
        assert done.returncode == 0, done.stdout.decode()
        assert "our server is running there" in done.stdout.decode()
        assert server.stop() == 0


def _client(port: int, tls: str, context: ssl.SSLContext) -> smtplib.SMTP:
    if tls == "implicit":
        return smtplib.SMTP_SSL("127.0.0.1", port, timeout=SECONDS, context=context)
    client = smtplib.SMTP("127.0.0.1", port, timeout=SECONDS)
    client.starttls(context=context)
    return client
