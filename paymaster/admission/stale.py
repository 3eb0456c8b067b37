"""A command that came too late for what its sender saw."""


class Stale(ValueError):
    """What a command would change is not what its sender saw."""
