"""What a run writes while it trains: a row of results.csv per epoch, and TensorBoard's events."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolov2.errors import UserError

FIXED = ("epoch", "step", "seen", "lr")


class Log:
    """Rows of numbers, one per epoch.

    Parameters
    ----------
    folder : Path
        Of the run: results.csv is there, and TensorBoard's file if the package ``tensorboard`` is installed.
    columns : sequence of str
        Names behind the first four: the terms of the loss, the metric, seconds.
    epochs, step : int
        Where the run stands: rows and events after that are dropped, their epochs are done again.
    """

    def __init__(self, folder: Path, columns: Sequence[str], epochs: int, step: int):
        self.path = folder / "results.csv"
        self.columns = (*FIXED, *columns)
        rows = self._rows(epochs)
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            csv.writer(file).writerows([self.columns, *rows])
        partial.replace(self.path)
        self.board = _tensorboard(folder, step)

    def _rows(self, epochs: int) -> list[list[str]]:
        if not epochs or not self.path.exists():
            return []
        try:
            with self.path.open(newline="") as file:
                header, *rows = csv.reader(file)
            if tuple(header) != self.columns:
                raise ValueError("other columns")
            return [row for row in rows if len(row) == len(header) and int(row[0]) <= epochs]
        except (OSError, ValueError, UnicodeDecodeError) as error:
            raise UserError(
                f"{self.path}: not the table of this run ({error}); move it away to resume"
            ) from None

    @property
    def seconds(self) -> float:
        """Time of the run so far, by the last row."""
        rows = self._rows(1 << 60)
        return float(rows[-1][-1]) if rows else 0.0

    def write(self, values: Mapping[str, float | None]) -> None:
        """Add an epoch; None leaves its place empty."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([_text(name, values[name]) for name in self.columns])
        if self.board is not None:
            for name, value in values.items():
                if value is not None and name not in ("epoch", "step"):
                    self.board.add_scalar(name, value, values["step"])
            self.board.flush()


def _text(name: str, value: float | None) -> str:
    """A number as results.csv has it."""
    if value is None:
        return ""
    return f"{value:.1f}" if name == "seconds" else f"{value:.6g}"


def _tensorboard(folder: Path, step: int) -> Any:
    """A writer of events, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
