"""Errors cross processes: what is told there is what was raised here."""

import copy
import pickle

import pytest

from orchestrator.errors import DefiniteError, ErrorCode, IndefiniteError, OverloadedError, RaytxError


class UsersError(DefiniteError):
    """As a service may define one."""


ERRORS = [
    RaytxError("OUT_OF_STOCK", "none is left"),
    DefiniteError(ErrorCode.CONFIG, "shards: 0 is not positive"),
    IndefiniteError(ErrorCode.UNREACHABLE, "log did not answer"),
    OverloadedError("1000 transactions are open", 250),
    UsersError("E_MINE", "text"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_is_the_same_after_pickling(error, protocol):
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert (again.code, again.message, str(again)) == (error.code, error.message, str(error))
    assert vars(again) == vars(error)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_can_be_copied(error):
    assert vars(copy.copy(error)) == vars(copy.deepcopy(error)) == vars(error)


def test_notes_travel_along():
    error = DefiniteError(ErrorCode.CONFIG, "text")
    error.add_note("while reading the file")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while reading the file"]
