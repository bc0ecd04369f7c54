"""The state tables: walked whole, so that no cell is there by accident."""

from itertools import product

import pytest

from trio_fcgimail.fastcgi import Role
from trio_fcgimail.fastcgi.state import (
    INPUT_LEFTOVERS,
    INPUT_TRANSITIONS,
    OUTPUT_LEFTOVERS,
    OUTPUT_TRANSITIONS,
    PARAMS_END,
    Exchange,
    InputMove,
    InputState,
    OutputMove,
    OutputState,
    Ruling,
)

# One letter per cell: where the move leads, "-" for a leftover, "." for illegal.
# Columns: PARAMS, its three ends (responder, authorizer, filter), STDIN, STDIN_END, DATA, DATA_END, ABORT.
INPUT = {
    InputState.PARAMS: "P S C B . . . . A",
    InputState.STDIN_AND_DATA: ". - - - B D B S A",
    InputState.STDIN: ". - - - S C . - A",
    InputState.DATA: ". - - - . - D C A",
    InputState.COMPLETE: ". - - - . - . - A",
    InputState.ABORTED: "- - - - - - - - -",
}
INPUT_LETTERS = dict(zip("PBSDCA", InputState, strict=True))

# Columns: STDOUT, STDOUT_END, STDERR, STDERR_END, END.
OUTPUT = {
    OutputState.OPEN: "O o O e E",
    OutputState.STDOUT_ENDED: ". - o s E",
    OutputState.STDERR_ENDED: "e s . - E",
    OutputState.STREAMS_ENDED: ". - . - E",
    OutputState.ENDED: "- - - - -",
}
OUTPUT_LETTERS = dict(zip("OoesE", OutputState, strict=True))


@pytest.mark.parametrize(("state", "move"), list(product(InputState, InputMove)))
def test_input_cell(state: InputState, move: InputMove) -> None:
    letter = INPUT[state].split()[list(InputMove).index(move)]
    exchange = Exchange(role=Role.RESPONDER, keep_connection=True, input=state)
    ruling = exchange.take_input(move)
    if letter in INPUT_LETTERS:
        assert (ruling, exchange.input) == (Ruling.MOVES, INPUT_LETTERS[letter])
    else:
        assert (ruling, exchange.input) == (Ruling.LEFTOVER if letter == "-" else Ruling.ILLEGAL, state)
    assert exchange.output is OutputState.OPEN


@pytest.mark.parametrize(("state", "move"), list(product(OutputState, OutputMove)))
def test_output_cell(state: OutputState, move: OutputMove) -> None:
    letter = OUTPUT[state].split()[list(OutputMove).index(move)]
    exchange = Exchange(role=Role.RESPONDER, keep_connection=True, output=state)
    ruling = exchange.take_output(move)
    if letter in OUTPUT_LETTERS:
        assert (ruling, exchange.output) == (Ruling.MOVES, OUTPUT_LETTERS[letter])
    else:
        assert (ruling, exchange.output) == (Ruling.LEFTOVER if letter == "-" else Ruling.ILLEGAL, state)
    assert exchange.input is InputState.PARAMS


@pytest.mark.parametrize(("given", "taken"), list(product(InputState, OutputState)))
def test_the_id_is_free_when_both_directions_are_done(given: InputState, taken: OutputState) -> None:
    exchange = Exchange(role=Role.FILTER, keep_connection=False, input=given, output=taken)
    done = given in {InputState.COMPLETE, InputState.ABORTED}
    assert exchange.input_over is done
    assert exchange.over is (done and taken is OutputState.ENDED)


def test_the_tables_are_total_and_do_not_overlap() -> None:
    assert list(INPUT_TRANSITIONS) == list(INPUT_LEFTOVERS) == list(InputState)
    assert list(OUTPUT_TRANSITIONS) == list(OUTPUT_LEFTOVERS) == list(OutputState)
    assert list(PARAMS_END) == list(Role)
    assert not any(INPUT_LEFTOVERS[state] & set(row) for state, row in INPUT_TRANSITIONS.items())
    assert not any(OUTPUT_LEFTOVERS[state] & set(row) for state, row in OUTPUT_TRANSITIONS.items())
