"""What is refused, and the exact lines that say so."""

import pytest

from tests.config.support import error_lines
from trio_fcgimail.config import ConfigError, ConfigErrors, read_document

_SECONDS = "a number of seconds above 0 and up to 86400"
_WORKERS = 'a whole number from 1 to 256, or "auto" for one per core'
_COUNT = "a whole number from 1 to 1000000000, or 0 for none"
_SCRIPT = 'the absolute path of a script, such as "/srv/mail/save.php"'
_DOMAIN = 'a domain such as "mx.example.com" (when absent, the name of this machine)'
_HOST = (
    '"example.com", "*.example.com", "[192.0.2.1]", "[IPv6:2001:db8::1]", "glob:mx*.example.com" or "." for any domain'
)
_LISTEN = '"127.0.0.1:2525", "[::1]:2525", "*:2525", "unix:/PATH" (at most 107 octets) or "systemd:NAME"'
_STATUS = '"127.0.0.1:8025", "[::1]:8025" or "*:8025", or "" for none'
_KEYWORDS = (
    '"all" or a list of "PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING", "BINARYMIME", '
    '"DSN", "LIMITS", "STARTTLS", "AUTH", "REQUIRETLS", "XCLIENT"; BINARYMIME only beside CHUNKING'
)


def _case(text: str, *lines: str, why: str) -> object:
    return pytest.param(text, [f"f: {line}" for line in lines], id=why)


_TCP = '[[listeners]]\naddress = "127.0.0.1:25"\n'
_UNIX = '[[listeners]]\naddress = "unix:/s"\n'
_AUTH = '[scripts]\nauth = "/a.php"\n'
_STARTTLS = _TCP + 'tls = "starttls"\ncertificate = "/c"\n'
_IMPLICIT = _TCP + 'tls = "implicit"\ncertificate = "/c"\n'
_BESIDE_TLS = 'only beside tls = "starttls" or "implicit"'
_BESIDE_AUTH = "only beside a script scripts.auth"
_BESIDE_CHANNEL = "only beside tls, or with auth_without_tls = true"

