"""Schemas as they are sent, by what each service documents, and answers against the schema as it was given.

The judges below are written from the services' pages; `jsonschema` judges the check. Row 15 of what 0.1.0 got wrong.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from datetime import date, datetime
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, Union
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field, JsonValue, RootModel, create_model
from searches import examples
from wire import GRANT, ask, build, service

from paymaster.messages import Completion, ServiceCall
from paymaster.providers.answers import HttpAnswer, Reading, read_answer
from paymaster.providers.provider import UnsupportedParameter
from paymaster.providers.schema_check import schema_problem
from paymaster.settings import Api

Schema = dict[str, Any]
DEEPSEEK = "https://api.deepseek.com"
PLACES: dict[Api, tuple[str, ...]] = {
    "openai": ("response_format", "json_schema"),
    "azure-openai": ("response_format", "json_schema"),
    "openai-responses": ("text", "format"),
    "anthropic": ("output_config", "format"),
    "gemini": ("generationConfig",),
    "vertex-gemini": ("generationConfig",),
    "vertex-claude": ("output_config", "format"),
    "bedrock": ("outputConfig", "textFormat", "structure", "jsonSchema"),
}


class Sent(NamedTuple):
    schema: Schema
    strict: bool


def sent(schema: Schema, api: Api) -> Sent:
    """What a service gets. Raises UnsupportedParameter."""
    found: Any = build(ask(json_schema=schema), api).body
    for name in PLACES[api]:
        found = found[name]
    said = found["responseJsonSchema" if api.endswith("gemini") else "schema"]
    return Sent(json.loads(said) if isinstance(said, str) else said, found.get("strict", True))


# ---------------------------------------------------------------- the judges


def nodes(schema: Any) -> Iterator[Schema]:
    """Every schema within a schema that is sent."""
    assert isinstance(schema, dict), f"{schema} is no schema that a service takes"
    yield schema
    for keyword in ("properties", "$defs"):
        for below in schema.get(keyword, {}).values():
            yield from nodes(below)
    for keyword in ("anyOf", "prefixItems"):
        for below in schema.get(keyword, ()):
            yield from nodes(below)
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from nodes(schema[keyword])


def judge_any(schema: Schema, keywords: set[str]) -> None:
    Draft202012Validator.check_schema(schema)
    defined = schema.get("$defs", {})
    for node in nodes(schema):
        assert set(node) <= keywords, node
        assert "type" in node or "anyOf" in node or "$ref" in node, node
        assert node.get("type") in (None, "object", "array", "string", "integer", "number", "boolean", "null"), node
        if "$ref" in node:
            assert set(node) == {"$ref"}, "nothing stands beside a reference"
            assert node["$ref"].removeprefix("#/$defs/") in defined


BASE = {"type", "anyOf", "$ref", "$defs", "description", "enum", "properties", "required", "items"}


def judge_openai(schema: Schema) -> None:
    more = {"additionalProperties", "pattern", "format", "multipleOf", "minItems", "maxItems"}
    judge_any(schema, BASE | more | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
    assert schema["type"] == "object"
    for node in nodes(schema):
        if node.get("type") == "object":
            assert node["additionalProperties"] is False
            assert sorted(node["required"]) == sorted(node["properties"])
        if node.get("type") == "array":
            assert node["items"]
        formats = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
        assert node.get("format", "uuid") in formats


def references(node: Schema) -> set[str]:
    return {each["$ref"].removeprefix("#/$defs/") for each in nodes(node) if "$ref" in each}


def in_a_circle(below: dict[str, set[str]]) -> bool:
    reached = below
    for _ in below:
        reached = {name: set().union(found, *(reached[each] for each in found)) for name, found in reached.items()}
    return any(name in found for name, found in reached.items())


def judge_claude(schema: Schema) -> None:
    judge_any(schema, BASE | {"additionalProperties", "format", "minItems"})
    for node in nodes(schema):
        if node.get("type") == "object":
            assert node["additionalProperties"] is False
        assert node.get("minItems", 0) in (0, 1)
    assert not in_a_circle({name: references(node) for name, node in schema.get("$defs", {}).items()})


def judge_gemini(schema: Schema) -> None:
    more = {"additionalProperties", "format", "minItems", "maxItems", "minimum", "maximum", "prefixItems"}
    judge_any(schema, BASE | more)
    for node in nodes(schema):
        assert all(isinstance(each, str | int | float) for each in node.get("enum", ()))
        assert not any(isinstance(each, bool) for each in node.get("enum", ()))


JUDGES: dict[Api, Callable[[Schema], None]] = {
    "openai": judge_openai,
    "azure-openai": judge_openai,
    "openai-responses": judge_openai,
    "anthropic": judge_claude,
    "gemini": judge_gemini,
    "vertex-gemini": judge_gemini,
    "vertex-claude": judge_claude,
    "bedrock": judge_claude,
}


# ---------------------------------------------------------------- a family of models


class Kind(NamedTuple):
    """A type of a field, and what it takes as JSON."""

    annotation: Any
    values: st.SearchStrategy[Any]


def any_of(*kinds: Any) -> Any:
    return Union[kinds]  # noqa: UP007  # of kinds that are known when it runs


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Tree(BaseModel):
    """A tree of words."""

    word: str = Field(min_length=1)
    children: list["Tree"] = []


class Forest(BaseModel):
    first: Tree
    second: Tree | None = Field(default=None, description="Another one")


def trees() -> st.SearchStrategy[Any]:
    leaf: st.SearchStrategy[Any] = st.fixed_dictionaries({"word": st.text("ab", min_size=1, max_size=3)})
    return st.recursive(
        leaf,
        lambda below: st.fixed_dictionaries({"word": st.just("w")}, optional={"children": st.lists(below, max_size=2)}),
        max_leaves=4,
    )


TREE = Kind(Tree, trees())
LEAVES = [
    Kind(Annotated[int, Field(ge=1, le=10)], st.integers(1, 10)),
    Kind(Annotated[int, Field(gt=1, lt=10)], st.integers(2, 9)),
    Kind(Annotated[int, Field(multiple_of=5)], st.integers(-9, 9).map(lambda number: number * 5)),
    Kind(Annotated[float, Field(ge=0, le=1)], st.floats(0, 1)),
    Kind(float, st.floats(allow_nan=False, allow_infinity=False)),
    Kind(Annotated[str, Field(min_length=2, max_length=4)], st.text("abc", min_size=2, max_size=4)),
    Kind(Annotated[str, Field(pattern=r"^[a-z]{2,5}$")], st.text("abc", min_size=2, max_size=5)),
    Kind(str, st.text(max_size=5)),
    Kind(bool, st.booleans()),
    Kind(None, st.none()),
    Kind(Literal["a", "b"], st.sampled_from(["a", "b"])),
    Kind(Literal[1, "x", True, None], st.sampled_from([1, "x", True, None])),
    Kind(Colour, st.sampled_from(["red", "blue"])),
    Kind(datetime, st.just("2026-01-02T03:04:05Z")),
    Kind(date, st.just("2026-01-02")),
    Kind(UUID, st.just("01a226b4-e836-7315-b3e3-265fd6ecd6cb")),
    Kind(bytes, st.just("abc")),
]
ANYTHING = [Kind(dict[str, Any], st.just({"a": [1]})), Kind(Any, st.just({"a": None})), Kind(list, st.just([1, "a"]))]
NAMES = ["alpha", "beta", "a b", "type", "$ref", "items", "Ä"]
DESCRIPTIONS = st.sampled_from([None, "What it is", "{minimum: 3}"])


@st.composite
def fields(draw: st.DrawFn, below: st.SearchStrategy[Kind]) -> Kind:
    """A model, or one with a kind of its own."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
    made: dict[str, Any] = {}
    always: dict[str, st.SearchStrategy[JsonValue]] = {}
    perhaps: dict[str, st.SearchStrategy[JsonValue]] = {}
    for place, name in enumerate(names):
        kind = draw(below)
        more: dict[str, Any] = {"alias": name, "description": draw(DESCRIPTIONS)}
        if draw(st.booleans()):
            made[f"field_{place}"] = (kind.annotation, Field(**more))
            always[name] = kind.values
        else:
            made[f"field_{place}"] = (any_of(kind.annotation, None), Field(default=None, **more))
            perhaps[name] = kind.values | st.none()
    return Kind(create_model("Made", **made), st.fixed_dictionaries(always, optional=perhaps))


