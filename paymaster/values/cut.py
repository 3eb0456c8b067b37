"""Text with a bound in bytes."""


def cut(text: str, bytes_max: int) -> str:
    """The text in at most so many bytes of UTF-8, with "…" at its end where it was cut. Half a surrogate pair becomes
    "?": it can be in a Python string, and in no message."""
    data = text.encode(errors="replace")
    return data.decode() if len(data) <= bytes_max else data[: bytes_max - 3].decode(errors="ignore") + "…"
