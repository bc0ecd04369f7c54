"""The FastCGI connections of all requests: leased, handed from one to the next, retried where nothing can double.

``Planner`` decides, without a clock and without doing anything (``model`` has its words); ``Pool`` does it on Trio.
"""

from trio_fcgimail.server.pool.budget import Budget, LocalBudget
from trio_fcgimail.server.pool.common import CommonBudget, Share
from trio_fcgimail.server.pool.model import Failure, Kind, PoolRules, PoolSnapshot, Trip, UpstreamSnapshot
from trio_fcgimail.server.pool.planner import Planner
from trio_fcgimail.server.pool.shell import Pool

__all__ = [
    "Budget",
    "CommonBudget",
    "Failure",
    "Kind",
    "LocalBudget",
    "Planner",
    "Pool",
    "PoolRules",
    "PoolSnapshot",
    "Share",
    "Trip",
    "UpstreamSnapshot",
]
