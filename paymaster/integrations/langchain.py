"""LangChain's chat model over Paymaster: `ChatPaymaster(route="writer", budget="acme/agents")`, also in workflows."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCall as LangChainToolCall
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field, PrivateAttr
from temporalio import activity, workflow
from temporalio.client import Client

import paymaster.agent
import paymaster.client
from paymaster.errors import completed_or_raise
from paymaster.messages import ChatMessage, Document, Image, LLMRequest, LLMResult, Tool, ToolCall
from paymaster.messages.requests import ReasoningEffort
from paymaster.repeated_requests import RepeatedRequests, call_of
from paymaster.values.money import TokenUsage
from paymaster.withdrawal import result_while_wanted

__all__ = ["ChatPaymaster"]

_KEPT = "paymaster"
"""Among an answer's `additional_kwargs`: it as a message of ours, with what its provider wants back."""


class ChatPaymaster(BaseChatModel):
    """A chat model, each of whose answers is a call under the budget, in workflows, activities and elsewhere.

    Asynchronous only: `ainvoke`. A workflow that makes one needs a worker with `workflow_runner=paymaster.sandbox()` or
    PaymasterPlugin. Raises CallDenied and CallUnavailable. `bind(seed=…)` and the like set further fields of
    LLMRequest.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    route: str
    """A route of the configuration, or `service/model`."""
    budget: str
    max_output_tokens: int | None = None
    temperature: float | None = None
    reasoning_effort: ReasoningEffort | None = None
    priority: int = 0
    on_exhausted: Literal["wait", "fail"] | None = None
    wait_at_most: timedelta | None = None
    client: Client | None = Field(default=None, exclude=True, repr=False)
    """Outside workflows. Default: in an activity its worker's, elsewhere one of `paymaster.client.connect()`."""
    _repeated: RepeatedRequests = PrivateAttr(default_factory=RepeatedRequests)

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        _run_functions_in_workflow()

    @property
    def _llm_type(self) -> str:
        return "paymaster"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """`tool_choice` "any": the model has to call one, as "required" says too."""
        choice = "required" if tool_choice == "any" else tool_choice
        return self.bind(tools=tuple(_tool(tool) for tool in tools), tool_choice=choice, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise NotImplementedError("ChatPaymaster is asynchronous: use ainvoke, and async nodes and tools around it")

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        _run_functions_in_workflow()
        fields: dict[str, Any] = {
            "route": self.route,
            "budget": self.budget,
            "messages": tuple(_message(each) for each in messages),
            "max_output_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "reasoning_effort": self.reasoning_effort,
            "priority": self.priority,
            "on_exhausted": self.on_exhausted,
            "wait_at_most": self.wait_at_most,
            "stop": tuple(stop or ()),
        }
        request = LLMRequest(**(fields | kwargs))
        answer = _answer(await self._result(request))
        return ChatResult(generations=[ChatGeneration(message=answer)])

    async def _result(self, request: LLMRequest) -> LLMResult:
        if workflow.in_workflow():
            return await paymaster.agent.generate(request)
        client = self.client
        if client is None and activity.in_activity():
            client = activity.client()
        if client is None:
            client = self.client = await paymaster.client.connect()
        call = call_of(request, 0, self._repeated)
        failed = True
        try:
            identified = request.model_copy(update={"call_id": call.id})
            keeps = request.call_id is not None
            result = await result_while_wanted(client, identified, keeps=keeps, id_is_drawn=call.id_is_drawn)
            answer = completed_or_raise(result)
            failed = False
            return answer
        finally:
            call.end(failed=failed)


def _run_functions_in_workflow() -> None:
    """What is no coroutine LangChain gives to a thread, even a parser or the condition of an edge. A workflow has no
    threads, so there it runs in the workflow itself."""
    if workflow.in_workflow():
        asyncio.get_running_loop().run_in_executor = _ran  # pyright: ignore[reportAttributeAccessIssue]


def _ran(executor: object, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
    future = asyncio.get_running_loop().create_future()
    try:
        future.set_result(function(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future


def _tool(tool: dict[str, Any] | type | Callable[..., Any] | BaseTool) -> Tool:
    function = convert_to_openai_tool(tool)["function"]
    parameters = function.get("parameters", {"type": "object", "properties": {}})
    return Tool(name=function["name"], description=function.get("description", ""), parameters=parameters)


# ------------------------------------------------------------ what is asked


def _message(message: BaseMessage) -> ChatMessage:
    """Raises ValueError for what no message of ours says."""
    match message:
        case SystemMessage():
            return ChatMessage(role="system", content=message.text)
        case HumanMessage():
            return _of_user(message)
        case AIMessage():
            return _of_assistant(message)
        case ToolMessage():
            return ChatMessage(role="tool", content=message.text, tool_call_id=message.tool_call_id)
        case _:
            raise ValueError(f"ChatPaymaster takes no {message.type} messages: system, human, ai and tool ones")


def _of_user(message: HumanMessage) -> ChatMessage:
    images, documents, texts = list[Image](), list[Document](), list[str]()
    for given in message.content_blocks:
        block = cast(Mapping[str, Any], given)
        match block["type"]:
            case "text":
                texts.append(block["text"])
            case "image":
                media_type = block.get("mime_type") if "base64" in block else None
                images.append(Image(url=block.get("url"), data=block.get("base64"), media_type=media_type))
            case "file":
                media_type = block.get("mime_type", "application/pdf")
                documents.append(Document(url=block.get("url"), data=block.get("base64"), media_type=media_type))
            case other:
                raise ValueError(f"ChatPaymaster takes no {other} in a human message: text, images and files")
    return ChatMessage(role="user", content="".join(texts), images=tuple(images), documents=tuple(documents))


def _of_assistant(message: AIMessage) -> ChatMessage:
    """What was answered, with its provider's state unless somebody changed it since."""
    calls = tuple(
        ToolCall(id=call["id"] or "", name=call["name"], arguments=call["args"]) for call in message.tool_calls
    )
    if kept := message.additional_kwargs.get(_KEPT):
        answered = ChatMessage.model_validate(kept)
        unsigned = [call.model_copy(update={"signature": None}) for call in answered.tool_calls]
        valid = [call for call in unsigned if call.invalid_arguments is None]
        if answered.content == message.text and valid == list(calls):
            return answered
    return ChatMessage(role="assistant", content=message.text, tool_calls=calls)


# ------------------------------------------------------------ what is answered


def _answer(result: LLMResult) -> AIMessage:
    valid = [
        LangChainToolCall(name=call.name, args=call.arguments, id=call.id, type="tool_call")
        for call in result.tool_calls
        if call.invalid_arguments is None
    ]
    invalid = [
        InvalidToolCall(
            name=call.name,
            args=call.invalid_arguments,
            id=call.id,
            error="the arguments are no JSON object",
            type="invalid_tool_call",
        )
        for call in result.tool_calls
        if call.invalid_arguments is not None
    ]
    return AIMessage(
        content=result.text,
        tool_calls=valid,
        invalid_tool_calls=invalid,
        usage_metadata=_usage(result.usage),
        additional_kwargs={_KEPT: result.message().model_dump(mode="json", exclude_defaults=True)},
        response_metadata={
            "model_name": result.model,
            "finish_reason": result.finish_reason,
            "refused": result.refused,
            "call_id": result.call_id,
            "cost_usd": f"{result.cost_usd:f}",
        },
    )


def _usage(usage: TokenUsage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        input_token_details={"cache_read": usage.cached_input_tokens, "cache_creation": usage.cache_write_tokens},
        output_token_details={"reasoning": usage.reasoning_tokens},
    )
