"""Secrets in inputs, requests, results and state: fields typed `SecretStr` or `SecretBytes` stay secret wherever they go.

They are stored as msgpack extensions, so that whoever decodes them gets the type again, which tells nobody its content
unless asked for it (`get_secret_value`). Nothing that shows data has to know which fields of which model are secret.
"""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import SecretBytes, SecretStr

_TEXT, _BYTES = 1, 2  # codes of the extensions, for ever

Secret = (SecretStr, SecretBytes)


def encode_secret(value: Any) -> msgspec.msgpack.Ext:
    """The extension that holds a secret; an encoder's hook.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, SecretStr):
        return msgspec.msgpack.Ext(_TEXT, value.get_secret_value().encode())
    if isinstance(value, SecretBytes):
        return msgspec.msgpack.Ext(_BYTES, value.get_secret_value())
    raise TypeError(f"a {type(value).__name__} is not plain data: use numbers, text, lists, maps or pydantic models")


def decode_secret(code: int, data: memoryview) -> SecretStr | SecretBytes:
    """The secret in an extension; a decoder's hook.

    Raises:
        ValueError: it is no extension of these.
    """
    if code == _TEXT:
        return SecretStr(bytes(data).decode())
    if code == _BYTES:
        return SecretBytes(bytes(data))
    raise ValueError(f"msgpack extension {code} is not known")
