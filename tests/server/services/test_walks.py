"""Lists that are walked by cursor while rows are added and removed: no row is skipped, none appears twice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from random import Random
from typing import Any

import pytest
from dcp.v1 import keys_pb2, ledger_pb2, operators_pb2, options_pb2
from google.protobuf.descriptor import MethodDescriptor

from server.domain.webhooks import OPERATORS
from server.services.inputs import Announced
from server.store.models import (
    AuditEntry,
    Discard,
    Dispute,
    Incident,
    Lease,
    Transfer,
    WebhookDelivery,
    Withdrawal,
)
from tests.server.rpc.methods import METHODS, call, empty
from tests.support.running_server import Daemon, Market, Metadata, Party

READ = options_pb2.SCOPE_READ
ROWS = 5
WALKS = 2


class Walk(ABC):
    """One list: who reads it, and how rows are added and removed meanwhile."""

    field: str
    """The field of a page that has the rows."""
    key = "id"
    """The field of a row that identifies it."""

    def __init__(self, market: Market, rng: Random) -> None:
        self.market = market
        self.rng = rng
        self.metadata: Metadata = market.admin_metadata
        self.rows: set[Any] = set()
        """What was added, without what was removed."""

    async def begin(self) -> None:
        """Prepares the list's account."""
        assert not self.rows

    @abstractmethod
    async def add(self) -> Any:
        """Adds a row to the list and returns what identifies it."""

    async def remove(self) -> Any:
        """Removes a row and returns it; None if rows of this list are never removed."""
        return None

    def selection(self) -> dict[str, int]:
        """The fields of the request that say whose list it is."""
        return {}

    def seen(self, page: Any) -> Iterable[Any]:
        """The rows of a page."""
        return [getattr(row, self.key) for row in getattr(page, self.field)]

    def total(self, page: Any) -> int:
        """How many rows the page says that there are, if it does."""
        return len(self.rows)

    async def newest(self, model: Any) -> int:
        """The id of the newest row of a table."""
        return await self.market.sql(lambda: int(model.select(model.id).order_by(model.id.desc()).scalar()))


class OfRenter(Walk):
    async def begin(self) -> None:
        self.renter = await self.market.renter(100_000)
        self.metadata = self.renter.metadata

    async def credit(self) -> None:
        """Adds a halala to the renter's wallet."""
        request = ledger_pb2.CreditRenterRequest(renter_id=self.renter.id, amount_halala=1)
        await self.market.ledger_service.CreditRenter(request, metadata=self.market.admin_metadata)


class OfProvider(Walk):
    async def begin(self) -> None:
        self.provider = await self.market.provider()
        self.metadata = self.provider.metadata


class WithDaemon(OfProvider):
    async def begin(self) -> None:
        await super().begin()
        self.daemon: Daemon = await self.market.daemon(self.provider)
        self.renter: Party = await self.market.renter(100_000)


class AvailableProviders(Walk):
    field = "providers"

    async def begin(self) -> None:
        self.parties: dict[int, Party] = {}

    async def add(self) -> int:
        provider = await self.market.provider()
        await self.market.daemon(provider)
        self.parties[provider.id] = provider
        return provider.id

    async def remove(self) -> int:
        provider = self.parties.pop(self.rng.choice(sorted(self.parties)))
        await self.market.set_provider(provider, last_heartbeat_ms=0)
        return provider.id

    def total(self, page: Any) -> int:
        return int(page.total)


class Withdrawals(OfProvider):
    async def add(self) -> int:
        values = {"amount_micros": 2000, "state": "paid", "iban": "", "iban_last4": "7519", "created_ms": 1}
        await self.market.sql(lambda: Withdrawal.insert(provider_id=self.provider.id, **values).execute())
        return await self.newest(Withdrawal)


class OwnWithdrawals(Withdrawals):
    field = "withdrawals"


class AllWithdrawals(Withdrawals):
    field = "all"

    async def begin(self) -> None:
        await super().begin()
        self.metadata = self.market.admin_metadata

    def total(self, page: Any) -> int:
        return int(page.pagination.total)


class OwnDisputes(WithDaemon):
    """Of a renter, about jobs of one provider."""

    field = "disputes"

    async def begin(self) -> None:
        await super().begin()
        self.metadata = self.renter.metadata

    async def add(self) -> int:
        values = {
            "reason": "filler",
            "charge_micros": 4,
            "payout_micros": 3,
            "payout_id": 1,
            "held_micros": 0,
        }
        job_id = (await self.market.submit(self.renter)).job_id
        owners = {"renter_id": self.renter.id, "provider_id": self.provider.id, "job_id": job_id}
        insert = Dispute.insert(state="open", maturing_micros=0, created_ms=1, **values, **owners)
        await self.market.sql(insert.execute)
        return await self.newest(Dispute)


class DisputesOfProvider(OwnDisputes):
    async def begin(self) -> None:
        await super().begin()
        self.metadata = self.provider.metadata


