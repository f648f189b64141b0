"""What the bank and the shop's other providers can be asked to do. Each kind is a path (`POST /charges`) and a
column of the ledger. Kinds are data: the server and the ledger treat all of them alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """One sort of ledger row.

    `needs` names the fields of a request beside `reference`; `moves` is the direction in which the row's `amount`
    (integer minor units) moves the balance of the row's `account`, if it names one.
    """

    name: str
    needs: tuple[str, ...] = ()
    moves: int = 0


_ALL = (
    Kind("charges", ("amount",), moves=-1),
    Kind("refunds", ("amount",), moves=+1),
    Kind("authorisations", ("amount",)),
    Kind("captures", ("amount",), moves=-1),
    Kind("voids"),
    Kind("debits", ("account", "amount"), moves=-1),
    Kind("credits", ("account", "amount"), moves=+1),
    Kind("payouts", ("amount",), moves=-1),
    Kind("reservations", ("what",)),
    Kind("cancellations", ("what",)),
    Kind("stock_moves", ("item", "quantity")),
    Kind("shipments"),
    Kind("mails", ("to", "subject")),
    Kind("quotes", ("pair",)),
    Kind("checks", ("subject",)),
    Kind("bookings", ("amount",)),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}


def complaint(kind: Kind, request: dict[str, Any]) -> str | None:
    """Why *request* cannot be taken, or None."""
    for name in ("reference", *kind.needs):
        if request.get(name) in (None, ""):
            return f"{kind.name}: {name!r} is missing; needed are: {', '.join(('reference', *kind.needs))}"
    if "amount" in request and not _whole(request["amount"], least=1):
        return f"{kind.name}: amount={request['amount']!r} must be a positive whole number of minor units"
    if "quantity" in request and not _whole(request["quantity"]):
        return f"{kind.name}: quantity={request['quantity']!r} must be a whole number; what leaves is negative"
    return None


def _whole(value: Any, least: int | None = None) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)