@st.composite
def told_apart(draw: st.DrawFn, below: st.SearchStrategy[Kind]) -> Kind:
    """A union of two models that a field tells apart."""
    inner = draw(below)
    cat = create_model("Cat", kind=(Literal["cat"], ...), value=(inner.annotation, ...))
    dog = create_model("Dog", kind=(Literal["dog"], ...), barks=(bool, True))
    cats: st.SearchStrategy[Any] = st.fixed_dictionaries({"kind": st.just("cat"), "value": inner.values})
    dogs: st.SearchStrategy[Any] = st.fixed_dictionaries({"kind": st.just("dog")}, optional={"barks": st.booleans()})
    return Kind(Annotated[cat | dog, Field(discriminator="kind")], cats | dogs)


def larger(below: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    def pairs(one: Kind, other: Kind) -> Kind:
        return Kind(tuple[one.annotation, other.annotation], st.tuples(one.values, other.values).map(list))

    def lists(kind: Kind) -> Kind:
        annotation = Annotated[list[kind.annotation], Field(min_length=1, max_length=3)]
        return Kind(annotation, st.lists(kind.values, min_size=1, max_size=3))

    return st.one_of(
        below.map(lambda kind: Kind(any_of(kind.annotation, None), kind.values | st.none())),
        st.tuples(below, below).map(lambda two: Kind(any_of(two[0].annotation, two[1].annotation), two[0].values)),
        below.map(lists),
        st.tuples(below, below).map(lambda two: pairs(*two)),
        below.map(lambda kind: Kind(tuple[kind.annotation, ...], st.lists(kind.values, max_size=2))),
        below.map(
            lambda kind: Kind(dict[str, kind.annotation], st.dictionaries(st.text("ab"), kind.values, max_size=2))
        ),
        fields(below),
        told_apart(below),
    )


KINDS = st.recursive(
    st.sampled_from([*LEAVES, *ANYTHING, TREE, Kind(Forest, st.just({"first": {"word": "w"}}))]), larger
)
MODELS = fields(KINDS)


class Case(NamedTuple):
    schema: Schema
    valid: JsonValue


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kind = draw(MODELS)
    return Case(kind.annotation.model_json_schema(by_alias=True), draw(kind.values))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-20, 20) | st.sampled_from([0.5, 1.0]) | st.text("abw", max_size=4),
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(st.sampled_from([*NAMES, "word", "kind"]), below, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn) -> Case:
    """A valid instance with one part of it replaced by anything."""
    case = draw(cases())
    value: Any = json.loads(json.dumps(case.valid))
    place: Any = value
    while isinstance(place, dict | list) and place:
        key = draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        below = place[key]
        if not isinstance(below, dict | list) or not below or draw(st.booleans()):
            place[key] = draw(JSON)
            break
        place = below
    return Case(case.schema, value)


