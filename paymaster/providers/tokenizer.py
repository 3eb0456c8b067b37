"""OpenAI's tokenizer, which is the package `tiktoken`. Its encodings are no part of it: it fetches each once from
where OpenAI publishes it, checks its digest and keeps it in the folder that TIKTOKEN_CACHE_DIR names.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

from paymaster.providers.provider import CannotCount

if TYPE_CHECKING:
    from tiktoken import Encoding

ResultT = TypeVar("ResultT")

LOAD_WITHIN_S = 10.0
"""For the file of an encoding, where it is not kept yet. `tiktoken` itself sets no limit."""
_LOAD_AGAIN_AFTER_S = 600.0
"""After a file could not be had: until then no call waits for it."""
_PIECE_CHARACTERS = 100_000
"""Of a text, tokenized at once; where a word is cut in two it may count one more."""
_MODELS_KEPT = 1_000
_MISSING = (
    "the encoding {name} of OpenAI's tokenizer cannot be had here ({why}); let this machine reach "
    "openaipublic.blob.core.windows.net once, or copy the folder that TIKTOKEN_CACHE_DIR names from a machine that "
    "can; until then bounds are made of bytes"
)


def is_installed() -> bool:
    return find_spec("tiktoken") is not None


@lru_cache(_MODELS_KEPT)
def encoding_name(model: str) -> str | None:
    """The encoding of a model, by its name. None: the installed version does not know it, or none is installed."""
    if not is_installed():
        return None
    from tiktoken.model import encoding_name_for_model

    try:
        return encoding_name_for_model(model)
    except KeyError:
        return None


class Tokenizer:
    """Counts tokens beside the event loop. Nothing that hangs in it holds up the end of the process."""

    def __init__(self) -> None:
        self._encodings: dict[str, Encoding] = {}
        self._loading: dict[str, asyncio.Future[Encoding]] = {}
        self._missing: dict[str, tuple[float, str]] = {}
        """By the name of an encoding, when it could not be had, by the monotonic clock, and why."""
        self._one_at_a_time = asyncio.Lock()  # so that many long texts leave processors to everything else

    async def count(self, model: str, text: str) -> int:
        """The tokens of a text that comes before this model. Raises CannotCount."""
        name = encoding_name(model)
        if name is None:
            raise CannotCount(f"the tokenizer does not know {model!r}")
        encoding = await self.encoding(name)
        async with self._one_at_a_time:
            return await _beside(lambda: _count(encoding, text))

    async def encoding(self, name: str) -> "Encoding":
        """Raises CannotCount, with what to do, where it cannot be had within 10 s or a while ago could not be."""
        if name in self._encodings:
            return self._encodings[name]
        failed_at, why = self._missing.get(name, (0.0, ""))
        if why and time.monotonic() < failed_at + _LOAD_AGAIN_AFTER_S:
            raise CannotCount(why)
        if name not in self._loading:
            self._loading[name] = asyncio.ensure_future(asyncio.wait_for(_beside(lambda: _load(name)), LOAD_WITHIN_S))
        loading = self._loading[name]
        try:
            self._encodings[name] = await asyncio.shield(loading)
        except Exception as error:  # whatever the package and what it fetches with may raise
            why = _MISSING.format(name=name, why=f"{type(error).__name__}")
            self._missing[name] = time.monotonic(), why
            raise CannotCount(why) from None
        finally:
            if loading.done():
                self._loading.pop(name, None)
        return self._encodings[name]


def _load(name: str) -> "Encoding":
    import tiktoken

    return tiktoken.get_encoding(name)


def _count(encoding: "Encoding", text: str) -> int:
    """What a special token looks like is text here, as it is to the provider."""
    starts = range(0, len(text), _PIECE_CHARACTERS)
    return sum(len(encoding.encode_ordinary(text[start : start + _PIECE_CHARACTERS])) for start in starts)


async def _beside(work: Callable[[], ResultT]) -> ResultT:
    """The result of work in a thread of its own, for which the end of the process does not wait."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[ResultT] = loop.create_future()

    def tell(act: Callable[[], None]) -> None:
        def unless_given_up() -> None:
            if not done.done():
                act()

        loop.call_soon_threadsafe(unless_given_up)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            failed = error
            tell(lambda: done.set_exception(failed))
        else:
            tell(lambda: done.set_result(result))

    threading.Thread(target=run, name="paymaster-tokenizer", daemon=True).start()
    return await done
