"""Messages: requests that say what they mean, and nothing lost or guessed on the way."""

import json
import random
import time
from datetime import timedelta
from typing import Any, Literal

import pytest
from call_messages import CALL, GRANT, RESERVE
from pydantic import TypeAdapter, ValidationError

from paymaster.messages import (
    AccountConfig,
    Answer,
    AttemptReports,
    CallMessage,
    ChatMessage,
    Command,
    Configure,
    Denied,
    DeskConfig,
    Ended,
    ExpiredHold,
    Granted,
    LedgerStart,
    LLMRequest,
    LLMResult,
    Message,
    Notice,
    Outcome,
    Parked,
    ParkedAnswer,
    PauseService,
    ProviderState,
    RaiseCap,
    Refused,
    ServiceConfig,
    SetCap,
    Settle,
    Settled,
    ToolCall,
    UnknownHold,
    Void,
    Withdrawn,
    added,
    budget_workflow_id,
    call_id_of,
    call_workflow_id,
    config_too_large,
)
from paymaster.values.limits import CONFIG_BYTES_MAX, CONFIG_PACKED_BYTES_MAX
from paymaster.values.packed import pack
from paymaster.values.windows import WINDOWS


def request(**fields: Any) -> LLMRequest:
    return LLMRequest.model_validate({"route": "writer", "budget": "acme", "prompt": "Hello"} | fields)


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"prompt": None}, "prompt, messages or both"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"call_id": ""}, "call_id"),
        ({"call_id": "x" * 201}, "call_id"),
        ({"priority": 101}, "priority"),
        ({"on_exhausted": "queue"}, "on_exhausted"),
        ({"wait_at_most": timedelta(0)}, "wait_at_most"),
        ({"wait_at_most": timedelta(microseconds=999)}, "wait_at_most"),
        ({"wait_at_most": timedelta.max}, "wait_at_most"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"budget": ()}, "names 1 to 4 budgets, and this one 0"),
        ({"budget": ["a", "b", "c", "d", "e"]}, "names 1 to 4 budgets, and this one 5"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_request_that_makes_no_sense_is_refused_naming_the_field(wrong: dict[str, Any], field: str) -> None:
    """A field that does not exist too: a misspelt cap on the output must not be dropped."""
    with pytest.raises(ValidationError, match=field):
        request(**wrong)


def test_a_conversation_is_system_then_messages_then_prompt() -> None:
    """Each of them only if it is there; an empty prompt is one."""
    said = (ChatMessage(role="user", content="Hi"), ChatMessage(role="assistant", content="Yes?"))
    asked = request(system="Be brief.", messages=said, prompt="")
    assert [message.role for message in asked.conversation()] == ["system", "user", "assistant", "user"]
    assert request(prompt=None, messages=said).conversation() == said


def test_the_digest_tells_requests_apart_by_what_they_ask_for() -> None:
    """Not by their id: the same id with another digest is another request under the same name."""
    assert request(call_id="a").digest() == request(call_id="b").digest() == request().digest()
    others = [
        request(prompt="Hello!"),
        request(prompt=None, messages=[{"role": "user", "content": "Hello"}], system=""),
        request(max_output_tokens=5),
        request(json_schema={}),
        request(budget="acme/content"),
        request(budget=("acme", "acme/content")),
        request(temperature=0),
    ]
    assert len({asked.digest() for asked in (request(), *others)}) == len(others) + 1


def test_the_order_in_which_a_dict_was_filled_makes_no_other_request() -> None:
    """Two agents that build the same metadata or schema in another order ask for the same thing."""
    assert request(metadata={"a": "1", "b": "2"}) == request(metadata={"b": "2", "a": "1"})
    assert request(metadata={"a": "1", "b": "2"}).digest() == request(metadata={"b": "2", "a": "1"}).digest()
    schemas = [{"type": "object", "properties": {name: {} for name in names}} for names in ("ab", "ba")]
    assert len({request(json_schema=schema).digest() for schema in schemas}) == 1
    assert request(stop=("a", "b")).digest() != request(stop=("b", "a")).digest(), "the order of a list is what it says"


def test_an_answer_becomes_the_next_message() -> None:
    call = ToolCall(id="1", name="look", signature="s")
    state = ProviderState(api="gemini", host="h", service="s", model="m", data=[{"call": 0}])
    result = LLMResult(outcome=Outcome.COMPLETED, call_id="1", text="Let me see.", tool_calls=(call,), state=state)
    assert result.message() == ChatMessage(role="assistant", content="Let me see.", tool_calls=(call,), state=state)
    assert LLMResult.model_validate_json(result.model_dump_json()) == result
    plain = result.model_copy(update={"state": None})
    assert "state" not in plain.model_dump_json(), "an older reader meets no field that nobody used"
    assert "state" not in plain.message().model_dump_json()


@pytest.mark.parametrize("outcome", [Outcome.DENIED, Outcome.UNAVAILABLE])
def test_a_call_without_an_answer_has_no_message(outcome: Outcome) -> None:
    with pytest.raises(ValueError, match=outcome):
        LLMResult(outcome=outcome, call_id="1").message()


def test_a_request_comes_back_from_json_the_same() -> None:
    """Whatever it has, and with the same digest."""
    full = request(
        system="Be brief.",
        json_schema={"type": "object", "properties": {"a": {"enum": [1, 2.5, None, "ü"]}}},
        temperature=0.7,
        stop=("\n",),
        seed=3,
        priority=-5,
        on_exhausted="fail",
        wait_at_most=timedelta(milliseconds=1_500),
        metadata={"b": "1", "a": "2"},
    )
    again = LLMRequest.model_validate_json(full.model_dump_json())
    assert again == full
    assert again.digest() == full.digest()


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize("call_id", ["7", "article/outline", "call/7", "ü"])
def test_a_call_id_comes_back_from_its_workflow_id(call_id: str) -> None:
    """Whatever it looks like: the rows name the caller's own id."""
    assert call_id_of(call_workflow_id(call_id)) == call_id
    assert call_workflow_id("7") == "call/7"
    assert budget_workflow_id("default") == "budget/default"


# ---------------------------------------------------------------- on the wire


@pytest.mark.parametrize(
    "command", [RESERVE, Settle(hold_id="run-1/1", cost_nanos=10**20 - 1, confirmed=False), Void(hold_id="run-1/1")]
)
def test_a_command_comes_back_from_json_as_what_it_was(command: Command) -> None:
    """With its kind, and money to the last nano-dollar."""
    adapter = TypeAdapter[Command](Command)
    assert adapter.validate_json(adapter.dump_json(command)) == command


@pytest.mark.parametrize(
    "answer",
    [
        Granted(grant=GRANT),
        Parked(hold_id="h", deadline_at_ms=1, detail="d"),
        Denied(hold_id="h", reason="cap_reached", detail="d"),
        Ended(hold_id="h"),
        Settled(hold_id="h"),
        UnknownHold(hold_id="h"),
        Refused(hold_id="h", detail="d"),
    ],
    ids=lambda answer: answer.kind,
)
def test_an_answer_comes_back_from_json_as_what_it_was(answer: Answer) -> None:
    """Each kind is told apart, though most of them have the same fields."""
    adapter = TypeAdapter[Answer](Answer)
    assert adapter.validate_json(adapter.dump_json(answer)) == answer


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        (ParkedAnswer(sequence=1, call=CALL, answer=Granted(grant=GRANT)), CallMessage),
        (ParkedAnswer(sequence=1, call=CALL, answer=Denied(hold_id="h", reason="r", detail="d")), CallMessage),
        (Withdrawn(sequence=2, call=CALL, hold_id="h", detail="paused"), CallMessage),
        (ExpiredHold(sequence=3, call=CALL, grant=GRANT), Notice),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_what_waits_in_the_outbox_comes_back_from_json_as_what_it_was(item: object, kind: Any) -> None:
    """It may wait through a continue-as-new."""
    adapter = TypeAdapter[object](kind)
    assert adapter.validate_json(adapter.dump_json(item)) == item


def test_a_negative_cost_is_refused() -> None:
    """Nobody is paid back: a settlement posts what was spent."""
    with pytest.raises(ValidationError, match="cost_nanos"):
        Settle(hold_id="h", cost_nanos=-1)


def test_messages_of_an_older_version_are_read_with_defaults() -> None:
    """Fields are only added: what an older worker sends, or an older state holds, is still understood."""
    assert not Settle.model_validate({"hold_id": "h", "cost_nanos": 1}).served
    assert AttemptReports.model_validate({"reports": [{"hold_id": "h", "service": "s"}]}).reports[0].pause_ms is None
    assert DeskConfig.model_validate({"digest": "d", "budgets": {"acme": {}}}).budgets["acme"].max_concurrent is None
    result = LLMResult.model_validate({"outcome": "completed", "call_id": "7", "a_later_field": 1})
    assert (result.outcome, result.attempts) == (Outcome.COMPLETED, 0)


# ---------------------------------------------------------------- admins


@pytest.mark.parametrize(
    ("by", "text"), [("5", "5"), (5, "5"), (0.5, "0.5"), ("0.000000001", "0.000000001"), (0.1 + 0.2, None)]
)
def test_an_amount_may_be_written_as_a_number_by_hand(by: object, text: str | None) -> None:
    """It is taken as it is written; whether it is exact is decided by the desk, not by rounding it here."""
    change = RaiseCap.model_validate({"account": "budget:acme", "window": "day", "by": by})
    assert change.by == (text or repr(by))


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": "year"},
        {"by": None},
        {"by": True},
        {"amount": "5"},
        {"reason": "x" * 1_001},
        {"until_window_end": "perhaps"},
    ],
    ids=str,
)
def test_an_admins_message_with_a_mistake_is_refused(wrong: dict[str, Any]) -> None:
    """Written by hand in a form: nothing is guessed and nothing dropped."""
    with pytest.raises(ValidationError):
        RaiseCap.model_validate({"account": "budget:acme", "window": "day", "by": "5"} | wrong)
    with pytest.raises(ValidationError):
        SetCap.model_validate({"account": "budget:acme", "window": "day", "to": "5", "by": "5"})
    with pytest.raises(ValidationError):
        PauseService.model_validate({"service": "openai", "until": "tomorrow"})


