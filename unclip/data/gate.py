"""Stops a hopeless download: as soon as too few rows of a shard can still succeed, the rest is not fetched."""

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from unclip.data.advice import advice_on
from unclip.data.config import DownloadConfig
from unclip.data.fates import may_pass, status_of
from unclip.data.rows import OK
from unclip.data.urls import DUPLICATE

FEW_ROWS = 100  # of fewer the share says little: one dead host, and a list's last shard may be a single row


class TooFewSuccesses(ValueError):
    """`download.min_success_fraction` was or will be missed; `counts` holds the rows so far by status."""

    def __init__(self, message: str, counts: Mapping[str, int] = MappingProxyType({})) -> None:
        super().__init__(message)
        self.counts = dict(counts)  # a pickle brings them along


class Gate:
    """The share of a shard's rows, duplicates left out, that can still succeed.

    The first shard of a list is always judged, another where it has FEW_ROWS or more.
    """

    def __init__(self, config: DownloadConfig, num_rows: int, refused: Iterable[str], shard: int = 0) -> None:
        """refused: the statuses of the rows that are not to be fetched."""
        self.config, counts = config, Counter(refused)
        self.total = num_rows - counts.pop(DUPLICATE, 0)
        self.is_judged = self.total >= (1 if shard == 0 else FEW_ROWS)
        self.lost = counts

    def check(self, errors: Iterable[str] = (), is_last_pass: bool = False) -> None:
        """Raises: TooFewSuccesses when with these errors of the pass under way too many rows are lost for good."""
        statuses = Counter(map(status_of, filter(None, errors)))
        lost = self.lost + Counter({s: n for s, n in statuses.items() if is_last_pass or not may_pass(s)})
        if self._is_missed(self.total - lost.total()):
            left = self.total - lost.total()
            message = f"at most {max(left, 0) / self.total:.2f} can still be: stopped before the rest was fetched"
            raise TooFewSuccesses(self._say(message, lost), lost)

    def keep(self, errors: Iterable[str]) -> None:
        """Counts the errors of a pass that is over; those that may pass are for the next one."""
        self.lost += Counter(status for error in errors if error and not may_pass(status := status_of(error)))

    def judge(self, statuses: Iterable[str]) -> None:
        """Raises: TooFewSuccesses when of all rows, by their final statuses, too few came."""
        counts = Counter(status for status in statuses if status != DUPLICATE)
        if self._is_missed(counts[OK]):
            lost = Counter({status: n for status, n in counts.items() if status != OK})
            raise TooFewSuccesses(self._say(f"{counts[OK] / self.total:.2f} is there", lost), counts)

    def _is_missed(self, successes: int) -> bool:
        return self.is_judged and successes / self.total < self.config.min_success_fraction

    def _say(self, share: str, lost: Counter[str]) -> str:
        reasons = ", ".join(f"{status} {n}" for status, n in lost.most_common(6))
        top = lost.most_common(1)[0][0]
        return (
            f"download.min_success_fraction must be reached: {self.config.min_success_fraction:g} is asked, {share} "
            f"({self.total - lost.total()} of {self.total} rows; {reasons}); {top}: {advice_on(top).meaning}; "
            f"{advice_on(top).advice}"
        )