#: What no key can be judged by alone: TLS, its certificate, AUTH and what needs them.
CROSSED = [
    _case(
        _TCP + 'tls = "ssl"',
        'listeners[0].tls: found "ssl", expected "none", "starttls" or "implicit"',
        why="tls-no-mode",
    ),
    _case(
        _TCP + "tls = false",
        'listeners[0].tls: found false, expected "none", "starttls" or "implicit"',
        why="tls-no-text",
    ),
    *(
        _case(
            _TCP + f'tls = "{mode}"',
            f'listeners[0].tls: found "{mode}", expected a certificate beside it',
            why=f"{mode}-without-a-certificate",
        )
        for mode in ("starttls", "implicit")
    ),
    _case(
        _TCP + 'tls = "starttls"\nprivate_key = "/k"',
        'listeners[0].tls: found "starttls", expected a certificate beside it',
        why="a-key-is-no-certificate",
    ),
    _case(
        _TCP + 'tls = "starttls"\ncertificate = "/\\u0007"',
        'listeners[0].certificate: found "/\\u0007", expected the path of a PEM file, or "" for none',
        why="bad-certificate-is-not-a-missing-one",
    ),
    _case(
        _TCP + 'certificate = "/c"\nprivate_key = "/k"',
        f'listeners[0].certificate: found "/c", expected it {_BESIDE_TLS}',
        f'listeners[0].private_key: found "/k", expected it {_BESIDE_TLS}',
        why="certificate-without-tls",
    ),
    _case(
        _TCP + 'extensions = ["starttls", "REQUIRETLS"]',
        f'listeners[0].extensions: found ["starttls", "REQUIRETLS"], expected REQUIRETLS {_BESIDE_TLS}',
        'listeners[0].extensions: found ["starttls", "REQUIRETLS"], expected STARTTLS only beside tls = "starttls"',
        why="keywords-of-tls-without-it",
    ),
    _case(
        _IMPLICIT + 'extensions = ["STARTTLS", "REQUIRETLS"]',
        'listeners[0].extensions: found ["STARTTLS", "REQUIRETLS"], expected STARTTLS only beside tls = "starttls"',
        why="starttls-within-tls",
    ),
    _case(
        _STARTTLS + 'extensions = ["SIZE"]',
        'listeners[0].tls: found "starttls", expected it only with STARTTLS among the extensions',
        why="tls-that-nobody-can-start",
    ),
    _case(
        _TCP + 'tls = "ssl"\nextensions = ["STARTTLS"]\ncertificate = "/c"',
        'listeners[0].tls: found "ssl", expected "none", "starttls" or "implicit"',
        why="what-was-refused-makes-no-more-errors",
    ),
    _case(
        '[[listeners]]\naddress = "x"\ntls = "implicit"',
        f'listeners[0].address: found "x", expected {_LISTEN}',
        'listeners[0].tls: found "implicit", expected a certificate beside it',
        why="beside-a-bad-address-too",
    ),
    _case(
        _IMPLICIT + "require_auth = true\nauth_any_recipient = true\nauth_without_tls = true",
        f"listeners[0].require_auth: found true, expected it {_BESIDE_AUTH}",
        f"listeners[0].auth_any_recipient: found true, expected it {_BESIDE_AUTH}",
        f"listeners[0].auth_without_tls: found true, expected it {_BESIDE_AUTH}",
        why="users-without-an-auth-script",
    ),
    _case(
        _IMPLICIT + 'extensions = ["AUTH"]',
        f'listeners[0].extensions: found ["AUTH"], expected AUTH {_BESIDE_AUTH}',
        why="auth-without-an-auth-script",
    ),
    _case(
        _IMPLICIT + 'require_auth = true\nextensions = ["AUTH"]\n[scripts]\nauth = "a.php"',
        f'scripts.auth: found "a.php", expected {_SCRIPT}, or "" for none',
        why="bad-auth-script-is-not-a-missing-one",
    ),
    _case(
        _TCP + "require_auth = true\nauth_any_recipient = true\n" + _AUTH,
        f"listeners[0].require_auth: found true, expected it {_BESIDE_CHANNEL}",
        f"listeners[0].auth_any_recipient: found true, expected it {_BESIDE_CHANNEL}",
        why="users-without-a-channel",
    ),
    _case(
        _TCP + 'extensions = ["AUTH"]\n' + _AUTH,
        f'listeners[0].extensions: found ["AUTH"], expected AUTH {_BESIDE_CHANNEL}',
        why="auth-without-a-channel",
    ),
    _case(
        _STARTTLS + 'extensions = ["STARTTLS"]\nrequire_auth = true\nauth_any_recipient = true\n' + _AUTH,
        "listeners[0].require_auth: found true, expected it only with AUTH among the extensions",
        "listeners[0].auth_any_recipient: found true, expected it only with AUTH among the extensions",
        why="users-without-auth",
    ),
    _case(
        _TCP + "require_auth = true\nextensions = []\n" + _AUTH,
        f"listeners[0].require_auth: found true, expected it {_BESIDE_CHANNEL}",
        "listeners[0].require_auth: found true, expected it only with AUTH among the extensions",
        why="neither-channel-nor-auth",
    ),
    _case(
        _STARTTLS + _TCP.replace(":25", ":26") + 'certificate = "/c"',
        f'listeners[1].certificate: found "/c", expected it {_BESIDE_TLS}',
        why="each-listener-by-itself",
    ),
]

