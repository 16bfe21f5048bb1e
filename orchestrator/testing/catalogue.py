"""The catalogue of failures: what can go wrong, what must come of it, and where it is made to happen.

`marks` counts what really occurred; docs/failure-modes.md is generated from here. Numbers are stable; gaps are rows that
another one came to hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

REASONS_MAX = 5  # rows that may go without having occurred, each with its reason


class Made(Enum):
    """Where a situation is made."""

    SIMULATOR = "simulator"  # random schedules
    SWEEP = "sweep"  # every crash point, every message
    TEST = "test"  # a test of the default run makes and verifies it
    CHAOS = "chaos"  # a run on real processes that takes its time


@dataclass(frozen=True, slots=True)
class Row:
    """One failure.

    Attributes:
        number: its name, for ever.
        happens: what goes wrong.
        correct: what must come of it.
        made: where it is made to happen.
        command: which chaos run makes it, where nothing quicker does.
        reason: why it may not have occurred; "" = it must have.
    """

    number: str
    happens: str
    correct: str
    made: tuple[Made, ...]
    command: str = ""
    reason: str = ""


_SIM, _SWEEP, _TEST, _CHAOS = Made
_BOTH = (_SIM, _SWEEP)

_SHARD: Final = (
    Row("1", "a shard dies before Begun is durable", "nothing was sent; the caller's repeat begins it", _BOTH),
    Row("2", "a shard dies after Begun is durable, before the first Prepare", "its successor drives it to an outcome", _BOTH),
    Row("3", "a shard dies after some Prepares were sent", "every participant that may have heard of it is settled", _BOTH),
    Row("4", "a shard dies with all votes in hand and no durable decision", "one decision, taken once", _BOTH),
    Row("5", "the log dies between writing and syncing a decision", "either decision, but one; nobody was told before", _BOTH),
    Row("6", "a shard dies with a durable decision that its caller was not told", "asking again under the key tells it", _BOTH),
    Row("7", "a shard dies amid commits or rollbacks", "they go on until all have acknowledged", _BOTH),
    Row("8", "a shard dies with all acknowledgements, Ended not durable", "driven once more, without any effect", _BOTH),
    Row("9", "a shard dies during recovery, three times in a row", "recovery may be repeated at any point", (_SIM,)),
    Row("10", "a submit under an open key meets a shard that has not recovered", "it waits or joins; one transaction", (_SIM,)),
    Row("10b", "a service asks about an id that the log does not know", "an alarm, and the hold stays: never 'so rolled back'",
        (_TEST,)),
    Row("10c", "a superseded shard is asked about a transaction of a later epoch", "it does not answer above its own epoch",
        (_SIM, _TEST)),
    Row("10d", "a Begun arrives after its epoch has ended", "the log refuses it, and nothing was prepared under it", (_SIM,)),
    Row("11", "taking partitions is repeated once transactions were begun", "a shard never adopts its own", (_SIM, _TEST)),
    Row("12", "two incarnations of a shard live at once", "log and services refuse the older, and it ends", (_SIM, _TEST)),
    Row("13", "a superseded shard's decision reaches the log", "refused: the epoch is checked within the append", (_SIM,)),
    Row("14", "a superseded shard's Commit or Rollback reaches a service", "refused by the epoch that the service keeps",
        (_SIM,)),
    Row("15", "the wrong shard is asked, or their number has changed", "'ask again', never 'unknown, so aborted'", (_TEST,)),
    Row("16", "a shard is asked before its replay is complete", "no answer that depends on it", _BOTH),
)

_SERVICE: Final = (
    Row("17", "a service dies before its commit", "no effect; the repeat has it", _BOTH),
    Row("18", "a service dies after its commit, before its reply", "the repeat gets the stored reply", _BOTH),
    Row("19", "a service dies between an effect and its ledger row", "impossible: one local transaction holds both", _BOTH),
    Row("20", "a service dies during Commit", "committed once", _BOTH),
    Row("21", "a service dies during Rollback", "compensated once", _BOTH),
    Row("22", "a service dies within a batch of several messages", "all of the batch, or none of it", (_SIM,)),
    Row("23", "one message of a batch makes its handler fail", "the others are answered as ever", (_TEST,)),
    Row("24", "a service is rebuilt from its database", "its state is what its ledger adds up to", (_SIM, _SWEEP, _TEST)),
    Row("25", "a database is lost, or an older copy of it stands in its place", "noticed; the service is refused", (_TEST,)),
)

_MESSAGES: Final = (
    Row("26", "a request is lost", "asked again; one effect", _BOTH),
    Row("27", "a reply is lost", "asked again; the stored reply", _BOTH),
    Row("28", "Prepare comes again while its row is PREPARED", "the same vote; the row stays", _BOTH),
    Row("29", "Commit comes again", "acknowledged, without an effect", _BOTH),
    Row("30", "Rollback comes again", "acknowledged, without an effect", _BOTH),
    Row("31", "Rollback comes where no Prepare came", "a tombstone, acknowledged", _BOTH),
    Row("32", "Prepare comes after its Rollback", "refused, every time", _BOTH),
    Row("33", "Prepare comes again after it was refused", "refused again, whatever there is now", _BOTH),
    Row("34", "Commit comes where nothing was prepared", "a violation, parked: never an invented effect", (_TEST,)),
    Row("35", "Commit comes after Rollback, or the reverse", "a violation; nothing changes", (_TEST,)),
    Row("36", "a message overtakes an earlier one", "harmless", _BOTH),
    Row("37", "a message is late beyond every timeout", "harmless", (_SWEEP,)),
    Row("38", "the reply to an earlier attempt arrives", "a vote counts, a transient error does not", _BOTH),
    Row("39", "a late Commit or Rollback meets a later transaction's hold", "it touches its own transaction only", (_SIM,)),
    Row("40", "one direction between two processes is cut", "safe; it ends once healed", (_SIM,)),
    Row("41", "a message or record is corrupt", "rejected, and nobody else is harmed", (_TEST,)),
)

_CALLERS: Final = (
    Row("42", "the same input is submitted again under its key", "the same outcome", (_SIM,)),
    Row("43", "another input is submitted under a key", "E_KEY_CONFLICT", (_SIM,)),
    Row("44", "fifty callers submit one key at once", "one transaction, everybody is told its outcome", (_TEST,)),
    Row("45", "the process of the waiting callers dies", "the transaction ends all the same", (_SIM,)),
    Row("46", "a caller gives up and submits the same order under a new key", "the services refuse the second", (_TEST,)),
    Row("47", "a cancel comes while a decision is on its way to the log", "the first durable decision wins", (_SIM,)),
    Row("47b", "a cancel overtakes its submit", "the key is bound to an abort; the submit does not run", (_SIM, _TEST)),
    Row("48", "a key is empty, huge or no text", "refused at the border", (_TEST,)),
    Row("49", "a saga has a cycle; an amount is zero, negative, a bool or a float", "a typed error, nothing logged", (_TEST,)),
    Row("50", "deadline or cancel comes while COMMIT is being logged, the log's answer lost",
        "the same append is repeated; what is stored wins", (_SIM,)),
    Row("50b", "two asynchronous prepares wait, and both would take the last of a stock",
        "the synchronous part decides on the state of now", (_TEST,)),
    Row("50c", "a Rollback arrives while its Prepare waits for somebody outside", "it does not wait, and leaves a tombstone",
        (_SIM, _TEST)),
)

_TIME: Final = (
    Row("51", "a hold has not been heard of for too long", "its service asks, and undoes nothing by itself", _BOTH),
    Row("52", "the wall clock jumps by an hour with transactions open", "deadlines run on monotonic time", (_SIM,)),
    Row("53", "everything is stopped for long while a successor starts", "what wakes up is refused by its epoch", (_TEST,)),
    Row("54", "100,000 timers are due at a restart", "driven in portions, each a little later", (_TEST,)),
)

_DISK: Final = (
    Row("55", "the tail of a file is torn", "only what was not acknowledged is dropped", (_TEST,)),
    Row("56", "a record is corrupt and valid ones follow", "refused, naming the place", (_TEST,)),
    Row("56b", "the log dies between writing and syncing a decision, is opened again, then power fails",
        "nothing was answered from what was not synced: opening syncs first", (_SIM, _TEST)),
    Row("57", "fsync fails", "outcome unknown: nobody is answered, the process ends", (_SIM, _TEST)),
    Row("58", "a disk is full", "nothing new is begun, what is open ends; it resumes by itself", (_TEST,)),
    Row("59", "no file may be opened or written (EMFILE, EROFS, EACCES)", "a clear error; nothing is served", (_TEST,)),
    Row("60", "the log's disk takes more than a second for a commit", "everybody waits; no decision is undone", (_SIM,)),
    Row("61", "power fails and takes what was not synced", "everything acknowledged is there", _BOTH),
    Row("62", "power fails and takes the name of a new file", "a file counts once its directory is synced", (_TEST,)),
    Row("63", "a process dies within compaction", "old or new, never neither", (_TEST,)),
    Row("64", "the log is compacted and read anew", "it equals the history that it replaces", (_TEST,)),
    Row("65", "the log dies with appends under way", "the same records again; the stored decision is obeyed", _BOTH),
    Row("66", "two lives have one database open", "the older fails at its next commit", (_SIM, _TEST)),
    Row("67", "a group commit fails in part", "nobody of the group is answered; memory is read anew", (_TEST,)),
    Row("69", "a disk is lost", "refused, and nothing is made anew in its place", (_TEST,)),
)

_LOAD: Final = (
    Row("70", "a service is slow or stopped", "transactions that do not need it go on", (_TEST,)),
    Row("71", "a process is alive and stuck", "judged by the progress of its work; it ends and is started again", (_TEST,)),
    Row("72", "an ill service draws repeats", "a retry budget; goodput is back at once", (_TEST,)),
    Row("73", "more is submitted than can be done", "E_OVERLOADED with a time to come back; bounded memory", (_TEST,)),
    Row("74", "new work competes with commits and rollbacks", "those go first", (_TEST,)),
    Row("75", "a transaction crashes its shard whenever it is driven", "quarantined; innocent ones never are", (_TEST,)),
    Row("76", "a compensation fails for ever", "parked and shown, repeated slowly, never dropped", (_TEST,)),
    Row("77", "a step after the commit fails", "repeated forward; nothing is undone", (_SIM,)),
    Row("78", "everybody wants one SKU", "no oversell; everybody gets an answer", (_TEST,)),
    Row("79", "two transactions want the same two things in opposite order", "a prepare refuses, nobody waits", (_TEST,)),
    Row("80", "the kernel kills a process for its memory", "as any kill", (_TEST,),
        reason="where no memory cgroup may be made; the kernel kills as kill -9 does, which every role is given"),
)

_DEPLOYMENT: Final = (
    Row("81", "a node is lost", "its actors start elsewhere only where their store is", (_CHAOS,),
        command="raytx chaos --zombies 2"),
    Row("82", "the head of the cluster dies", "started anew on the same data; nothing is lost", (_TEST,)),
    Row("83", "everything is killed at full load", "every transaction that was accepted ends", (_SIM, _TEST)),
    Row("85", "all services are killed at once", "they recover without anybody's call", (_TEST,)),
    Row("86", "two deployments want one directory or one name", "the second is refused", (_TEST,)),
    Row("87", "a new version is deployed with transactions of the old one open",
        "each goes on by the definition that it began with; an unknown one is parked", (_TEST,)),
    Row("88", "an operation was removed while its holds are open", "parked with a clear error; nothing is dropped", (_TEST,)),
    Row("90", "a message comes after its transaction was forgotten", "E_EXPIRED, never run", (_TEST,)),
    Row("91", "the log grows", "what has ended is forgotten after its time", (_TEST,)),
    Row("92", "a deployment is stopped under load", "what was acknowledged is there at the next start", (_TEST,)),
    Row("94", "databases are restored from different times", "the audit names every mismatch", (_TEST,)),
    Row("95", "a secret stands in an error or a log line", "it is redacted", (_TEST,)),
)

ROWS: Final = {row.number: row for row in (
    *_SHARD, *_SERVICE, *_MESSAGES, *_CALLERS, *_TIME, *_DISK, *_LOAD, *_DEPLOYMENT)}
