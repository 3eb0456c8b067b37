"""The encodings of OpenAI's tokenizer, which it would fetch: the files of them that the package bpe-openai has."""

import gzip
from hashlib import sha1
from importlib.util import find_spec
from pathlib import Path

PUBLISHED = "https://openaipublic.blob.core.windows.net/encodings"
"""Where OpenAI's package looks for them. It checks what it gets by a digest of its own."""
NAMES = ("o200k_base", "cl100k_base")


def kept_encodings(folder: Path) -> Path:
    """The folder with the files as the tokenizer keeps them, for TIKTOKEN_CACHE_DIR."""
    found = find_spec("bpe_openai")
    assert found is not None
    assert found.origin is not None
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        packed = Path(found.origin).parent / "data" / f"{name}.tiktoken.gz"
        kept_as = sha1(f"{PUBLISHED}/{name}.tiktoken".encode(), usedforsecurity=False).hexdigest()
        (folder / kept_as).write_bytes(gzip.decompress(packed.read_bytes()))
    return folder