# ---------------------------------------------------------------- versions side by side


class Grown(Message):
    kind: Literal["grown"] = "grown"
    old: int = 1
    reserved: int = added(0, ge=0)
    labels: dict[str, str] = added({})


def test_an_added_field_is_written_only_when_it_is_used() -> None:
    assert Grown().model_dump(mode="json") == {"kind": "grown", "old": 1}
    assert Grown(reserved=2, labels={"a": "b"}).model_dump(mode="json") == {
        "kind": "grown",
        "old": 1,
        "reserved": 2,
        "labels": {"a": "b"},
    }
    with pytest.raises(ValidationError):
        Grown(reserved=-1)


# ---------------------------------------------------------------- a configuration in a message


def many_budgets(number: int = 10_000) -> DeskConfig:
    """With caps of different amounts in every window."""
    chance = random.Random(9)
    budgets = {
        f"company-{n % 10}/team-{n % 90}/agent-{n}": AccountConfig(
            caps_nanos={window: chance.randint(1, 10**15) for window in WINDOWS}
        )
        for n in range(number)
    }
    return DeskConfig(digest="many", budgets=budgets, services={"s": ServiceConfig()})


@pytest.mark.parametrize("kind", [Configure, LedgerStart])
def test_ten_thousand_budgets_fit_into_a_message(kind: type[Configure | LedgerStart]) -> None:
    """They are 2.9 MB as JSON, and no payload may have more than 2 MiB."""
    message = kind.model_validate({"config": many_budgets(), "ledger": "default"})
    began = time.process_time()
    sent = message.model_dump_json()
    written = time.process_time()
    arrived = kind.model_validate_json(sent)
    read = time.process_time()
    assert arrived == message
    plain = len(many_budgets().model_dump_json())
    print(
        f"\n10,000 budgets with every window: {plain:,} bytes, {len(sent):,} as sent, written in "
        f"{(written - began) * 1e3:.0f} ms, read in {(read - written) * 1e3:.0f} ms"
    )
    assert len(sent) < CONFIG_PACKED_BYTES_MAX
    assert config_too_large(many_budgets()) is None


