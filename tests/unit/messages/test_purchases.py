"""What may be bought, and what is no purchase."""

import pytest

from paymaster.messages.purchases import PurchaseOutcome, PurchaseRequest, PurchaseResult
from paymaster.messages.results import BudgetNotice, Standing


def a_request(**fields: object) -> PurchaseRequest:
    return PurchaseRequest.model_validate({"what": "web-search", "budget": "acme", "up_to_nanos": 1, **fields})


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("what", "a/b", "pattern"),
        ("what", "x" * 101, "pattern"),
        ("up_to_nanos", 0, "greater than 0"),
        ("up_to_nanos", 10**20, "less than or equal"),
        ("budget", (), "1 to 4 budgets"),
        ("budget", ("a", "b", "c", "d", "e"), "1 to 4 budgets"),
        ("metadata", {str(number): "" for number in range(101)}, "at most 100"),
        ("metadata", {"a": "x" * 30_000}, "may have 20,480"),
        ("metadata", {"a": "\ud83d"}, "no Unicode text"),
        ("priority", 101, "less than or equal"),
        ("later", True, "not permitted"),
    ],
)
def test_what_is_wrong_is_said(field: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        a_request(**{field: value})


def test_its_standing_is_what_binds_with_the_least_left_first() -> None:
    tight = BudgetNotice("budget:acme/a", "day", 5, 3, 1, ())
    loose, watched = (
        BudgetNotice("budget:acme", "day", 9, 3, 0, ()),
        BudgetNotice("budget:b", "day", 1, 1, 0, (), None, False),
    )
    result = PurchaseResult(outcome=PurchaseOutcome.PAID, budget=(watched, loose, tight))
    assert result.standing == Standing(accounts=(tight, loose))
    assert result.standing.left_nanos == 1


def test_its_digest_tells_purchases_apart() -> None:
    digests = {a_request(**fields).digest() for fields in ({}, {"up_to_nanos": 2}, {"what": "map"}, {"budget": "b"})}
    assert len(digests) == 4
    assert a_request(metadata={"a": "1", "b": "2"}).digest() == a_request(metadata={"b": "2", "a": "1"}).digest()
