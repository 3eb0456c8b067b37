"""What the shell offers for names that the configuration knows, instead of files."""

from paymaster.cli.exits import CommandError


def accounts(incomplete: str) -> list[str]:
    """Budgets' paths and services of the configuration that begin so. None of them, where it cannot be read."""
    from paymaster.cli.connection import command_settings
    from paymaster.values.budget_path import is_template

    try:
        settings = command_settings(None)
    except CommandError:
        return []
    names = [path for path in settings.budgets if not is_template(path)]
    names += [f"service:{name}" for name in settings.services]
    return sorted(name for name in names if name.startswith(incomplete))
