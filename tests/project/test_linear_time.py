"""No text, whoever wrote it, takes a time that grows faster than its length: all patterns of the product, attacked."""

import ast
import re
import time
import unicodedata
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import examples

import paymaster
from paymaster import redaction
from paymaster.messages import LLMRequest
from paymaster.providers.bounds import input_bytes
from paymaster.providers.http_errors import classify
from paymaster.redaction import redact, remember
from paymaster.values.normalised import normalised_bytes

pytestmark = pytest.mark.usefixtures("heap_of_a_worker")
ROOT = Path(paymaster.__file__).parent.parent
PATTERNS = import_module("re._parser")
"""How Python itself reads them."""
PLACES = ("paymaster", "activities", "operations", "workflows", "worker.py")
FUNCTIONS = {"compile", "search", "match", "fullmatch", "sub", "subn", "findall", "finditer", "split"}
BUILT = {("paymaster/redaction.py", "compile"), ("paymaster/providers/list_reading.py", "compile")}
"""Patterns that are made of secrets; they are attacked below. Those of a list of prices that was brought: attacked in
tests/unit/providers/test_newer_lists.py."""
LENGTH = 20_000
LIMIT_S = 0.1
"""What is linear needs some milliseconds for such a text; what is quadratic, a second."""
SECRETS = (
    "/api/alerts",
    "/services/T0/B0/Zq7Wm3Kx9?v=1",
    "sk-live+Zq7/Wm3=Kx9%Tf5'Rb2\"Hd8\\Lc4&Vn6",
    "//////////////",
    "\\\\\\\\\\\\\\\\\\",
    "\\/\\/\\/\\/\\/\\/a",
    "%25%25%25%25%25",
    "&amp;&amp;&amp;&amp;",
    "\\u002f\\u002f/x",
    "aaaaaaaaaaaaaaaaaaaa",
    "-a-a-a-a-a-a-a-a-a-b",
)


@pytest.fixture(autouse=True)
def no_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "known_secrets", {})


def seconds(run: Callable[[], object]) -> float:
    """Of this thread's processor: other work on the machine does not count."""
    started = time.thread_time()
    run()
    return time.thread_time() - started


# ---------------------------------------------------------------- every pattern


def source_files() -> Iterator[Path]:
    for place in PLACES:
        path = ROOT / place
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))


