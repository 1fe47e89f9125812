"""What a person sees on the terminal: progress on stderr, tables on stdout."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tasks.context import Context
from unclip.artifact import Artifact
from unclip.data.funnel import lost_rows

MAX_NAME = 24  # characters of a first column that are never broken
WIDE = 100  # columns; in fewer, those of a table stand closer together
out = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, highlight=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str] = ()) -> Table:
    """A table that fits a terminal; the columns in `numbers` are set to the right."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    is_narrow = made.collapse_padding = out.width < WIDE
    for column in columns:
        is_number = column in numbers
        heading = column.replace(" ", "\n") if is_narrow and is_number else column  # as narrow as its numbers
        made.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    listed = list(rows)
    made.columns[0].min_width = min(max((len(row[0]) for row in listed), default=0), MAX_NAME)
    for row in listed:
        made.add_row(*row)
    return made


def size(num_bytes: float | None) -> str:
    """Bytes for people: `3.4 MB`."""
    if num_bytes is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def histogram(counts: Sequence[int]) -> str:
    """A histogram in one line."""
    most = max(counts, default=0) or 1
    return "".join(" ▁▂▃▄▅▆▇█"[-(-8 * count // most)] for count in counts)


class Bars:
    """A progress bar for the stage at work; a line for each that is done. Plain lines where nobody watches live."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description:>15}"),
            BarColumn(30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self.bars: dict[str, TaskID] = {}
        self.shown: dict[str, int] = {}

    def __enter__(self) -> "Bars":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def started(self, stage: str, context: Context, total: int) -> None:
        """Open the stage's bar."""
        self.bars[stage] = self.progress.add_task(stage, total=1.0, figures="")

    def progressed(self, stage: str, done: float, total: float, figures: dict[str, float]) -> None:
        """Move the stage's bar; where there is none, a line every tenth of the way."""
        share = done / max(total, 1e-9)
        text = " ".join(f"{name} {value:.4g}" for name, value in figures.items() if name == "loss")
        self.progress.update(self.bars[stage], completed=share, figures=text)
        tenth = int(share * 10)
        if self.progress.disable and tenth > self.shown.get(stage, 0):
            self.shown[stage] = tenth
            err.print(f"{stage:>15} {share:4.0%} {text}")

    def finished(self, stage: str, artifacts: tuple[Artifact, ...], num_built: int, seconds: float) -> None:
        """Close the stage's bar; say what was made."""
        if stage in self.bars:
            self.progress.remove_task(self.bars.pop(stage))
            what = f"{num_built} of {len(artifacts)} made" if len(artifacts) > 1 else f"made {artifacts[0].key[:12]}"
            refused: Counter[str] = Counter()
            for artifact in artifacts:
                metrics = artifact.manifest()["metrics"]
                refused.update(metrics.get("refused", {}))
                refused.subtract(metrics.get("asked_again", {}))  # a row counts for its last fate
            refused = +refused
            lost = f"; {lost_rows(refused)}" if refused else ""
            err.print(f"{stage:>15} {what} in {seconds:.1f} s{lost}")
            if stage == "download" and refused:
                from flows.downloads import fates_table

                err.print(fates_table(refused))

    def failed(self, stage: str, error: BaseException) -> None:
        """Close the stage's bar."""
        if stage in self.bars:
            self.progress.remove_task(self.bars.pop(stage))