class AllDisputes(OwnDisputes):
    async def begin(self) -> None:
        await super().begin()
        self.metadata = self.market.admin_metadata


class AuditEntries(OfRenter):
    field = "entries"

    async def begin(self) -> None:
        await super().begin()
        self.metadata = self.market.admin_metadata

    async def add(self) -> int:
        await self.credit()
        return await self.newest(AuditEntry)


class Discards(Walk):
    field = "discards"

    async def add(self) -> int:
        about = {"kind": "lease", "provider_id": 1, "job_id": f"job-{self.rng.random()}", "lease_epoch": 1}
        rest = {"key_last4": "", "address": "", "detail": "", "times": 1, "first_ms": 1, "last_ms": 1}
        insert = Discard.insert(**about, **rest)
        await self.market.sql(insert.execute)
        return await self.newest(Discard)


class OwnLedger(OfRenter):
    field = "lines"

    async def add(self) -> int:
        await self.credit()
        return await self.newest(Transfer)


class OwnKeys(OfRenter):
    field = "keys"

    async def add(self) -> int:
        request = keys_pb2.CreateKeyRequest(name="a key", scopes=[READ])
        created = await self.market.key_service.CreateKey(request, metadata=self.renter.metadata)
        return int(created.key.id)


class ForOperators(OfRenter):
    """A renter's list as operators read it."""

    async def begin(self) -> None:
        await super().begin()
        self.metadata = self.market.admin_metadata

    def selection(self) -> dict[str, int]:
        return {"renter_id": self.renter.id}


class LedgerForOperators(ForOperators, OwnLedger):
    pass


class KeysForOperators(ForOperators, OwnKeys):
    pass


class Operators(Walk):
    field = "operators"

    async def add(self) -> int:
        name = f"Operator {self.rng.getrandbits(64)}"
        request = operators_pb2.InviteOperatorRequest(name=name, role=options_pb2.OPERATOR_ROLE_SUPPORT)
        method = METHODS["OperatorService.InviteOperator"]
        invited: Any = await call(self.market, method, request, self.metadata)
        return int(invited.operator.id)


class OwnUsage(WithDaemon):
    """A row for each key, each of which submits a job."""

    field, key = "rows", "key_id"

    async def begin(self) -> None:
        await super().begin()
        self.metadata = self.renter.metadata

    async def add(self) -> int:
        request = keys_pb2.CreateKeyRequest(name="a key", scopes=[options_pb2.SCOPE_INFERENCE])
        created = await self.market.key_service.CreateKey(request, metadata=self.metadata)
        key = Party(self.renter.id, created.api_key)
        _, lease = await self.market.running_job(key, self.provider, self.daemon, output=b"x")
        self.market.clock.advance(1)
        await self.daemon.finished(lease, seconds=1, last_output_seq=1)
        return int(created.key.id)


class OwnJobs(OfRenter):
    field, key = "jobs", "job_id"

    async def add(self) -> str:
        return str((await self.market.submit(self.renter)).job_id)


class AllJobs(OwnJobs):
    async def begin(self) -> None:
        await super().begin()
        self.metadata = self.market.admin_metadata


class JobsOfProvider(WithDaemon):
    field, key = "jobs", "job_id"

    async def add(self) -> str:
        return str((await self.market.submit(self.renter, self.provider)).job_id)


class History(WithDaemon):
    field, key = "attempts", "number"

    async def add(self) -> int:
        job, lease = await self.market.running_job(self.renter, self.provider, self.daemon)
        await self.daemon.finished(lease)
        query = Lease.select(Lease.number).where(Lease.job_id == job.job_id)
        return await self.market.sql(lambda: int(query.scalar()))

    def selection(self) -> dict[str, int]:
        return {"provider_id": self.provider.id}


class Providers(Walk):
    field = "providers"

    async def add(self) -> int:
        return (await self.market.provider()).id


class Renters(Walk):
    field = "renters"

    async def add(self) -> int:
        return (await self.market.renter(0)).id


class Deliveries(OfRenter):
    field = "deliveries"

    async def add(self) -> int:
        number = await self.market.sql(lambda: WebhookDelivery.select().count())
        values = {"event_id": f"event-{number}", "event": "webhook.test", "body": "{}"}
        rest = {"status": "delivered", "created_ms": 1, "next_ms": 1}
        insert = WebhookDelivery.insert(renter_id=self.renter.id, **values, **rest)
        await self.market.sql(insert.execute)
        return await self.newest(WebhookDelivery)


class OperatorDeliveries(Walk):
    field = "deliveries"

    async def add(self) -> int:
        number = await self.market.sql(lambda: WebhookDelivery.select().count())
        values = {"event_id": f"event-{number}", "event": "webhook.test", "body": "{}"}
        rest = {"status": "delivered", "created_ms": 1, "next_ms": 1}
        insert = WebhookDelivery.insert(renter_id=OPERATORS, **values, **rest)
        await self.market.sql(insert.execute)
        return await self.newest(WebhookDelivery)


