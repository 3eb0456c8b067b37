"""What `paymaster doctor` looks at for the gateway: who may ask, its certificates, and its address."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from paymaster.cli.check import Check
from paymaster.cli.connection import open_database
from paymaster.cli.exits import CommandError

if TYPE_CHECKING:
    from paymaster.settings import Settings

_EXPIRES_SOON = timedelta(days=14)
_ANSWERS_WITHIN_S = 2.0
_TITLE = "Paymaster's gateway"


async def gateway_checks(settings: "Settings") -> list[Check]:
    """Nothing where the configuration has no [gateway]."""
    gateway = settings.gateway
    if not gateway.model_fields_set:
        return []
    from paymaster.values.extras import ExtraMissing, require

    try:
        require("gateway", "the gateway")
    except ExtraMissing as error:
        return [Check("gateway", False, str(error))]
    checks = [await _clients(settings)]
    if gateway.admins and settings.database.url is None:
        checks.append(Check("gateway admins", False, "administration needs a database: set database.url"))
    checks.append(await _streams(settings))
    checks += _certificate("gateway", gateway.tls_certificate, gateway.tls_key)
    checks += _certificate("gateway.streams", gateway.streams.tls_certificate, gateway.streams.tls_key)
    checks.append(await _address(settings))
    return checks


async def _clients(settings: "Settings") -> Check:
    """Who may ask: of the file, of the database, by tokens, or without a key."""
    from paymaster.storage.clients import all_clients

    gateway, now = settings.gateway, datetime.now(UTC)
    found = [f"{len(gateway.clients)} of the file"] if gateway.clients else []
    if settings.database.url is not None:
        try:
            async with open_database(settings) as engine:
                stored = await all_clients(engine, settings.ledger.name)
        except CommandError as error:
            return Check("gateway clients", False, str(error))
        usable = [each for each in stored if each.revoked_at is None and (each.expires_at or now) >= now]
        found += [f"{len(usable)} of the database"] if usable else []
    if gateway.jwt is not None:
        found.append(f"tokens of {gateway.jwt.issuer}")
    if gateway.budget is not None and not gateway.clients and gateway.jwt is None:
        found.append(f"requests without a key, charged to {gateway.budget}")
    if found:
        return Check("gateway clients", True, "; ".join(found))
    return Check("gateway clients", False, "nobody may ask: `paymaster clients create NAME --budget BUDGET` makes one")


async def _streams(settings: "Settings") -> Check:
    """Whether workers can hand them on token by token."""
    from paymaster.keys.api_key import KeyUnavailable
    from paymaster.keys.ring import named_keys

    name, secret_key = "gateway streams", settings.gateway.streams.secret_key
    if secret_key is None:
        return Check(name, True, "given when they are complete; with gateway.streams.secret_key token by token")
    keys = named_keys(settings)
    try:
        await keys.get(secret_key)
    except KeyUnavailable as error:
        return Check(name, False, f"given when they are complete, and not token by token: {error}")
    finally:
        await keys.close()
    return Check(name, True, f"token by token, signed with {secret_key}; workers need the same key")


def _certificate(table: str, certificate: Path | None, key: Path | None) -> Iterator[Check]:
    """Whether the files can be read, belong together, and for how long the certificate is valid."""
    if certificate is None or key is None:
        return
    from cryptography.x509 import load_pem_x509_certificates

    name = f"{table} certificate"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        first, *_ = load_pem_x509_certificates(certificate.read_bytes())
    except (OSError, ValueError) as error:
        yield Check(name, False, f"{table}.tls_certificate, tls_key: {certificate} and {key} cannot be used: {error}")
        return
    ends, now = first.not_valid_after_utc, datetime.now(UTC)
    if ends < now:
        yield Check(name, False, f"{certificate} expired at {ends:%Y-%m-%d %H:%M} UTC")
    elif first.not_valid_before_utc > now:
        yield Check(name, False, f"{certificate} is not valid before {first.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    else:
        soon = ", which is soon" if ends - now < _EXPIRES_SOON else ""
        yield Check(name, True, f"{certificate}, until {ends:%Y-%m-%d}{soon}")


async def _address(settings: "Settings") -> Check:
    """Whether a gateway answers there, or one could listen."""
    import httpx

    from paymaster.gateway.listening import bound_socket

    gateway = settings.gateway
    try:
        bound_socket(gateway.address, "gateway.address").close()
    except OSError as taken:
        problem = str(taken)
    else:
        return Check("gateway address", True, f"{gateway.address} is free: `paymaster serve` does not run here")
    if gateway.tls_certificate is not None:
        return Check("gateway address", True, f"something listens at {gateway.address}")
    host, _, port = gateway.address.rpartition(":")
    url = f"http://{'127.0.0.1' if host in ('0.0.0.0', '[::]') else host}:{port}/openapi.json"  # noqa: S104 - of the file
    try:
        async with httpx.AsyncClient(timeout=_ANSWERS_WITHIN_S, trust_env=False) as client:
            document = (await client.get(url)).json()
    except (httpx.HTTPError, ValueError):
        document = {}
    if isinstance(document, dict) and document.get("info", {}).get("title") == _TITLE:
        return Check("gateway address", True, f"a gateway answers at {gateway.address}")
    return Check("gateway address", False, f"{problem}; what is there is no gateway")
