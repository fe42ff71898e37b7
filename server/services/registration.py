"""Registers providers and renters: the account, its key, and the mailbox that it has or must prove."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from server.clock import Clock, ms
from server.domain.providers import AccountState
from server.domain.standing import network
from server.services import keys
from server.services.mailboxes import begin_proof
from server.store import mailboxes, providers, renters, standing
from server.store.database import Database


@dataclass(frozen=True, slots=True)
class Registered:
    """A new account's id and its key, which is shown only once."""

    id: int
    api_key: str


class Registration:
    """The use cases of registration.

    Where the marketplace sends mail, a new account has no mailbox before its proof. So the answer is the same
    whether the mailbox has an account or not, and nobody can keep an address from its owner.
    """

    def __init__(self, database: Database, clock: Clock, *, needs_approval: bool, sends_mail: bool) -> None:
        self._database = database
        self._clock = clock
        self._needs_approval = needs_approval
        self._sends_mail = sends_mail

    async def provider(
        self, *, name: str, email: str, mailbox: str, gpu_model: str, os: str, phone: str, address: str = ""
    ) -> Registered:
        """A new provider and its key; ``address`` is the caller's. Raises EMAIL_TAKEN."""
        state = AccountState.PENDING_APPROVAL if self._needs_approval else AccountState.ACTIVE

        def create(own: str | None, now_ms: int) -> int:
            provider_id = providers.create(
                name=name,
                email=email,
                mailbox=own,
                gpu_model=gpu_model,
                os=os,
                phone=phone,
                network=network(address, standing.secret),
                now_ms=now_ms,
                state=state,
            )
            standing.create(provider_id, now_ms)
            return provider_id

        return await self._register(keys.PROVIDER, mailbox, create)

    async def renter(
        self, *, name: str, email: str, mailbox: str, organization: str, phone: str, address: str = ""
    ) -> Registered:
        """A new renter and its key; ``address`` is the caller's. Raises EMAIL_TAKEN."""
        return await self._register(
            keys.RENTER,
            mailbox,
            lambda own, now_ms: renters.create(
                name=name,
                email=email,
                mailbox=own,
                organization=organization,
                phone=phone,
                network=network(address, standing.secret),
                now_ms=now_ms,
            ),
        )

    async def _register(
        self, role: str, mailbox: str, create: Callable[[str | None, int], int]
    ) -> Registered:
        now_ms = ms(self._clock)

        def register() -> Registered:
            account_id = create(None if self._sends_mail else mailbox, now_ms)
            if self._sends_mail:
                begin_proof(mailboxes.get(role, account_id), mailbox, now_ms)
            return Registered(account_id, keys.issue(role, account_id, now_ms))

        return await self._database.run(register)
