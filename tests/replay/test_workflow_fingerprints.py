"""The commands that workflows issue are those of the committed fingerprints, and their code imports nothing harmful."""

import ast
import json
import subprocess
import sys

from tests.replay.workflow_fingerprints import BASELINE, ROOT, fingerprints, of_this_checkout

ADVICE = """
{name} issues other commands, or in another order. The history of a workflow that runs now, and tests/replay/histories,
would no longer replay: it would stand still for ever. Put the new way behind `workflow.patched("what it is")`, and keep
the old one for as long as workflows that began before may run. Only what no history can hold yet (a new workflow, a
branch that nobody could reach) needs no patch. Then: make fingerprints, and make histories for a new one.
"""
SOURCE = """
@workflow.defn
class Flow:
    @workflow.run
    async def run(self):
        await workflow.execute_activity("first", id="x")
        {then}
        await self._late()

    async def _late(self):
        await workflow.wait_condition(lambda: True, timeout=HOUR)

    def pure(self):
        return sorted(self.words)
"""
HARMFUL = {
    *("httpx", "httpcore", "aiohttp", "requests", "sqlalchemy", "asyncpg", "alembic", "azure", "genai_prices"),
    *("typer", "rich", "structlog", "prometheus_client", "opentelemetry.sdk"),
    *("paymaster.cli", "paymaster.devstack", "paymaster.storage", "paymaster.reports", "paymaster.testing"),
}
"""What workflow code must not even import: it talks to the world, or takes a second to load in each worker."""
UNPREDICTABLE = {
    *("os", "io", "pathlib", "random", "secrets", "socket", "subprocess", "threading", "uuid", "ssl", "tempfile"),
    *("urllib.request", "http.client", "concurrent.futures", "multiprocessing"),
}
"""Modules of Python whose answers replay would not repeat."""
CLOCKS = {"time.time", "time.time_ns", "time.monotonic", "time.perf_counter", "datetime.now", "datetime.utcnow"}


def test_no_workflow_issues_other_commands_than_it_did() -> None:
    before, now = json.loads(BASELINE.read_text()), of_this_checkout()
    for name in before.keys() | now.keys():
        assert now.get(name, []) == before.get(name, []), ADVICE.format(name=name)


def test_a_fingerprint_is_what_replay_compares() -> None:
    def of(then: str) -> dict[str, list[str]]:
        return fingerprints([SOURCE.format(then=then)])

    plain = of("pass")
    assert plain == {"Flow.run": ["execute_activity('first', id='x')", "→ _late"], "Flow._late": ["timer(HOUR)"]}
    assert of("self.words = self.pure()") == plain
    assert of("await workflow.sleep(5)")["Flow.run"][1] == "sleep()"
    patched = of("if workflow.patched('new'): await self._late()")
    assert patched["Flow.run"][1:] == ["patched('new')", "→ _late", "→ _late"]
    assert of("workflow.continue_as_new(self.words)")["Flow.run"][1] == "continue_as_new()"


def test_workflow_code_imports_nothing_that_talks_to_the_world() -> None:
    modules = [*(f"workflows.{path.stem}" for path in (ROOT / "workflows").glob("[a-z]*.py")), "paymaster.agent"]
    program = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(found.stdout.split())
    assert imported & HARMFUL == set()


def test_it_asks_nothing_that_replay_would_not_repeat() -> None:
    """Temporal's sandbox would say so too, but Paymaster's workflows run without it."""
    for path in [*(ROOT / "workflows").glob("*.py"), *(ROOT / "paymaster" / "admission").glob("*.py")]:
        tree = ast.parse(path.read_text())
        imported: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module)
        assert imported & UNPREDICTABLE == set(), path
        asked = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        allowed = {"time.time_ns"} if path.parent.name == "workflows" else set[str]()  # in a query
        assert asked & CLOCKS <= allowed, path
        assert not {"open", "input", "print"} & asked, path
