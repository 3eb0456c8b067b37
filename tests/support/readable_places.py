"""Where a key could be read by somebody who has none: all that a site stores and writes."""

from paymaster_process import Site, readable_history
from sqlalchemy import text
from stored_bodies import stored_bodies


async def everything_readable(site: Site) -> dict[str, str]:
    """Histories with their payloads decoded and as they are, logs, and every column of every row."""
    histories: list[str] = []
    async for execution in site.client.list_workflows():
        handle = site.client.get_workflow_handle(execution.id, run_id=execution.run_id)
        histories += [await readable_history(handle), (await handle.fetch_history()).to_json()]
    rows: list[str] = []
    async with site.engine.connect() as connection:
        tables = await connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        for table in tables.all():
            found = await connection.scalars(text(f'SELECT to_jsonb(t)::text FROM "{table}" AS t'))
            rows += found.all()
    bodies = b"\n".join((await stored_bodies(site.engine)).values()).decode()
    places = {"histories": "\n".join(histories), "logs": site.logs(), "rows": "\n".join(rows)}
    return places | {"stored answers": bodies}
