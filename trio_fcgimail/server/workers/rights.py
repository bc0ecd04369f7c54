"""Whom a child becomes once it has what only root may open."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from typing import final


@final
class RightsError(Exception):
    """The user or group of the settings cannot be; the text is one line for the user."""


@final
@dataclass(frozen=True, slots=True)
class Identity:
    """A user and a group.

    Args:
        user: whose supplementary groups apply; None for none at all.
    """

    uid: int
    gid: int
    user: str | None


def find_identity(user: str | None, group: str | None) -> Identity | None:
    """Look up the settings ``user`` and ``group``.

    Returns:
        None when nothing is to change.

    Raises:
        RightsError: there is no such user or group, or we may not become it.
    """
    if user is None and group is None:
        return None
    try:
        entry = pwd.getpwuid(os.geteuid()) if user is None else pwd.getpwnam(user)
    except KeyError as exc:
        raise RightsError(f"there is no user {user}") from exc
    try:
        gid = entry.pw_gid if group is None else grp.getgrnam(group).gr_gid
    except KeyError as exc:
        raise RightsError(f"there is no group {group}") from exc
    identity = Identity(entry.pw_uid, gid, user)
    if (identity.uid, identity.gid) == (os.geteuid(), os.getegid()):
        return None
    if os.geteuid() != 0:
        raise RightsError(f"only root can become {user or group}; leave user and group out, or start as root")
    return identity


def become(identity: Identity) -> None:
    """Give up all rights but those of ``identity``, for good."""
    if identity.user is None:
        os.setgroups([identity.gid])
    else:
        os.initgroups(identity.user, identity.gid)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
