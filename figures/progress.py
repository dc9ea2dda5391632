"""One bar over all figures on a terminal; elsewhere a line now and then."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Self

from tqdm import tqdm

if TYPE_CHECKING:
    from sims.experiments.runner import Progress

EVERY = 30.0  # seconds between two lines where nobody watches
DRAWING = 1.5  # core-seconds that a figure takes to be drawn and tested, about
FROM = 0.02  # share of the work from which it tells how long the rest takes


class Bar:
    """How far some figures are. Work is counted in predicted core-seconds, of runs and of drawing, so that half of the
    bar is half of the time; it may grow where more must be run than was foreseen, as twins of records."""

    def __init__(self, figures: int) -> None:
        self.figures, self.drawn = figures, 0
        self.start = self.told = time.monotonic()
        self.watched = sys.stderr.isatty()
        self._lock = threading.Lock()
        layout = "{desc:72.72} {percentage:3.0f}%|{bar:20}| {elapsed}<{remaining}"
        self._said = "reading"
        self._work, self._work_done = 0.0, 0.0  # of runs
        # smoothing: what is left is told by the whole time until now, since a figure is drawn in a burst; miniters:
        # after a large step, small ones are shown too
        self._bar = tqdm(
            total=1, bar_format=layout, leave=False, disable=not self.watched, smoothing=0, miniters=0, file=sys.stderr
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def show(self, progress: Progress) -> None:
        """What the runner says of itself."""
        with self._lock:
            self._work, self._work_done = progress.work, progress.work_done
            self._said = f"{progress.cached + progress.done} of {progress.asked} records"
            self._said += f"; {progress.running or 'reading'}" if self.watched else ""
            self._tell()

    def _tell(self) -> None:
        """Say where things stand. The caller holds the lock."""
        said = f"{self.drawn} of {self.figures} figures; {self._said}"
        work, done = self._work + DRAWING * self.figures, self._work_done + DRAWING * self.drawn
        if self.watched:
            self._bar.total = work
            self._bar.set_description_str(said, refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self.told > EVERY and done > 0:
            self.told = time.monotonic()
            share = done / work
            left = (self.told - self.start) * (1 - share) / share / 60
            when = f"; about {left:.1f} min left" if share >= FROM else ""
            print(f"{said}; {share:.0%} of the predicted work{when}", file=sys.stderr)

    def finished(self, lines: list[str]) -> None:
        """A figure is drawn; what there is to say of it."""
        with self._lock:
            self.drawn += 1
            tqdm.write("\n".join([*lines, f"({self.drawn} of {self.figures} figures drawn)"]))
            self._tell()