@st.composite
def other_values(draw: st.DrawFn) -> Case:
    """Anything, with the schema of a model."""
    return Case(draw(cases()).schema, draw(JSON))


SEARCH = settings(max_examples=examples(200), suppress_health_check=[HealthCheck.too_slow], deadline=None)


@pytest.mark.parametrize("api", [*JUDGES])
@SEARCH
@given(case=cases())
def test_the_schema_of_any_model_is_in_the_services_words(api: Api, case: Case) -> None:
    try:
        said = sent(case.schema, api)
    except UnsupportedParameter:
        assert JUDGES[api] is not judge_openai, "OpenAI takes every object, if not strictly"
        assert says_anything(case.schema) or "Tree" in case.schema.get("$defs", {})
        return
    if said.strict:
        JUDGES[api](said.schema)
    else:
        assert says_anything(case.schema)


def says_anything(schema: Schema) -> bool:
    """Whether a schema of pydantic's has a part of any type, or an object with any names."""
    kind = schema.get("type")
    if not schema.keys() & {"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"}:
        return True
    if kind == "object" and "properties" not in schema:
        return True
    if kind == "array" and "prefixItems" not in schema and not schema.get("items"):
        return True
    below = [each for name in ("anyOf", "oneOf", "prefixItems") for each in schema.get(name, ())]
    below += [each for name in ("properties", "$defs") for each in schema.get(name, {}).values()]
    return any(map(says_anything, [*below, *([schema["items"]] if schema.get("items") else [])]))


@SEARCH
@given(case=cases())
def test_a_valid_instance_follows_its_schema(case: Case) -> None:
    assert schema_problem(case.valid, case.schema) is None
    assert Draft202012Validator(case.schema).is_valid(case.valid)


