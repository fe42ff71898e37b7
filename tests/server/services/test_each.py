"""Work on many items: one that fails holds up no other, and is not forgotten."""

from __future__ import annotations

import pytest

from server.domain.errors import DomainError, Reason
from server.services.each import each


async def test_item_that_fails_holds_up_no_other_and_its_error_is_raised_at_the_end() -> None:
    done: list[int] = []

    async def act(item: int) -> None:
        if item % 2:
            raise ValueError(item)
        done.append(item)

    with pytest.raises(ValueError, match="1"):
        await each("a number", range(5), act)
    assert done == [0, 2, 4]


async def test_store_that_cannot_be_reached_ends_the_work() -> None:
    done: list[int] = []

    async def act(item: int) -> None:
        done.append(item)
        raise DomainError(Reason.STORE_UNAVAILABLE, "down")

    with pytest.raises(DomainError, match="down"):
        await each("a number", range(5), act)
    assert done == [0]
