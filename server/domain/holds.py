"""What a job holds in its renter's wallet: the most that it can cost, and the limit that follows. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from server.domain import tokens
from server.domain.errors import invalid_field
from server.domain.jobs import JobRequest
from server.domain.money import halala_up, micros, text
from server.domain.pricing import Counts, Price, TimePrice


@dataclass(frozen=True, slots=True)
class Reservation:
    """The hold in micros, how long a job may run, and how many tokens its answer may have at most."""

    hold_micros: int
    limit_ms: int
    max_tokens: int | None = None
    """Set where ``max_cost_halala`` allows fewer than the job asks for."""


def reserve(price: Price, request: JobRequest, context_tokens: int = 0) -> Reservation:
    """The hold of a new job: for its whole time, or for its prompt and the longest answer that it asks for.

    ``context_tokens`` is the longest context of its model that there is, 0 if that is not known: no answer is
    longer, whatever a client asks for. With a lower ``max_cost_halala`` the hold is that, and time or answer
    are as long as it lasts. Raises INVALID_FIELD if it does not last for the prompt and one token.
    """
    most = micros(request.max_cost_halala) if request.max_cost_halala is not None else None
    if isinstance(price, TimePrice):
        hold = price.cost_micros(request.duration_ms)
        if most is None or request.max_cost_halala is None or hold <= most:
            return Reservation(hold, request.duration_ms)
        return Reservation(most, price.longest_ms(request.max_cost_halala))
    paid = tokens.paid(request.spec)
    if context_tokens:
        paid = replace(paid, completion=min(paid.completion, context_tokens * tokens.choices(request.spec)))
    hold = price.hold_micros(paid)
    if most is None or hold <= most:
        return Reservation(hold, request.duration_ms)
    longest = price.most_completion(paid.prompt, most)
    if longest < (choices := tokens.choices(request.spec)):
        least = price.hold_micros(Counts(paid.prompt, choices))
        raise invalid_field(
            "max_cost_halala",
            f"is less than the prompt and one token can cost; set at least {halala_up(least)}, "
            f"or leave it out to hold {text(hold)}",
        )
    return Reservation(most, request.duration_ms, longest)
