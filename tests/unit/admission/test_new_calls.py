"""What is counted for new calls bounds the dump, whatever their texts are, and where there is room nobody measures."""

import random
from collections import deque
from collections.abc import Callable
from unittest.mock import patch
from uuid import UUID

import pytest
from desk_kit import Site, candidate, capped, config

from paymaster.admission import state_size
from paymaster.admission.new_calls import NewCalls
from paymaster.admission.pressure import parts_without_calls
from paymaster.admission.state import written
from paymaster.messages import CallRef, Candidate, Denied, Granted, Reserve, json_bytes

Texts = Callable[[random.Random, int], dict[str, object]]
"""What a call says beside its UUIDs, of a chance and its number."""


def chinese(chance: random.Random, characters: int) -> str:
    return "".join(chr(chance.randrange(0x4E00, 0x9FFF)) for _ in range(characters))


def letters(chance: random.Random, characters: int) -> str:
    return "".join(chance.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=characters))


def route(chance: random.Random, length: int) -> tuple[Candidate, ...]:
    return tuple(candidate().model_copy(update={"model": chinese(chance, 200)}) for _ in range(length))


def usual(chance: random.Random, number: int) -> dict[str, object]:
    return {"input_bytes": chance.randrange(100_000), "digest": f"{chance.getrandbits(128):032x}"}


def of_odd_models(chance: random.Random, number: int) -> dict[str, object]:
    return {"candidates": route(chance, 3)}


def of_few_odd_models(chance: random.Random, number: int) -> dict[str, object]:
    return {"candidates": route(random.Random(number % 40), 3)}


def of_odd_ids(chance: random.Random, number: int) -> dict[str, object]:
    call = CallRef(workflow_id=chinese(chance, 200), run_id=letters(chance, 200))
    return {"hold_id": letters(chance, 300), "call": call}


def of_ids_like_uuids(chance: random.Random, number: int) -> dict[str, object]:
    return {
        "hold_id": letters(chance, 36),
        "call": CallRef(workflow_id=letters(chance, 41), run_id=letters(chance, 36)),
    }


def of_odd_budgets(chance: random.Random, number: int) -> dict[str, object]:
    return {"budget": f"acme/{letters(chance, 150)}"}


def too_dear(chance: random.Random, number: int) -> dict[str, object]:
    return {"candidates": tuple(each.model_copy(update={"max_output_tokens": 10**9}) for each in route(chance, 3))}


@pytest.mark.parametrize("mode", ["granted", "parked"])
@pytest.mark.parametrize(
    "texts",
    [usual, of_odd_models, of_few_odd_models, of_odd_ids, of_ids_like_uuids, of_odd_budgets, too_dear],
    ids=lambda texts: texts.__name__,
)
def test_no_dump_is_larger_than_what_is_counted(texts: Texts, mode: str) -> None:
    """Also when most of the calls have ended, which had the texts first that others still have."""
    budgets = {"acme": capped(total=10**6 if mode == "granted" else 1), "acme/*": capped(total=10**6)}
    site, chance = Site(config(budgets=budgets, max_parked=10_000)), random.Random(14)
    if mode == "parked":
        site.granted(candidate(usd=1))
    state, new = site.desk.state, NewCalls()
    measured, parts = len(written(state)[0]), parts_without_calls(state)
    living: deque[str] = deque()
    for number in range(600):
        request = ask(site, chance, number, texts)
        new.add(request, json_bytes(request))
        site.now_ms += 2
        answer = site.desk.handle(request, site.now_ms)
        if isinstance(answer, Denied):
            assert texts is too_dear
        else:
            assert isinstance(answer, Granted) or mode == "parked" or texts is of_odd_budgets
            living.append(request.hold_id)
        if len(living) > 200:
            site.void(living.popleft())
        if number % 50 == 49:
            counted = new.bytes(state.books.holds, state.parked)
            most = measured + counted + parts_without_calls(state).growth_from(parts)
            assert len(written(state)[0]) <= most


def ask(site: Site, chance: random.Random, number: int, texts: Texts) -> Reserve:
    run_id = str(UUID(int=chance.getrandbits(128)))
    call = CallRef(workflow_id=f"call/{UUID(int=chance.getrandbits(128))}", run_id=run_id)
    usual = site.request(hold_id=f"{run_id}/1").model_copy(update={"call": call})
    return usual.model_copy(update=texts(chance, number))


def test_where_there_is_room_nothing_is_measured() -> None:
    """Ten thousand calls, a thousand of them at a time, are far from what a state may take."""
    site, chance, living = Site(config(budgets={"acme": capped(total=10**9)})), random.Random(15), deque[str]()
    with patch.object(state_size, "written", side_effect=written) as measured:
        for number in range(10_000):
            site.now_ms += 1
            assert isinstance(site.desk.handle(ask(site, chance, number, usual), site.now_ms), Granted)
            living.append(next(reversed(site.desk.ledger.holds)))
            if len(living) > 1_000:
                site.settle(living.popleft())
    assert measured.call_count == 0
