"""Files of go-guerrilla and MailDiranasaurus for the tests, written from what those programs document."""

import json
from typing import Final

from hypothesis import strategies as st

MACHINE: Final = "box.example.org"

# What stands in backend_config of whoever uses the FastCGI processor.
FASTCGI: Final[dict[str, object]] = {
    "save_process": "HeadersParser|FastCGI",
    "validate_process": "FastCGI",
    "fcgi_script_filename_save": "/home/www/save.php",
    "fcgi_script_filename_validate": "/home/www/validate.php",
    "fcgi_connection_type": "unix",
    "fcgi_connection_address": "/run/php/php8.2-fpm.sock",
}

# As go-guerrilla ships it, with FastCGI added: two servers, TLS with placeholders, the keys of other processors.
GO_GUERRILLA: Final[dict[str, object]] = {
    "log_file": "stderr",
    "log_level": "info",
    "allowed_hosts": ["example.com", "mail.example.net", "[203.0.113.7]", "[2001:db8::7]", "*.wild.example"],
    "pid_file": "/var/run/go-guerrilla.pid",
    "backend_config": {
        **FASTCGI,
        "save_process": "HeadersParser|Header|Debugger|FastCGI",
        "log_received_mails": True,
        "save_workers_size": 1,
        "primary_mail_host": "mail.example.com",
        "gw_save_timeout": "30s",
        "gw_val_rcpt_timeout": "3s",
        "mail_table": "new_mail",
        "redis_interface": "127.0.0.1:6379",
        "redis_expire_seconds": 7200,
    },
    "servers": [
        {
            "is_enabled": True,
            "host_name": "mail.example.com",
            "max_size": 1000000,
            "timeout": 180,
            "listen_interface": "127.0.0.1:25",
            "max_clients": 1000,
            "log_file": "stderr",
            "tls": {
                "start_tls_on": True,
                "tls_always_on": False,
                "public_key_file": "/path/to/cert.pem",
                "private_key_file": "/path/to/key.pem",
                "protocols": ["tls1.0", "tls1.2"],
                "ciphers": [
                    "TLS_FALLBACK_SCSV",
                    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
                    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
                    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
                    "TLS_RSA_WITH_RC4_128_SHA",
                ],
                "curves": ["P256", "P384", "P521", "X25519"],
                "client_auth_type": "NoClientCert",
            },
        },
        {
            "is_enabled": False,
            "host_name": "mail.example.com",
            "max_size": 1000000,
            "timeout": 180,
            "listen_interface": "127.0.0.1:465",
            "max_clients": 500,
            "log_file": "/var/log/smtps.log",
            "tls": {"private_key_file": "/no/key.pem", "public_key_file": "/no/cert.pem", "tls_always_on": True},
        },
    ],
}

# As MailDiranasaurus ships it: with the two keys that no version of go-guerrilla knows any more.
MAILDIRANASAURUS: Final[dict[str, object]] = {
    "allowed_hosts": ["example.com"],
    "primary_mail_host": "example.com",
    "backend_name": "guerrilla-db-redis",
    "log_level": "debug",
    "backend_config": {
        "log_received_mails": True,
        "save_workers_size": 3,
        "save_processors": "HeadersParser|Debugger|Hasher|Header|MailDir|FastCGI",
        "validate_processors": "MailDir|FastCGI",
        "maildir_user_map": "alice=1000:1000,Bob=-1:-1",
        "maildir_path": "/home/[user]/Maildir",
        "fcgi_script_filename_save": "/home/www/save.php",
        "fcgi_script_filename_validate": "/home/www/validate.php",
        "fcgi_connection_type": "tcp",
        "fcgi_connection_address": "127.0.0.1:9000",
    },
    "servers": [
        {"is_enabled": True, "host_name": "example.com", "listen_interface": ":25", "timeout": 30, "max_clients": 100}
    ],
}


def text_of(content: object) -> str:
    """Write JSON."""
    return json.dumps(content)


def minimal(**top: object) -> dict[str, object]:
    """Give a file that can be served, with other values at the top."""
    return {"allowed_hosts": ["example.com"], "backend_config": FASTCGI, **top}


def backend(**keys: object) -> dict[str, object]:
    """Give a file that can be served, with other values in `backend_config`; None takes a key away."""
    merged = {**FASTCGI, **keys}
    return minimal(backend_config={key: value for key, value in merged.items() if value is not None})


