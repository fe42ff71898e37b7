"""A withdrawal's life: what an operator may do to it in which state (contract, 4).

    pending --process--> processing --pay--> paid
    pending, processing --reject--> rejected

Open ones keep their amount reserved; ``paid`` and ``rejected`` are final.
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


OPEN = (WithdrawalState.PENDING, WithdrawalState.PROCESSING)
_NEXT = {
    (WithdrawalState.PENDING, WithdrawalAction.PROCESS): WithdrawalState.PROCESSING,
    (WithdrawalState.PROCESSING, WithdrawalAction.PAY): WithdrawalState.PAID,
    (WithdrawalState.PENDING, WithdrawalAction.REJECT): WithdrawalState.REJECTED,
    (WithdrawalState.PROCESSING, WithdrawalAction.REJECT): WithdrawalState.REJECTED,
}


def next_state(state: WithdrawalState, action: WithdrawalAction) -> WithdrawalState | None:
    """Where the action leads; None where it is not allowed."""
    return _NEXT.get((state, action))


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A request as stored. ``iban`` is the whole one: only an operator who pays may see it."""

    id: int
    provider_id: int
    amount_halala: int
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
        """What everybody but the operator sees of the IBAN."""
        return self.iban[-4:]
