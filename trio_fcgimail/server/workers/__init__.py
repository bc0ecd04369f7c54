"""Several processes: a parent that holds sockets and rights, and children that serve.

The parent reads no octet from the network. It binds the sockets, starts children that inherit them and then become
somebody with fewer rights, replaces those that die, and hands over from one generation of children to the next when the
settings change. Parent and child talk over a socket pair (:mod:`.channel`); whoever is left alone by the other ends.
"""

from trio_fcgimail.server.workers.parent import Supervisor
from trio_fcgimail.server.workers.rights import RightsError

__all__ = ["RightsError", "Supervisor"]
