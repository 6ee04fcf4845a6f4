"""
Fresh records: what was put in the outbox a moment ago is still in memory, so that it need not be
read from disk to be reported. The disk has it all; what does not fit here is read from there.
"""

from bisect import bisect_right
from collections.abc import Iterable

from agent.spool.messages import PendingRecord

#: Most records that are kept.
MOST_RECORDS = 5000


class FreshRecords:
    """The newest records of the outbox, those after a certain number without a gap."""

    def __init__(self, last_seq: int, most: int = MOST_RECORDS) -> None:
        """Keep those that come after *last_seq*, at most *most*."""
        self._records: list[PendingRecord] = []
        self._most = most
        #: Of later records there are none but those kept here.
        self._complete_after = last_seq

    def add(self, records: Iterable[PendingRecord]) -> None:
        """Keep *records*, which follow all that came before."""
        self._records += records
        if len(self._records) > self._most:
            # Half of them, so that it is not done for every record.
            gone = len(self._records) - self._most // 2
            self._complete_after = self._records[gone - 1].seq
            del self._records[:gone]

    def forget(self, seqs: Iterable[int]) -> None:
        """These are in the outbox no more."""
        gone = set(seqs)
        first = 0
        while first < len(self._records) and self._records[first].seq in gone:
            first += 1
        # Nearly always they are the oldest.
        del self._records[:first]
        if first < len(gone):
            self._records = [one for one in self._records if one.seq not in gone]

    def after(self, seq: int, limit: int) -> list[PendingRecord] | None:
        """At most *limit* records after *seq*, oldest first; None: the disk has to be asked."""
        if seq < self._complete_after:
            return None
        begin = bisect_right(self._records, seq, key=_seq_of)
        return self._records[begin : begin + limit]


def _seq_of(pending: PendingRecord) -> int:
    return pending.seq
