"""The command `paymaster`, also as `python -m paymaster`."""

import sys

from paymaster.values.extras import ExtraMissing, names_extra


def main() -> None:
    """Runs the command line and exits with its code: 2 with the line to type where the extra `cli` is not installed."""
    try:
        with names_extra("the command"):
            from paymaster.cli import main as run
    except ExtraMissing as error:
        sys.stderr.write(f"paymaster: {error}\n")
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
