"""`paymaster init`: a first configuration, for the keys that are here, and a first agent."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paymaster.cli.connection import command_name
from paymaster.cli.exits import CommandError
from paymaster.cli.first_file import FirstService, first_file
from paymaster.cli.present import print_line, print_note
from paymaster.redaction import redact, remember

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import httpx

CONFIGURATION = "paymaster.toml"
AGENT = "my_agent.py"

_PROVIDERS = (
    FirstService("openai", "openai", "https://api.openai.com/v1", "gpt-5.6-luna", "OPENAI_API_KEY"),
    FirstService("anthropic", "anthropic", "https://api.anthropic.com/v1", "claude-haiku-4-5", "ANTHROPIC_API_KEY"),
    FirstService(
        "gemini", "gemini", "https://generativelanguage.googleapis.com/v1beta", "gemini-2.5-flash", "GEMINI_API_KEY"
    ),
)
_LOCAL = FirstService(
    "local",
    "openai",
    "http://127.0.0.1:1/v1",
    "smollm2-135m",
    price=("0.10", "0.40"),
    about="the model that `paymaster dev` runs, at an invented price; it has its address",
    max_output_tokens=500,
)
_AZURE = ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_DEPLOYMENT")
_MODELS_WITHIN_S = 5.0


def init(
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    base_url: Annotated[
        str | None,
        typer.Option(envvar="OPENAI_BASE_URL", help="A server of your own that speaks OpenAI's format."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Of that server. Default: the first that it lists.", show_default=False)
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(
            metavar="IN,OUT",
            help="Of that model: USD per million tokens. Default: what is known; on this machine nothing.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write paymaster.toml for the keys in the environment, and an agent. No key is written or printed."""
    there = [name for name in (CONFIGURATION, AGENT) if os.path.lexists(name)]  # also a link that leads nowhere
    if there and not force:
        raise CommandError(f"{_listed(there)} {'is' if len(there) == 1 else 'are'} here already: --force replaces")
    for variable in (*(each.variable or "" for each in _PROVIDERS), _AZURE[0]):
        remember(os.environ.get(variable, ""))
    services = list(_found(os.environ, base_url, model, price))
    if not services:
        variables = ", ".join(each.variable or "" for each in _PROVIDERS)
        print_note(
            f"no key is here, so this is for the local model of `paymaster dev`. For another, set {variables}, or "
            f"{_listed(_AZURE)}, or give --base-url, then repeat this with --force"
        )
        services = [_LOCAL]
    text = first_file(services)
    _check(text)
    _write(CONFIGURATION, text)
    _write(AGENT, (Path(__file__).parent / "first_agent.py").read_text(encoding="utf-8"))
    _tell(services)


def _write(name: str, text: str) -> None:
    """Raises CommandError."""
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{name} cannot be written: {error.strerror}") from None


def _tell(services: "Sequence[FirstService]") -> None:
    for each in services:
        key = f"the key in {each.variable}" if each.variable else "no key"
        print_line(f"{CONFIGURATION}: {each.candidate}, with {key}")
        if each.costs_nothing:
            print_note(f"calls of {each.candidate} cost nothing, so no cap ever holds one: give --price to count them")
    print_line(f"{CONFIGURATION}: the route writer, and the budget dev with a cap of $5 a day")
    print_line(f"{AGENT}: an agent under that budget")
    command = command_name()
    python = Path(command).with_name("python") if "/" in command else "python"
    print_line("\nNext, in a terminal with the same variables, and in another one:")
    print_line(f"  {command} dev")
    print_line(f'  {command} call writer "What is a ledger?"')
    print_line(f"  {python} {AGENT}")


