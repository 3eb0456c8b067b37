"""docs/schemas: the messages that cross to callers in other languages, as JSON schemas with the docstrings' words, and
the gateway's OpenAPI document.

`make schemas` writes them anew.
"""

import ast
import inspect
import json
import textwrap
from typing import Any

from paymaster_process import ROOT
from pydantic import BaseModel

from paymaster import messages
from paymaster.gateway.openapi import openapi_document
from paymaster.messages import BodyPiece, EndpointRequest, LLMRequest, LLMResult
from paymaster.values.money import TokenUsage

FOLDER = ROOT / "docs" / "schemas"
READ: tuple[type[BaseModel], ...] = (LLMRequest, EndpointRequest, BodyPiece)
"""What Paymaster reads."""
WRITTEN: tuple[type[BaseModel], ...] = (LLMResult,)
"""What it writes; a later version may write more fields."""


def schemas() -> dict[str, str]:
    """File name → content."""
    found = {kind: kind.model_json_schema(mode="validation") for kind in READ}
    found |= {kind: kind.model_json_schema(mode="serialization") for kind in WRITTEN}
    written = {f"{kind.__name__}.json": _written(kind, schema) for kind, schema in found.items()}
    return written | {"gateway.openapi.json": json.dumps(openapi_document(), indent=2) + "\n"}


def _written(kind: type[BaseModel], schema: dict[str, Any]) -> str:
    parts = {name: _told(_kind_of(name), part) for name, part in sorted(schema.pop("$defs", {}).items())}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": kind.__name__}
    return json.dumps(head | _told(kind, schema) | {"$defs": parts}, indent=2, ensure_ascii=False) + "\n"


def _kind_of(name: str) -> type | None:
    """None: of a type that is not ours, such as any JSON."""
    return TokenUsage if name == TokenUsage.__name__ else getattr(messages, name, None)


def _told(kind: type | None, schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with the words of its class, and without the names that pydantic gives to what has one already."""
    if kind is None:
        return schema
    schema.pop("title", None)
    words = _words(kind)
    for name, field in schema.get("properties", {}).items():
        field.pop("title", None)
        if name in words:
            field["description"] = words[name]
    described = {"description": _paragraphs(kind.__doc__)} if kind.__doc__ else {}
    return described | schema


def _words(kind: type) -> dict[str, str]:
    """Field → the docstring below it."""
    found: dict[str, str] = {}
    for each in reversed([owner for owner in kind.__mro__ if owner.__module__.startswith("paymaster.")]):
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(definition, ast.ClassDef)
        for field, words in zip(definition.body, definition.body[1:], strict=False):
            match field, words:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                    found[name] = _paragraphs(text)
                case _:
                    pass
    return found


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file in FOLDER.glob("*.json"):
        file.unlink()
    for name, content in schemas().items():
        (FOLDER / name).write_text(content)