@SEARCH
@given(case=changed() | other_values())
def test_what_breaks_a_schema_is_found(case: Case) -> None:
    problem = schema_problem(case.valid, case.schema)
    assert (problem is None) == Draft202012Validator(case.schema).is_valid(case.valid), problem


# ---------------------------------------------------------------- what was seen


class Rating(BaseModel):
    stars: int = Field(ge=1, le=10, description="How good")
    word: str | None = None


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Owner(BaseModel):
    pet: Cat | Dog = Field(discriminator="kind", description="The first one")
    rating: Rating = Field(description="What others say")


def test_claude_gets_constraints_as_words() -> None:
    said = sent(Rating.model_json_schema(), "anthropic").schema
    assert said == {
        "type": "object",
        "properties": {
            "stars": {"type": "integer", "description": "How good {maximum: 10, minimum: 1}"},
            "word": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "required": ["stars"],
        "additionalProperties": False,
    }


def test_openai_gets_unions_and_described_references_in_its_form() -> None:
    said = sent(Owner.model_json_schema(), "openai")
    assert said.strict
    assert said.schema["properties"] == {
        "pet": {"anyOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}], "description": "The first one"},
        "rating": {"anyOf": [{"$ref": "#/$defs/Rating"}], "description": "What others say"},
    }
    assert said.schema["$defs"]["Rating"]["required"] == ["stars", "word"]
    assert said.schema["$defs"]["Rating"]["properties"]["stars"]["maximum"] == 10


def test_a_root_that_is_a_reference_is_written_out() -> None:
    schema = Tree.model_json_schema()
    assert "$ref" in schema, "pydantic's own form"
    said = sent(schema, "openai")
    assert said.strict
    judge_openai(said.schema)
    with pytest.raises(UnsupportedParameter, match="Tree contains itself"):
        sent(schema, "anthropic")
    judge_gemini(sent(schema, "gemini").schema)


def test_gemini_refuses_what_must_contain_itself() -> None:
    schema = {
        "$ref": "#/$defs/Node",
        "$defs": {
            "Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}, "required": ["next"]},
        },
    }
    with pytest.raises(UnsupportedParameter, match="Node contains itself"):
        sent(schema, "gemini")


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (RootModel[list[int]].model_json_schema(), "the answer must be an object"),
        (RootModel[int | str].model_json_schema(), "the answer must be an object"),
        ({"$ref": "#/$defs/Missing"}, "leads nowhere"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, "leads nowhere"),
        ({"$ref": "https://example.com/schema"}, "is none to"),
    ],
)
def test_openai_refuses_by_name_what_is_no_object(schema: Schema, why: str) -> None:
    with pytest.raises(UnsupportedParameter, match=why):
        sent(schema, "openai")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": {}}},
        {"type": "object", "properties": {"a": {"type": "array"}}},
        {"type": "object", "properties": {"a": {"type": "object", "additionalProperties": {"type": "string"}}}},
        {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(5_001)}},
        {"type": "object", "properties": {"a": {"enum": [f"v{number}" for number in range(1_001)]}}},
        {"type": "object", "properties": {"a": {"allOf": [{"type": "string"}, {"minLength": 1}]}}},
    ],
    ids=lambda schema: str(schema)[:60],
)
def test_what_strict_mode_cannot_say_is_sent_as_it_is(schema: Schema) -> None:
    assert sent(schema, "openai") == Sent(schema, strict=False)


def test_a_service_that_promises_json_is_told_the_schema() -> None:
    schema = Rating.model_json_schema()
    body: Any = build(ask(json_schema=schema), "openai", DEEPSEEK).body
    assert body["response_format"] == {"type": "json_object"}
    told, asked = body["messages"]
    assert told["role"] == "system"
    assert json.loads(told["content"].partition("schema: ")[2]) == schema
    assert asked == {"role": "user", "content": "Hello"}


# ---------------------------------------------------------------- the answer