def _found(
    environ: "Mapping[str, str]", base_url: str | None, model: str | None, price: str | None
) -> "Iterator[FirstService]":
    """What can be used here. Raises CommandError for a server whose model or price nobody knows."""
    own_has_openais_key = base_url is not None
    if base_url is not None:
        yield _own(environ, base_url, model, price)
    elif model is not None or price is not None:
        raise CommandError("--model and --price are of a server: give its address with --base-url")
    for each in _PROVIDERS:
        if environ.get(each.variable or "") and not (each.name == "openai" and own_has_openais_key):
            yield each
    given = [name for name in _AZURE if environ.get(name)]
    if len(given) == len(_AZURE):
        yield from _azure(environ)
    elif _AZURE[0] in given:
        missing = _listed([name for name in _AZURE if name not in given])
        print_note(f"{_AZURE[0]} is set; with {missing} too, Azure OpenAI would be in the file")


def _azure(environ: "Mapping[str, str]") -> "Iterator[FirstService]":
    url = environ["AZURE_OPENAI_ENDPOINT"].rstrip("/").removesuffix("/openai/v1") + "/openai/v1"
    azure = FirstService("azure", "azure-openai", url, environ["AZURE_OPENAI_DEPLOYMENT"], _AZURE[0])
    if _has_price(azure):
        yield azure
    else:
        print_note(f"no price is known of the deployment {azure.model}: write it as docs/services.md shows for Azure")


def _own(environ: "Mapping[str, str]", base_url: str, model: str | None, price: str | None) -> FirstService:
    from urllib.parse import urlsplit

    from paymaster.settings.kinds import is_loopback

    variable = "OPENAI_API_KEY" if environ.get("OPENAI_API_KEY") else None
    model = model or _first_model(base_url, environ.get("OPENAI_API_KEY"))
    own = FirstService("own", "openai", base_url, model, variable, about="a server of your own")
    if price is not None:
        input_usd, comma, output_usd = price.partition(",")
        if not comma:
            raise CommandError(f'--price {price}: write two amounts, "0.20,1.20"')
        return own._replace(price=(input_usd.strip(), output_usd.strip()))
    if is_loopback(urlsplit(base_url).hostname or ""):
        return own._replace(price=("0", "0"))
    if _has_price(own):
        return own
    raise CommandError(f'no price is known of {model} at {base_url}: give --price, "0,0" if it costs nothing')


def _first_model(base_url: str, key: str | None) -> str:
    """The first that the server lists. Raises CommandError."""
    import httpx

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.get(f"{base_url.rstrip('/')}/models", headers=headers, timeout=_MODELS_WITHIN_S)
        return _named_first(answer)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        problem = str(error) or type(error).__name__
    except (ValueError, LookupError, TypeError):
        problem = "its answer is no list of models"
    raise CommandError(f"{base_url} does not say which models it has ({problem}): name one with --model")


def _named_first(answer: "httpx.Response") -> str:
    return str(answer.raise_for_status().json()["data"][0]["id"])


def _has_price(service: FirstService) -> bool:
    from datetime import UTC, datetime

    from pydantic import ValidationError

    from paymaster.providers.price_list import price_of
    from paymaster.settings import Settings

    table = {"api": service.api, "base_url": service.base_url}
    try:
        settings = Settings.model_validate({"services": {service.name: table}})
    except ValidationError as invalid:
        problem = str(invalid.errors()[0]["msg"]).removeprefix("Value error, ")  # without the URL, which may hold a key
        raise CommandError(f"services.{service.name}.base_url: {problem}") from None
    return price_of(settings, service.name, service.model, datetime.now(UTC)) is not None


def _check(text: str) -> None:
    """Raises CommandError for what could not be used, before anything is written."""
    from paymaster.settings import ConfigurationError, load_settings

    if redact(text) != text:
        raise CommandError("a key would be in the file: give the name of a model, and a URL without a key")
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        try:
            load_settings(file.name, environ={})
        except ConfigurationError as error:
            raise CommandError("; ".join(error.problems)) from None


def _listed(names: "Sequence[str]") -> str:
    return " and ".join(names)
