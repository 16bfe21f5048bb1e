"""How long, how deep and how odd anything may be that comes from outside: a caller's data, a service's answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticUserError

NESTING_MAX = 64  # levels of lists and maps in an input or a result
STEPS_MAX = 128  # of a saga
RESULT_BYTES_MAX = 4 * 1024 * 1024  # encoded, of one step
REQUEST_BYTES_MAX = 16 * 1024 * 1024  # encoded, of one step: it may hold the input and several results
CODE_CHARS_MAX = 64  # of a refusal
MESSAGE_CHARS_MAX = 1_000  # of a refusal, or of an error that a service's code raised
BUSINESS_KEY_CHARS_MAX = 256
ECHO_CHARS_MAX = 80  # of what a caller sent, in the refusal of it

# C0 and C1, line and paragraph separators, and what turns the direction of a text around
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_SHOWN_AS_IS = "\n\t"


def has_control_characters(text: str) -> bool:
    """Whether there is anything in a text that a terminal would act on, or that would hide what it says."""
    return not text.isprintable() and _CONTROL.search(text) is not None


def is_encodable(text: str) -> bool:
    """Whether a text can be sent: one that was decoded from bytes that are no UTF-8 has lone surrogates in it."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def shown(text: str) -> str:
    """A text as it may stand in a log or on a terminal: control characters are escaped, but for new lines and tabs."""
    if text.isprintable():
        return text
    return _CONTROL.sub(lambda found: found[0] if found[0] in _SHOWN_AS_IS else ascii(found[0])[1:-1], text)


def clipped(text: str, chars_max: int = MESSAGE_CHARS_MAX) -> str:
    """A text of at most so many characters, with a word on what was left out."""
    if len(text) <= chars_max:
        return text
    told = f"... ({len(text)} characters)"
    return text[: max(chars_max - len(told), 0)] + told


def is_deeper(value: Any, levels: int = NESTING_MAX) -> bool:
    """Whether plain data has more levels of lists and maps than that; looks no deeper."""
    level = [value]
    for _ in range(levels + 1):
        level = [item for one in level if isinstance(one, (dict, list, tuple))
                 for item in (one.values() if isinstance(one, dict) else one)]
        if not level:
            return False
    return True


def is_open_ended(model: type[BaseModel]) -> bool:
    """Whether data that fits a model may be nested to any depth: it has `Any`, an untyped map or list, or itself in it."""
    try:
        schema = model.model_json_schema()
    except (PydanticUserError, RecursionError):  # a type that has no JSON schema: nobody knows
        return True
    return not _is_bounded(schema, schema.get("$defs", {}), frozenset())


def _is_bounded(node: Any, definitions: Mapping[str, Any], inside: frozenset[str]) -> bool:
    if not isinstance(node, dict):
        return False
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return name not in inside and _is_bounded(definitions.get(name), definitions, inside | {name})
    alternatives = [one for word in ("anyOf", "oneOf", "allOf") for one in node.get(word, ())]
    if alternatives:
        return all(_is_bounded(one, definitions, inside) for one in alternatives)
    if node.get("type") == "object":
        others = node.get("additionalProperties", "properties" not in node)  # a map that says nothing takes anything
        parts = [*node.get("properties", {}).values(), *([] if others is False else [others])]
        return all(_is_bounded(one, definitions, inside) for one in parts)
    if node.get("type") == "array":
        parts = [*node.get("prefixItems", ()), *([node["items"]] if "items" in node else ())]
        return bool(parts) and all(_is_bounded(one, definitions, inside) for one in parts)
    return "type" in node or "enum" in node or "const" in node
