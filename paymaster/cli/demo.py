"""`paymaster demo`: a content agent with a budget too small for its work, on a real model, from start to books."""

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from paymaster.cli.budget import print_accounts
from paymaster.cli.connection import command_name, run_async, until_ctrl_c
from paymaster.cli.exits import EXIT_NO, CommandError
from paymaster.cli.present import print_line, print_note, print_table
from paymaster.cli.reconcile import print_comparison
from paymaster.cli.worker import worker_program

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from paymaster.devstack.local import LocalPaymaster
    from paymaster.messages import DeskStatus

TOPIC = "how tides work"
BUDGET = "demo"
OUTPUT_TOKENS_MAX = 80
"""Of each answer: two or three sentences, of which the first are shown."""
CAP_USD = "0.0008"
"""Room for the bound of any one call, but not for another one after two or three answers: parking is certain."""
RAISE_BY_USD = "0.01"
"""Enough for the rest of the article."""
LOOK_EVERY_S = 0.25
"""Each look is a query of the ledger and one of the database, beside a model that needs the processor."""
ENDS_WITHIN_S = 300.0
MY_ROUTE = "openai/gpt-5.6-luna"
MY_SERVICE = """
[services.openai]
api = "openai"
base_url = "https://api.openai.com/v1"
key = "openai-api-key"

[services.openai.models."gpt-5.6-luna"]
max_output_tokens = 120
price = { input = "0.20", cached_input = "0.02", output = "1.20" } # genai-prices 0.2.3
"""


def demo(
    use_my_keys: Annotated[
        bool,
        typer.Option("--use-my-keys", help="Put OpenAI first, with the OPENAI_API_KEY of this shell. Costs money."),
    ] = False,
    temporal: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Use this Temporal server, in a new namespace, and start none."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running afterwards, until Ctrl-C.")] = False,
) -> None:
    """Show it all on this machine: an agent on a real model, parked at its cap, raised by a signal, finished."""
    if use_my_keys and not os.environ.get("OPENAI_API_KEY"):
        raise CommandError("--use-my-keys needs OPENAI_API_KEY to be set in this shell")
    run_async(_demo(use_my_keys=use_my_keys, temporal=temporal, keep=keep))


async def _demo(*, use_my_keys: bool, temporal: str | None, keep: bool) -> None:
    from paymaster.devstack import EmbeddedStack, StackError
    from paymaster.devstack.local import LocalPaymaster
    from paymaster.storage.engine import create_engine
    from paymaster.values.money import format_usd, usd_to_nanos

    ledger = "demo"
    print_line("Paymaster demo: a content agent whose budget is too small for its work.\n")
    if use_my_keys:
        total = format_usd(usd_to_nanos(CAP_USD) + usd_to_nanos(RAISE_BY_USD))
        print_line(f"With your OpenAI key: {MY_ROUTE} is asked first. The most this can cost is {total}.\n")
    servers = "PostgreSQL" if temporal else "Temporal, PostgreSQL"
    print_note(f"Starting {servers} and a language model on this machine …")
    with tempfile.TemporaryDirectory(prefix="paymaster-demo-") as folder:
        config_file = _write_config(Path(folder), ledger, use_my_keys=use_my_keys)
        try:
            async with LocalPaymaster(
                EmbeddedStack(temporal=temporal is None, progress=print_note),
                config_file,
                worker_program(),
                ledger=ledger,
                keep_settings=False,
                local_model="local",
                other_temporal=temporal,
                progress=print_note,
            ) as local:
                engine = create_engine(local.stack.database_url)
                try:
                    await _Story(local, engine).tell()
                finally:
                    await engine.dispose()
                if keep:
                    await _keep_running(local)
        except StackError as error:
            raise CommandError(str(error)) from None


def _write_config(folder: Path, ledger: str, *, use_my_keys: bool) -> Path:
    template = (Path(__file__).parent / "demo.toml").read_text()
    route = f'["{MY_ROUTE}", "local/smollm2-135m"]' if use_my_keys else '["local/smollm2-135m"]'
    config_file = folder / "paymaster.toml"
    config_file.write_text(
        template.replace("{ledger}", ledger).replace("{route}", route).replace("{cap}", CAP_USD)
        + (MY_SERVICE if use_my_keys else "")
    )
    return config_file


