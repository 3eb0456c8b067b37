"""An agent with the client of the version on PYTHONPATH: makes one call for each call id and prints its outcome."""

import asyncio
import gc
import sys

from paymaster import LLMRequest
from paymaster.client import connect, try_generate


async def main(call_ids: list[str]) -> None:
    client = await connect()
    for call_id in call_ids:
        request = LLMRequest(route="writer", budget="acme", prompt="Hello", call_id=call_id, metadata={"by": "agent"})
        result = await try_generate(client, request)
        print(result.outcome.value, result.detail or "", flush=True)
    del client
    gc.collect()
    await asyncio.sleep(0.1)


asyncio.run(main(sys.argv[1:]))
