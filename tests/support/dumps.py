"""Dumps of a database by PostgreSQL's own programs, and putting them back."""

import asyncio
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import make_url

from paymaster.devstack.postgres import postgres_programs
from paymaster.storage.engine import create_engine


async def dump(database_url: str, file: Path) -> None:
    """The whole database, in PostgreSQL's own form."""
    assert await _run("pg_dump", database_url, "--format=custom", f"--file={file}") == ""


async def put_back(file: Path, database_url: str, *options: str) -> str:
    """Into a database that is there, and empty; what pg_restore complains of."""
    return await _run("pg_restore", database_url, *options, str(file))


async def empty(database_url: str) -> None:
    """In place of whatever there is a database without anything; who was connected is not any more."""
    address = make_url(database_url)
    admin = create_engine(address.set(database="postgres").render_as_string(hide_password=False))
    async with admin.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text(f"DROP DATABASE IF EXISTS {address.database} WITH (FORCE)"))
        await connection.execute(text(f"CREATE DATABASE {address.database}"))
    await admin.dispose()


async def _run(program: str, database_url: str, *options: str) -> str:
    address = make_url(database_url)
    where = [f"--host={address.query['host']}", f"--username={address.username}", f"--dbname={address.database}"]
    command = await postgres_programs(lambda line: None) / program
    process = await asyncio.create_subprocess_exec(
        command, *where, *options, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert output or process.returncode == 0
    return output.decode()