class _Story:
    """What happens, told while it happens."""

    def __init__(self, local: "LocalPaymaster", engine: "AsyncEngine") -> None:
        self._local = local
        self._engine = engine
        self._told: set[str] = set()

    async def tell(self) -> None:
        from paymaster.messages.temporal_names import CONTENT_AGENT_WORKFLOW, calls_task_queue

        client = self._local.client
        article_id = f"article-{uuid4().hex[:6]}"
        print_line(f"Temporal UI   {self._where_to_look()}")
        print_line(f"\n1. The agent writes about {TOPIC!r}. Budget {BUDGET!r} has a cap of ${CAP_USD} a day.")
        agent = await client.start_workflow(
            CONTENT_AGENT_WORKFLOW,
            {
                "topic": TOPIC,
                "sections": 3,
                "budget": f"{BUDGET}/agent",
                "max_output_tokens": OUTPUT_TOKENS_MAX,
            },
            id=article_id,
            task_queue=calls_task_queue(self._local.ledger.name),
        )
        result = asyncio.create_task(agent.result())
        try:
            await self._watch_until_parked(result)
            print_line(f"\n2. A budget admin raises the cap by ${RAISE_BY_USD} with a signal:")
            await self._raise_cap()
            await self._watch_until_done(result)
        finally:
            result.cancel()
        self._show_article(result.result())
        await self._show_calls()
        await self._show_books()

    def _where_to_look(self) -> str:
        page = f"/namespaces/{self._local.namespace}/workflows"
        if self._local.has_own_temporal:
            return f"{self._local.stack.temporal_ui_url}{page}"
        return f"{page} at {self._local.temporal_address}; the namespace is left there"

    async def _watch_until_parked(self, result: "asyncio.Task[Any]") -> None:
        status = await self._watch(result, until_parked=True)
        if status.parked == 0 or result.done():
            raise CommandError("the article was finished without meeting its cap, which should be impossible", EXIT_NO)
        for call in status.waiting:
            print_line(f"   ⏸ {_step(call.workflow_id):<10} parked: {call.detail}")
        print_line("   Parked calls cost nothing: no worker, no polling. Here they would wait until midnight UTC.")

    async def _watch_until_done(self, result: "asyncio.Task[Any]") -> None:
        await self._watch(result, until_parked=False)
        await self._tell_new_calls()

    async def _watch(self, result: "asyncio.Task[Any]", *, until_parked: bool) -> "DeskStatus":
        """Tells of each finished call, until the article is done, or until calls are parked and nothing is running."""
        deadline = time.monotonic() + ENDS_WITHIN_S
        while True:
            status = await self._local.ledger.status()
            await self._tell_new_calls()
            if result.done() or (until_parked and status.parked and not status.holds and not status.outbox):
                return status
            if time.monotonic() > deadline:
                raise CommandError(f"not finished after {ENDS_WITHIN_S:.0f} s; see {self._local.worker_log}", EXIT_NO)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _tell_new_calls(self) -> None:
        from paymaster.reports.calls import calls_report
        from paymaster.values.money import format_usd

        for call in await calls_report(self._engine, ledger=self._local.ledger.name):
            if call.call_id not in self._told:
                self._told.add(call.call_id)
                tokens = f"{call.input_tokens} → {call.output_tokens} tokens"
                print_line(f"   ✓ {_step(call.call_id):<10} {tokens:<20} {format_usd(call.cost_nanos)}")

    async def _raise_cap(self) -> None:
        from paymaster.messages import RaiseCap

        change = RaiseCap(
            account=f"budget:{BUDGET}", window="day", by=RAISE_BY_USD, reason="the article is worth it", who="demo"
        )
        print_line(f"   raise_cap {change.model_dump_json(exclude_defaults=True)}")
        await self._local.ledger.signal_raise_cap(change)

    def _show_article(self, article: dict[str, Any]) -> None:
        print_line("\n3. The article")
        print_line(f"   {_first_lines(article['introduction'] or '(no introduction)')}")
        for section in article["sections"]:
            print_line(f"\n   {section['title']}\n   {_first_lines(section['text'] or section['problem'])}")

    async def _show_calls(self) -> None:
        from paymaster.reports.calls import calls_report
        from paymaster.values.money import format_usd

        calls = await calls_report(self._engine, ledger=self._local.ledger.name)
        print_line("\n4. What it cost: every attempt is a row in PostgreSQL, with the model's own token counts")
        print_table(
            ("call", "service/model", "status", "input", "output", "cost"),
            [
                (
                    _step(call.call_id),
                    f"{call.service}/{call.model}",
                    call.status,
                    str(call.input_tokens),
                    str(call.output_tokens),
                    format_usd(call.cost_nanos),
                )
                for call in calls
            ],
            right=("input", "output", "cost"),
        )

    async def _show_books(self) -> None:
        from paymaster.storage.account_sums import posted_by_account

        status = await self._local.ledger.status()
        stored = await posted_by_account(self._engine, status.ledger, [each.account for each in status.accounts])
        print_line("\n5. The budget: paymaster budget show")
        print_accounts(status, [each for each in status.accounts if each.account == f"budget:{BUDGET}"])
        print_line("\n6. Do the rows and the ledger's books agree? paymaster reconcile")
        if print_comparison(status, stored):
            raise CommandError("the books do not agree, which should be impossible", EXIT_NO)
        print_line(f"\nNext: `{command_name()} dev` keeps all this running for your own agent; see README.md.")


async def _keep_running(local: "LocalPaymaster") -> None:
    print_line("\nStill running, until Ctrl-C. In another terminal:")
    for name, value in local.environment().items():
        print_line(f"  export {name}='{value}'")
    print_line(f"  {command_name()} budget show")
    await until_ctrl_c(local.until_worker_ends())


def _step(call_id: str) -> str:
    return call_id.rsplit("/", 1)[-1]


def _first_lines(text: str, characters: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= characters else text[:characters].rsplit(" ", 1)[0] + " …"
