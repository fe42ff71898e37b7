"""The states of a withdrawal request, and what an operator and the provider may do in each (contract, 4).

    pending --process--> processing --pay--> paid
    pending, processing --reject--> rejected
    pending --cancel--> rejected: by the provider

The amount of an open request is reserved; ``paid`` and ``rejected`` are final.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class WithdrawalState(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    PAID = "paid"
    REJECTED = "rejected"


class WithdrawalAction(StrEnum):
    PROCESS = "process"
    PAY = "pay"
    REJECT = "reject"
    CANCEL = "cancel"


OPEN = (WithdrawalState.PENDING, WithdrawalState.PROCESSING)
_NEXT = {
    (WithdrawalState.PENDING, WithdrawalAction.PROCESS): WithdrawalState.PROCESSING,
    (WithdrawalState.PROCESSING, WithdrawalAction.PAY): WithdrawalState.PAID,
    (WithdrawalState.PENDING, WithdrawalAction.REJECT): WithdrawalState.REJECTED,
    (WithdrawalState.PROCESSING, WithdrawalAction.REJECT): WithdrawalState.REJECTED,
    (WithdrawalState.PENDING, WithdrawalAction.CANCEL): WithdrawalState.REJECTED,
}


def next_state(state: WithdrawalState, action: WithdrawalAction) -> WithdrawalState | None:
    """The state that the action leads to; None if it is not allowed."""
    return _NEXT.get((state, action))


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A request as stored. ``iban`` is complete: only an operator who pays may see it."""

    id: int
    provider_id: int
    amount_micros: int
    state: WithdrawalState
    iban: str
    created_ms: int
    updated_ms: int | None = None
    reference: str | None = None
    reason: str | None = None

    def __repr__(self) -> str:
        return f"Withdrawal(id={self.id}, state={self.state}, iban=...{self.iban_last4})"

    @property
    def iban_last4(self) -> str:
        """The last 4 characters of the IBAN, which may be shown to others than the operator."""
        return self.iban[-4:]