REFUSED = [
    *CROSSED,
    _case("x = 1", "x: found an unknown key, expected a known key", why="unknown"),
    _case(
        'hostnam = ""',
        'hostnam: found an unknown key, expected a known key (did you mean "hostname"?)',
        why="unknown-but-close",
    ),
    _case(
        "[limits]\nrecipents = 1",
        'limits.recipents: found an unknown key, expected a known key (did you mean "recipients"?)',
        why="unknown-in-a-section",
    ),
    _case(
        "recipients = 1",
        'recipients: found an unknown key, expected a known key (did you mean "limits.recipients"?)',
        why="known-elsewhere",
    ),
    _case(
        "[limit]\nrecipients = 1",
        'limit: found an unknown key, expected a known key (did you mean "limits"?)',
        why="unknown-section",
    ),
    _case(
        '"status.address" = ""',
        '"status.address": found an unknown key, expected a known key (did you mean "status"?)',
        why="a-quoted-dot-makes-no-path",
    ),
    _case("[status]\nport = 1", "status.port: found an unknown key, expected a known key", why="unknown-in-status"),
    *(
        _case(
            f'[status]\naddress = "{address}"',
            f'status.address: found "{address}", expected {_STATUS}',
            why=f"status-at-{address}",
        )
        for address in ("unix:/s", "systemd:x", "8025", "127.0.0.1:99999")
    ),
    *(
        _case(
            f'[status]\naddress = "{address}"',
            "status.password_file: found nothing, expected a file with the password, "
            "as other machines can reach status.address",
            why=f"status-at-{address}-without-a-password",
        )
        for address in ("*:8025", "0.0.0.0:8025", "[::]:8025", "192.0.2.1:8025", "mx.example.com:8025")
    ),
    _case(
        '[status]\npassword_file = "/p"',
        'status.password_file: found "/p", expected it only beside status.address',
        why="a-password-for-nothing",
    ),
    _case("status = 1", "status: found 1, expected a table, [status]", why="status-no-table"),
    _case("limits = 1", "limits: found 1, expected a table, [limits]", why="section-no-table"),
    _case("[listeners]", "listeners: found a table, expected 1 to 64 tables", why="listeners-no-array"),
    _case("listeners = []", "listeners: found an empty list, expected 1 to 64 tables", why="no-listener"),
    _case("listeners = [1]", "listeners: found [1], expected 1 to 64 tables", why="listeners-of-numbers"),
    _case("[[listeners]]", f"listeners[0].address: found nothing, expected {_LISTEN}", why="no-address"),
    _case("hostname = 1", f"hostname: found 1, expected {_DOMAIN}", why="type"),
    _case('hostname = "a_b"', f'hostname: found "a_b", expected {_DOMAIN}', why="underscore"),
    _case('hostname = "é.example"', f'hostname: found "é.example", expected {_DOMAIN}', why="banner-is-ascii"),
    _case(
        "allowed_hosts = []",
        "allowed_hosts: found an empty list, expected a list of recipient domains, not empty",
        why="empty",
    ),
    _case(
        'allowed_hosts = "."',
        'allowed_hosts: found ".", expected a list of recipient domains, not empty',
        why="no-list",
    ),
    _case(
        'allowed_hosts = ["*", "a.example", 5, "b."]',
        f'allowed_hosts[0]: found "*", expected {_HOST}',
        f"allowed_hosts[2]: found 5, expected {_HOST}",
        f'allowed_hosts[3]: found "b.", expected {_HOST}',
        why="each-item",
    ),
    _case(
        'allowed_hosts = ["bücher.example", "☕.example"]',
        f'allowed_hosts[1]: found "☕.example", expected {_HOST}',
        why="bad-u-label",
    ),
    _case('null_mx_hosts = ["a_b"]', f'null_mx_hosts[0]: found "a_b", expected {_HOST}', why="null-mx-item"),
    _case(
        'null_mx_hosts = "a.example"',
        'null_mx_hosts: found "a.example", expected a list of recipient domains',
        why="null-mx-no-list",
    ),
    _case(
        _TCP + 'accepts_mail = "no"',
        'listeners[0].accepts_mail: found "no", expected true or false',
        why="mail-as-text",
    ),
    *(
        _case(f"workers = {value}", f"workers: found {value}, expected {_WORKERS}", why=why)
        for value, why in (("0", "no-workers"), ("257", "many-workers"), ("true", "workers-bool"), ('"2"', "a-word"))
    ),
    _case("user = 0", 'user: found 0, expected the name of a user, or "" to stay who we are', why="user-by-number"),
    _case(
        "group = 0", 'group: found 0, expected the name of a group, or "" for the user\'s own', why="group-by-number"
    ),
    _case("[limits]\nrecipients = true", f"limits.recipients: found true, expected {_COUNT}", why="bool-is-no-int"),
    _case("[limits]\nrecipients = false", f"limits.recipients: found false, expected {_COUNT}", why="false-is-no-0"),
    _case("[limits]\nrecipients = 1.0", f"limits.recipients: found 1.0, expected {_COUNT}", why="float-is-no-int"),
    _case("[limits]\nrecipients = -1", f"limits.recipients: found -1, expected {_COUNT}", why="below"),
    _case("[limits]\nrecipients = 1000000001", f"limits.recipients: found 1000000001, expected {_COUNT}", why="above"),
    _case("[limits]\nidle_seconds = 0", f"limits.idle_seconds: found 0, expected {_SECONDS}", why="zero-seconds"),
    _case(
        "[limits]\ntls_handshake_seconds = 0",
        f"limits.tls_handshake_seconds: found 0, expected {_SECONDS}",
        why="no-time-for-tls",
    ),
    _case("[limits]\nidle_seconds = nan", f"limits.idle_seconds: found nan, expected {_SECONDS}", why="nan"),
    _case("[limits]\nidle_seconds = inf", f"limits.idle_seconds: found inf, expected {_SECONDS}", why="infinite"),
    _case("[limits]\nidle_seconds = true", f"limits.idle_seconds: found true, expected {_SECONDS}", why="bool-seconds"),
    _case('[limits]\nidle_seconds = "5"', f'limits.idle_seconds: found "5", expected {_SECONDS}', why="quoted"),
    _case(
        "[limits]\nidle_seconds = 1979-05-27", f"limits.idle_seconds: found 1979-05-27, expected {_SECONDS}", why="date"
    ),
    _case(
        '[log]\nlevel = "loud"', 'log.level: found "loud", expected "debug", "info", "warning" or "error"', why="enum"
    ),
    _case(
        '[log]\nfile = ""',
        'log.file: found "", expected the path of a file, "stderr", "stdout" or "off"',
        why="no-file",
    ),
    _case('[scripts]\nsave = ""', f"scripts.save: found nothing, expected {_SCRIPT}", why="save-empty"),
    _case(
        '[scripts]\nsave = "save.php"',
        f'scripts.save: found "save.php", expected {_SCRIPT}, or "" for none',
        why="save-relative",
    ),
    _case(
        '[scripts]\nsave = "/srv/"',
        f'scripts.save: found "/srv/", expected {_SCRIPT}, or "" for none',
        why="save-folder",
    ),
    _case(
        '[scripts]\nvalidate = "v.php"',
        f'scripts.validate: found "v.php", expected {_SCRIPT}, or "" for none',
        why="validate-relative",
    ),
    _case(
        '[scripts]\nsave = "/a\\u0000\\nb\\u202e"',
        f'scripts.save: found "/a\\u0000\\u000ab\\u202e", expected {_SCRIPT}, or "" for none',
        why="controls-are-escaped",
    ),
    _case(
        "[fastcgi]\nmax_connections = 2\nreserve_for_validate = 2",
        "fastcgi.reserve_for_validate: found 2, expected less than max_connections, which is 2",
        why="reserve-takes-all",
    ),
    _case(
        "[fastcgi]\nreserve_for_validate = 5",
        "fastcgi.reserve_for_validate: found 5, expected less than max_connections, which is 5",
        why="reserve-against-the-default",
    ),
    _case(
        "[fastcgi]\nmax_connections = 1\nreserve_for_validate = 1",
        "fastcgi.reserve_for_validate: found 1, expected less than max_connections, which is 1",
        why="no-reserve-of-one",
    ),
    _case(
        "[fastcgi]\nupstreams = []",
        "fastcgi.upstreams: found an empty list, expected a list of addresses, not empty",
        why="no-upstream",
    ),
    _case(
        '[fastcgi]\nupstreams = ["unix:php.sock"]',
        'fastcgi.upstreams[0]: found "unix:php.sock", expected "unix:/PATH" (at most 107 octets), '
        '"tcp:HOST:PORT" or "tcp:[IPV6]:PORT"',
        why="upstream-relative",
    ),
    _case(_TCP + 'extensions = "some"', f'listeners[0].extensions: found "some", expected {_KEYWORDS}', why="keywords"),
    _case(
        _TCP + 'extensions = ["HELP"]', f'listeners[0].extensions: found ["HELP"], expected {_KEYWORDS}', why="keyword"
    ),
    _case(_TCP + "extensions = [1]", f"listeners[0].extensions: found [1], expected {_KEYWORDS}", why="keyword-type"),
    _case(
        _TCP + 'extensions = ["SIZE", "BINARYMIME"]',
        f'listeners[0].extensions: found ["SIZE", "BINARYMIME"], expected {_KEYWORDS}',
        why="binarymime-without-chunking",
    ),
    _case(
        _TCP + 'lenient_paths = "yes"',
        'listeners[0].lenient_paths: found "yes", expected true or false',
        why="flag-as-text",
    ),
    _case(
        _TCP + "lenient_paths = 1", "listeners[0].lenient_paths: found 1, expected true or false", why="flag-as-number"
    ),
    _case(
        _TCP + 'mode = "0660"',
        'listeners[0].mode: found "0660", expected it only beside the address of a unix socket',
        why="mode-of-tcp",
    ),
    _case(
        _TCP + 'group = "mail"',
        'listeners[0].group: found "mail", expected it only beside the address of a unix socket',
        why="group-of-tcp",
    ),
    _case(
        _UNIX + 'mode = "888"',
        'listeners[0].mode: found "888", expected an octal mode as a string, such as "0660", or "" for the umask',
        why="mode-not-octal",
    ),
    _case(
        _UNIX + "mode = 660",
        'listeners[0].mode: found 660, expected an octal mode as a string, such as "0660", or "" for the umask',
        why="mode-as-number",
    ),
    _case(
        _UNIX + _TCP + _UNIX + _TCP,
        'listeners[2].address: found "unix:/s", expected an address that no other listener has',
        'listeners[3].address: found "127.0.0.1:25", expected an address that no other listener has',
        why="twice",
    ),
    _case(
        '[[listeners]]\naddress = "[::1]:25"\n[[listeners]]\naddress = "[0:0::1]:25"',
        'listeners[1].address: found "[0:0::1]:25", expected an address that no other listener has',
        why="twice-in-two-spellings",
    ),
    _case(
        '[fastcgi]\nreserve_for_validate = 5\nwait_seconds = 0\n[log]\nlevel = 1\n[scripts]\nsave = "x"',
        f"fastcgi.wait_seconds: found 0, expected {_SECONDS}",
        f'scripts.save: found "x", expected {_SCRIPT}, or "" for none',
        'log.level: found 1, expected "debug", "info", "warning" or "error"',
        "fastcgi.reserve_for_validate: found 5, expected less than max_connections, which is 5",
        why="all-at-once-cross-checks-too",
    ),
]


