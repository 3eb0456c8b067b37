"""The OpenAPI document of everything that the gateway answers (docs/schemas/gateway.openapi.json).

That of the administration is made of its table of endpoints and its documents. Calls of LLMs are the providers' own
formats: of these it has the paths and what the gateway adds.
"""

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from paymaster.gateway.admin.documents import ProblemDocument, StandingDocument
from paymaster.gateway.admin.endpoints import BASE, ENDPOINTS, Endpoint

Json = dict[str, Any]
_REFERENCE = "#/components/schemas/{model}"
_CALLS = {
    "/v1/chat/completions": "OpenAI's chat completions",
    "/v1/responses": "OpenAI's responses",
    "/v1/embeddings": "OpenAI's embeddings",
    "/v1/messages": "Anthropic's messages",
    "/v1beta/models/{model}:generateContent": "Gemini's generateContent",
    "/v1beta/models/{model}:streamGenerateContent": "Gemini's streamGenerateContent",
}
_ANSWERED = {
    "x-paymaster-call-id": "The call's id.",
    "x-paymaster-cost-usd": "What it cost, in US dollars.",
    "x-paymaster-budget-left-usd": "The least that is left of a cap that it counts for.",
}


def openapi_document() -> Json:
    kinds = _kinds(ENDPOINTS.values())
    _, schemas = models_json_schema([(kind, "serialization") for kind in kinds], ref_template=_REFERENCE)
    paths: Json = {}
    for name, each in ENDPOINTS.items():
        paths.setdefault(f"{BASE}{_path(each)}", {})[each.method.lower()] = _operation(name, each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Paymaster's gateway",
            "version": "1",
            "description": "Durable, exactly budgeted calls of LLMs, and their administration.",
        },
        "paths": {**_of_clients(), **dict(sorted(paths.items()))},
        "components": {
            "schemas": dict(sorted(schemas.get("$defs", {}).items())),
            "securitySchemes": {
                "client": {"type": "http", "scheme": "bearer", "description": "A client's key."},
                "admin": {"type": "http", "scheme": "bearer", "description": "An admin's key."},
            },
        },
    }


def _of_clients() -> Json:
    answers = {
        "200": {
            "description": "The provider's answer, as it was",
            "headers": {name: {"description": what, "schema": {"type": "string"}} for name, what in _ANSWERED.items()},
        },
        "default": {"description": "An error in the provider's form, with `paymaster` in it"},
    }
    body = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
    paths: Json = {}
    for path, what in _CALLS.items():
        call: Json = {"summary": what, "requestBody": body, "responses": answers, "security": [{"client": []}]}
        paths[path] = {"post": call | _parameters([_in_path(name) for name in re.findall(r"{(\w+)}", path)])}
    standing = _answer("How the client's budget stands, and those above it", StandingDocument)
    own: Json = {
        "summary": "What is left of the client's own budget",
        "responses": standing,
        "security": [{"client": []}],
    }
    fetched: Json = {
        "summary": "The answer of a detached call, in the form of its format",
        "responses": answers,
        "security": [{"client": []}],
    }
    listed = {"200": {"description": "What the client may ask for, in the form of its SDK"}}
    models: Json = {"summary": "Routes and models", "responses": listed, "security": [{"client": []}]}
    healthy = {"200": {"description": "Calls can be made"}, "503": {"description": "Temporal does not answer"}}
    return {
        **paths,
        "/v1/models": {"get": models},
        "/v1/paymaster/budget": {"get": own},
        "/v1/paymaster/approve/{token}": {
            "get": _press("A page that asks whether to raise a cap", "token"),
            "post": _press("Raises the cap that the link is for, once", "token"),
        },
        "/v1/paymaster/slack/actions": {"post": _press("A press of a button, signed by Slack")},
        "/v1/paymaster/calls/{call_id}": {"get": fetched | _parameters([_in_path("call_id")])},
        "/healthz": {"get": {"summary": "Whether calls can be made", "responses": healthy, "security": []}},
    }


def _press(what: str, *path: str) -> Json:
    """Of an approver's, whom a token or Slack names."""
    answers = {"200": {"description": "Done, or asked"}, "default": {"description": "Why not, in words"}}
    return {"summary": what, "responses": answers, "security": [], **_parameters([_in_path(name) for name in path])}


def _operation(name: str, each: Endpoint) -> Json:
    parameters = [_in_path(found) for found in re.findall(r"{(\w+)", each.path)]
    if each.is_paged:
        parameters += [
            _in_query("after", {"type": "string"}, "The `next` of the page before."),
            _in_query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}, "Items of a page."),
        ]
    if name == "changes":
        parameters += [
            _in_query("budget", {"type": "string"}, "Only its changes."),
            _in_query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}, "The latest."),
        ]
    if each.takes_reason:
        parameters.append(_in_query("reason", {"type": "string", "maxLength": 1000}, "Kept with the change."))
    if each.method != "GET" and each.is_tagged:
        what = "The ETag as it was read; where it is another one by now the answer is 412, and nothing is changed."
        parameters.append({"name": "If-Match", "in": "header", "schema": {"type": "string"}, "description": what})
    answers = _answer(each.summary, each.answers, each.or_answers, is_tagged=each.is_tagged)
    if name == "make":
        answers["201"] = {**answers["200"], "description": "It was made, and `key` is its key"}
    problem = {"application/problem+json": {"schema": _schema(ProblemDocument)}}
    answers["default"] = {"description": "A problem, in words (RFC 9457)", "content": problem}
    operation: Json = {
        "operationId": name,
        "summary": each.summary,
        "responses": answers,
        "security": [{"admin": []}],
        **_parameters(parameters),
    }
    if each.takes is not None:
        content = {"application/json": {"schema": _schema(each.takes)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _answer(what: str, kind: type[BaseModel], other: type[BaseModel] | None = None, *, is_tagged: bool = False) -> Json:
    schema = _schema(kind) if other is None else {"oneOf": [_schema(kind), _schema(other)]}
    answer: Json = {"description": what, "content": {"application/json": {"schema": schema}}}
    if is_tagged:
        answer["headers"] = {"ETag": {"description": "Of what admins decide about it", "schema": {"type": "string"}}}
    return {"200": answer}


def _kinds(endpoints: Iterable[Endpoint]) -> list[type[BaseModel]]:
    found = [kind for each in endpoints for kind in (each.answers, each.or_answers, each.takes) if kind is not None]
    return list(dict.fromkeys([*found, StandingDocument, ProblemDocument]))


def _schema(kind: type[BaseModel]) -> Json:
    return {"$ref": _REFERENCE.format(model=kind.__name__)}


def _path(each: Endpoint) -> str:
    return each.path.replace(":path}", "}")


def _parameters(parameters: list[Json]) -> Json:
    return {"parameters": parameters} if parameters else {}


def _in_path(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _in_query(name: str, schema: Json, what: str) -> Json:
    return {"name": name, "in": "query", "schema": schema, "description": what}
