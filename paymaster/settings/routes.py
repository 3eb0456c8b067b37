"""The tables of `paymaster.toml` that say where calls go: routes with their pools, and with what is asked when money is
short."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from paymaster.settings.kinds import not_a_boolean, split_candidate
from paymaster.settings.problems import Location, did_you_mean, raise_at
from paymaster.settings.table import Table
from paymaster.values.limits import CANDIDATES_MAX, WEIGHT_MAX

Brackets = tuple[tuple[str, ...], ...]
"""First choice first; those in one bracket share the load."""


def _brackets(value: object) -> Brackets:
    """Raises ValueError for what is no list of "service/model", and of lists of them."""
    if not isinstance(value, list | tuple):
        raise ValueError('must be a list of "service/model", in which a list of several is a pool')
    brackets = tuple(_bracket(each) for each in cast(Iterable[object], value))
    names = [name for bracket in brackets for name in bracket]
    if not names or not all(brackets):
        raise ValueError('the route is empty, or a list in it is; name at least one "service/model"')
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is in the route twice; a call tries each candidate once")
    return brackets


def _bracket(value: object) -> tuple[str, ...]:
    several = cast(Iterable[object], value) if isinstance(value, list | tuple) else (value,)
    return tuple(_name(each) for each in several)


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError('a candidate is text, like "openai/gpt-5-mini", or a list of texts, which share the load')
    split_candidate(value)
    return value


_NAME = {"type": "string", "pattern": "^[^/]+/.+$"}
_WRITTEN: JsonSchemaValue = {
    "type": "array",
    "items": {"anyOf": [_NAME, {"type": "array", "items": _NAME, "minItems": 1}]},
    "maxItems": CANDIDATES_MAX,
}
Candidates = Annotated[
    Brackets,
    BeforeValidator(_brackets),
    WithJsonSchema(_WRITTEN, mode="serialization"),
]
"""Written as a list of "service/model", in which a list of several is a pool."""

Weight = Annotated[int, BeforeValidator(not_a_boolean), Field(ge=1, le=WEIGHT_MAX)]


class WhenShortSettings(Table):
    """Candidates that a route has for when the money gets short."""

    below: Annotated[float, BeforeValidator(not_a_boolean), Field(ge=0, le=1)] = 0.2
    """The money is short for a call when less than this part of a cap of its budgets is unspent, in any window, or when
    what is unspent has no room for any of the route's other candidates. 0: only then. At most six decimals.
    Default 0.2."""
    candidates: Candidates
    """"service/model", first choice first, with pools like those of the route; what is in the route may be here too.
    When the money is short they come before the route's other candidates, and else not at all. No default."""

    @field_validator("below")
    @classmethod
    def _is_exact(cls, below: float) -> float:
        if round(below, 6) != below:
            raise ValueError("has more than six decimals")
        return below


class RouteSettings(Table):
    """Where the calls of a route go. A list alone, in `[routes]`, is its `candidates`."""

    candidates: Candidates
    """"service/model", first choice first; a call tries each once. Those in a list of their own are a pool, and share
    the load: of those that have room the one is called that is used least; what comes after a pool is called when none
    of it has room. `[["openai-eu/gpt-5", "openai-us/gpt-5"], "azure/gpt-5"]`. No default."""
    weights: dict[str, Weight] = Field(default_factory=dict[str, int])
    """How much more of the load members of a pool get than others with the same limits: `{ "openai-eu/gpt-5" = 3 }`, at
    most 1000. Default {}: 1 each."""
    when_short: WhenShortSettings | None = None
    """None, the default: the same candidates, however little money is left."""

    @model_validator(mode="before")
    @classmethod
    def _a_list_is_enough(cls, value: object) -> object:
        is_table = isinstance(value, dict | RouteSettings)
        return cast(object, value) if is_table else {"candidates": _brackets(value)}

    @model_validator(mode="after")
    def _asks_not_too_many(self) -> Self:
        count = sum(map(len, (*self.candidates, *self.cheaper)))
        if count > CANDIDATES_MAX:
            raise ValueError(f"the route has {count} candidates and may have {CANDIDATES_MAX}")
        return self

    @model_validator(mode="after")
    def _weighs_members_of_pools(self) -> Self:
        pools = [bracket for bracket in (*self.candidates, *self.cheaper) if len(bracket) > 1]
        shared = [name for pool in pools for name in pool]
        raise_at(
            (
                ("weights", name),
                f"it shares the load with none; {did_you_mean(name, shared) or 'write it in a list with others'}",
            )
            for name in self.weights
            if name not in shared
        )
        return self

    @property
    def cheaper(self) -> Brackets:
        """What is asked when the money is short."""
        return () if self.when_short is None else self.when_short.candidates

    @property
    def names(self) -> tuple[str, ...]:
        """Every `service/model` in it, each once."""
        return tuple(dict.fromkeys(name for bracket in (*self.candidates, *self.cheaper) for name in bracket))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler.resolve_ref_schema(handler(schema)), **_WRITTEN, "type": ["array", "object"]}


def unknown_services(routes: Mapping[str, Any], services: Iterable[str]) -> Iterator[tuple[Location, str]]:
    """The candidates, in routes as they are written, whose service is not there. Passes over what is no candidate: that
    is reported elsewhere."""
    known = set(services)
    for route, written in routes.items():
        for at, candidate in _written_texts(written):
            service, slash, _ = candidate.partition("/")
            if slash and service not in known:
                fix = did_you_mean(service, known) or f"add a table [services.{service}]"
                yield (route, *at), f"there is no service {service!r}; {fix}"


def _written_texts(written: object) -> Iterator[tuple[Location, str]]:
    """The texts in the lists of a route, with their places in it."""
    if isinstance(written, list | tuple):
        for number, each in enumerate(cast(Iterable[object], written)):
            if isinstance(each, str):
                yield (number,), each
            else:
                yield from (((number, *at), text) for at, text in _written_texts(each))
    elif isinstance(written, dict | BaseModel):
        for key, each in dict(cast(Mapping[str, object], written)).items():
            if key in ("candidates", "when_short"):
                yield from (((key, *at), text) for at, text in _written_texts(each))
