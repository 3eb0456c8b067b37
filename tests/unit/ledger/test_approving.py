"""The command that an approver gives: with the approver's key where there is one, and no other."""

from base64 import b64encode
from pathlib import Path

import pytest

from paymaster.admission.signatures import is_genuine
from paymaster.keys.api_key import ApiKey, KeyUnavailable
from paymaster.ledger.approving import Approvers, CannotApprove
from paymaster.messages import Approval, RaiseCap
from paymaster.security.signing_key import SigningKey
from paymaster.settings.approvals import ApproverSettings


class Keys:
    def __init__(self, **lines: str) -> None:
        self._lines = lines

    async def get(self, name: str) -> ApiKey:
        if name not in self._lines:
            raise KeyUnavailable(f"there is no key {name!r}")
        return ApiKey(self._lines[name])


async def command(keys: Keys, approver: str = "ada", **ada: object) -> RaiseCap:
    table = ApproverSettings.model_validate({"budgets": ["acme"], "usd_per_raise": "5", "usd_per_day": "5"} | ada)
    return await Approvers({"ada": table}, keys, "books").raise_cap(
        "budget:acme",
        "day",
        2_500_000_000,
        approver=approver,
        where="Slack, U012AB",
        reason="parked",
        nonce="epoch/7",
        cap_nanos=10,
        window_ends_at_ms=20,
        epoch="epoch",
    )


async def test_without_a_key_the_command_names_the_approver() -> None:
    approval = Approval(by="ada", nonce="epoch/7", cap_nanos=10, window_ends_at_ms=20, where="Slack, U012AB")
    assert await command(Keys()) == RaiseCap(
        account="budget:acme",
        window="day",
        by="2.500000000",
        until_window_end=True,
        who="ada",
        reason="parked",
        approval=approval,
    )


async def test_the_second_line_of_the_key_file_signs(tmp_path: Path) -> None:
    key = SigningKey.create(tmp_path / "ada.pem")
    line = (tmp_path / "ada.pem").read_text().splitlines()[1]
    found = await command(Keys(k=line), public_key=key.public, signing_key="k")
    assert found.signature is not None
    assert found.signature.by == "ada"
    assert is_genuine(key.public, "raise_cap", found, found.signature, ledger="books", epoch="epoch")


async def test_a_key_that_is_not_the_approvers_signs_nothing(tmp_path: Path) -> None:
    key = SigningKey.create(tmp_path / "ada.pem")
    SigningKey.create(tmp_path / "bob.pem")
    other = (tmp_path / "bob.pem").read_text().splitlines()[1]
    signing = {"public_key": key.public, "signing_key": "k"}
    for keys, words in (
        (Keys(k=other), "another one than the public_key"),
        (Keys(), "no key 'k'"),
        (Keys(k="nonsense"), "not the second line"),
        (Keys(k=b64encode(b"der").decode()), "not the second line"),
    ):
        with pytest.raises(CannotApprove, match=words) as refused:
            await command(keys, **signing)
        assert other not in str(refused.value)
    with pytest.raises(CannotApprove, match=r"no \[approvals.eve\]"):
        await command(Keys(), "eve")
