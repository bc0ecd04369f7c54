"""Mail clients that others wrote, each behind the same call, and what each of them can do."""

from tests.clients.postfix import Postfix, running_postfix
from tests.clients.python import by_smtplib
from tests.clients.routes import (
    HELO,
    SECONDS,
    Channel,
    Login,
    Mail,
    Mechanism,
    Outcome,
    Route,
    missing,
    require,
    run_client,
)
from tests.clients.table import CLIENTS, OF_CHANNEL, OF_MECHANISM, Client, ClientName, Feature

__all__ = [
    "CLIENTS",
    "HELO",
    "OF_CHANNEL",
    "OF_MECHANISM",
    "SECONDS",
    "Channel",
    "Client",
    "ClientName",
    "Feature",
    "Login",
    "Mail",
    "Mechanism",
    "Outcome",
    "Postfix",
    "Route",
    "by_smtplib",
    "missing",
    "require",
    "run_client",
    "running_postfix",
]
