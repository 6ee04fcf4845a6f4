"""
Batches: what is sent of the outbox at a time, and what is left out of it. Pure.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agent.convert import outcome_of
from agent.delivery.record import Record, RecordType
from agent.outcomes.outcome_filter import CompiledFilter, Effort, could_match
from agent.outcomes.sampling import FailureSample
from agent.spool.messages import PendingRecord
from penstock.v1.outcome_pb2 import DeliveryOutcome

#: Outcomes older than this have no effect on any action, and are dropped.
TOO_OLD_SECONDS = 86_400.0
#: Most bytes of a batch; a message takes up to 4 MiB.
MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Records of the outbox that are settled together."""

    #: Of every record that it settles, in order.
    seqs: tuple[int, ...]
    outcomes: tuple[DeliveryOutcome, ...] = ()
    #: Of each outcome.
    outcome_seqs: tuple[int, ...] = ()
    #: Of the filter by which records were left out; empty: none was.
    filter_etag: str = ""
    skipped: Mapping[RecordType, int] = field(default_factory=dict)
    #: Dropped for their age.
    too_old: int = 0
    #: Records that no server could take, and why.
    unfit: tuple[tuple[Record, str], ...] = ()

    @property
    def is_silent(self) -> bool:
        """Whether the server need not hear of it."""
        return not self.outcomes and not self.skipped


def is_too_old(pending: PendingRecord, now: float) -> bool:
    """Whether a record is of no use any more."""
    return now - pending.record.timestamp > TOO_OLD_SECONDS


def make_batch(
    pending: Sequence[PendingRecord],
    *,
    now: float,
    rules: CompiledFilter | None,
    sample: FailureSample,
    max_bytes: int = MAX_BYTES,
) -> Batch:
    """Make a batch of the first of *pending*, of which there are some; *rules* None: send all."""
    effort = Effort()
    seqs: list[int] = []
    outcomes: list[tuple[int, DeliveryOutcome]] = []
    skipped: Counter[RecordType] = Counter()
    unfit: list[tuple[Record, str]] = []
    too_old = size = 0
    for one in pending:
        record = one.record
        if is_too_old(one, now):
            too_old += 1
        elif _is_left_out(record, rules, sample, effort, now):
            skipped[record.type] += 1
        else:
            try:
                outcome = outcome_of(record)
            except ValueError as error:
                unfit.append((record, str(error)))
            else:
                size += outcome.ByteSize()
                if size > max_bytes and outcomes:
                    break
                outcomes.append((one.seq, outcome))
        seqs.append(one.seq)
    return Batch(
        seqs=tuple(seqs),
        outcomes=tuple(outcome for _, outcome in outcomes),
        outcome_seqs=tuple(seq for seq, _ in outcomes),
        filter_etag=rules.etag if rules is not None and not rules.send_all else "",
        skipped=skipped,
        too_old=too_old,
        unfit=tuple(unfit),
    )


def _is_left_out(
    record: Record,
    rules: CompiledFilter | None,
    sample: FailureSample,
    effort: Effort,
    now: float,
) -> bool:
    if rules is None or could_match(rules, record.response, effort):
        return False
    return not sample.is_chosen(record, now)
