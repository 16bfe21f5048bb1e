"""What a handler sees of its service's state: a mapping whose writes count only if the operation succeeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, Final

import msgspec
from pydantic import BaseModel

from orchestrator.protocol.secrecy import decode_secret, encode_secret
from orchestrator.saga import encode_plain

_encode = msgspec.msgpack.Encoder(enc_hook=encode_secret).encode
_decode = msgspec.msgpack.Decoder(ext_hook=decode_secret).decode
_UNREAD: Final = b"\xc1"  # a byte that msgpack never uses: no value encodes to it


class BatchState:
    """The state as the operations of one batch leave it: their writes over what is stored.

    Args:
        stored: the encoded value of a key, None where it is absent.
        stored_keys: all keys that are stored.
    """

    __slots__ = ("_stored_keys", "stored", "writes")

    def __init__(self, stored: Callable[[str], bytes | None], stored_keys: Callable[[], Iterable[str]]) -> None:
        self.stored, self._stored_keys = stored, stored_keys
        self.writes: dict[str, bytes | None] = {}  # None = deleted

    def keys(self) -> set[str]:
        """All keys; it reads the whole table, so it is not for handlers that run often."""
        keys = set(self._stored_keys())
        keys.update(key for key, value in self.writes.items() if value is not None)
        return keys.difference(key for key, value in self.writes.items() if value is None)


class OperationState(MutableMapping[str, Any]):
    """The state as one operation sees it; `merge` hands its writes to the batch, otherwise they are forgotten.

    Keys are text, values plain data; a value read is a fresh copy, and a value is copied when it is assigned.
    """

    __slots__ = ("_batch", "_stored", "_writes", "_written")

    def __init__(self, batch: BatchState) -> None:
        self._batch, self._written, self._stored = batch, batch.writes, batch.stored
        self._writes: dict[str, bytes | None] = {}

    def merge(self) -> None:
        """The operation succeeded."""
        self._written.update(self._writes)

    def __getitem__(self, key: str) -> Any:
        value = self._read(key)
        if value is None:
            raise KeyError(key)
        return _decode(value)

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or the default; cheaper than a `KeyError`."""
        value = self._read(key)
        return default if value is None else _decode(value)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._read(key) is not None

    def __setitem__(self, key: str, value: Any) -> None:
        if type(key) is not str:
            raise TypeError(f"a key of the state must be text; got {key!r}")
        self._writes[key] = encode_plain(value) if isinstance(value, BaseModel) else _encode(value)

    def __delitem__(self, key: str) -> None:
        if self._read(key) is None:
            raise KeyError(key)
        self._writes[key] = None

    def __iter__(self) -> Iterator[str]:
        keys = self._batch.keys()
        keys.update(key for key, value in self._writes.items() if value is not None)
        return iter(sorted(keys.difference(key for key, value in self._writes.items() if value is None)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _read(self, key: str) -> bytes | None:
        value = self._writes.get(key, _UNREAD)
        if value is _UNREAD:
            value = self._written.get(key, _UNREAD)
            if value is _UNREAD:
                value = self._stored(key)
        return value
