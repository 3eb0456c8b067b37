"""The proxy that the environment names for an address: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY."""

import logging
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from paymaster.settings.kinds import is_loopback

logger = logging.getLogger(__name__)


class ProxyUnreadable(ValueError):
    """A variable of the environment names a proxy that is none. The message does not show it: it may have a secret."""

    def __init__(self, variable: str) -> None:
        super().__init__(f"{variable} cannot be read and is left out; write http://HOST:PORT")
        self.variable = variable


class NamedProxy(NamedTuple):
    variable: str
    proxy: httpx.Proxy


def named_proxy(url: str) -> NamedProxy | None:
    """None: the address is reached directly. So is everything on this machine: a proxy would get what never leaves it.

    Raises ProxyUnreadable.
    """
    address, proxies = urlsplit(url), getproxies()
    host = address.hostname or ""
    scheme = next((name for name in (address.scheme, "all") if proxies.get(name, "").strip()), None)
    if scheme is None or is_loopback(host) or proxy_bypass(address.netloc.rpartition("@")[2]):
        return None
    variable = f"{scheme.upper()}_PROXY"
    written = proxies[scheme].strip()
    try:
        proxy = httpx.Proxy(written if "://" in written else f"http://{written}")
    except (ValueError, httpx.InvalidURL):
        raise ProxyUnreadable(variable) from None
    if not proxy.url.host or "%" in proxy.url.host or not 0 < (proxy.url.port or 1) < 65_536:
        raise ProxyUnreadable(variable)
    return NamedProxy(variable, proxy)


def proxy_for(url: str) -> httpx.Proxy | None:
    """The proxy for an address. One that cannot be read is left out, with a warning. None: it is reached directly."""
    try:
        named = named_proxy(url)
    except ProxyUnreadable as error:
        logger.warning("%s", error)
        return None
    return None if named is None else named.proxy
