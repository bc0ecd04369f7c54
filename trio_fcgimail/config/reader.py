"""Walks a TOML document along the fields of the settings and collects every fault on the way."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, TypeVar, assert_never, final, get_type_hints

from trio_fcgimail.config.addresses import SystemdAddress, TcpAddress, UnixAddress
from trio_fcgimail.config.crosschecks import Checks
from trio_fcgimail.config.crosschecks import Read as _Read
from trio_fcgimail.config.errors import Problems, shown
from trio_fcgimail.config.networks import PeerList
from trio_fcgimail.config.rules import Form, Items, Rule, Table, Tables, decode
from trio_fcgimail.config.settings import Extension, Settings, TlsMode

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["known_keys", "read_document"]

_MAX_COMPARED_CHARS = 64  # ours: what difflib compares; no key of ours is longer

_BARE = re.compile(r"[A-Za-z0-9_-]+")  # TOML 1.0, keys
_LISTENER = re.compile(r"(listeners\[[0-9]+\]\.)[a-z_]+")

_T = TypeVar("_T", bound="DataclassInstance")


@final
@dataclass(frozen=True, slots=True)
class _Key:
    form: Form
    default: object  # MISSING when the key is required


@final
@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the document we are: as shown to the user, and without counters."""

    shown: str = ""
    plain: str = ""

    def key(self, name: str) -> "_Place":
        part = name if _BARE.fullmatch(name) else shown(name)  # "status.address" in quotes is one name
        return _Place(*(f"{path}.{part}" if path else part for path in (self.shown, self.plain)))

    def item(self, number: int) -> "_Place":
        return replace(self, shown=f"{self.shown}[{number}]")


def read_document(document: Mapping[str, object], *, file: str, default_hostname: str) -> Settings:
    """Make settings of a TOML document.

    Args:
        document: what tomllib gives.
        file: what error lines name as the file.
        default_hostname: stands in for an absent `hostname`.

    Raises:
        ConfigErrors: with every fault of the document.
    """
    reader = _Reader(Problems(file))
    settings = reader.table(Settings, {"hostname": default_hostname, **_with_reserve(document)}, _Place())
    reader.cross_check()
    if settings is None or reader.problems.count:
        raise reader.problems.exception()
    return settings


@cache
def known_keys() -> tuple[str, ...]:
    """Give the path of every key there is, the refused ones included: ``listeners.address``."""
    return tuple(_paths(Settings, ""))


def _paths(cls: "type[DataclassInstance]", prefix: str) -> list[str]:
    found: list[str] = []
    for name, key in _keys(cls).items():
        match key.form:
            case Table(of=of) | Tables(of=of):
                found.extend(_paths(of, f"{prefix}{name}."))
            case Rule() | Items():
                found.append(prefix + name)
            case _:
                assert_never(key.form)
    return found


@cache
def _keys(cls: "type[DataclassInstance]") -> Mapping[str, _Key]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: _Key(hints[field.name].__metadata__[0], field.default) for field in fields(cls)}


def _with_reserve(document: Mapping[str, object]) -> Mapping[str, object]:
    """Lower the default of `reserve_for_validate` where one connection leaves nothing to reserve."""
    fastcgi = document.get("fastcgi")
    if isinstance(fastcgi, dict) and fastcgi.get("max_connections") == 1:
        return {**document, "fastcgi": {"reserve_for_validate": 0, **fastcgi}}
    return document


