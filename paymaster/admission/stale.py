"""Why a command is refused now that may be right at another time: nothing of it is remembered."""


class Stale(ValueError):
    """What a command would change is not what its sender saw."""


class ApprovalRefused(ValueError):
    """An approver may not give a raise, or not any more, or not today."""
