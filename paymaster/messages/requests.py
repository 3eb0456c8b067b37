"""What an agent asks for."""

import json
from base64 import b64encode
from datetime import timedelta
from hashlib import sha256
from typing import Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)

from paymaster.messages.base import Message, added
from paymaster.messages.runs import RunId, RunLimits, RunPart
from paymaster.messages.streams import StreamTo
from paymaster.messages.wire import Wire
from paymaster.values.limits import BUDGETS_OF_CALL_MAX
from paymaster.values.run_path import check_run_path


class Image(Message):
    """An image in a user message: by URL, which the service fetches, or as bytes.

    What it costs depends on the model: only models with a configured `image_tokens_max` take one.
    """

    url: str | None = None
    data: str | None = None
    """The bytes in base64; `Image.of` makes them."""
    media_type: str | None = None
    """Such as "image/png". Needed with `data`."""

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if (self.url is None) == (self.data is None):
            raise ValueError("an image has a url or data, and not both")
        if self.data is not None and self.media_type is None:
            raise ValueError('an image as data needs its media_type, such as "image/png"')
        return self

    @classmethod
    def of(cls, content: bytes, media_type: str) -> Self:
        return cls(data=b64encode(content).decode(), media_type=media_type)


class Document(Message):
    """A PDF or another file in a user message: by URL, which the service fetches, or as bytes.

    What it costs depends on the model: only models with a configured `document_tokens_max` take one. All services that
    take documents take PDFs; which other files, differs.
    """

    url: str | None = None
    data: str | None = None
    """The bytes in base64; `Document.of` makes them."""
    media_type: str = "application/pdf"
    name: str = "document.pdf"
    """The model may see it."""

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if (self.url is None) == (self.data is None):
            raise ValueError("a document has a url or data, and not both")
        return self

    @classmethod
    def of(cls, content: bytes, media_type: str = "application/pdf", name: str = "document.pdf") -> Self:
        return cls(data=b64encode(content).decode(), media_type=media_type, name=name)


class ToolCall(Message):
    """A tool that the model wants called. It goes back to the model in an assistant message, with the result after."""

    id: str
    name: str
    arguments: dict[str, JsonValue] = {}
    invalid_arguments: str | None = None
    """What the model wrote when that is not a JSON object; `arguments` is empty then."""
    signature: str | None = None
    """Opaque: Gemini wants it back with the call."""


class ProviderState(Message):
    """What a provider wants back with an answer of its own: signed or encrypted thoughts, and the like.

    Opaque. It goes back to the service that gave it, for whose use alone it is; others get the message without it.
    """

    api: str
    """The wire format of the service that gave it."""
    host: str
    """Where that service is."""
    service: str
    model: str
    data: JsonValue = Field(repr=False)


class ChatMessage(Message):
    role: Literal["system", "user", "assistant", "tool"]
    content: str
    """The text; of a `tool` message, what the tool answered."""
    images: tuple[Image, ...] = ()
    """Of a `user` message; the model reads them before the text."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an `assistant` message: what the model wanted called."""
    tool_call_id: str | None = None
    """Of a `tool` message: the call that it answers."""
    state: ProviderState | None = added(None)
    """Of an `assistant` message; `LLMResult.message` has it."""
    cache: bool = added(False)
    """The conversation up to here will come again: a provider that wants to be told keeps it in its cache. The latest
    four such messages count."""
    documents: tuple[Document, ...] = added(())
    """Of a `user` message; the model reads them after the images and before the text."""

    @model_validator(mode="after")
    def _has_what_its_role_allows(self) -> Self:
        if self.images and self.role != "user":
            raise ValueError("only a user message has images")
        if self.documents and self.role != "user":
            raise ValueError("only a user message has documents")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only an assistant message has tool_calls")
        if self.state is not None and self.role != "assistant":
            raise ValueError("only an assistant message has a state")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("a tool message needs a tool_call_id, and no other message has one")
        return self


class Tool(Message):
    """A function that the model may ask for."""

    name: str = Field(pattern=r"^[A-Za-z0-9_./:-]{1,128}$")
    """A service that takes no such name gets another one; the answer has this one."""
    description: str = ""
    parameters: dict[str, JsonValue] = {"type": "object", "properties": {}}
    """The JSON schema of its arguments."""


Budgets = str | tuple[str, ...]
"""A budget's path (`acme/content/writer`), or up to four that a call counts for all at once, its own first. Every
configured ancestor is charged too."""

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


_ASKED = (
    "prompt",
    "messages",
    "system",
    "max_output_tokens",
    "json_schema",
    "temperature",
    "stop",
    "seed",
    "top_p",
    "reasoning_effort",
    "tools",
    "tool_choice",
)
"""The fields of a request that a wire call has in its body."""


_NOT_ASKED: dict[str, bool | set[str]] = {
    "call_id": True,
    "wire": {"body", "stored"},
    "run": True,
    "run_limits": True,
    "run_parts": True,
    "stream_to": True,
}
"""The fields of a request that do not change what is asked, and the body, which is looked at as it was before it was
compressed or stored."""


