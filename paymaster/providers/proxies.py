"""The proxy that the environment names for an address: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY."""

import logging
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from paymaster.settings.kinds import is_loopback

logger = logging.getLogger(__name__)


def proxy_for(url: str) -> httpx.Proxy | None:
    """None: the address is reached directly. So is everything on this machine: a proxy would get what never leaves it.

    A proxy that cannot be read is left out, with a warning that does not show it: it may have a password.
    """
    address, proxies = urlsplit(url), getproxies()
    host = address.hostname or ""
    variable = next((name for name in (address.scheme, "all") if proxies.get(name)), None)
    if variable is None or is_loopback(host) or proxy_bypass(address.netloc.rpartition("@")[2]):
        return None
    try:
        proxy = httpx.Proxy(proxies[variable])
        if not proxy.url.host or not 0 < (proxy.url.port or 1) < 65_536:
            raise ValueError("no host, or no port that there is")
    except (ValueError, httpx.InvalidURL):
        logger.warning("%s_PROXY cannot be read and is left out; write http://HOST:PORT", variable.upper())
        return None
    return proxy