@pytest.mark.parametrize(("text", "lines"), REFUSED)
def test_refused_with_exactly_these_lines(text: str, lines: list[str]) -> None:
    assert error_lines(text) == lines


def test_every_missing_required_key_is_named() -> None:
    with pytest.raises(ConfigErrors) as caught:
        read_document({}, file="f", default_hostname="bad_name")
    assert [error.key for error in caught.value.errors] == [
        "hostname",
        "allowed_hosts",
        "fastcgi.upstreams",
        "scripts.save",
    ]


def test_errors_beyond_the_hundredth_are_counted() -> None:
    lines = error_lines("\n".join(f"x{number} = 1" for number in range(250)))
    assert len(lines) == 101
    assert lines[-1] == "f: file: found 150 more errors, expected none"


def test_sixty_five_listeners_are_too_many() -> None:
    text = "".join(f'[[listeners]]\naddress = "unix:/{number}"\n' for number in range(65))
    assert error_lines(text) == ['f: listeners: found "65 tables", expected 1 to 64 tables']


FOUND = [
    pytest.param('"' + "x" * 500 + '"', '"' + "x" * 110 + '..." of 500 characters', id="long-text"),
    pytest.param(r'"a\"b\\"', r'"a\"b\\"', id="quotes-and-backslashes"),
    pytest.param("0x" + "f" * 5000, "an integer of 20000 bits", id="integer-that-str-refuses"),
    pytest.param("[1, 2, 3, 4, 5, 6, 7]", "[1, 2, 3, 4, 5, 6, ... 7 items]", id="long-list"),
    pytest.param("[[1], {}]", "[[...], a table]", id="nested"),
]


@pytest.mark.parametrize(("value", "found"), FOUND)
def test_found_is_short_and_recognisable(value: str, found: str) -> None:
    assert error_lines(f"hostname = {value}") == [f"f: hostname: found {found}, expected {_DOMAIN}"]


def test_line_is_one_line_whatever_the_parts_hold() -> None:
    error = ConfigError("a\nb\udc80" + "c" * 999, "k\r" * 999, "f\x1b[0m" * 999, "e\U000e0001" * 999)
    assert str(error).isprintable()
    assert str(error).startswith("a\\u000ab\\udc80c")
    assert len(str(error)) < 5000
