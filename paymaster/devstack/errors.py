"""The one error of the embedded stack."""

HOW_TO_GET_IT = (
    "Run `uv sync --group stack`, or `make demo` or `make dev`, in a checkout of Paymaster; the wheel has no servers."
)
"""The advice when a package of the embedded stack is missing. `paymaster call` and the like work without them."""


class StackError(Exception):
    """A part of the embedded stack can't be had, or did not start.

    The message is for the person at the terminal: what failed, what to do about it and, for a server that died, the end
    of its log.
    """
