"""What a button may do is what the worker signed, for a day, and nothing else."""

import time

import jwt
import pytest

from paymaster.messages import Alert, RaiseOffer
from paymaster.security.raise_tokens import (
    TOKEN_CHARACTERS_MAX,
    TOKEN_LIVES_MS,
    OfferedRaise,
    TokenRefused,
    offered_raises,
    read_token,
    token_of,
)
from paymaster.values.budget_path import PATH_LENGTH_MAX

OFFERED = OfferedRaise(
    ledger="books",
    epoch="epoch",
    alert=7,
    account="budget:acme",
    window="day",
    by_nanos=5,
    cap_nanos=10,
    window_ends_at_ms=1_804_723_200_000,
)


def now_ms() -> int:
    return int(time.time() * 1_000)


def test_a_token_is_read_as_it_was_made() -> None:
    assert read_token(token_of(OFFERED, "secret", made_at_ms=now_ms()), "secret", "books") == OFFERED


def test_the_longest_budget_fits_into_a_button() -> None:
    long = OFFERED.model_copy(
        update={"ledger": "b" * 64, "epoch": "e" * 36, "account": "budget:" + "a" * PATH_LENGTH_MAX, "by_nanos": 10**18}
    )
    token = token_of(long, "secret", made_at_ms=now_ms())
    assert len(token) < TOKEN_CHARACTERS_MAX
    assert read_token(token, "secret", "b" * 64) == long


def test_what_was_not_made_for_this_is_refused_in_words() -> None:
    token = token_of(OFFERED, "secret", made_at_ms=now_ms())
    head, claims, signature = token.split(".")
    other = token_of(OFFERED.model_copy(update={"by_nanos": 500}), "other", made_at_ms=now_ms())
    for forged in (other, f"{head}.{other.split('.')[1]}.{signature}", f"{head}.{claims}.", "", "x" * 3_000, "ä"):
        with pytest.raises(TokenRefused, match=r"was not made here|too long"):
            read_token(forged, "secret", "books")
    with pytest.raises(TokenRefused, match="of the ledger 'books', and this is 'staging'"):
        read_token(token, "secret", "staging")
    late = token_of(OFFERED, "secret", made_at_ms=now_ms() - TOKEN_LIVES_MS - 2_000)
    with pytest.raises(TokenRefused, match="good for 24 hours"):
        read_token(late, "secret", "books")


def test_a_token_without_a_signature_is_none() -> None:
    """The algorithm "none" of JWT."""
    unsigned = jwt.encode(OFFERED.model_dump() | {"aud": "paymaster-raise-1", "exp": now_ms()}, "", "none")
    with pytest.raises(TokenRefused):
        read_token(unsigned, "secret", "books")


def test_an_alert_offers_each_of_its_raises_under_one_nonce() -> None:
    alert = Alert(sequence=7, at_ms=0, what="parked", text="", account="budget:acme", window="day")
    assert offered_raises("books", "epoch", alert) == ()
    offer = RaiseOffer(cap_nanos=10, window_ends_at_ms=1_804_723_200_000, by_nanos=(5, 6))
    found = offered_raises("books", "epoch", alert.model_copy(update={"offer": offer}))
    assert found == (OFFERED, OFFERED.model_copy(update={"by_nanos": 6}))
    assert {each.nonce for each in found} == {"epoch/7"}
