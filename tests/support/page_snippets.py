"""The Python snippets of a page of the docs: each begins with a comment that is the name of its file."""

import re

from paymaster_process import ROOT


def snippets(page: str) -> dict[str, str]:
    """File name → content, of docs/`page`. Fails for a snippet without a name."""
    text = (ROOT / "docs" / page).read_text()
    found = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL))
    assert text.count("```python") == len(found), f"a snippet of docs/{page} has no name of its own"
    return found
