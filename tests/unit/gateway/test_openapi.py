"""The OpenAPI document: valid, and of what the gateway really answers."""

import re
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Match
from temporalio.client import Client

from paymaster.gateway.app import gateway_app
from paymaster.gateway.clients import Clients
from paymaster.gateway.openapi import openapi_document
from paymaster.gateway.streams import Streams
from paymaster.keys.ring import named_keys
from paymaster.settings import Settings
from paymaster.storage.engine import create_engine

OPERATIONS = [(method, path) for path, each in openapi_document()["paths"].items() for method in each]


def test_it_is_valid() -> None:
    OpenAPIV31SpecValidator(openapi_document()).validate()


def test_each_operation_of_an_admin_has_a_name_of_its_own() -> None:
    paths: dict[str, dict[str, Any]] = openapi_document()["paths"]
    names = [
        operation["operationId"] for path in paths.values() for operation in path.values() if "operationId" in operation
    ]
    assert len(names) == len(set(names)) > 10


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_the_gateway_answers_it(method: str, path: str) -> None:
    settings = Settings()
    client = await Client.connect("127.0.0.1:1", lazy=True)
    engine = create_engine("postgresql+asyncpg://127.0.0.1:1/none")  # nobody connects
    keys = named_keys(settings)
    app = gateway_app(
        settings, Clients(settings.gateway), client, Streams(settings.gateway.streams, keys), keys, engine
    )
    real = re.sub(r"{\w+}", "a", path)
    scope = {"type": "http", "method": method.upper(), "path": real, "headers": [], "query_string": b""}
    assert any(route.matches(scope)[0] is Match.FULL for route in app.routes)
