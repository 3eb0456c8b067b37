"""The embedded stack: all the servers that Paymaster needs, on loopback, for as long as a command runs.

`EmbeddedStack` is the way in; `GuardedProcess` runs any other command that must end with its owner, a worker say.
"""

from paymaster.devstack.errors import StackError
from paymaster.devstack.model import MODEL_NAME
from paymaster.devstack.process import GuardedProcess, clean_environment
from paymaster.devstack.progress import Progress
from paymaster.devstack.stack import EmbeddedStack

__all__ = [
    "MODEL_NAME",
    "EmbeddedStack",
    "GuardedProcess",
    "Progress",
    "StackError",
    "clean_environment",
]
