"""Objects of a team's own modules that the configuration names."""

import importlib
from typing import cast

from paymaster.settings import ConfigurationError


def named_object(name: str, setting: str, kinds: tuple[type, ...]) -> object:
    """What stands under "module:object" when it is of these kinds, and else what it makes, of whatever kind that is.

    Raises ConfigurationError for the setting, saying what is wrong with it.
    """
    module_name, _, attribute = name.partition(":")
    try:
        found: object = getattr(importlib.import_module(module_name), attribute)
        return found if isinstance(found, kinds) else cast(object, found())  # pyright: ignore[reportCallIssue, reportUnknownVariableType]
    except Exception as error:  # a team's module may raise anything while it is imported
        problem = f"{type(error).__name__}: {error}"
        raise ConfigurationError([f"{setting}: {name} cannot be loaded: {problem}; is it on PYTHONPATH?"]) from error