def server(**keys: object) -> dict[str, object]:
    """Give a file that can be served, with one enabled server of these keys."""
    return minimal(servers=[{"is_enabled": True, "listen_interface": "127.0.0.1:2525", **keys}])


_PROCESSORS = ("HeadersParser", "Header", "Hasher", "Debugger", "Compressor", "MailDir", "fastcgi", " FastCGI ")
_LABEL = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
_DOMAIN = st.lists(_LABEL, min_size=2, max_size=3).map(".".join)
_PATH = st.lists(st.text(alphabet='abc é"\\.-', min_size=1, max_size=6), min_size=1, max_size=3).map(
    lambda parts: "/" + "/".join(parts)
)
_DURATION = st.tuples(st.integers(1, 999), st.sampled_from(["ms", "s", "m"])).map(lambda pair: f"{pair[0]}{pair[1]}")
_HOST = _DOMAIN | _DOMAIN.map(lambda name: f"*.{name}") | _DOMAIN.map(lambda name: f"mx*.{name}")
_CHAIN = st.lists(st.sampled_from(_PROCESSORS[:6]), unique=True, max_size=4)
_SMALL = st.integers(1, 100_000)

_TLS = st.fixed_dictionaries(
    {
        "public_key_file": _PATH,
        "private_key_file": _PATH,
        "start_tls_on": st.booleans(),
        "tls_always_on": st.just(True),
    },
    optional={
        "protocols": st.lists(st.sampled_from(["ssl3.0", "tls1.0", "tls1.1", "tls1.2", "tls9"]), max_size=3),
        "ciphers": st.lists(
            st.sampled_from(["TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_X"]),
            max_size=3,
        ),
        "curves": st.lists(st.sampled_from(["P256", "P384", "X25519", "P9"]), max_size=2),
        "client_auth_type": st.sampled_from(["NoClientCert", "RequestClientCert", "RequireAndVerifyClientCert", "x"]),
        "root_cas_file": _PATH,
        "prefer_server_cipher_suites": st.booleans(),
    },
)
_SERVER = st.fixed_dictionaries(
    {"is_enabled": st.booleans()},
    optional={
        "host_name": _DOMAIN,
        "max_size": _SMALL,
        "timeout": st.integers(1, 86_400),
        "max_clients": _SMALL,
        "log_file": _PATH | st.sampled_from(["off", "stdout", "stderr", ""]),
        "tls": _TLS | st.just({}),
        "unknown": st.none() | st.text(max_size=5),
    },
)


@st.composite
def files(draw: st.DrawFn) -> dict[str, object]:
    """Valid files: what may be absent is, now and then, and there are mistakes that only deserve a warning."""
    servers = draw(st.lists(_SERVER, max_size=4))
    for number, one in enumerate(servers):
        one["listen_interface"] = f"127.0.0.{number + 1}:25"
    if servers:
        servers[0]["is_enabled"] = True
    chain, validate = draw(_CHAIN), draw(_CHAIN)
    config = draw(
        st.fixed_dictionaries(
            {
                "maildir_path": st.just("/home/[user]/Maildir"),
                "maildir_user_map": st.lists(_LABEL, min_size=1, unique=True).map(
                    lambda names: ",".join(f"{name}=-1:{len(name)}" for name in names)
                ),
            },
            optional={
                "save_workers_size": st.integers(-1, 50) | st.just("4") | st.floats(1, 9),
                "gw_save_timeout": _DURATION | st.integers(1, 60) | st.just("soon"),
                "gw_val_rcpt_timeout": _DURATION,
                "primary_mail_host": _DOMAIN | st.just(5),
                "log_received_mails": st.booleans() | st.just("yes"),
                "sql_dsn": st.text(max_size=5),
                "Sleep_seconds": st.integers(),
            },
        )
    )
    top: dict[str, object] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "allowed_hosts": st.lists(_HOST, max_size=5).map(lambda hosts: hosts or ["."]),
                "pid_file": _PATH,
                "log_file": _PATH | st.sampled_from(["off", "stdout", "stderr", ""]),
                "log_level": st.sampled_from(["panic", "warn", "warning", "INFO", "debug", "error", "loud"]),
                "backend_name": st.text(max_size=5),
                "Unknown": st.booleans(),
            },
        )
    )
    save = "|".join([*chain, draw(st.sampled_from(_PROCESSORS[6:]))])
    processes = {"save_process": save, "validate_process": "|".join([*validate, "FASTCGI"])}
    return {**top, "SERVERS": servers, "backend_config": {**FASTCGI, **config, **processes}}
