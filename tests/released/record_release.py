"""Records what a released version writes and reads, for `test_old_messages.py`: once, when it is released.

`PYTHONPATH=CHECKOUT .venv/bin/python tests/released/record_release.py VERSION`, with a checkout of that version.
"""

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from paymaster import messages
from paymaster.settings import load_settings
from paymaster.settings.desk_config import desk_config
from paymaster.values import money

FOLDER = Path(__file__).parent
CONFIGURATIONS = FOLDER / "configurations"


def record(version: str) -> None:
    kinds = {
        name: kind
        for module in (messages, money)
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__module__ == module.__name__
    }
    schemas = {name: kinds[name].model_json_schema() for name in sorted(kinds)}
    digests = {
        file.name: desk_config(load_settings(file, environ={})).digest for file in sorted(CONFIGURATIONS.iterdir())
    }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(schema, sort_keys=True)}" for name, schema in schemas.items())
    text = f'{{"config_digests": {json.dumps(digests)},\n"messages": {{\n{lines}\n}}}}\n'
    (FOLDER / f"{version}.json").write_text(text)
    print(f"{version}: {len(schemas)} messages, {len(digests)} configurations of {Path(messages.__file__).parents[1]}")


if __name__ == "__main__":
    record(sys.argv[1])
