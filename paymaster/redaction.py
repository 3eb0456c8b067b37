"""Known keys are taken out of every text that leaves the process: logs, failures, traces, what commands print.

`ApiKey` tells this file each value that it ever holds; whatever writes a text asks `redact` first. A key is found as it
is, and as URLs, JSON (also inside JSON), HTML, base64 (wherever it begins) and hexadecimal write it. Keys of the
gateway's clients are found by how they look, whoever holds them: URLs, JSON and HTML write them as they are.
"""

import html
import logging
import re
import sys
import threading
import traceback
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import TracebackType
from typing import Any, NamedTuple, cast
from urllib.parse import unquote

PLACEHOLDER = "[key]"
SECRET_CHARACTERS_MIN = 8
"""A shorter key is a placeholder of a server that wants none ("none", "EMPTY"): it would be found in ordinary words."""
SECRETS_MAX = 1_000
"""So many are remembered; a key that was replaced so often since is of no use to anybody."""
_CLIENT_KEY = re.compile(r"(pmk_[a-z0-9]{12}_)[A-Za-z0-9]+")
"""A key of `values/client_key`, also one that was cut off; its id, which is no secret, stays."""
_NESTED_MAX = 5
_SLICE = 64 * 1024
"""Characters of a text that are searched in one go: what a long text needs does not hold the interpreter at once."""


_TELLS_NOTHING = 7
"""Characters at a secret's beginning that are no secret: most begin alike."""


class _Forms(NamedTuple):
    """How one secret can be written."""

    anchor: str
    """A part that every escaped form has as it is: searching for it first is much quicker than the pattern."""
    escaped: re.Pattern[str]
    longest: int
    """Characters of the longest text that `escaped` can match."""
    encoded: tuple[str, ...]


known_secrets: dict[str, _Forms] = {}
"""What `redact` takes out, the oldest first; `remember` adds one."""


def remember(secret: str) -> None:
    """From now on `redact` takes this value out, unless it is too short to be a secret."""
    if secret in known_secrets or len(secret) < SECRET_CHARACTERS_MIN:
        return
    if len(known_secrets) >= SECRETS_MAX:
        del known_secrets[next(iter(known_secrets))]
    runs = re.findall(r"[A-Za-z0-9]+", secret)
    parts = tuple(_parts(secret))
    known_secrets[secret] = _Forms(
        anchor=max(runs, key=len, default=""),
        escaped=re.compile("".join(part.pattern for part in parts)),
        longest=sum(part.longest for part in parts),
        encoded=tuple(_encodings(secret.encode())),
    )


def redact(text: str) -> str:
    """The text with `[key]` in the place of every known secret, in whatever form, and of every client's key.

    The time it takes grows with the text's length and with nothing else in it; a long text belongs into a thread.
    """
    for forms in tuple(known_secrets.values()):  # another thread may add one
        text = _without_escaped(text, forms)
        for encoded in forms.encoded:
            if encoded in text:
                text = text.replace(encoded, PLACEHOLDER)
    return _CLIENT_KEY.sub(rf"\1{PLACEHOLDER}", text) if "pmk_" in text else text


def _without_escaped(text: str, forms: _Forms) -> str:
    pieces: list[str] = []
    at = 0
    while (anchor_at := text.find(forms.anchor, at)) >= 0:
        begin = max(at, anchor_at - forms.longest)
        end = min(max(begin, anchor_at) + _SLICE, len(text))
        found = forms.escaped.search(text, begin, end + forms.longest)
        if found is not None and found.start() <= end:
            pieces += [text[at : found.start()], PLACEHOLDER]
            at = found.end()
        else:
            pieces.append(text[at:end])
            at = end
            if at == len(text):
                break
    return text if not pieces else "".join([*pieces, text[at:]])


