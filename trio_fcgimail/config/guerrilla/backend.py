"""`backend_config`: the chains, the scripts, and what the processors are told."""

from collections.abc import Mapping
from typing import Final, final

from trio_fcgimail.config.addresses import TcpAddress, UnixAddress, parse_upstream_address
from trio_fcgimail.config.chain import MaildirUser, Processor, find_processor, maildir_user
from trio_fcgimail.config.errors import shown
from trio_fcgimail.config.guerrilla.draft import Draft
from trio_fcgimail.config.guerrilla.fields import Fields
from trio_fcgimail.config.guerrilla.syntax import found
from trio_fcgimail.config.settings import FastcgiSettings
from trio_fcgimail.config.warnings import Concern

__all__ = ["KEYS", "Backend"]

_DEFAULT_CHAIN: Final = "HeadersParser|Header|Debugger"
_DATABASES: Final = ("sql", "redis", "guerrillaredisdb", "mysql", "guerrilladbredis")
_ALIASES: Final = {"save_process": "save_processors", "validate_process": "validate_processors"}
_GENERAL: Final = ("save_workers_size", "gw_save_timeout", "gw_val_rcpt_timeout", "sleep_seconds")
_NETWORKS: Final = ("unix", "tcp", "tcp4", "tcp6")  # of those that net.Dial knows, what streams

# Keys that only one processor looks at; those of databases are only there to be told so.
_OWNERS: Final[Mapping[str, Processor | str]] = {
    "primary_mail_host": Processor.HEADER,
    "log_received_mails": Processor.DEBUGGER,
    "fcgi_script_filename_save": Processor.FASTCGI,
    "fcgi_script_filename_validate": Processor.FASTCGI,
    "fcgi_connection_type": Processor.FASTCGI,
    "fcgi_connection_address": Processor.FASTCGI,
    "maildir_path": Processor.MAILDIR,
    "maildir_user_map": Processor.MAILDIR,
    "redis_interface": "Redis",
    "redis_expire_seconds": "Redis",
    "mail_table": "SQL",
    "sql_driver": "SQL",
    "sql_dsn": "SQL",
    "sql_insert": "SQL",
    "sql_values": "SQL",
    "sql_max_open_conns": "SQL",
    "sql_max_idle_conns": "SQL",
    "sql_max_conn_lifetime": "SQL",
    "redis_sql_batch_timeout": "GuerrillaRedisDB",
}
KEYS: Final = (*_ALIASES, *_ALIASES.values(), *_GENERAL, *_OWNERS)

_A_SCRIPT = 'the absolute path of a script, such as "/srv/mail/save.php"'
_SOFTWARE = "Go-guerrilla fastcgi"
_FEWEST_CONNECTIONS = 2  # ours: with a single one, every check of a recipient waits for a mail


