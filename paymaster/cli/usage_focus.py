"""`paymaster usage --focus FILE`: what is stored, in the FinOps Foundation's columns."""

from pathlib import Path
from typing import TYPE_CHECKING

from paymaster.cli.connection import open_database, tell_if_slow
from paymaster.cli.exits import CommandError
from paymaster.cli.present import csv_text, print_line
from paymaster.cli.usage_pruned import lacks_what_is_pruned, tell_what_is_pruned

if TYPE_CHECKING:
    from paymaster.reports.focus_files import FocusFile
    from paymaster.reports.usage import Scope
    from paymaster.settings import Settings


async def write_focus(settings: "Settings", path: Path, scope: "Scope") -> None:
    """Parquet where the file's name ends in .parquet, else CSV. The file is there when it is complete.

    Raises CommandError when the database cannot be used, or the file not be written.
    """
    from paymaster.reports.focus_files import export_focus
    from paymaster.values.money import format_usd
    from paymaster.values.plurals import counted

    part = path.with_name(f"{path.name}.part")
    try:
        file = _opened(part, parquet=path.suffix.lower() == ".parquet")
        try:
            async with open_database(settings) as engine, tell_if_slow("writing the stored attempts"):
                providers = _providers(settings)
                found = await export_focus(engine, file, ledger=settings.ledger.name, providers=providers, **scope)
                lacks_before = await lacks_what_is_pruned(engine, settings, scope)
        finally:
            file.close()
        part.replace(path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
    tell_what_is_pruned(lacks_before)
    print_line(f"wrote {path}: {counted(found.rows, 'row')}, {format_usd(found.billed_nanos)}")


def _opened(part: Path, *, parquet: bool) -> "FocusFile":
    from paymaster.reports.focus_files import FocusCsv, FocusParquet

    return FocusParquet(part) if parquet else FocusCsv(part, csv_text)


def _providers(settings: "Settings") -> dict[str, str]:
    from paymaster.providers.provider_names import provider_at

    found = {name: provider_at(service.base_url) for name, service in settings.services.items()}
    return {name: provider.name for name, provider in found.items() if provider}
