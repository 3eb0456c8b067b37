"""The one error of the embedded stack."""


class StackError(Exception):
    """A part of the embedded stack can't be had, or did not start.

    The message is for the person at the terminal: what failed, what to do about it and, for a server that died, the end
    of its log.
    """
