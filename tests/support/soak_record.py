"""What a soak wrote down, minute by minute, as CSV and as a picture; and whether something only ever grew."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Sample:
    """How things stood when the promises were checked."""

    minute: float
    calls: int
    """Ended since the beginning."""
    rows: int
    unconfirmed: int
    """Holds of which nobody knows whether they were billed."""
    history_events: int
    """Of the ledger's run that goes on."""
    history_bytes: int
    worker_mib: float
    """Resident memory of the worker that was never killed."""
    temporal_mib: float
    """Resident memory of the server."""
    parked: int
    """Calls that waited just before the agents stopped asking."""


def write(samples: Sequence[Sample], folder: Path) -> None:
    """`soak.csv` and `soak.png`."""
    import matplotlib as mpl  # here: `make test` does without it

    mpl.use("Agg")
    from matplotlib import pyplot

    names = [field.name for field in fields(Sample)]
    with (folder / "soak.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(asdict(sample) for sample in samples)
    minutes = [sample.minute for sample in samples]
    figure, plots = pyplot.subplots(4, 2, figsize=(11, 10), sharex=True)
    for name, plot in zip(names[1:], plots.flat, strict=True):
        plot.plot(minutes, [getattr(sample, name) for sample in samples], marker=".")
        plot.set_title(name.replace("_", " "))
        plot.set_ylim(bottom=0)
        plot.grid(alpha=0.3)
    for plot in plots[-1]:
        plot.set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(folder / "soak.png", dpi=90)
    pyplot.close(figure)


def growth(samples: Sequence[Sample], name: str) -> float:
    """The median of the last quarter ÷ that of the second: about 1 where a size has found its level.

    The first quarter is left out: caches fill, programs are imported.
    """
    values = [float(getattr(sample, name)) for sample in samples]
    quarter = max(len(values) // 4, 1)
    return median(values[-quarter:]) / max(median(values[quarter : 2 * quarter] or values), 1.0)
