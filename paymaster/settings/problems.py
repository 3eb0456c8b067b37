"""What is wrong with a configuration, in words: every problem with its key and the fix."""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import (
    ValidationError,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

Location = tuple[int | str, ...]


class ConfigurationError(ValueError):
    """The configuration cannot be used. The message lists every problem with its fix, as `problems` does."""

    def __init__(self, problems: Sequence[str], file: Path | None = None) -> None:
        super().__init__(problems, file)
        self.problems = tuple(problems)
        self.file = file

    def __str__(self) -> str:
        place = f"{self.file}: " if self.file else ""
        if len(self.problems) == 1:
            return place + self.problems[0]
        return f"{place}{len(self.problems)} problems\n" + "\n".join(f"  {problem}" for problem in self.problems)


def raise_at(problems: Iterable[tuple[Location, str]]) -> None:
    """Raises the problems, if there are any, each with its own place below the field that is being validated."""
    errors = [
        InitErrorDetails(
            type=PydanticCustomError("value_error", "{message}", {"message": message}), loc=location, input=None
        )
        for location, message in problems
    ]
    if errors:
        raise ValidationError.from_exception_data("Settings", errors, hide_input=True)


def written_path(location: Location) -> str:
    """The path as it is written in TOML: `services.openai.models."gpt-5.6-luna".price`, `routes.writer[0]`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "[key]":  # pydantic's mark for "the name itself"
            text += ("." if text else "") + (part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part))
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else None
