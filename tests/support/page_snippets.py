"""The snippets of a page of the docs: each begins with a comment that is the name of its file."""

import re

from paymaster_process import ROOT


def snippets(page: str) -> dict[str, str]:
    """File name → content, of the Python in docs/`page`. Fails for a snippet without a name."""
    return _found(page, "python", r"# (\w+\.py)")


def scripts(page: str) -> dict[str, str]:
    """File name → content, of the JavaScript in docs/`page`. Fails for a script without a name."""
    return _found(page, "javascript", r"// (\w+\.mjs)")


def _found(page: str, language: str, name: str) -> dict[str, str]:
    text = (ROOT / "docs" / page).read_text()
    found = dict(re.findall(rf"```{language}\n{name}\n(.*?)```", text, re.DOTALL))
    assert text.count(f"```{language}") == len(found), f"a snippet of docs/{page} has no name of its own"
    return found
