"""The embedded default: what ``python -m trio_fcgimail`` runs when nothing is configured.

Start at :mod:`trio_fcgimail.demo.main`, whose head draws the nursery tree.
"""

from trio_fcgimail.demo.main import run_demo

__all__ = ["run_demo"]
