"""Which Provider speaks each `api` of the configuration."""

from collections.abc import Mapping
from importlib import import_module
from typing import get_args

from paymaster.messages.wire import Wire
from paymaster.providers.provider import Provider, UnsupportedParameter, WireFormat
from paymaster.settings import Api, ServiceSettings


def _provider_of(api: Api) -> Provider:
    """The PROVIDER of the module named like the api: `azure-openai` is in `azure_openai.py`."""
    return import_module(f"paymaster.providers.{api.replace('-', '_')}").PROVIDER


PROVIDERS: Mapping[Api, Provider] = {api: _provider_of(api) for api in get_args(Api)}


def wire_format(wire: Wire, service: ServiceSettings) -> WireFormat:
    """How the service takes such a call. Raises UnsupportedParameter where it does not."""
    found = PROVIDERS[service.api].dialects.get(wire.dialect)
    if found is None:
        raise UnsupportedParameter("wire", f'api = "{service.api}" does not speak "{wire.dialect}"')
    return found


def streams(service: ServiceSettings) -> bool:
    """Whether answers are asked for as streams."""
    return PROVIDERS[service.api].streams_by_default(service) if service.stream is None else service.stream