def read(text: str, schema: Schema) -> Completion:
    body = {
        "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
    call = ServiceCall(grant=GRANT, request=ask(json_schema=schema))
    answer = HttpAnswer(200, [], json.dumps(body).encode())
    reading: Reading = read_answer(call, service("openai"), answer, started_at_ms=1, now_ms=1)
    assert reading.completion is not None
    return reading.completion


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"stars": 3}', None),
        ('{"stars": 11}', "stars is more than 10"),
        ('{"stars": 0, "word": null}', "stars is less than 1"),
        ('{"word": "x"}', "stars is missing"),
        ('{"stars": "3"}', "stars is no integer"),
        ('{"stars": 3, "word": 7}', "word is no string or word is no null"),
        ("[]", "the answer is no object"),
        ("three", "the answer is no JSON, or none that can be carried"),
    ],
)
def test_an_answer_is_checked_against_the_schema_as_given(text: str, problem: str | None) -> None:
    completion = read(text, Rating.model_json_schema())
    assert (completion.schema_problem, completion.text) == (problem, text)
    assert completion.parsed == (json.loads(text) if problem is None else None)


# ---------------------------------------------------------------- bounds


def nested(depth: int) -> Schema:
    """Two choices at each level, which fail at the last one only: two to the power of the depth."""
    schema: Schema = {"const": "never"}
    for _ in range(depth):
        schema = {"anyOf": [{"properties": {"a": schema}, "required": ["a"]}] * 2}
    return schema


def deep(depth: int) -> JsonValue:
    value: JsonValue = "x"
    for _ in range(depth):
        value = {"a": value}
    return value


HOSTILE: dict[str, tuple[Schema, Any]] = {
    "choices that multiply": (nested(40), deep(40)),
    "a reference to itself": ({"$ref": "#"}, {}),
    "references in a circle": ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 9}}}, {}),
    "a pattern that backtracks": ({"pattern": "^(a+)+$"}, "a" * 100_000 + "b"),
    "a pattern with many states": ({"pattern": "(.{0,100}){0,100}z"}, "a" * 100_000),
    "a pattern with classes": ({"pattern": r"\w{29}\d{0,1}"}, "é" * 100_000),
    "many patterns": (
        {"patternProperties": {f"^{n}(a|b)*c$": {} for n in range(9_000)}},
        {f"k{n}": 1 for n in range(9_000)},
    ),
    "unlike items": ({"uniqueItems": True}, [{"a": [number]} for number in range(20_000)]),
    "a long choice": ({"items": {"enum": [f"v{number}" for number in range(20_000)]}}, ["x"] * 20_000),
    "huge numbers": ({"items": {"multipleOf": 1e-300}}, [1e300] * 10_000),
}


class Held(NamedTuple):
    longest_s: float
    """Of this process's processor, in one piece: other work does not count."""
    elapsed_s: float


async def held(run: Callable[[], object]) -> Held:
    """How long a thread that runs this kept the loop from its turns."""
    loop, longest, begun = asyncio.get_running_loop(), 0.0, time.process_time()
    done = loop.run_in_executor(None, run)
    while not done.done():
        before = time.process_time()
        await asyncio.sleep(0)
        longest = max(longest, time.process_time() - before)
    await done
    return Held(longest, time.process_time() - begun)


@pytest.mark.usefixtures("heap_of_a_worker")
@pytest.mark.parametrize("name", HOSTILE)
async def test_a_check_neither_lasts_nor_holds_the_process(name: str) -> None:
    schema, answer = HOSTILE[name]
    longest, elapsed = await held(lambda: schema_problem(answer, schema))
    assert elapsed < 5
    assert longest < 0.05, f"{longest * 1000:.0f} ms"


@pytest.mark.usefixtures("heap_of_a_worker")
@pytest.mark.parametrize("api", [*PLACES])
async def test_a_long_schema_is_written_in_linear_time(api: Api) -> None:
    properties: dict[str, Any] = {f"name_{number}": {"type": "integer", "minimum": 1} for number in range(16_000)}
    schema: Schema = {"type": "object", "properties": properties}
    longest, elapsed = min([await held(lambda: sent(schema, api)) for _ in range(3)])  # others may hold the processor
    assert elapsed < 3
    assert longest < 0.05, f"{longest * 1000:.0f} ms"


@pytest.mark.parametrize("api", ["openai", "anthropic", "gemini", "bedrock"])
def test_what_is_sent_is_within_the_bound(api: Api) -> None:
    """Empty objects grow most."""
    schema: Schema = {
        "type": "object",
        "properties": {f"p{n}": {"type": "object", "properties": {}} for n in range(100)},
    }
    try:
        said = json.dumps(sent(schema, api).schema)
    except UnsupportedParameter:
        return
    assert len(said) <= 2 * len(json.dumps(schema)) + 1_000
