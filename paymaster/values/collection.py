"""Python's garbage collector, while many objects are made."""

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Generator[None]:
    """Nothing of what is being made is garbage; to look for some takes as long as all the rest.

    Nor is it afterwards: what was made is taken for old at once, without a look at each object in between.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()
        if collects:
            gc.enable()