def test_a_small_configuration_is_sent_as_version_0_1_0_reads_it() -> None:
    """A rolling update: new workers, and a ledger that runs on an old one. A large one it refuses."""
    small = Configure(config=many_budgets(100))
    document = json.loads(small.model_dump_json())
    assert DeskConfig.model_validate(document["config"]) == small.config
    assert document["config"]["digest"] == "many"
    large = json.loads(Configure(config=many_budgets()).model_dump_json())
    with pytest.raises(ValidationError, match="digest"):
        DeskConfig.model_validate(large["config"])


def test_a_configuration_that_is_too_large_to_send_is_refused_in_words() -> None:
    assert "use several ledgers" in (config_too_large(many_budgets(10_001)) or "")
    chance = random.Random(10)
    long = {"".join(chance.choices("abcdefghijklmnop", k=200)): AccountConfig() for _ in range(10_000)}
    assert "configure fewer budgets" in (config_too_large(DeskConfig(digest="", budgets=long)) or "")


@pytest.mark.parametrize(
    ("packed", "problem"),
    [
        ("", "cut off"),
        ("not base64!", "not compressed text"),
        ("AAAA", "not compressed text"),
        (pack(b"{}" * 1_000)[:16], "cut off"),
        (pack(b"[" * 100), "Invalid JSON"),
        (pack(b'{"digest": 5}'), "digest"),
        (pack(bytes(CONFIG_BYTES_MAX + 1)), "holds more than"),
        (5, "packed"),
    ],
)
def test_a_forged_compressed_configuration_is_refused_in_words(packed: object, problem: str) -> None:
    """Also one that would be larger than memory: decompression ends at its limit."""
    with pytest.raises(ValidationError, match=problem):
        Configure.model_validate({"config": {"packed": packed}})
    with pytest.raises(ValidationError, match=problem):
        Configure.model_validate_json(json.dumps({"config": {"packed": packed}}))
