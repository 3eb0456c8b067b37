"""An answer as a pydantic model: its schema goes with the request, and an answer that does not fit gets one repair.

The repair is a call of its own, under the same budget, with a call id of its own.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from paymaster.errors import OutputInvalid
from paymaster.messages import ChatMessage, LLMRequest, LLMResult

Output = TypeVar("Output", bound=BaseModel)

REPAIR_SUFFIX = "-repair"
"""Behind the call's id, for the id of its repair."""
_SCHEMA: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


async def answer_as(
    output: type[Output], request: LLMRequest, ask: Callable[[LLMRequest], Awaitable[LLMResult]]
) -> Output:
    """The answer as `output`. Raises OutputInvalid when even the repaired one does not fit, and what `ask` raises."""
    request = request.model_copy(update={"json_schema": request.json_schema or output_schema(output)})
    result = await ask(request)
    try:
        return output.model_validate_json(result.text)
    except ValidationError as invalid:
        problem = _told(invalid)
    if result.refused:  # asking again would be arguing
        raise OutputInvalid(result, problem)
    result = await ask(repair_request(request, result, problem))
    try:
        return output.model_validate_json(result.text)
    except ValidationError as invalid:
        raise OutputInvalid(result, _told(invalid)) from None


def repair_request(request: LLMRequest, result: LLMResult, problem: str) -> LLMRequest:
    """A request that repeats the conversation, with the answer and what is wrong with it.

    The answer goes back with what its provider gave beside it, such as signed thoughts. Tools that it wanted called are
    left out, as nobody called them, and so is the state that they are part of.
    """
    prompt = () if request.prompt is None else (ChatMessage(role="user", content=request.prompt),)
    state = result.state if result.text and not result.tool_calls else None
    answer = ChatMessage(role="assistant", content=result.text or "(nothing)", state=state)
    return request.model_copy(
        update={
            "messages": (*request.messages, *prompt, answer),
            "prompt": f"That does not fit the JSON schema: {problem}. Answer again, with the corrected JSON alone.",
            "call_id": f"{result.call_id}{REPAIR_SUFFIX}",
        }
    )


def output_schema(output: type[BaseModel]) -> dict[str, JsonValue]:
    """The model's JSON schema, closed: services that keep strictly to a schema want every property required and no
    others allowed."""
    schema = _closed(_SCHEMA.validate_python(output.model_json_schema()))
    return _SCHEMA.validate_python(schema)


def _closed(schema: JsonValue) -> JsonValue:
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(below) for name, below in schema.items()}
    properties = schema.get("properties")
    if schema.get("type") == "object" and isinstance(properties, dict):
        closed |= {"additionalProperties": False, "required": list(properties)}
    return closed


def _told(invalid: ValidationError) -> str:
    """What is wrong, for the model, at most five things; without the values, which it has said itself."""
    errors = invalid.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, error['loc'])) or 'the answer'}: {error['msg']}" for error in errors[:5])
