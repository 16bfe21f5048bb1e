"""Field types that the order models share: strict, bounded, whole numbers for units and money."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

LINES_MAX = 10_000
QUANTITY_MAX = 10_000_000  # units on one order line
STOCK_QUANTITY_MAX = 1_000_000_000  # units on one line of goods in
AMOUNT_MINOR_MAX = 10**13  # so that no number of orders overflows the 64 bits that msgpack has for an integer

_IDENTIFIER = r"^[A-Za-z0-9][A-Za-z0-9._:#-]{0,63}$"

Identifier = Annotated[str, Field(strict=True, pattern=_IDENTIFIER)]
Sku = Identifier
Quantity = Annotated[int, Field(strict=True, gt=0, le=QUANTITY_MAX)]
StockQuantity = Annotated[int, Field(strict=True, ge=0, le=STOCK_QUANTITY_MAX)]
AmountMinor = Annotated[int, Field(strict=True, ge=0, le=AMOUNT_MINOR_MAX)]
Currency = Annotated[str, Field(strict=True, pattern=r"^[A-Z]{3}$")]
ShortText = Annotated[str, Field(strict=True, min_length=1, max_length=200)]
Email = Annotated[str, Field(strict=True, max_length=254, pattern=r"^[^@\s]+@[^@\s]+$")]
Phone = Annotated[str, Field(strict=True, pattern=r"^\+?[0-9][0-9 ()-]{2,31}$")]
Units = tuple[Sku, Quantity]  # one line as services exchange it
Allocated = tuple[Sku, Annotated[int, Field(strict=True, gt=0, le=LINES_MAX * QUANTITY_MAX)]]  # all lines of one SKU


class Message(BaseModel):
    """Base of inputs and requests: an unknown field is an error, not something to lose."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Result(BaseModel):
    """Base of results: what a later version adds is skipped, since stored votes outlive a deployment."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Address(Message):
    """Where an order goes; which countries are served is for shipping to say, also of an empty one."""

    name: ShortText
    street: ShortText
    city: ShortText
    country: Annotated[str, Field(strict=True, max_length=64)]
