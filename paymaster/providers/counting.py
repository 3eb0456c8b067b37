"""How many input tokens a request has, for a bound that is smaller than that of its bytes.

A service is asked as it is for answers, with the same key over the same connections, but at its own counter, which
bills nothing. Whatever goes wrong is CannotCount: the bound of the bytes stays.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

import httpx

from paymaster.keys.api_key import KeyUnavailable, ServiceKeys
from paymaster.messages import Candidate, Grant, LLMRequest, RetrySettings, ServiceCall
from paymaster.providers.built_request import BuiltRequest, built_request
from paymaster.providers.connections import Connections
from paymaster.providers.decompression import BodyTooLarge, BodyUnreadable, read_body
from paymaster.providers.provider import CannotCount, Outgoing, TokenCounter, UnsupportedParameter, WrittenRequest
from paymaster.providers.registry import PROVIDERS
from paymaster.providers.tokenizer import Tokenizer, encoding_name
from paymaster.redaction import redact
from paymaster.settings import ServiceSettings, Settings, split_candidate
from paymaster.values.extras import require
from paymaster.values.json_reading import count_of, object_of, read_json
from paymaster.values.money import Price
from paymaster.wire.measured import BadBody

Way = Literal["tokenizer", "provider"]
"""Who counts: OpenAI's tokenizer here, or the provider's own counter."""

ANSWER_WITHIN_S = 5.0
"""For a provider's counter. A call that waits for it waits for money too."""
_ANSWER_BYTES_MAX = 64 * 1024
_TOLD_CHARACTERS = 200
_PRICE = Price(input_nanos=0, output_nanos=0, source="")


def ways_of_counting(service: ServiceSettings, model: str, *, asked: bool = False) -> tuple[Way, ...]:
    """Who may count the tokens that come before a model of this service, the best first.

    `asked`: somebody wants to know, and it is not for a bound, for which the configuration says whether they are.
    """
    provider, ways = PROVIDERS[service.api], list[Way]()
    if service.bound == "bytes" and not asked:
        return ()
    wanted = asked or service.bound == "counted"
    if provider.tokenizer_sees is not None and (wanted or _is_openais_own(service)) and encoding_name(model):
        ways.append("tokenizer")
    if provider.counter is not None and wanted:
        ways.append("provider")
    return tuple(ways)


def _is_openais_own(service: ServiceSettings) -> bool:
    host = urlsplit(service.base_url).hostname or ""
    return host == "api.openai.com" or host.endswith(".api.openai.com")


def check_extra(services: Mapping[str, ServiceSettings]) -> None:
    """Raises ExtraMissing where a configuration wants what only the tokenizer can do, and it is not installed."""
    for name, service in services.items():
        provider = PROVIDERS[service.api]
        if service.bound == "counted" and provider.tokenizer_sees is not None and provider.counter is None:
            require("tiktoken", f'bound = "counted" of the service {name}')


def encodings_wanted(settings: Settings, *, named_only: bool = False) -> dict[str, str]:
    """The tokenizer's encodings for the models of all routes, each with one of the candidates that it is for.

    `named_only`: those for services whose configuration says that tokens are counted.
    """
    wanted: dict[str, str] = {}
    for candidate in dict.fromkeys(name for route in settings.routes.values() for name in route.names):
        name, model = split_candidate(candidate)
        service = settings.services[name]
        if (service.bound is None and named_only) or "tokenizer" not in ways_of_counting(service, model):
            continue
        wanted.setdefault(encoding_name(model) or "", candidate)
    return wanted


class TokenCounting:
    def __init__(self, services: Mapping[str, ServiceSettings], keys: ServiceKeys, connections: Connections) -> None:
        self._services, self._keys, self._connections = services, keys, connections
        self._tokenizer = Tokenizer()

    async def count(self, request: LLMRequest, candidate: Candidate, *, asked: bool = False) -> int:
        """The input tokens of the request as this candidate gets it; `asked` is that of `ways_of_counting`.

        Raises CannotCount.
        """
        service = self._services.get(candidate.service)
        if service is None:
            raise CannotCount("this worker has no such service")
        problems: list[str] = []
        built = await _built(request, candidate, service)
        for way in ways_of_counting(service, candidate.model, asked=asked):
            try:
                if way == "tokenizer":
                    return await self._tokenized(built.request, service, candidate.model)
                return await self._asked(built, candidate.service, service)
            except CannotCount as error:
                problems.append(str(error))
        raise CannotCount("; ".join(problems) or "nobody counts for this service")

    async def _tokenized(self, written: WrittenRequest, service: ServiceSettings, model: str) -> int:
        sees = PROVIDERS[service.api].tokenizer_sees
        assert sees is not None  # `ways_of_counting` says so
        try:
            seen = sees(object_of(read_json(written.body)))
        except (BadBody, ValueError) as error:
            raise CannotCount(f"the body: {error}") from None
        return await self._tokenizer.count(model, json.dumps(seen, ensure_ascii=False))

    async def _asked(self, built: BuiltRequest, name: str, service: ServiceSettings) -> int:
        counter = PROVIDERS[service.api].counter
        assert counter is not None  # `ways_of_counting` says so
        asked = counter.build(built.request, built.call.grant)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await self._count(name, await self._request(name, service, asked), counter)
        except (KeyUnavailable, httpx.HTTPError, TimeoutError, BodyTooLarge, BodyUnreadable) as error:
            raise _cannot(f"{type(error).__name__}: {error}") from None

    async def _request(self, name: str, service: ServiceSettings, asked: WrittenRequest) -> httpx.Request:
        headers = {"content-type": "application/json"} | asked.headers
        outgoing = Outgoing("POST", service.base_url + asked.path, headers, asked.body)
        if service.key_name is not None:
            key = await self._keys.get(service.key_name)
            headers |= PROVIDERS[service.api].authenticate(outgoing, key.reveal(), service)
        return self._connections[name].build_request("POST", outgoing.url, headers=headers, content=asked.body)

    async def _count(self, name: str, request: httpx.Request, counter: TokenCounter) -> int:
        response = await self._connections[name].send(request, stream=True)
        try:
            encodings = response.headers.get_list("content-encoding")
            body = (await read_body(response.aiter_raw(), encodings, _ANSWER_BYTES_MAX)).whole()
        finally:
            await response.aclose()
        try:
            tokens = count_of(read_json(body), counter.count_name) if response.is_success else None
        except ValueError:
            tokens = None
        if tokens is None:
            raise _cannot(f"the counter answers {response.status_code}: {body.decode(errors='replace')}")
        return tokens


def _cannot(why: str) -> CannotCount:
    """What others said may be long, and may hold a key."""
    return CannotCount(redact(why)[:_TOLD_CHARACTERS])


async def _built(request: LLMRequest, candidate: Candidate, service: ServiceSettings) -> BuiltRequest:
    """The request as it would be sent under a grant. Raises CannotCount."""
    call = ServiceCall(grant=_as_granted(candidate), request=request)
    try:
        return await asyncio.to_thread(built_request, call, service)
    except (BadBody, UnsupportedParameter) as error:
        raise CannotCount(str(error)) from None


def _as_granted(candidate: Candidate) -> Grant:
    """A grant of nothing: the request alone depends on it."""
    return Grant(
        hold_id="",
        budget="",
        service=candidate.service,
        model=candidate.model,
        price=_PRICE,
        max_output_tokens=candidate.max_output_tokens,
        bound_nanos=0,
        granted_at_ms=0,
        expires_at_ms=0,
        epoch="",
        timeout_ms=1,
        retry=RetrySettings(),
        max_retry_after_ms=0,
        max_unconfirmed=0,
    )