def patterns() -> Iterator[tuple[str, str]]:
    """Every pattern in the product, and where it is. Fails for one that cannot be read here and is not known."""
    for path in source_files():
        where, tree = str(path.relative_to(ROOT)), ast.parse(path.read_text())
        named = {ast.unparse(line.targets[0]): line.value for line in tree.body if isinstance(line, ast.Assign)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            written = [keyword.value for keyword in node.keywords if keyword.arg in ("pattern", "regex")]
            function = node.func
            if isinstance(function, ast.Attribute) and ast.unparse(function.value) == "re":
                assert function.attr in FUNCTIONS | {"escape"}, f"{where}: re.{function.attr} is not attacked here"
                if function.attr == "escape" or ((where, function.attr) in BUILT and not is_text(node.args[0])):
                    continue
                written.append(node.args[0])
            for pattern in (named.get(ast.unparse(each), each) for each in written):
                assert is_text(pattern), f"{where}: {ast.unparse(pattern)} cannot be attacked here; write it as a text"
                yield where, str(cast(ast.Constant, pattern).value)


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def literals(parsed: Any) -> Iterator[str]:
    """The pieces of text in a parsed pattern, a character for each class."""
    run = ""
    for operation, argument in parsed:
        match str(operation):
            case "LITERAL":
                run += chr(argument)
                continue
            case "IN":
                yield from (chr(value) for kind, value in argument if str(kind) == "LITERAL")
                yield from (chr(value[0]) for kind, value in argument if str(kind) == "RANGE")
                yield from (
                    "7" if "DIGIT" in str(value) else " a" for kind, value in argument if str(kind) == "CATEGORY"
                )
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                yield from literals(argument[2])
            case "SUBPATTERN":
                yield from literals(argument[3])
            case "BRANCH":
                for branch in argument[1]:
                    yield from literals(branch)
            case "ASSERT" | "ASSERT_NOT":
                yield from literals(argument[1])
            case _:
                pass
        yield run
        run = ""
    yield run


def attacks(pieces: set[str], length: int) -> Iterator[str]:
    """Texts of one piece or two, again and again, alone or with something before and after it that does not fit."""
    found = sorted({*pieces, "a", "\\", "7", " "} - {""}, key=len)[:10]
    whole = "".join(found)
    for repeated in [*found, *(first + second for first in found for second in found), whole, whole[:-1]]:
        text = repeated * (length // len(repeated))
        yield from (text, whole + text + "\n\0")


@pytest.mark.parametrize("pattern", sorted({pattern for _, pattern in patterns()}))
def test_no_pattern_takes_more_than_linear_time(pattern: str) -> None:
    """Searched for anywhere in a text and matched from its beginning, whichever the product does."""
    compiled = re.compile(pattern)
    slowest = 0.0
    for text in attacks(set(literals(PATTERNS.parse(pattern))), LENGTH):
        took_s = seconds(lambda text=text: (compiled.search(text), compiled.fullmatch(text), compiled.match(text)))
        slowest = max(slowest, took_s)
        assert took_s < LIMIT_S, (pattern, text[:80])
    print(f"{pattern}: {slowest * 1000:.2f} ms")


def test_the_search_for_patterns_finds_them_and_the_attack_works() -> None:
    """The one that froze 0.1.0 is caught; and as many patterns are found as there are."""
    found = list(patterns())
    assert len(found) >= 30
    assert ("paymaster/messages/requests.py", "^[A-Za-z0-9_./:-]{1,128}$") in found
    slow = re.compile(r"\\*/api/alerts")
    texts = attacks(set(literals(PATTERNS.parse(slow.pattern))), LENGTH)
    assert any(seconds(lambda text=text: slow.search(text)) > LIMIT_S for text in texts)


# ---------------------------------------------------------------- the patterns that are made of secrets


@pytest.mark.parametrize("secret", SECRETS)
def test_no_text_makes_a_search_for_secrets_long(secret: str) -> None:
    """Whatever the secret is: near-misses, repeated prefixes, and escapes of its signs, 20,000 characters each."""
    remember(secret)
    anchor = max(re.findall("[A-Za-z0-9]+", secret), key=len, default="")
    signs = {sign for sign in secret if not sign.isalnum()}
    escapes = {f"%25{ord(sign):02x}" for sign in signs} | {f"\\u00{ord(sign):02x}" for sign in signs}
    prefixes = {secret[:-1], secret[: len(secret) // 2], secret[1:], anchor}
    for text in attacks(prefixes | signs | escapes | {"%25", "\\" * 31}, 20_000):
        took_s = seconds(lambda text=text: redact(anchor + text + anchor))
        assert took_s < 0.2, text[:80]


@settings(max_examples=examples(30), deadline=None)
@given(
    st.text(st.sampled_from("\\/%&;2u0a5c"), min_size=8, max_size=24),
    st.lists(st.text(st.sampled_from("\\/%&;2u0a5c"), min_size=1, max_size=30), min_size=1, max_size=3),
)
def test_no_secret_of_any_signs_makes_a_search_long(secret: str, parts: list[str]) -> None:
    """Secrets and texts of the signs that escapes are made of."""
    redaction.known_secrets.clear()
    remember(secret)
    repeated = "".join(parts)
    text = secret[:-1] + repeated * (20_000 // len(repeated)) + secret[1:]
    assert seconds(lambda: redact(text)) < 0.5


def test_the_text_that_froze_a_worker_is_searched_in_milliseconds() -> None:
    """Attack 2 of the hostile test, and a hundred times as long."""
    remember("/api/alerts")
    for backslashes in (40_000, 4_000_000):
        text = "the alerts: " + "\\" * backslashes
        took_s = seconds(lambda text=text: redact(text))
        print(f"{backslashes} backslashes: {took_s * 1000:.1f} ms")
        assert took_s < 0.5
    assert redact("\\" * 100_000 + "/api/alerts").endswith("[key]")


def test_a_secret_is_found_across_the_slices_of_a_long_text() -> None:
    """Wherever it is, and as often as it is there, in the text between many that look like it."""
    remember("/api/alerts")
    for length in (65_000, 65_530, 65_536, 131_072, 200_000):
        for around in ("x", "alerts ", "/api/alert", "\\"):
            between = around * (length // len(around))
            assert redact(f"{between}a%2Fapi%2Falerts{between}a/api/alerts") == f"{between}a[key]{between}a[key]"


# ---------------------------------------------------------------- errors and requests


@pytest.mark.parametrize("repeated", ["reached your specified ", "perday", "perminute", "try again in 7", "prompt is "])
def test_a_long_error_is_classified_in_milliseconds(repeated: str) -> None:
    """1.1 MB of it each in the message, the code, and every field and header that is looked at."""
    text = repeated * (1_100_000 // len(repeated))
    headers: dict[str, str] = {"retry-after": text, "retry-after-ms": text, "x-ratelimit-reset-tokens": text}
    details = ",".join(['{"reason": "perday\\n"}'] * 50_000)
    for body in (
        f'{{"error": {{"message": "{text}"}}}}',
        f'{{"error": {{"code": "{text}\\n"}}}}',
        f'{{"error": {{"message": "no", "details": [{details}]}}}}',
    ):
        for status in (400, 429):
            took_s = seconds(lambda status=status, body=body: classify(status, headers, body.encode(), now_ms=0))
            assert took_s < 0.5, (status, body[:60])


@settings(max_examples=examples(200))
@given(
    st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\u0301\u0327\u0f73\u09c7\u09be\u1100\u1161"))
)
def test_the_normalised_size_of_a_text_is_never_too_small(text: str) -> None:
    """Also where the pieces in which it is counted end within marks."""
    for whole in (text, text * 40):
        assert normalised_bytes(whole) >= len(unicodedata.normalize("NFKC", whole).encode())


@pytest.mark.parametrize("characters", ["\u0301\u0327", "\ufdfa", "\u3316", "\u0958", "a\u0301\u0327\u0316"])
def test_the_size_of_a_request_is_known_in_a_fraction_of_a_second(characters: str) -> None:
    """Python normalises 32,000 combining marks in a second, which is quadratic; a workflow task has two."""
    text = characters * (1_800_000 // len(characters.encode()))
    request = LLMRequest(route="r", budget="acme", prompt=text)
    assert seconds(lambda: input_bytes(request)) < 1
