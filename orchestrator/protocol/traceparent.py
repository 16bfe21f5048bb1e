"""Which trace a transaction belongs to: W3C Trace Context's `traceparent`, and the span ids that need no memory.

https://www.w3.org/TR/trace-context/ section 3.2. The spans of a transaction and of its steps have ids derived from
theirs: a shard that takes a transaction up after a crash, and a service that never saw the shard's spans, name the same
parents.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

_FIRST_VERSION = "00"
_NO_VERSION = "ff"
_SAMPLED = 1
_KNOWN_FLAGS = 3  # sampled, random trace id
_SHAPE = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
TEXT_MAX = 256


class TraceParent(NamedTuple):
    """A place in a trace.

    Attributes:
        trace_id: 32 lower-case hexadecimal digits, not all zero.
        parent_id: of the span that what follows hangs under, 16 digits; all zero = the transaction is the root.
        flags: the bits that this version knows.
    """

    trace_id: str
    parent_id: str
    flags: int

    @property
    def sampled(self) -> bool:
        """Whether spans are wanted."""
        return bool(self.flags & _SAMPLED)

    @property
    def is_root(self) -> bool:
        """Whether there is no span above the transaction's."""
        return not int(self.parent_id, 16)

    def __str__(self) -> str:
        return f"{_FIRST_VERSION}-{self.trace_id}-{self.parent_id}-{self.flags:02x}"

    def under(self, span_id: str) -> TraceParent:
        """The place below another span of the same trace."""
        return self._replace(parent_id=span_id)


def parse(text: object) -> TraceParent | None:
    """A `traceparent`, a later version's by what this one knows of it; None where it is none."""
    if not isinstance(text, str) or len(text) > TEXT_MAX:
        return None
    match = _SHAPE.fullmatch(text)
    if match is None or match[1] == _NO_VERSION or (match[5] is not None and match[1] == _FIRST_VERSION):
        return None
    if not int(match[2], 16):
        return None
    return TraceParent(match[2], match[3], int(match[4], 16) & _KNOWN_FLAGS)


def problem_of(text: object) -> str | None:
    """What is wrong with a caller's `traceparent`, for a person; None if nothing is."""
    found = parse(text)
    if found is None or found.is_root:
        return "traceparent: must be version-traceid-parentid-flags in lower-case hexadecimal, like 00-<32>-<16>-01"
    return None


def span_id_of(transaction: str, step: str = "") -> str:
    """The id of a transaction's span, or of one of its steps': 16 hexadecimal digits, the same for everybody."""
    digest = hashlib.blake2b(f"{transaction}/{step}".encode(), digest_size=8, person=b"raytx-span").hexdigest()
    return digest if int(digest, 16) else "0" * 15 + "1"
