"""Any sequence of prepares, commits and rollbacks over a bank conserves its money, as its audit sees it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.bank_accounts import Accounts
from actors.service import Refused
from actors.testing import ServiceBench

accounts = st.sampled_from(["ada", "bob", "eve"])
moves = st.fixed_dictionaries({"account": accounts, "amount_minor": st.integers(1, 8)})
openings = st.fixed_dictionaries({"lines": st.lists(st.fixed_dictionaries(
    {"account": accounts, "amount_minor": st.integers(0, 9), "blocked": st.sampled_from([None, None, None, True, False])}),
    max_size=3)})
requests = st.one_of(
    st.tuples(st.sampled_from(["withdraw", "deposit"]), moves), st.tuples(st.just("open"), openings))


@settings(max_examples=80, deadline=None)
@given(data=st.data(), steps=st.integers(1, 25))
def test_the_books_balance_after_every_step_and_nothing_is_left_at_the_end(data, steps):
    bench, open_ = ServiceBench(Accounts("a_bank")), []
    for number in range(steps):
        if open_ and data.draw(st.booleans()):
            transaction, operation = open_.pop(data.draw(st.integers(0, len(open_) - 1)))
            data.draw(st.sampled_from([bench.commit, bench.rollback]))(transaction, operation)
        else:
            operation, request = data.draw(requests)
            if not isinstance(bench.prepare(f"t{number:03}", operation, request), Refused):
                open_.append((f"t{number:03}", operation))
        assert bench.audit().violations == []
    for transaction, operation in data.draw(st.permutations(open_)):
        data.draw(st.sampled_from([bench.commit, bench.rollback]))(transaction, operation)
    audit = bench.audit()
    assert audit.violations == []
    assert (audit.totals["held_minor"], audit.totals["announced_minor"]) == (0, 0)
    moved = audit.totals["opened_minor"] + audit.totals["received_minor"] - audit.totals["sent_minor"]
    assert audit.totals["balance_minor"] == moved >= 0
