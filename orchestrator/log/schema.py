"""What the transaction log's database looks like: records are the truth, the other tables are indexes over them."""

from __future__ import annotations

import hashlib
import zlib
from typing import Final

import msgspec

from orchestrator.log.facets import FACETS
from orchestrator.migration import Migration, statements
from orchestrator.protocol.messages import Wire
from orchestrator.protocol.records import RECORD_SCHEMA, Record

LOG_KIND = "log"
# as it was at first, for ever: what is changed, is changed by a migration (and a record's schema by an empty one)
LOG_SCHEMA = """
CREATE TABLE records (
    sequence INTEGER PRIMARY KEY,  -- contiguous from meta.base_sequence to meta.last_record; below: kept by their transactions
    crc INTEGER NOT NULL,          -- CRC-32 of sequence and data
    data BLOB NOT NULL             -- msgpack [schema, at_ms, record]
);
CREATE TABLE transactions (
    txn TEXT PRIMARY KEY,
    key TEXT NOT NULL,
    saga TEXT NOT NULL,
    version INTEGER NOT NULL,
    business_key TEXT NOT NULL,
    partition INTEGER NOT NULL,
    began_ms INTEGER NOT NULL,
    deadline_ms INTEGER NOT NULL,
    begun_sequence INTEGER NOT NULL,
    state INTEGER NOT NULL DEFAULT 0,
    decided_sequence INTEGER NOT NULL DEFAULT 0,
    decided_ms INTEGER NOT NULL DEFAULT 0,
    code TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    service TEXT NOT NULL DEFAULT '',
    step TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    ended_sequence INTEGER NOT NULL DEFAULT 0,
    ended_ms INTEGER NOT NULL DEFAULT 0,
    parked INTEGER NOT NULL DEFAULT 0,      -- steps parked now
    recoveries INTEGER NOT NULL DEFAULT 0,
    taken_sequence INTEGER NOT NULL DEFAULT 0  -- the log's last record when its partition was last taken
) WITHOUT ROWID;
CREATE TABLE keys (  -- a key's digest is short: this is the one index that grows at random places
    digest BLOB PRIMARY KEY,
    begun_sequence INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX transactions_open ON transactions (txn) WHERE ended_sequence = 0;
CREATE INDEX transactions_parked ON transactions (txn) WHERE parked > 0;
CREATE INDEX transactions_code ON transactions (code) WHERE code != '';
CREATE INDEX transactions_business_key ON transactions (business_key) WHERE business_key != '';
CREATE TABLE parkings (  -- where a transaction's Parked records stand
    txn TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (txn, sequence)
) WITHOUT ROWID;
CREATE TABLE partitions (
    partition INTEGER PRIMARY KEY,
    shard INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    incarnation TEXT NOT NULL
);
CREATE TABLE shards (
    shard INTEGER PRIMARY KEY,
    run TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    takes INTEGER NOT NULL,          -- incarnations that took partitions in this run
    last_sequence INTEGER NOT NULL   -- the highest append processed from this incarnation
);
CREATE TABLE stores (name TEXT PRIMARY KEY, uuid TEXT NOT NULL, sequence INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('base_sequence', 1), ('last_record', 0), ('watermark_ms', 0);
"""
_OPERATE = statements(  # Resolved and Act records stand in `parkings`, too
    """CREATE TABLE resolutions (  -- steps that an operator resolved and with which no ledger agrees yet
    txn TEXT NOT NULL,
    step TEXT NOT NULL,
    sequence INTEGER NOT NULL,  -- of the Resolved record
    awaited INTEGER NOT NULL,   -- 0: a perform, which holds nothing
    PRIMARY KEY (txn, step)
) WITHOUT ROWID""",
    """CREATE TABLE acts (  -- what operators did; kept longer than the transactions
    number INTEGER PRIMARY KEY,
    txn TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    crc INTEGER NOT NULL,  -- CRC-32 of number and data
    data BLOB NOT NULL     -- msgpack [schema, at_ms, Act]
)""",
    """CREATE INDEX acts_of ON acts (txn)""",
    """CREATE TABLE pauses (  -- what is paused now
    saga TEXT NOT NULL,
    service TEXT NOT NULL,
    data BLOB NOT NULL,  -- msgpack of Pause
    PRIMARY KEY (saga, service)
) WITHOUT ROWID""",
)
LOG_MIGRATIONS: Final[tuple[Migration, ...]] = (_OPERATE, FACETS)


class Envelope(Wire, frozen=True):
    """A record as it lies in the log; `at_ms` is when the log stored it, Unix ms."""

    schema: int
    at_ms: int
    record: Record


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Envelope)


def crc_of(sequence: int, data: bytes) -> int:
    """CRC-32 over the sequence and the data, so that a record in another's place is noticed too."""
    return zlib.crc32(data, sequence & 0xFFFFFFFF)


def is_whole(sequence: int, crc: object, data: object) -> bool:
    """Whether what was read as a record has the checksum that was stored with it; damage may change its type as well."""
    return type(data) is bytes and crc == crc_of(sequence, data)


def digest_of_key(key: str) -> bytes:
    """16 bytes that stand for a key: its BLAKE2b digest."""
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def encode_record(sequence: int, at_ms: int, record: Record) -> tuple[int, int, bytes]:
    """The row of a record."""
    data = _ENCODER.encode(Envelope(RECORD_SCHEMA, at_ms, record))
    return sequence, crc_of(sequence, data), data


def decode_record(data: bytes) -> Envelope:
    """A stored record.

    Raises:
        ValueError: it is not one, or of a newer schema than this program knows.
    """
    if type(data) is not bytes:
        raise ValueError(f"it is a {type(data).__name__}, not bytes")
    envelope = _DECODER.decode(data)
    if envelope.schema > RECORD_SCHEMA:
        raise ValueError(f"record schema {envelope.schema} is newer than this program's {RECORD_SCHEMA}: upgrade")
    return envelope