@final
class Backend:
    """Translates one `backend_config`.

    Args:
        fields: of it.
        draft: what it becomes.
        may_discard: whether a chain that stores nowhere is wanted.
    """

    def __init__(self, fields: Fields, draft: Draft, *, may_discard: bool) -> None:
        self._fields = fields
        self._draft = draft
        self._may_discard = may_discard

    def translate(self, hostname: str, default_hostname: str) -> None:
        """Put everything into the draft.

        Args:
            hostname: ours, for the domain of Delivered-To where none is named.
            default_hostname: of this machine, which go-guerrilla takes for it.
        """
        save, validate = self._chain("save_process", _DEFAULT_CHAIN), self._chain("validate_process", "")
        self._tell_unused({*save, *validate})
        self._put_chains(save, validate)
        if Processor.HEADER in save:
            self._put_mail_host(hostname, default_hostname)
        if Processor.DEBUGGER in {*save, *validate}:
            self._put_debugger()
        if Processor.MAILDIR in {*save, *validate}:
            self._put_maildir()
        if Processor.FASTCGI in {*save, *validate}:
            self._put_fastcgi(save, validate)
        self._put_times()

    def _chain(self, name: str, default: str) -> list[Processor]:
        alias = _ALIASES[name]
        used = name
        if self._fields.get(alias) is not None:
            value = found(self._fields.get(alias))
            if self._fields.get(name) is None:
                used = alias
                done = f"understood as {name}; go-guerrilla does not know this key"
                self._fields.warn(alias, value, done, Concern.DIFFERENT)
            else:
                self._fields.warn(alias, value, f"left out, as {name} is there as well", Concern.UNUSED)
        text = self._fields.optional(used, str, default, "string")
        self._draft.origins[f"chain.{name.removesuffix('_process')}"] = self._fields.path(used)
        return self._processors(used, text) if text.strip() else []

    def _processors(self, key: str, text: str) -> list[Processor]:
        processors: list[Processor] = []
        for item in text.split("|"):
            name = item.strip()
            try:
                processor = find_processor(name)
            except ValueError:
                self._refuse_processor(key, name)
                continue
            if processor in processors:
                self._fields.warn(key, shown(name), "it runs once, where it stands first", Concern.REPEATED_KEY)
            else:
                processors.append(processor)
        return processors

    def _refuse_processor(self, key: str, name: str) -> None:
        names = ", ".join(processor.value for processor in Processor)
        expected = f"{names}, with | between them"
        if name.lower() in _DATABASES:
            expected += "; what needs a database belongs into the script or a processor of your own: docs/migrating.md"
        self._fields.notes.refuse(self._fields.path(key), shown(name), expected)

    def _tell_unused(self, used: set[Processor]) -> None:
        for name in self._fields.names():
            owner = _OWNERS.get(name)
            if owner is not None and owner not in used:
                processor = owner if isinstance(owner, str) else owner.value
                done = f"of the processor {processor}, which is in no chain, so it has no effect"
                self._fields.warn(name, found(self._fields.get(name)), done, Concern.UNUSED)
        if self._fields.optional("sleep_seconds", int, 0, "number"):
            value = found(self._fields.get("sleep_seconds"))
            self._fields.warn("sleep_seconds", value, "a help for tests, left out", Concern.UNUSABLE)

    def _put_chains(self, save: list[Processor], validate: list[Processor]) -> None:
        origins = self._draft.origins
        self._draft.put("chain.save", [processor.value for processor in save], origins["chain.save"])
        if validate and validate != [Processor.FASTCGI]:
            self._draft.put("chain.validate", [processor.value for processor in validate], origins["chain.validate"])
        self._draft.put("chain.trace_header", False, origins["chain.save"])
        if any(processor.stores for processor in save):
            return
        if self._may_discard:
            self._draft.put("chain.discard", True, "--discard")
            return
        expected = "FastCGI or MailDir among them, or the option --discard, which answers 250 and drops every mail"
        value = self._fields.get(origins["chain.save"].rpartition(".")[2])
        what = f'"{_DEFAULT_CHAIN}", the default' if value is None else found(value)
        self._fields.notes.refuse(origins["chain.save"], what, expected)

    def _put_mail_host(self, hostname: str, default_hostname: str) -> None:
        host = self._fields.optional("primary_mail_host", str, "", "string") or default_hostname
        if host != hostname:
            self._put("header.primary_mail_host", host, "primary_mail_host")

    def _put_debugger(self) -> None:
        if self._fields.optional("log_received_mails", bool, False, "switch"):
            self._put("debugger.log_received_mails", True, "log_received_mails")

    def _put_maildir(self) -> None:
        path = self._fields.required("maildir_path", 'a path such as "/home/[user]/Maildir"')
        if path is not None:
            self._put("maildir.path", path, "maildir_path")
        text = self._fields.required("maildir_user_map", 'users such as "alice=1000:1000,bob=-1:-1"')
        users = {} if text is None else self._users(text)
        if users:
            self._put("maildir.user_map", users, "maildir_user_map")

    def _users(self, text: str) -> dict[str, str]:
        users: dict[str, str] = {}
        for entry in text.split(","):
            name, equals, ids = (part.strip() for part in entry.partition("="))
            try:
                user = maildir_user(name, ids if equals else "?")
            except ValueError:
                expected = "USER=UID:GID, with -1 for an id that is left alone"
                self._fields.notes.refuse(self._fields.path("maildir_user_map"), shown(entry), expected)
                continue
            if user.name in users:
                self._fields.warn("maildir_user_map", shown(entry), "the last one counts", Concern.REPEATED_KEY)
            users[user.name] = _ids(user)
        return users

    def _put_fastcgi(self, save: list[Processor], validate: list[Processor]) -> None:
        address = self._address()
        if address is not None:
            self._put("fastcgi.upstreams", [address], "fcgi_connection_address")
        workers = self._fields.count("save_workers_size", 1)
        most = max(workers, _FEWEST_CONNECTIONS)
        self._put("fastcgi.max_connections", most, "save_workers_size")
        if "clean_eof_means_unexecuted" in FastcgiSettings.__dataclass_fields__:
            self._put("fastcgi.clean_eof_means_unexecuted", True, "fcgi_connection_address")
        done = f"at most {most} requests run at a time; raise it, up to pm.max_children of the php-fpm pool, for more"
        what = found(self._fields.get("save_workers_size")) if self._fields.get("save_workers_size") else "nothing"
        self._fields.warn("save_workers_size", what, done, Concern.DIFFERENT)
        if Processor.FASTCGI in validate:
            self._put_script("validate")
        elif self._fields.get("fcgi_script_filename_validate") is not None:
            value = found(self._fields.get("fcgi_script_filename_validate"))
            done = "FastCGI is not in validate_process, so every recipient of allowed_hosts is taken"
            self._fields.warn("fcgi_script_filename_validate", value, done, Concern.UNUSED)
        if Processor.FASTCGI in save:
            self._put_script("save")
        self._put("scripts.remote_addr", "127.0.0.1", "fcgi_connection_address")
        self._put("scripts.server_software", _SOFTWARE, "fcgi_connection_address")

    def _put_script(self, stage: str) -> None:
        key = f"fcgi_script_filename_{stage}"
        script = self._fields.required(key, _A_SCRIPT)
        if script is not None:
            self._put(f"scripts.{stage}", script, key)

    def _address(self) -> str | None:
        """Give the upstream as ours; None, and an error, when there is none."""
        network = self._fields.required("fcgi_connection_type", '"unix" or "tcp"')
        address = self._fields.required("fcgi_connection_address", 'a socket\'s path, or "HOST:PORT"')
        if network is None or address is None:
            return None
        if network not in _NETWORKS:
            self._fields.refuse("fcgi_connection_type", '"unix" or "tcp"')
            return None
        try:
            upstream: UnixAddress | TcpAddress = (
                parse_upstream_address(f"unix:{address}") if network == "unix" else _tcp(address)
            )
        except ValueError as error:
            self._fields.refuse("fcgi_connection_address", f"an address for {network} ({error})")
            return None
        return f"{'' if network == 'unix' else 'tcp:'}{upstream}"

    def _put_times(self) -> None:
        for name, key in (
            ("gw_save_timeout", "scripts.save_seconds"),
            ("gw_val_rcpt_timeout", "scripts.validate_seconds"),
        ):
            seconds = self._fields.seconds(name)
            if seconds is not None:
                self._put(key, seconds, name)

    def _put(self, key: str, value: object, name: str) -> None:
        self._draft.put(key, value, self._fields.path(name))


def _ids(user: MaildirUser) -> str:
    return ":".join("-1" if number is None else str(number) for number in (user.uid, user.gid))


def _tcp(address: str) -> UnixAddress | TcpAddress:
    """Read an address of net.Dial: no host is this machine."""
    return parse_upstream_address(f"tcp:{'127.0.0.1' if address.startswith(':') else ''}{address}")
