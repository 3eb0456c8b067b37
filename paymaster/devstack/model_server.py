"""The program that serves the local model: `python -I model_server.py MODEL_FILE ALIAS PORT_FILE`.

A process of its own, because the model would take the cores and the memory of whoever loads it. It uses nothing of this
package, so that it starts quickly.
"""

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

REQUESTS_AT_ONCE = 4
CONTEXT_TOKENS = 4_096  # of each request; 8 kB of text in, and half as much out
_PROMPT_CACHE_MIB = 256
_LOG_ERRORS_ONLY = 1


def main(model_file: str, alias: str, port_file: str) -> None:
    """Serves until it is killed. Writes the port, chosen by the operating system, when the model is loaded."""
    xllamacpp: Any = importlib.import_module("xllamacpp")  # a C extension without types
    params = xllamacpp.CommonParams()  # listens on 127.0.0.1, port 0
    params.model.path = model_file
    params.model_alias = {alias}
    params.n_parallel = REQUESTS_AT_ONCE
    params.n_ctx = REQUESTS_AT_ONCE * CONTEXT_TOKENS
    # llama.cpp's threads spin while they wait for each other: one too many for the free cores is ten times slower.
    threads = max(1, (os.cpu_count() or 1) // 2)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_ram_mib = _PROMPT_CACHE_MIB
    params.verbosity = _LOG_ERRORS_ONLY
    params.warmup = params.fit_params = False  # one answer for nothing, and a search for what fits into a GPU's memory
    params.ui = False
    params.endpoint_slots = False  # it shows the prompts
    server = xllamacpp.Server(params)
    unfinished = Path(port_file + ".unfinished")
    unfinished.write_text(server.listening_address.rpartition(":")[2])
    os.replace(unfinished, port_file)  # whoever waits for the file must not read half of it
    while True:
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
