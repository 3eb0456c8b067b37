"""The extras of the wheel: which packages come with which, and what to type when one is missing."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "worker": (
        "aiohappyeyeballs",
        "aiohttp",
        "alembic",
        "asyncpg",
        "genai_prices",
        "httpcore",
        "httpx",
        "jwt",
        "opentelemetry",
        "pydantic_ai",
        "slack_sdk",
        "sqlalchemy",
        "structlog",
        "tzdata",
        "uvloop",
    ),
    "azure": ("azure",),
    "bedrock": ("botocore",),
    "vertex": ("google.auth",),
    "tiktoken": ("tiktoken",),
    "telemetry": ("opentelemetry.exporter", "opentelemetry.sdk", "prometheus_client", "requests"),
    "gateway": ("httptools", "jinja2", "starlette", "uvicorn"),
    "transport": ("httpx2",),
    "openai": ("openai",),
    "anthropic": ("anthropic",),
    "google-genai": ("google.genai",),
    "pydantic-ai": ("pydantic_ai",),
    "openai-agents": ("agents",),
    "langchain": ("langchain_core",),
    "parquet": ("pyarrow",),
    "cli": ("platformdirs", "rich", "typer", "tzdata"),
}
"""What they install, by the names that are imported; the longest name that fits says which extra it is."""


class ExtraMissing(ImportError):
    """A package is not installed that comes with an extra. The message has the line to type."""


def extra_missing(error: ImportError, what: str = "this") -> ExtraMissing | None:
    """The error in words for people, or None if no extra would mend it. `what` needs the package."""
    if isinstance(error, ExtraMissing):
        return error
    asked = error.name or ""
    fitting = [
        (len(package), extra)
        for extra, packages in EXTRAS.items()
        for package in packages
        if asked == package or asked.startswith(package + ".")
    ]
    if not isinstance(error, ModuleNotFoundError) or not fitting:
        return None
    return ExtraMissing(f"{what} needs {asked}, which is not installed: pip install 'paymaster[{max(fitting)[1]}]'")


@contextmanager
def names_extra(what: str) -> Generator[None]:
    """Around imports: raises ExtraMissing instead of ModuleNotFoundError. `what` needs the packages."""
    try:
        yield
    except ModuleNotFoundError as error:
        if missing := extra_missing(error, what):
            raise missing from None
        raise


def require(extra: str, what: str) -> None:
    """Raises ExtraMissing unless all packages of the extra can be imported, without importing them. `what` needs it."""
    with names_extra(what):
        for package in EXTRAS[extra]:
            if find_spec(package) is None:
                raise ModuleNotFoundError(name=package)
