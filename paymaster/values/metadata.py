"""Metadata of calls as commands are given it."""

from collections.abc import Iterable


def metadata_of(items: Iterable[str]) -> dict[str, str]:
    """What `--metadata KEY=VALUE` says, once or several times.

    Raises ValueError for what is written otherwise, and for a key with two values.
    """
    named: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not (key and equals):
            raise ValueError(f"--metadata {item!r} is not KEY=VALUE")
        if named.setdefault(key, value) != value:
            raise ValueError(f"--metadata {key!r} is given with two values, and no call has both")
    return named
