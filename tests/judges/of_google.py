"""Google's SDK for Python: what google.mjs asks."""

import json
from collections.abc import Mapping
from typing import Any

import google.genai
import google.genai.errors
from judge import Counted, asked, refusals, show

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}, "degrees": {"type": "number"}}}


def main() -> None:
    address, key, asked_models = asked()
    client = google.genai.Client(api_key=key, http_options={"base_url": address})
    models = client.models
    question: dict[str, Any] = {"model": asked_models["gemini"], "contents": "The weather in Kiel?"}

    content = models.generate_content(**question)
    tools: Any = [{"function_declarations": [{"name": "weather", "parameters_json_schema": PARAMETERS}]}]
    off: Any = {"disable": True}
    called = models.generate_content(**question, config={"tools": tools, "automatic_function_calling": off})
    call = (called.function_calls or [])[0]
    structured = models.generate_content(
        **question, config={"response_mime_type": "application/json", "response_json_schema": WEATHER}
    )
    stream = models.generate_content_stream(**question)
    vectors = models.embed_content(model=asked_models["gemini"], contents=["a", "b"])

    def ask(refusal: Mapping[str, Any], http: Counted) -> object:
        options: Any = {
            "base_url": address,
            "httpx_client": http,
            "headers": refusal["headers"],
            "retry_options": {"attempts": 3, "initial_delay": 0.01, "max_delay": 0.01},
        }
        client = google.genai.Client(api_key=refusal["key"], http_options=options)
        return client.models.generate_content(**{**question, "model": refusal["model"]})

    def said(error: google.genai.errors.APIError) -> dict[str, object]:
        details: Any = error.details
        return {"status": error.code, "reason": details.get("paymaster", {}).get("reason")}

    show(
        {
            "chat": content.text,
            "tool": [call.name, call.args],
            "parsed": json.loads(structured.text or ""),
            "streamed": "".join(chunk.text or "" for chunk in stream),
            "vectors": [each.values for each in vectors.embeddings or []],
            "refusals": refusals(asked_models, ask, said),
        }
    )


if __name__ == "__main__":
    main()
