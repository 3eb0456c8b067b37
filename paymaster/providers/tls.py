"""Whom a connection of a worker trusts."""

import ssl
from pathlib import Path

import httpx

from paymaster.settings import ConfigurationError


def tls_context(table: str, ca_bundle: Path | None) -> ssl.SSLContext:
    """Trusts the usual authorities (or those that SSL_CERT_FILE names), and those in the bundle.

    `table`: of the configuration, for the error. Raises ConfigurationError when the bundle cannot be read.
    """
    context = httpx.create_ssl_context()
    if ca_bundle is not None:
        try:
            context.load_verify_locations(cafile=ca_bundle)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                [
                    f"{table}.ca_bundle: {ca_bundle} cannot be used ({error}); name a PEM file with the "
                    "certificates of the authorities to trust"
                ]
            ) from None
    return context