class Incidents(Walk):
    """Those that have begun; what may become one is on no page."""

    field = "incidents"

    async def add(self) -> int:
        row = {"bad_since_ms": 1, "read_ms": 1, "facts": '{"discrepancies": 1}', "began_ms": 1, "ended_ms": 1}
        await self.market.sql(Incident.insert(condition="proof_unclean", **row).execute)
        return await self.newest(Incident)

    async def remove(self) -> Any:
        oldest = min(self.rows)
        await self.market.sql(Incident.delete().where(Incident.id == oldest).execute)
        return oldest


class OwnInputs(OfRenter):
    """Announced ones; none is deleted, since a page begins after a number."""

    field = "inputs"
    key = "input_id"

    async def add(self) -> str:
        found = await self.market.server.services.inputs.begin(self.renter.id, Announced("a", 10))
        return found.input_id


class OwnData(OfRenter):
    """Of several lists; rows are added to the last, and to one that may have been passed."""

    async def add(self) -> tuple[str, str]:
        return "jobs", str((await self.market.submit(self.renter)).job_id)

    def seen(self, page: Any) -> Iterable[Any]:
        yield from (("jobs", row.job.job_id) for row in page.jobs)
        yield from (("keys", row.id) for row in page.keys)
        yield from (("ledger", row.id) for row in page.ledger)


# Their rows come from passkeys, new main keys and payouts, which no walk makes yet.
ELSEWHERE = {
    "OperatorService.ListOperatorKeys",
    "OversightService.ListProviderKeys",
    "OversightService.ListProviderLedger",
}
WALKED: dict[str, type[Walk]] = {
    "OperatorService.ListOperators": Operators,
    "OversightService.ListRenterKeys": KeysForOperators,
    "OversightService.ListRenterLedger": LedgerForOperators,
    "AdminService.ListAuditEntries": AuditEntries,
    "AdminService.ListDiscards": Discards,
    "AdminService.ListWithdrawals": AllWithdrawals,
    "DisputeService.ListDisputes": AllDisputes,
    "DisputeService.ListOwnDisputes": OwnDisputes,
    "DisputeService.ListProviderDisputes": DisputesOfProvider,
    "IncidentService.ListIncidents": Incidents,
    "IncidentService.ListOperatorWebhookDeliveries": OperatorDeliveries,
    "InputService.ListInputs": OwnInputs,
    "JobService.ListOwnJobs": OwnJobs,
    "JobService.ListProviderJobs": JobsOfProvider,
    "KeyService.ListKeys": OwnKeys,
    "OperationService.ListJobs": AllJobs,
    "OperationService.ListProviders": Providers,
    "OperationService.ListRenters": Renters,
    "PrivacyService.ExportOwnData": OwnData,
    "ProviderService.ListProviderHistory": History,
    "RenterService.ListAvailableProviders": AvailableProviders,
    "StatementService.GetOwnUsage": OwnUsage,
    "StatementService.ListOwnLedger": OwnLedger,
    "WebhookService.ListWebhookDeliveries": Deliveries,
    "WithdrawalService.ListOwnWithdrawals": OwnWithdrawals,
}


def next_field(method: MethodDescriptor) -> str:
    """The field of an answer that says where the next page begins; empty if the method has no pages."""
    return next((field.name for field in method.output_type.fields if field.name.startswith("next_")), "")


def test_every_list_with_pages_is_walked() -> None:
    found = {name for name, method in METHODS.items() if next_field(method)}
    assert found - ELSEWHERE == WALKED.keys()


@pytest.mark.parametrize("name", WALKED)
async def test_rows_that_stay_appear_exactly_once(any_market: Market, name: str) -> None:
    for seed in range(WALKS):
        walk = WALKED[name](any_market, Random(seed))
        await walk.begin()
        for _ in range(ROWS):
            walk.rows.add(await walk.add())
        first, seen = set(walk.rows), await follow(walk, METHODS[name])
        assert len(seen) == len(set(seen))
        assert first & walk.rows <= set(seen)


async def follow(walk: Walk, method: MethodDescriptor) -> list[Any]:
    """Reads page after page, and changes the list in between; returns the rows of all pages."""
    answered, rng = next_field(method), walk.rng
    request: Any = empty(method)
    request.page_size = 2
    for name, value in walk.selection().items():
        setattr(request, name, value)
    seen: list[Any] = []
    others: int | None = None
    while True:
        page: Any = await call(walk.market, method, request, walk.metadata)
        rows = list(walk.seen(page))
        assert len(rows) <= request.page_size
        seen += rows
        before, others = others, walk.total(page) - len(walk.rows)
        assert before in (None, others)
        if not page.HasField(answered):
            return seen
        setattr(request, answered.removeprefix("next_"), getattr(page, answered))
        for _ in range(rng.randint(0, 2)):
            walk.rows.add(await walk.add())
        if rng.random() < 0.7:
            walk.rows.discard(await walk.remove())