def ends_within_secret(text: str) -> bool:
    """Whether the text ends with the beginning of a known secret, in whatever form, so that the rest may follow.

    What is not more than seven characters of it, and less than half, does not count. For texts that come in pieces.
    """
    plain = _as_meant(text)
    forms = _all_forms(len(known_secrets), next(reversed(known_secrets), ""))
    if len(plain) < forms.shortest or plain[-forms.shortest :] not in forms.joined:  # what nearly all texts are
        return False
    return any(_ends_with_beginning(plain, form) for form in forms.joined.split("\n"))


class _AllForms(NamedTuple):
    """Every form of every secret that has no escapes."""

    joined: str
    """A line each."""
    shortest: int
    """Characters of the shortest beginning that counts."""


@lru_cache(maxsize=1)
def _all_forms(count: int, latest: str) -> _AllForms:
    """`count` and `latest` tell whether they have changed since."""
    forms = [form for secret, of_secret in known_secrets.items() for form in (secret, *of_secret.encoded)]
    return _AllForms("\n".join(forms), min(map(_beginning, forms), default=1))


def _beginning(form: str) -> int:
    return min(_TELLS_NOTHING, len(form) // 2) + 1


def _ends_with_beginning(text: str, form: str) -> bool:
    beginning = form[: _beginning(form)]
    at = text.find(beginning, max(0, len(text) - len(form) + 1))
    while at >= 0:
        if form.startswith(text[at:]):
            return True
        at = text.find(beginning, at + 1)
    return False


_ESCAPE_CUT_SHORT = re.compile(
    r"\\{1,32}(?:u[0-9a-fA-F]{0,3}|x[0-9a-fA-F]?)?\Z|%(?:25){0,5}2?[0-9a-fA-F]?\Z|&[#a-z0-9]{0,6}\Z"
)
_BY_NUMBER = re.compile(r"\\{1,32}(?:u00|x)([0-9a-fA-F]{2})")
_UNQUOTED_MAX = 6


def _as_meant(text: str) -> str:
    """The text with what URLs, JSON and HTML escape as it was before, and without the part of an escape at its end."""
    if not any(sign in text for sign in "\\%&"):
        return text
    text = _BY_NUMBER.sub(lambda escape: chr(int(escape[1], 16)), _ESCAPE_CUT_SHORT.sub("", text)).replace("\\", "")
    for _ in range(_UNQUOTED_MAX):
        text = unquote(text)
    return html.unescape(text)


def redact_bytes(content: bytes) -> bytes:
    """Bytes of any kind without the known keys, which are ASCII."""
    return redact(content.decode("latin-1")).encode("latin-1")


def redact_value(value: Any) -> Any:
    """A value of a log record or a trace's span without the known keys: texts, also in mappings and sequences."""
    return _redact_value(value, _NESTED_MAX)


def _redact_value(value: Any, levels: int) -> Any:
    match value:
        case str():
            return redact(value)
        case bytes():
            return redact_bytes(value)
        case bool() | int() | float() | None:
            return value
        case Mapping() if levels:
            items = cast(Mapping[Any, Any], value).items()
            return {_redact_value(name, 0): _redact_value(below, levels - 1) for name, below in items}
        case list() | tuple() | set() | frozenset() if levels:
            return [_redact_value(below, levels - 1) for below in cast(Iterable[Any], value)]
        case _:
            for text in (str(value), repr(value)):  # a formatter may write either
                redacted = redact(text)
                if redacted != text:
                    return redacted
            return value


_PARTS = re.compile(r"(\\*)(.|\Z)", re.DOTALL)
BACKSLASHES_MAX = 31
"""Before an escaped character: JSON in JSON, five levels deep."""
_LONGEST_ESCAPE = 48
_BACKSLASH = "\\"


class _Part(NamedTuple):
    pattern: str
    longest: int


def _parts(secret: str) -> Iterable[_Part]:
    """Patterns for each character of a secret with the backslashes before it, and how long their matches can be.

    A run of backslashes belongs to one part, because JSON doubles those of the secret and puts one before other signs.
    So no text can be divided among the parts in two ways, and every repetition has a bound: a search takes at most the
    product of the lengths of the text and the secret, whatever they are.
    """
    for backslashes, character in _PARTS.findall(secret):
        if backslashes or character:
            yield _part(len(backslashes), character)


def _part(backslashes: int, character: str) -> _Part:
    longest = _LONGEST_ESCAPE * (backslashes + 1)
    run = rf"\\{{{backslashes},{(BACKSLASHES_MAX + 1) * (backslashes + 1) - 1}}}+"
    escaped_run = rf"(?:\\{{1,{BACKSLASHES_MAX}}}+{_in_json(_BACKSLASH)}|{_elsewhere(_BACKSLASH)}){{{backslashes}}}"
    if character.isalnum() or not character:  # nothing escapes letters
        return _Part(f"(?:{run}|{escaped_run}){character}", longest) if backslashes else _Part(character, 1)
    plain = rf"(?:{re.escape(character)}|(?<=\\){_in_json(character)})"
    single = rf"(?:\\{{0,{BACKSLASHES_MAX}}}+{plain}|{_elsewhere(character)})"
    if not backslashes:
        return _Part(single, longest)
    return _Part(f"(?:{run}(?:{plain}|{_elsewhere(character)})|{escaped_run}{single})", longest)


def _in_json(character: str) -> str:
    """A pattern for what follows the backslash when JSON, or Python, writes a character by its number."""
    return f"(?i:(?:u00|x){ord(character):02x})"


def _elsewhere(character: str) -> str:
    """A pattern for a character as URLs and HTML escape it."""
    code = ord(character)
    entities = {html.escape(character), f"&#{code};", f"&#x{code:x};"} - {character}
    escapes = (rf"%(?:25){{0,5}}{code:02x}", *(re.escape(entity) for entity in sorted(entities)))
    return f"(?i:{'|'.join(escapes)})"


def _encodings(secret: bytes) -> Iterable[str]:
    """Base64 at each of its three alignments, without the characters that the neighbours decide too; hexadecimal."""
    for shift in range(3):
        whole = slice(-(-shift * 8 // 6), (shift + len(secret)) * 8 // 6)
        for encode in (b64encode, urlsafe_b64encode):
            yield encode(b"\0" * shift + secret).decode()[whole]
    yield secret.hex()
    yield secret.hex().upper()


# ---------------------------------------------------------------- logs


class RedactingFilter(logging.Filter):
    """On a handler it takes known keys out of messages, their arguments, extra fields and tracebacks."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        redacted = redact(message)
        if redacted != message:
            record.msg, record.args = redacted, ()
        for name, value in record.__dict__.items():
            if name not in ("msg", "args", "exc_info", "exc_text"):
                record.__dict__[name] = redact_value(value)
        if record.exc_info:
            text = _without_last_break(traceback.format_exception(*record.exc_info))
            redacted = redact(text)
            if redacted != text:  # formatters print the text when there is no exception
                record.exc_info, record.exc_text = None, redacted
        elif record.exc_text:
            record.exc_text = redact(record.exc_text)
        return True


def _without_last_break(lines: Iterable[str]) -> str:
    return "".join(lines).rstrip("\n")


def redact_logs() -> None:
    """Puts the filter on every handler of the root logger, and on the one that serves when there is none; once on each.

    Call it when logging is set up.
    """
    for handler in (*logging.getLogger().handlers, logging.lastResort):
        if handler is not None and not any(isinstance(each, RedactingFilter) for each in handler.filters):
            handler.addFilter(RedactingFilter())


# ---------------------------------------------------------------- what nobody caught


def redact_crashes() -> None:
    """The traceback of an exception that nobody caught, in any thread, goes to stderr without known keys."""

    def crashed(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
        sys.stderr.write(redacted_traceback(error))

    def thread_crashed(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None:
            sys.stderr.write(redacted_traceback(arguments.exc_value))

    sys.excepthook = crashed
    threading.excepthook = thread_crashed


def redacted_traceback(error: BaseException) -> str:
    """The traceback that Python prints, without known keys."""
    return redact("".join(traceback.format_exception(error)))
