"""Anthropic's SDK for Python: what anthropic.mjs asks."""

from collections.abc import Mapping
from typing import Any

import anthropic
from judge import Counted, asked, refusals, show
from pydantic import BaseModel

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class Weather(BaseModel):
    city: str
    degrees: float


def main() -> None:
    address, key, models = asked()
    client = anthropic.Anthropic(base_url=address, api_key=key)
    messages: list[Any] = [{"role": "user", "content": "The weather in Kiel?"}]
    question: dict[str, Any] = {"model": models["messages"], "max_tokens": 50, "messages": messages}
    tools: Any = [{"name": "weather", "input_schema": SCHEMA}]

    raw = client.messages.with_raw_response.create(**question)
    called = client.messages.create(**question, tools=tools)
    call = next(block for block in called.content if block.type == "tool_use")
    result = [{"type": "tool_result", "tool_use_id": call.id, "content": "7 degrees"}]
    turns: Any = [*messages, {"role": "assistant", "content": called.content}, {"role": "user", "content": result}]
    following: dict[str, Any] = {**question, "messages": turns}
    answered: Any = client.messages.create(**following, tools=tools)
    weather = client.messages.parse(**question, output_format=Weather).parsed_output
    assert weather is not None
    with client.messages.stream(**question) as stream:
        streamed = "".join(stream.text_stream)
        usage = stream.get_final_message().usage
    beta: Any = client.beta.messages.create(**question, betas=["context-management-2025-06-27"])
    counting = client.messages.count_tokens(model=models["messages"], messages=messages)

    def ask(refusal: Mapping[str, Any], http: Counted) -> object:
        client = anthropic.Anthropic(base_url=address, api_key=refusal["key"], http_client=http)
        refused: dict[str, Any] = {**question, "model": refusal["model"]}
        return client.messages.create(**refused, extra_headers=refusal.get("headers"))

    def said(error: anthropic.APIStatusError) -> dict[str, object]:
        body: Any = error.body
        return {"status": error.status_code, "reason": body.get("paymaster", {}).get("reason")}

    message: Any = raw.parse()
    show(
        {
            "chat": message.content[0].text,
            "paymaster": all(raw.headers.get(f"x-paymaster-{name}") for name in ("call-id", "cost-usd")),
            "tool": [call.name, call.input],
            "answered": answered.content[0].text,
            "parsed": weather.model_dump(),
            "streamed": streamed,
            "metered": usage.input_tokens + usage.output_tokens,
            "beta": beta.content[0].text,
            "counted": counting.input_tokens,
            "refusals": refusals(models, ask, said),
        }
    )


if __name__ == "__main__":
    main()
