"""How often somebody may guess a key: a few times at once, then one time in a while, for each address."""

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

AT_ONCE = 10
"""Wrong keys in a row from one address."""
ONE_EACH_S = 6.0
"""And then one in this time."""
_ADDRESSES_MAX = 10_000


@dataclass
class _Bucket:
    wrong: float
    at_s: float


class Guesses:
    def __init__(self) -> None:
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait_s(self, address: str, now_s: float) -> float:
        """How long this address has to wait before a key of its is looked at. 0: not at all."""
        bucket = self._buckets.get(_network(address))
        return 0.0 if bucket is None else max(0.0, (_drained(bucket, now_s) - AT_ONCE + 1) * ONE_EACH_S)

    def count(self, address: str, now_s: float) -> None:
        """Of a key that was wrong."""
        network = _network(address)
        bucket = self._buckets.pop(network, _Bucket(0, now_s))
        self._buckets[network] = _Bucket(_drained(bucket, now_s) + 1, now_s)
        if len(self._buckets) > _ADDRESSES_MAX:
            self._buckets.popitem(last=False)


def _drained(bucket: _Bucket, now_s: float) -> float:
    return max(0.0, bucket.wrong - max(0.0, now_s - bucket.at_s) / ONE_EACH_S)


def _network(address: str) -> str:
    """Of IPv6 the network: one machine has more addresses of it than can be remembered."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(ip, ipaddress.IPv6Address):
        mapped = ip.ipv4_mapped
        return str(ipaddress.ip_network(f"{ip}/64", strict=False)) if mapped is None else str(mapped)
    return str(ip)