@final
class _Reader:
    """One pass over one document; what was read well is kept for the checks across keys."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self._read: dict[str, _Read] = {}

    def table(self, cls: type[_T], raw: Mapping[str, object], place: _Place) -> _T | None:
        """Read one table; None when something in it is refused."""
        before = self.problems.count
        keys = _keys(cls)
        self._refuse_others(tuple(keys), raw, place)
        values: dict[str, object] = {}
        for name, key in keys.items():
            value = self._entry(key, raw, name, place.key(name))
            if value is not MISSING:
                values[name] = value
        return cls(**values) if self.problems.count == before else None

    def cross_check(self) -> None:
        """Judge what no key can be judged by alone, as far as the keys involved were read."""
        most = self._read.get("fastcgi.max_connections", _Read(None, None))
        reserve = self._read.get("fastcgi.reserve_for_validate", _Read(None, None))
        if isinstance(most.value, int) and isinstance(reserve.value, int) and reserve.value >= most.value:
            expected = f"less than max_connections, which is {most.value}"
            self.problems.add("fastcgi.reserve_for_validate", shown(reserve.raw), expected)
        checks = Checks(self._read, self.problems.add)
        checks.chain()
        checks.status()
        self._check_listeners()
        for listener in dict.fromkeys(match[1] for key in self._read if (match := _LISTENER.fullmatch(key))):
            self._check_tls(listener)
            self._check_auth(listener)
            if self._value_of(listener + "xclient_from") == PeerList():
                self._refuse_keyword(listener, Extension.XCLIENT, "XCLIENT only beside xclient_from")
            checks.listener(listener)

    def _value_of(self, key: str) -> object:
        read = self._read.get(key)
        return None if read is None else read.value

    def _check_tls(self, listener: str) -> None:
        """A certificate and TLS belong together, and extensions of TLS are for those who have it."""
        tls = self._read.get(listener + "tls")
        if tls is None:
            return
        if tls.value is TlsMode.NONE:
            expected = 'only beside tls = "starttls" or "implicit"'
            self._refuse_set(listener, ("certificate", "private_key"), f"it {expected}")
            if self._knows_no_tls(listener):
                self._refuse_keyword(listener, Extension.REQUIRETLS, f"REQUIRETLS {expected}")
        elif self._is_absent(listener + "certificate"):
            self.problems.add(listener + "tls", shown(tls.raw), "a certificate beside it")
        if tls.value is not TlsMode.STARTTLS:
            self._refuse_keyword(listener, Extension.STARTTLS, 'STARTTLS only beside tls = "starttls"')
        elif not self._may_offer(listener, Extension.STARTTLS):
            self.problems.add(listener + "tls", shown(tls.raw), "it only with STARTTLS among the extensions")

    def _check_auth(self, listener: str) -> None:
        """AUTH needs a script that knows the users, and a channel that nobody reads; some settings need AUTH."""
        for_users = ("require_auth", "auth_any_recipient")
        if self._is_absent("scripts.auth"):
            expected = "only beside a script scripts.auth"
            self._refuse_set(listener, (*for_users, "auth_without_tls"), f"it {expected}")
            self._refuse_keyword(listener, Extension.AUTH, f"AUTH {expected}")
            return
        if self._knows_no_tls(listener) and self._value_of(listener + "auth_without_tls") is False:
            expected = "only beside tls, or with auth_without_tls = true"
            self._refuse_set(listener, for_users, f"it {expected}")
            self._refuse_keyword(listener, Extension.AUTH, f"AUTH {expected}")
        if not self._may_offer(listener, Extension.AUTH):
            self._refuse_set(listener, for_users, "it only with AUTH among the extensions")

    def _is_absent(self, key: str) -> bool:
        """Whether a key has the value that stands for nothing; what was refused is not absent."""
        read = self._read.get(key)
        return read is not None and read.value is None

    def _may_offer(self, listener: str, keyword: Extension) -> bool:
        extensions = self._value_of(listener + "extensions")
        return not isinstance(extensions, tuple) or keyword in extensions

    def _knows_no_tls(self, listener: str) -> bool:
        """Whether there is TLS neither here nor at a proxy in front."""
        return self._value_of(listener + "tls") is TlsMode.NONE and (
            self._value_of(listener + "proxy_protocol_from") == PeerList()
        )

    def _refuse_set(self, listener: str, names: tuple[str, ...], expected: str) -> None:
        for name in names:
            read = self._read.get(listener + name)
            if read is not None and read.value:
                self.problems.add(listener + name, shown(read.raw), expected)

    def _refuse_keyword(self, listener: str, keyword: Extension, expected: str) -> None:
        read = self._read.get(listener + "extensions")
        if read is not None and read.value != "all" and self._may_offer(listener, keyword):
            self.problems.add(listener + "extensions", shown(read.raw), expected)

    def _check_listeners(self) -> None:
        taken: set[object] = set()
        for key, read in tuple(self._read.items()):
            if isinstance(read.value, TcpAddress | SystemdAddress):
                self._refuse_unix_only(key.removesuffix("address"))
            elif not isinstance(read.value, UnixAddress):
                continue
            if isinstance(read.value, TcpAddress) and read.value.port == 0:  # the system finds another port for each
                continue
            if read.value in taken:
                self.problems.add(key, shown(read.raw), "an address that no other listener has")
            taken.add(read.value)

    def _refuse_unix_only(self, listener: str) -> None:
        for name in ("mode", "group"):
            if self._value_of(listener + name) is not None:
                raw = shown(self._read[listener + name].raw)
                self.problems.add(listener + name, raw, "it only beside the address of a unix socket")

    def _refuse_others(self, own: tuple[str, ...], raw: Mapping[str, object], place: _Place) -> None:
        """Refuse what is unknown."""
        for name in raw:
            if name not in own:
                expected = "a known key" if self.problems.full else _suggestion(name, place)
                self.problems.add(place.key(name).shown, "an unknown key", expected)

    def _entry(self, key: _Key, raw: Mapping[str, object], name: str, place: _Place) -> object:
        """Read one key of a table; MISSING when it is refused or left to its default."""
        if isinstance(key.form, Table):
            return self._section(key.form, raw.get(name, {}), place)
        if name not in raw:
            if key.default is MISSING:
                self.problems.add(place.shown, "nothing", _expected(key.form))
            else:
                self._read[place.shown] = _Read(key.default, key.default)
            return MISSING
        value = raw[name]
        match key.form:
            case Rule() as rule:
                return self._value(rule, value, place)
            case Items() as items:
                return self._items(items, value, place)
            case Tables() as tables:
                return self._tables(tables, value, place)
            case _:
                assert_never(key.form)

    def _section(self, form: Table, value: object, place: _Place) -> object:
        if isinstance(value, dict):
            return self.table(form.of, value, place)
        return self._refuse(place, value, f"a table, [{place.plain}]")

    def _value(self, rule: Rule, value: object, place: _Place) -> object:
        try:
            decoded = decode(rule, value)
        except ValueError:
            return self._refuse(place, value, rule.expected)
        self._read[place.shown] = _Read(value, decoded)
        return decoded

    def _items(self, form: Items, value: object, place: _Place) -> object:
        if not isinstance(value, list) or len(value) < form.fewest:
            return self._refuse(place, value, form.expected)
        before = self.problems.count
        good: list[str] = []
        for number, item in enumerate(value):
            if isinstance(item, str) and _passes(form, item):
                good.append(item)
            else:
                self._refuse(place.item(number), item, form.item_expected)
        combined = form.combine(good)
        if self.problems.count == before:
            self._read[place.shown] = _Read(value, combined)
        return combined

    def _tables(self, form: Tables, value: object, place: _Place) -> object:
        if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
            return self._refuse(place, value, _expected(form))
        if len(value) > form.most:
            return self._refuse(place, f"{len(value)} tables", _expected(form))
        return tuple(self.table(form.of, item, place.item(number)) for number, item in enumerate(value))

    def _refuse(self, place: _Place, value: object, expected: str) -> object:
        self.problems.add(place.shown, shown(value), expected)
        return MISSING


def _passes(form: Items, item: str) -> bool:
    try:
        form.check(item)
    except ValueError:
        return False
    return True


def _expected(form: Rule | Items | Tables) -> str:
    match form:
        case Rule(expected=expected) | Items(expected=expected):
            return expected
        case Tables(most=most):
            return f"1 to {most} tables"
        case _:
            assert_never(form)


def _suggestion(name: str, place: _Place) -> str:
    """Give what the user may have meant: the same key elsewhere, or one of this table that looks alike."""
    elsewhere = [path for path in known_keys() if path.rpartition(".")[2] == name]
    prefix = f"{place.plain}.".lstrip(".")
    here = {path.removeprefix(prefix).partition(".")[0] for path in known_keys() if path.startswith(prefix)}
    alike = difflib.get_close_matches(name[:_MAX_COMPARED_CHARS], sorted(here), n=1)
    if alike:
        return f'a known key (did you mean "{alike[0]}"?)'
    if elsewhere:
        return f'a known key (did you mean "{elsewhere[0]}"?)'
    return "a known key"
