"""The model activity of pydantic-ai's durability on Temporal, run in the workflow: its model, with our client."""

from collections.abc import Awaitable, Callable, Sequence
from functools import cache, partial
from importlib import import_module
from typing import Any, NamedTuple, cast

from pydantic_ai.models import Model
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.providers import Provider

from paymaster.integrations.model_calls.moving import Kept, Moves
from paymaster.transport import PaymasterTransport

_ACTIVITY = "__model_request"
_STREAMING = "__model_request_stream"
_PREFIX = "agent__"


class _Ours(Provider[Any]):
    """A model's provider as it was, over Paymaster."""

    def __init__(self, before: Provider[Any], client: Any) -> None:
        self._before = before
        self._client = client

    @property
    def name(self) -> str:
        return self._before.name

    @property
    def canonical_system(self) -> str:
        return self._before.canonical_system

    @property
    def compatible_systems(self) -> frozenset[str]:
        return self._before.compatible_systems

    @property
    def base_url(self) -> str:
        return self._before.base_url

    @property
    def client(self) -> Any:
        return self._client

    def model_profile(self, model_name: str) -> ModelProfile | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._before.model_profile(model_name)


class _Kind(NamedTuple):
    """Models of one class, over one SDK."""

    model: str
    client: str
    """Ours."""


_KINDS = (
    _Kind("pydantic_ai.models.openai:OpenAIChatModel", "openai:AsyncOpenAI"),
    _Kind("pydantic_ai.models.openai:OpenAIResponsesModel", "openai:AsyncOpenAI"),
    _Kind("pydantic_ai.models.anthropic:AnthropicModel", "anthropic:AsyncAnthropic"),
    _Kind("pydantic_ai.models.google:GoogleModel", "google_genai:Client"),
)


def moves(transport: PaymasterTransport) -> Moves:
    """What is known of the plugin, for requests over this transport."""
    current = _current_context()
    _clients()

    def decided(name: str, args: Sequence[Any]) -> Callable[[], Awaitable[Any]] | Kept | None:
        if not name.startswith(_PREFIX) or not name.endswith((_ACTIVITY, _STREAMING)):
            return None
        if name.endswith(_STREAMING):
            return Kept("the events of a stream are handled by an activity")
        context = None if current is None else current()
        request: Any = args[0] if args else None
        if context is None or not all(hasattr(request, each) for each in ("messages", "model_request_parameters")):
            return Kept("it is not as in pydantic-ai 2.68")
        if request.model_id != context.model_id:
            return Kept("its model is not the one of the agent's run")
        model = _over(transport, context.model)
        if isinstance(model, Kept):
            return model
        return partial(model.request, request.messages, request.model_settings, request.model_request_parameters)

    return decided


def _over(transport: PaymasterTransport, given: Any) -> Model[Any] | Kept:
    """The model with our client instead of its own."""
    model: Any = given
    while isinstance(model, WrapperModel):
        model = cast("Any", model.wrapped)
    kind = cast("Any", type(model))
    client = _clients().get(kind)
    if client is None:
        known = ", ".join(each.__name__ for each in _clients())
        return Kept(f"a {kind.__name__} cannot be moved, only these: {known}")
    provider = _Ours(model.provider, client(transport=transport))
    return kind(model.model_name, provider=provider, profile=model.profile, settings=model.settings)


@cache
def _clients() -> dict[type[Any], Callable[..., Any]]:
    """By class of model our client, for those whose SDK is installed."""
    found: dict[type[Any], Callable[..., Any]] = {}
    for kind in _KINDS:
        try:
            model, client = (
                getattr(import_module(module), name)
                for module, name in (
                    kind.model.split(":"),
                    f"paymaster.integrations.{kind.client}".split(":"),
                )
            )
        except ImportError:  # pydantic-ai raises it in its own words
            continue
        found[model] = client
    return found


def _current_context() -> Callable[[], Any] | None:
    """Of the run that asks. None in a version of pydantic-ai that has it elsewhere."""
    try:
        from pydantic_ai._run_context import get_current_run_context
    except ImportError:
        return None
    return get_current_run_context
