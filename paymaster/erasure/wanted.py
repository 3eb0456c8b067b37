"""Which calls are to be erased. Pure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from paymaster.messages import call_id_of
from paymaster.messages.temporal_names import first_generation
from paymaster.values.metadata import metadata_of


class Wanted(NamedTuple):
    """Calls by their ids, or all whose metadata have what is named."""

    call_ids: tuple[str, ...] = ()
    """Without generations, all of which are meant."""
    metadata: Mapping[str, str] = {}

    @classmethod
    def of(cls, call_ids: Sequence[str], metadata: Sequence[str]) -> Self:
        """`call_ids`: also as ids of their workflows. `metadata`: each as KEY=VALUE; a call has to have all of them.

        Raises ValueError for none, for both, and for what is written otherwise.
        """
        if bool(call_ids) == bool(metadata):
            raise ValueError("say which calls: by --call ID, or by --metadata KEY=VALUE, and not by both")
        named = metadata_of(metadata)
        ids = dict.fromkeys(first_generation(call_id_of(each)) for each in call_ids)
        if not all(ids):
            raise ValueError("--call needs an id, as `paymaster calls list` shows it")
        return cls(tuple(ids), named)

    def is_meant(self, metadata: Mapping[str, str]) -> bool:
        """Whether these metadata have all that is named; where calls are named by their ids, none has."""
        return bool(self.metadata) and self.metadata.items() <= metadata.items()

    def __str__(self) -> str:
        if self.call_ids:
            return f"{'call' if len(self.call_ids) == 1 else 'calls'} {', '.join(self.call_ids)}"
        return "calls with " + " and ".join(f"{key}={value}" for key, value in self.metadata.items())
