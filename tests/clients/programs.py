"""The clients that are programs."""

import json
import os
import sys
from pathlib import Path
from typing import Final, assert_never

from tests.clients.routes import HELO, HOST, SECONDS, Channel, Mail, Outcome, Route, missing, require, run_client

#: Where ``tests/run --install`` has npm put it: beside the environment's own packages.
NODE_MODULES: Final = Path(sys.prefix) / "node" / "node_modules"
_NODEMAILER: Final = Path(__file__).with_name("nodemailer.cjs")


def _swaks_channel(route: Route) -> tuple[str, ...]:
    where = ("--server", HOST, "--port", str(route.port))
    verify = ("--tls-verify", "--tls-ca-path", str(route.authority))
    match route.channel:
        case Channel.PLAIN:
            return where
        case Channel.STARTTLS:
            return (*where, "--tls", *verify)
        case Channel.IMPLICIT:
            return (*where, "--tls-on-connect", *verify)
        case Channel.LMTP:
            return ("--socket", str(route.socket), "--protocol", "LMTP")
        case other:
            assert_never(other)


def by_swaks(route: Route, mail: Mail, folder: Path) -> Outcome:
    """The Swiss army knife for SMTP. It stuffs no dots when told to leave the mail alone, so that is done here."""
    path = folder / "mail.eml"
    path.write_bytes(mail.content.replace(b"\r\n.", b"\r\n..") + b".")
    program = require("swaks", "swaks libnet-ssleay-perl")
    envelope = ("--from", mail.sender, "--to", ",".join(mail.recipients))
    where = (*_swaks_channel(route), "--helo", HELO, "--timeout", f"{SECONDS:g}")
    auth: tuple[str, ...] = ()
    if route.login is not None:
        login = route.login
        who = ("--auth-user", login.username, "--auth-password", login.password)
        auth = ("--auth", login.mechanism.value, *who)
    fixed = ("--no-data-fixup", "--suppress-data", "--data", f"@{path}")
    return run_client([program, *where, *auth, *envelope, *fixed])


def _msmtp_channel(route: Route) -> tuple[str, ...]:
    where = (f"--host={HOST}", f"--port={route.port}")
    verify = ("--tls=on", "--tls-certcheck=on", f"--tls-trust-file={route.authority}")
    match route.channel:
        case Channel.PLAIN:
            return (*where, "--tls=off")
        case Channel.STARTTLS:
            return (*where, *verify, "--tls-starttls=on")
        case Channel.IMPLICIT:
            return (*where, *verify, "--tls-starttls=off")
        case Channel.LMTP:
            return ("--host=localhost", "--port=24", f"--socket={route.socket}", "--protocol=lmtp", "--tls=off")
        case other:
            assert_never(other)


def by_msmtp(route: Route, mail: Mail, folder: Path) -> Outcome:
    """A sendmail for those who have none; it wants the line ends of its system."""
    program = require("msmtp", "msmtp")
    auth = ["--auth=off"]
    if route.login is not None:
        password = folder / "password"
        password.write_text(route.login.password)
        auth = [f"--auth={route.login.mechanism.value.lower()}", f"--user={route.login.username}"]
        auth.append(f"--passwordeval=cat {password}")
    plain = ("--file=/dev/null", "--debug", "--set-from-header=off", "--set-date-header=off", "--set-msgid-header=off")
    where = (*_msmtp_channel(route), f"--domain={HELO}", *auth)
    command = [program, *plain, *where, f"--from={mail.sender}", "--", *mail.recipients]
    return run_client(command, mail.content.replace(b"\r\n", b"\n"))


def _curl_channel(route: Route) -> tuple[str, ...]:
    verify = ("--cacert", str(route.authority))
    match route.channel:
        case Channel.PLAIN:
            return ("--url", f"smtp://{HOST}:{route.port}/{HELO}")
        case Channel.STARTTLS:
            return ("--url", f"smtp://{HOST}:{route.port}/{HELO}", "--ssl-reqd", *verify)
        case Channel.IMPLICIT:
            return ("--url", f"smtps://{HOST}:{route.port}/{HELO}", *verify)
        case Channel.LMTP:
            raise ValueError(route.channel)
        case other:
            assert_never(other)


def by_curl(route: Route, mail: Mail, folder: Path) -> Outcome:
    """The HTTP client, which speaks SMTP too; it reads addresses by the locale."""
    path = folder / "mail.eml"
    path.write_bytes(mail.content)
    recipients = [word for one in mail.recipients for word in ("--mail-rcpt", one)]
    auth: tuple[str, ...] = ()
    if route.login is not None:
        who = f"{route.login.username}:{route.login.password}"
        auth = ("--user", who, "--login-options", f"AUTH={route.login.mechanism.value}")
    program = require("curl", "curl")
    envelope = ("--mail-from", mail.sender, *recipients)
    command = [program, "-sS", "-v", *_curl_channel(route), *auth, *envelope, "--upload-file", str(path)]
    return run_client(command, env={"LC_ALL": "C.UTF-8"})


def by_nodemailer(route: Route, mail: Mail, folder: Path) -> Outcome:
    """What most programs of Node.js send with."""
    program = require("node", "nodejs")
    if not (NODE_MODULES / "nodemailer").is_dir():
        missing(f"nodemailer is needed in {NODE_MODULES}: sh tests/run --install brings it")
    path = folder / "mail.eml"
    path.write_bytes(mail.content)
    transport: dict[str, object] = {"host": HOST, "port": route.port, "name": HELO}
    task: dict[str, object] = {"file": str(path), "transport": transport}
    match route.channel:
        case Channel.PLAIN:
            transport["ignoreTLS"] = True
        case Channel.STARTTLS:
            transport["requireTLS"] = True
            task["authority"] = str(route.authority)
        case Channel.IMPLICIT:
            transport["secure"] = True
            task["authority"] = str(route.authority)
        case Channel.LMTP:
            transport["lmtp"] = True
            task["socket"] = str(route.socket)
        case other:
            assert_never(other)
    if route.login is not None:
        login = route.login
        transport["auth"] = {"user": login.username, "pass": login.password, "method": login.mechanism.value}
    is_8_bit = not mail.content.isascii()
    task["envelope"] = {"from": mail.sender, "to": list(mail.recipients), "use8BitMime": is_8_bit}
    modules = os.pathsep.join([str(NODE_MODULES), os.environ.get("NODE_PATH", "")])
    return run_client([program, str(_NODEMAILER)], json.dumps(task).encode(), env={"NODE_PATH": modules})


def by_smtp_source(route: Route, mail: Mail, folder: Path) -> Outcome:
    """Postfix's load generator; it has one recipient and wants the line ends of its system."""
    (recipient,) = mail.recipients
    path = folder / "mail.eml"
    path.write_bytes(mail.content.replace(b"\r\n", b"\n"))
    program = require("smtp-source", "postfix")
    match route.channel:
        case Channel.PLAIN:
            where = ("-4", f"{HOST}:{route.port}")
        case Channel.LMTP:
            where = ("-L", f"unix:{route.socket}")
        case Channel.STARTTLS | Channel.IMPLICIT:
            raise ValueError(route.channel)
        case other:
            assert_never(other)
    envelope = ("-f", mail.sender, "-t", recipient)
    return run_client([program, "-v", "-M", HELO, *envelope, "-F", str(path), *where])
