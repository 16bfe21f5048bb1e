"""Every metric there is, by name: what it is, its labels, and who has it. Nothing is ever labelled by transaction."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

PREFIX = "raytx_"
RAY_PREFIX = "ray_"  # Ray puts it before the name of every metric
ACTOR = "actor"  # the label of every series: who counted
BUCKET, BUCKET_LABEL = "bucket", "le"
HISTOGRAM_PARTS = (BUCKET, "sum", "count")


class Type(StrEnum):
    """How a metric behaves."""

    COUNTER = "counter"  # only rises, from 0 at the start of its process
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """One metric; its unit is the end of its name."""

    name: str
    type: Type
    about: str
    labels: tuple[str, ...] = ()


_SHARD = (
    Metric("transactions", Type.COUNTER, "Transactions decided; the code of a commit is empty", ("saga", "outcome", "code")),
    Metric("rejected", Type.COUNTER, "Requests refused before anything was begun", ("code",)),
    Metric("open", Type.GAUGE, "Transactions that a shard holds open"),
    Metric("decide_ms", Type.HISTOGRAM, "From accepted to the durable decision", ("saga", "outcome")),
    Metric("end_ms", Type.HISTOGRAM, "From the decision to the last acknowledgement", ("saga", "outcome")),
    Metric("step_ms", Type.HISTOGRAM, "From the first attempt of a step's message to its answer; phase: prepare, or finish "
           "for commit, rollback and perform", ("service", "step", "phase")),
    Metric("retries", Type.COUNTER, "Answers that made a shard ask again: not yet, or a transient error", ("service", "code")),
    Metric(
        "timeouts", Type.COUNTER, "Attempts that were not answered in time and repeated, not counting those answered *not yet*",
        ("service",)),
    Metric("parkings", Type.COUNTER, "Steps that were parked", ("service", "code")),
    Metric("fenced", Type.COUNTER, "Times that a participant or the log called a shard's epoch stale"),
    Metric("service_lost", Type.COUNTER, "Outages of a service, as a shard met them", ("service",)),
    Metric("breaker", Type.GAUGE, "Circuit breaker of a service: 0 closed, 1 half open, 2 open", ("service",)),
    Metric("waiting", Type.GAUGE, "Steps that wait for a service's answer", ("service",)),
    Metric("outstanding", Type.GAUGE, "Messages to a service that are queued or not answered", ("service",)),
    Metric("append_queue", Type.GAUGE, "Records of a shard that wait for the append under way"),
    Metric("append_records", Type.HISTOGRAM, "Records of one append to the log"),
    Metric("append_ms", Type.HISTOGRAM, "From sending an append to knowing it durable, repeats included"),
    Metric("partitions", Type.GAUGE, "Partitions that a shard holds"),
)
_LOG = (
    Metric("log_appends", Type.COUNTER, "Appends that were stored"),
    Metric("log_records", Type.COUNTER, "Records that were stored"),
    Metric("log_commit_records", Type.HISTOGRAM, "Records that shared one commit, and so one fsync"),
    Metric("log_queue", Type.GAUGE, "Appends and jobs that wait for the writer's next turn"),
    Metric("log_open", Type.GAUGE, "Transactions that have not ended, as the log knows it"),
    Metric("parked", Type.GAUGE, "Transactions with a parked step"),
    Metric("parked_steps", Type.GAUGE, "Parked steps", ("code",)),
    Metric("disk_free_bytes", Type.GAUGE, "Room left on the disk of the data directory"),
    Metric("log_files_bytes", Type.GAUGE, "Size of the JSON log files of all processes"),
)
_SERVICE = (
    Metric("answers", Type.COUNTER, "Answers of a service, by message and status", ("service", "message", "status")),
    Metric("batch_messages", Type.HISTOGRAM, "Messages in one local transaction", ("service",)),
    Metric("batch_ms", Type.HISTOGRAM, "One local transaction: handlers, writes and commit", ("service",)),
    Metric("pending", Type.GAUGE, "Messages that wait for a service's next batch", ("service",)),
    Metric("held", Type.GAUGE, "Prepared rows: a vote was given, the decision not heard yet", ("service",)),
    Metric("in_doubt", Type.GAUGE, "Held rows that were unheard of for too long, so that their owner is asked", ("service",)),
    Metric("inquiries", Type.COUNTER, "Questions for the decision of rows in doubt", ("service",)),
)
_STORED = (
    Metric("commit_ms", Type.HISTOGRAM, "One commit of a database: write and fsync"),
    Metric("database_bytes", Type.GAUGE, "Size of a database with its write-ahead log"),
)
_EVERY = (
    Metric("serving", Type.GAUGE, "1 while an actor serves, else 0"),
    Metric("epoch", Type.GAUGE, "A shard's highest partition epoch; of log and services the ownership of their file"),
    Metric("restarts", Type.GAUGE, "Recoveries in this run: starts of an actor after its first one"),
    Metric("connections_refused", Type.COUNTER, "Connections of the data plane that were ended for what came over them",
           ("reason",)),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in (*_SHARD, *_LOG, *_SERVICE, *_STORED, *_EVERY)}


def described(name: str) -> tuple[str, tuple[str, ...]]:
    """What is exported under a name (without prefixes and `_total`): what it is about, and its labels but for the actor.

    Raises:
        KeyError: there is no such metric.
    """
    metric = METRICS.get(name)
    if metric is not None and metric.type is not Type.HISTOGRAM:
        return metric.about, metric.labels
    base, _, part = name.rpartition("_")
    metric = METRICS[base]
    if metric.type is not Type.HISTOGRAM or part not in HISTOGRAM_PARTS:
        raise KeyError(name)
    labels = (*metric.labels, BUCKET_LABEL) if part == BUCKET else metric.labels
    return f"{metric.about} ({part})", labels
