"""OpenAI's SDK for Python: what openai.mjs asks."""

import json
from collections.abc import Mapping
from typing import Any

import openai
from judge import Counted, asked, refusals, show
from pydantic import BaseModel

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class Weather(BaseModel):
    city: str
    degrees: float


def main() -> None:
    address, key, models = asked()
    client = openai.OpenAI(base_url=f"{address}/v1", api_key=key)
    chat, responses = models["chat"], models["responses"]
    messages: list[Any] = [{"role": "user", "content": "The weather in Kiel?"}]
    tools: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
    create = client.chat.completions.create

    raw = client.chat.completions.with_raw_response.create(model=chat, messages=messages)
    called: Any = create(model=chat, messages=messages, tools=tools).choices[0].message
    call = called.tool_calls[0]
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "7 degrees"}
    answered = create(model=chat, messages=[*messages, called, result], tools=tools)
    parsed = client.chat.completions.parse(model=chat, messages=messages, response_format=Weather)
    weather = parsed.choices[0].message.parsed
    assert weather is not None
    chunks = list(create(model=chat, messages=messages, stream=True))
    metered = list(create(model=chat, messages=messages, stream=True, stream_options={"include_usage": True}))
    usage = metered[-1].usage
    assert usage is not None
    events = list(client.responses.create(model=responses, input="Hello", stream=True))
    vectors = client.embeddings.create(model=chat, input=["a", "b"], encoding_format="float")
    base64 = client.embeddings.create(model=chat, input=["a", "b"])

    def ask(refusal: Mapping[str, Any], http: Counted) -> object:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key=refusal["key"], http_client=http)
        headers = refusal.get("headers")
        return client.chat.completions.create(model=refusal["model"], messages=messages, extra_headers=headers)

    def said(error: openai.APIStatusError) -> dict[str, object]:
        body: Any = error.body
        return {"status": error.status_code, "reason": body.get("paymaster", {}).get("reason")}

    show(
        {
            "chat": raw.parse().choices[0].message.content,
            "paymaster": all(raw.headers.get(f"x-paymaster-{name}") for name in ("call-id", "cost-usd")),
            "tool": [call.function.name, json.loads(call.function.arguments)],
            "answered": answered.choices[0].message.content,
            "parsed": weather.model_dump(),
            "streamed": "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices),
            "metered": usage.total_tokens,
            "response": client.responses.create(model=responses, input="Hello").output_text,
            "response_streamed": "".join(each.delta for each in events if each.type == "response.output_text.delta"),
            "vectors": [each.embedding for each in vectors.data],
            "of_base64": [each.embedding for each in base64.data],
            "models": chat in [model.id for model in client.models.list()],
            "refusals": refusals(models, ask, said),
        }
    )


if __name__ == "__main__":
    main()
