"""The settings: typed values, where they come from, and their faults (docs/configuration.md).

`load_configuration` reads a TOML file of ours or a JSON file of go-guerrilla, `serve_settings` does without one; both
give a `Settings` or raise `ConfigErrors` with every fault at once. Nothing here touches the network.
"""

from trio_fcgimail.config.addresses import (
    BoundAddress,
    ListenAddress,
    SystemdAddress,
    TcpAddress,
    UnixAddress,
    UpstreamAddress,
    parse_listen_address,
    parse_upstream_address,
)
from trio_fcgimail.config.chain import (
    ChainSettings,
    DebuggerSettings,
    HeaderSettings,
    MaildirSettings,
    MaildirUser,
    NamedProcessor,
    Processor,
    Step,
)
from trio_fcgimail.config.code import make_settings
from trio_fcgimail.config.errors import ConfigError, ConfigErrors
from trio_fcgimail.config.hosts import HostList, is_domain
from trio_fcgimail.config.listening import ClientCertificates, Curve, LogStream, TlsVersion
from trio_fcgimail.config.networks import PeerList, parse_ip, unmapped
from trio_fcgimail.config.reader import known_keys, read_document
from trio_fcgimail.config.settings import (
    DEFAULT_LISTEN,
    BareNewline,
    BodyKind,
    BodyLines,
    CertificateSettings,
    Extension,
    FastcgiSettings,
    LimitSettings,
    ListenerSettings,
    LogFormat,
    LogLevel,
    LogSettings,
    Protocol,
    RemoteAddr,
    ScriptSettings,
    Settings,
    SpoolSettings,
    StatusSettings,
    TlsMode,
    Unexpected,
)
from trio_fcgimail.config.sources import (
    Configuration,
    convert_file,
    find_configuration,
    load_configuration,
    load_settings,
    serve_settings,
)
from trio_fcgimail.config.warnings import Concern, ConfigWarning

__all__ = [
    "DEFAULT_LISTEN",
    "BareNewline",
    "BodyKind",
    "BodyLines",
    "BoundAddress",
    "CertificateSettings",
    "ChainSettings",
    "ClientCertificates",
    "Concern",
    "ConfigError",
    "ConfigErrors",
    "ConfigWarning",
    "Configuration",
    "Curve",
    "DebuggerSettings",
    "Extension",
    "FastcgiSettings",
    "HeaderSettings",
    "HostList",
    "LimitSettings",
    "ListenAddress",
    "ListenerSettings",
    "LogFormat",
    "LogLevel",
    "LogSettings",
    "LogStream",
    "MaildirSettings",
    "MaildirUser",
    "NamedProcessor",
    "PeerList",
    "Processor",
    "Protocol",
    "RemoteAddr",
    "ScriptSettings",
    "Settings",
    "SpoolSettings",
    "StatusSettings",
    "Step",
    "SystemdAddress",
    "TcpAddress",
    "TlsMode",
    "TlsVersion",
    "Unexpected",
    "UnixAddress",
    "UpstreamAddress",
    "convert_file",
    "find_configuration",
    "is_domain",
    "known_keys",
    "load_configuration",
    "load_settings",
    "make_settings",
    "parse_ip",
    "parse_listen_address",
    "parse_upstream_address",
    "read_document",
    "serve_settings",
    "unmapped",
]
