"""Keys: found by name in a written order, refused with the fix, and shown to nobody."""

import copy
import json
import logging
import pickle
import pprint
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, TypeAdapter
from rich.pretty import pretty_repr

from paymaster.keys.api_key import ApiKey, EnvironmentKeys, KeySource, KeyUnavailable
from paymaster.values.key_name import check_key_name

SECRET = "sk-proj-SENTINEL0123456789abcdef"
OWN, USUAL = "PAYMASTER_KEY_OPENAI_API_KEY", "OPENAI_API_KEY"


class Holder(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    key: ApiKey


@dataclass
class Record:
    key: ApiKey


def traceback_with_locals(error: BaseException) -> str:
    """What an error reporter shows of the code below the test: the test's own frame holds the secret on purpose."""
    assert error.__traceback__ is not None
    below = error.__traceback__.tb_next
    return "".join(traceback.TracebackException(type(error), error, below, capture_locals=True).format())


WAYS_OF_SHOWING: dict[str, Callable[[ApiKey], object]] = {
    "str": str,
    "repr": repr,
    "ascii": ascii,
    "format": lambda key: f"{key} {key!s} {key!r} {key!a}",
    "format with a width": lambda key: f"{key:>40}",
    "percent": lambda key: "%s %r" % (key, key),  # noqa: UP031 - this way of formatting is what is tested
    "log record": lambda key: logging.LogRecord("x", 20, "x", 1, "key is %s %r", (key, key), None).getMessage(),
    "vars": vars,
    "pprint": pprint.pformat,
    "rich": pretty_repr,
    "json": json.dumps,
    "json with a default": lambda key: json.dumps({"key": key}, default=str),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "dataclass": Record,
    "dataclass as a dict": lambda key: asdict(Record(key)),
    "state": lambda key: key.__getstate__(),
    "pydantic": lambda key: Holder(key=key),
    "pydantic dump": lambda key: Holder(key=key).model_dump(),
    "pydantic JSON": lambda key: Holder(key=key).model_dump_json(),
    "pydantic JSON with a fallback": lambda key: Holder(key=key).model_dump_json(fallback=str),
    "pydantic JSON of anything": lambda key: TypeAdapter(Any).dump_json(key),
    **{f"pickle {number}": partial(pickle.dumps, protocol=number) for number in range(pickle.HIGHEST_PROTOCOL + 1)},
}


@pytest.mark.parametrize("way", WAYS_OF_SHOWING)
def test_no_way_of_showing_a_key_gives_its_value(way: str) -> None:
    """Whatever prints, copies or stores an ApiKey gives stars or raises; neither holds the value."""
    try:
        shown = WAYS_OF_SHOWING[way](ApiKey(SECRET))
        seen = f"{shown} {shown!r}"
    except Exception as error:
        seen = traceback_with_locals(error)
    assert "SENTINEL" not in seen


def test_reveal_is_the_way_to_the_value() -> None:
    assert ApiKey(SECRET).reveal() == SECRET


async def test_the_variable_of_our_own_goes_before_the_usual_one() -> None:
    """PAYMASTER_KEY_… lets Paymaster have a key other than the one that the rest of the machine uses."""
    source: KeySource = EnvironmentKeys({OWN: "first", USUAL: "second"})
    assert (await source.get("openai-api-key")).reveal() == "first"
    assert (await EnvironmentKeys({USUAL: "second"}).get("openai-api-key")).reveal() == "second"


async def test_a_key_changed_in_the_process_is_used_by_the_next_get() -> None:
    environ = {OWN: "old"}
    keys = EnvironmentKeys(environ)
    assert (await keys.get("openai-api-key")).reveal() == "old"
    environ[OWN] = "new"
    assert (await keys.get("openai-api-key")).reveal() == "new"


async def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYMASTER_KEY_A_TEST_KEY", "from-the-process")
    assert (await EnvironmentKeys().get("a-test-key")).reveal() == "from-the-process"


async def test_a_missing_key_says_which_variable_to_set() -> None:
    with pytest.raises(KeyUnavailable) as caught:
        await EnvironmentKeys({}).get("openai-api-key")
    assert str(caught.value) == (
        f"there is no key 'openai-api-key': set {USUAL} (or {OWN}, which counts first) where this runs, then restart it"
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "is empty"),
        (f" {SECRET}", "white space"),
        (f"{SECRET}\n", "line break"),
        (f"{SECRET}\r\n", "line break"),
        (f"{SECRET} x", "a space"),
        (f"{SECRET}\nX-Header: y", "control character"),
        (f"{SECRET}\x7f", "control character"),
        (f"{SECRET}é", "outside ASCII"),
        (f"{SECRET}\u200b", "outside ASCII"),
    ],
)
async def test_an_unusable_value_is_refused_by_its_variable_without_being_shown(value: str, reason: str) -> None:
    """A key that no HTTP header can carry is refused here: elsewhere the error would quote it."""
    with pytest.raises(KeyUnavailable) as caught:
        await EnvironmentKeys({OWN: value, USUAL: "a-good-one"}).get("openai-api-key")
    assert f"{OWN} " in str(caught.value)
    assert reason in str(caught.value)
    assert "SENTINEL" not in traceback_with_locals(caught.value)


async def test_a_key_tells_the_variable_that_it_is_from() -> None:
    """`doctor` says where a key is; a variable that is set counts even when its value is wrong."""
    assert (await EnvironmentKeys({OWN: SECRET, USUAL: SECRET}).get("openai-api-key")).where == OWN
    assert (await EnvironmentKeys({USUAL: SECRET}).get("openai-api-key")).where == USUAL
    with pytest.raises(KeyUnavailable, match=f"{OWN} is empty"):
        await EnvironmentKeys({OWN: "", USUAL: SECRET}).get("openai-api-key")


@pytest.mark.parametrize(
    "name", ["openai-api-key", "a", "xai-key", "hf-token", "azure-openai-westeurope-2", "key-20261101"]
)
def test_names_that_people_give_to_keys_are_accepted(name: str) -> None:
    assert check_key_name(name) == name


@pytest.mark.parametrize(
    "pasted",
    [
        "sk-short",
        SECRET,
        "sk_live_abcdef",
        "0123456789abcdef0123456789abcdef",  # Azure OpenAI
        "gsk_" + "aB3dE6gH" * 6,  # Groq
        "xai-" + "aB3dE6gH" * 10,
        "hf_" + "abcdefghijklmnopqrstuvwxyzABCDEFGH",
        "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
    ],
)
def test_a_pasted_key_is_recognised_and_not_repeated(pasted: str) -> None:
    """Somebody who pastes a key where its name belongs is told so, and does not find it in a log."""
    with pytest.raises(ValueError, match="looks like an API key") as caught:
        check_key_name(pasted)
    assert pasted not in str(caught.value)


@pytest.mark.parametrize("name", ["", "-", "OPENAI_API_KEY", "a--b", "-a", "a-", "a b", "a/b", "ключ", "a-" * 40 + "a"])
def test_what_cannot_become_a_variable_is_no_name(name: str) -> None:
    """Two dashes would make `PAYMASTER__DATABASE__URL` the key named `paymaster--database--url`."""
    with pytest.raises(ValueError, match="not the name of a key"):
        check_key_name(name)


@given(st.text(min_size=12, alphabet=st.characters(min_codepoint=33, max_codepoint=126)))
def test_a_refusal_never_repeats_what_it_refuses(text: str) -> None:
    refusal = ""
    try:
        check_key_name(text)
    except ValueError as error:
        refusal = str(error)
    assert text not in refusal
