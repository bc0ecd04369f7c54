"""One budget for the pools before and behind a reload."""

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from trio_fcgimail.config import TcpAddress, UnixAddress
from trio_fcgimail.server.pool import Budget, CommonBudget, Kind, Share

ONE: Final = UnixAddress("/one")
OTHER: Final = TcpAddress("other.example", 9000)


def test_maximum_and_reserve_hold_over_all() -> None:
    common = CommonBudget()
    old, new = common.share([ONE], 3, 1), common.share([OTHER, ONE], 3, 1)
    assert old.lease(0, Kind.SAVE)
    assert new.lease(1, Kind.SAVE)
    assert not new.lease(1, Kind.SAVE)  # the reserve
    assert new.lease(1, Kind.VALIDATE)
    assert not old.lease(0, Kind.VALIDATE)
    assert new.lease(0, Kind.SAVE)  # another upstream
    assert not new.change(1, Kind.VALIDATE, Kind.SAVE)
    assert old.change(0, Kind.SAVE, Kind.VALIDATE)
    assert new.change(1, Kind.VALIDATE, Kind.SAVE)
    assert new.change(1, Kind.SAVE, Kind.SAVE)


def test_what_a_connection_does_besides_is_no_save() -> None:
    common = CommonBudget()
    old, new = common.share([ONE], 4, 2), common.share([ONE], 4, 2)
    assert old.lease(0, Kind.VALIDATE)
    for _ in range(5):
        assert old.change(0, Kind.VALIDATE, Kind.POLICY)
        assert old.change(0, Kind.POLICY, Kind.VALIDATE)
    assert common.saves[ONE] == 0
    assert old.change(0, Kind.VALIDATE, Kind.POLICY)
    assert old.change(0, Kind.POLICY, Kind.SAVE)
    assert new.lease(0, Kind.SAVE)
    assert not new.lease(0, Kind.SAVE)  # the reserve


def test_a_single_connection_has_no_reserve() -> None:
    share: Budget = CommonBudget().share([ONE], 1, 0)
    assert share.lease(0, Kind.SAVE)


def test_who_was_refused_is_told_once_when_others_give_back() -> None:
    common = CommonBudget()
    old, new = common.share([ONE], 1, 0), common.share([ONE], 1, 0)
    told: list[str] = []
    old.watch(lambda: told.append("old"))
    new.watch(lambda: told.append("new"))
    old.lease(0, Kind.SAVE)
    assert not new.lease(0, Kind.SAVE)
    old.change(0, Kind.SAVE, Kind.VALIDATE)
    assert told == ["new"]
    assert not new.lease(0, Kind.SAVE)
    old.release(0, Kind.VALIDATE)
    old.lease(0, Kind.SAVE)
    old.release(0, Kind.SAVE)
    assert told == ["new", "new"]


@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from(Kind), st.booleans()), max_size=40))
def test_whatever_is_asked_no_more_is_out_than_may_be(steps: list[tuple[int, Kind, bool]]) -> None:
    common = CommonBudget()
    shares = [common.share([ONE], 4, 1), common.share([ONE], 4, 1)]
    out: list[tuple[Share, Kind]] = []
    for which, kind, gives in steps:
        if gives and out:
            share, held = out.pop()
            share.release(0, held)
        elif shares[which].lease(0, kind):
            out.append((shares[which], kind))
        assert common.open[ONE] == len(out) <= 4
        assert common.saves[ONE] == sum(held is Kind.SAVE for _, held in out) <= 3