class LLMRequest(BaseModel):
    """One thing that an agent wants from a model. Unknown fields are refused, never dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    route: str
    """A route of the configuration: an ordered list of `service/model`."""
    budget: Budgets
    prompt: str | None = None
    """The last user message. A request has a prompt, messages or both."""
    messages: tuple[ChatMessage, ...] = ()
    system: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    """The most tokens of output, reasoning included. None: what the model's configuration says."""
    json_schema: dict[str, JsonValue] | None = None
    """Ask for an answer that follows this JSON schema. The answer's `parsed` has it as data."""
    temperature: float | None = Field(default=None, ge=0)
    stop: tuple[str, ...] = ()
    seed: int | None = None
    top_p: float | None = Field(default=None, ge=0, le=1)
    reasoning_effort: ReasoningEffort | None = None
    """How long a reasoning model thinks. None: the model's default."""
    tools: tuple[Tool, ...] = ()
    """The functions that the model may ask for; the answer's `tool_calls` says which."""
    tool_choice: str | None = None
    """"auto", "none", "required" or the name of a tool. None: the service's default, which is "auto"."""
    call_id: str | None = Field(default=None, min_length=1, max_length=200)
    """A call with an id that was used before gives the stored result, and is paid once. None: a new id."""
    priority: int = Field(default=0, ge=-100, le=100)
    """A parked call with a higher priority goes first."""
    on_exhausted: Literal["wait", "fail"] | None = None
    """When the money is gone: wait for a raised cap or a new window, or fail. None: the ledger's configuration."""
    wait_at_most: timedelta | None = Field(default=None, ge=timedelta(milliseconds=1), le=timedelta(days=366))
    """The longest time to be parked, counted from the start of the call: from 1 ms to 366 days, as in the
    configuration. None: the ledger's configuration."""
    metadata: dict[str, str] = {}
    """Stored with every attempt, for reports."""
    wire: Wire | None = added(None)
    """The request in a provider's own format, instead of everything here that says what is asked."""
    run: RunId | None = added(None)
    """The id of the run that it counts for. None: the run of the workflow that asks, with all its sub-agents."""
    run_limits: RunLimits | None = added(None)
    """The most that the run may take. None: what its first call named, and its budgets' `per_run`."""
    run_parts: tuple[RunPart, ...] = added(())
    """The part of the run that it counts for too, below those that it is in, outermost first."""
    stream_to: StreamTo | None = added(None)
    """Of a wire call: the gateway that gets the answer while it comes. None: nobody; the result has it."""

    @model_validator(mode="after")
    def _names_few_budgets(self) -> Self:
        if not 0 < len(self.budgets) <= BUDGETS_OF_CALL_MAX:
            raise ValueError(f"a request names 1 to {BUDGETS_OF_CALL_MAX} budgets, and this one {len(self.budgets)}")
        return self

    @model_validator(mode="after")
    def _is_in_a_run_that_can_be_named(self) -> Self:
        check_run_path("/".join((self.run or "-", *(part.name for part in self.run_parts))))
        return self

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if self.wire is None and self.prompt is None and not self.messages:
            raise ValueError("a request needs a prompt, messages or both")
        return self

    @model_validator(mode="after")
    def _asks_in_one_way(self) -> Self:
        asked = [name for name in _ASKED if getattr(self, name) != type(self).model_fields[name].default]
        if self.wire is not None and asked:
            raise ValueError(f"a request with wire says there what is asked, and not in {', '.join(asked)}")
        return self

    @model_validator(mode="after")
    def _chooses_a_tool_that_is_there(self) -> Self:
        names = [tool.name for tool in self.tools]
        if len(set(names)) < len(names):
            raise ValueError("two tools have the same name")
        known = {"auto", "none", "required", *names}
        if self.tool_choice is not None and (not names or self.tool_choice not in known):
            raise ValueError(f"tool_choice {self.tool_choice!r} is neither a tool of this request nor one of its words")
        return self

    @property
    def budgets(self) -> tuple[str, ...]:
        """All that it names."""
        return (self.budget,) if isinstance(self.budget, str) else self.budget

    def conversation(self) -> tuple[ChatMessage, ...]:
        """System message, messages and prompt in the order in which a model reads them."""
        system = () if self.system is None else (ChatMessage(role="system", content=self.system),)
        prompt = () if self.prompt is None else (ChatMessage(role="user", content=self.prompt),)
        return (*system, *self.messages, *prompt)

    def digest(self) -> str:
        """Tells whether two requests with the same call id ask for the same thing."""
        # Without defaults, so that a field which a later version adds does not change it; with sorted keys, so that the
        # order in which a dict was filled does not either.
        # Without the run, because another run may ask for a stored answer.
        asked = json.loads(self.model_dump_json(exclude=_NOT_ASKED, exclude_defaults=True))
        if self.wire is not None:  # compressed it may look otherwise tomorrow
            stored = self.wire.stored
            asked["wire"]["body"] = sha256(self.wire.body).hexdigest() if stored is None else stored.sha256
        return sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class EndpointRequest(LLMRequest):
    """What a caller of another namespace asks for through a Nexus endpoint, which has a budget of its own."""

    budget: Budgets = ""
    """The endpoint's budget, or one below it. Default: the endpoint's."""
