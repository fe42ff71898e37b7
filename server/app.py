"""The composition root: builds the real things of a server and hands each what it needs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from dataclasses import dataclass

import grpc
from dcp.v1 import (
    accounts_pb2_grpc,
    admin_pb2_grpc,
    artifacts_pb2_grpc,
    jobs_pb2_grpc,
    keys_pb2_grpc,
    ledger_pb2_grpc,
    metrics_pb2_grpc,
    operations_pb2_grpc,
    privacy_pb2_grpc,
    providers_pb2_grpc,
    renters_pb2_grpc,
    sessions_pb2_grpc,
    statements_pb2_grpc,
    terms_pb2_grpc,
    webhooks_pb2_grpc,
    withdrawals_pb2_grpc,
)
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from server.blobs import Blobs
from server.blobs.open import open_blobs
from server.clock import Clock, SystemClock
from server.config import DEFAULT_BLOB_STORE, MINIMUMS, Config, ConfigError
from server.domain.artifacts import ArtifactLimits
from server.domain.hindrances import Minimums
from server.domain.leases import MAX_OUTPUT_BYTES
from server.domain.limits import OFF, Limits
from server.loops import Loop, server_loops
from server.outbound import Outbound
from server.rpc.accounts import AccountServicer
from server.rpc.addresses import Addresses
from server.rpc.admin import AdminServicer
from server.rpc.artifacts import ArtifactServicer
from server.rpc.health import DatedHealth
from server.rpc.interceptors import Authentication
from server.rpc.jobs import JobServicer
from server.rpc.keys import KeyServicer
from server.rpc.ledger import LedgerServicer
from server.rpc.limits import RateLimits
from server.rpc.metrics import MetricServicer
from server.rpc.operations import OperationServicer
from server.rpc.privacy import PrivacyServicer
from server.rpc.providers import ProviderServicer
from server.rpc.renters import RenterServicer
from server.rpc.sessions import SessionServicer
from server.rpc.statements import StatementServicer
from server.rpc.terms import TermsServicer
from server.rpc.webhooks import WebhookServicer
from server.rpc.withdrawals import WithdrawalServicer
from server.services.artifacts import Artifacts
from server.services.cleaning import Cleaning
from server.services.deliveries import Deliveries
from server.services.dispatch import Dispatch
from server.services.fleet import Fleet
from server.services.jobs import Jobs
from server.services.key_ring import KeyRing
from server.services.keys import Keys
from server.services.metrics import Metrics
from server.services.operators.accounts import Accounts
from server.services.operators.audit import Audit
from server.services.operators.dashboard import Admin
from server.services.operators.operations import Operations
from server.services.privacy.deletion import Deletion
from server.services.privacy.export import Export
from server.services.providers import Providers
from server.services.renters import Renters
from server.services.sessions import Sessions
from server.services.statements import Statements
from server.services.sweep import Sweep
from server.services.terms import OwnTerms
from server.services.webhooks import Webhooks
from server.services.withdrawals import Withdrawals
from server.store import sessions
from server.store.database import Database
from server.version import CURRENT

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
STOP_GRACE_SECONDS = 5.0
SERVICES = (
    "dcp.v1.AccountService",
    "dcp.v1.AdminService",
    "dcp.v1.ArtifactService",
    "dcp.v1.JobService",
    "dcp.v1.KeyService",
    "dcp.v1.LedgerService",
    "dcp.v1.MetricService",
    "dcp.v1.OperationService",
    "dcp.v1.PrivacyService",
    "dcp.v1.ProviderService",
    "dcp.v1.RenterService",
    "dcp.v1.SessionService",
    "dcp.v1.WebhookService",
    "dcp.v1.StatementService",
    "dcp.v1.TermsService",
    "dcp.v1.WithdrawalService",
)
# Each of these was an outage of somebody's: see ARCHITECTURE.md, "gRPC settings".
GRPC_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 40_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # An output of bytes that are no UTF-8 triples when they are replaced.
    ("grpc.max_send_message_length", 4 * MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 10_000),
)


@dataclass(frozen=True, slots=True)
class Services:
    """The use cases, by noun."""

    providers: Providers
    renters: Renters
    jobs: Jobs
    admin: Admin
    withdrawals: Withdrawals
    statements: Statements
    audit: Audit
    accounts: Accounts
    sessions: Sessions
    loops: tuple[Loop, ...]
    operations: Operations
    keys: Keys
    key_ring: KeyRing
    webhooks: Webhooks
    deliveries: Deliveries
    export: Export
    deletion: Deletion
    metrics: Metrics
    terms: OwnTerms
    fleet: Fleet
    artifacts: Artifacts
    cleaning: Cleaning


def build_services(
    database: Database,
    clock: Clock,
    admin_token: str | None,
    sandbox_topup: bool,
    max_output_bytes: int = MAX_OUTPUT_BYTES,
    limits: Limits = OFF,
    provider_approval: bool = False,
    webhooks_allow_private: bool = False,
    minimums: Minimums = MINIMUMS,
    blobs: Blobs | None = None,
    artifact_limits: ArtifactLimits | None = None,
    newest_daemon: str = CURRENT,
) -> Services:
    """Wires the use cases to one database, clock and fleet."""
    fleet = Fleet()
    dispatch = Dispatch(database, fleet, clock, max_output_bytes)
    metrics = Metrics(database, clock)
    providers = Providers(database, fleet, metrics, clock, provider_approval, minimums)
    sessions = Sessions(database, dispatch, fleet, providers, clock, limits.streams, newest_daemon)
    keys = Keys(database, clock, admin_token)
    deletion = Deletion(database, clock, keys)
    terms = OwnTerms(database, fleet, dispatch, clock)
    jobs = Jobs(database, dispatch, fleet, clock, limits.open_jobs)
    blobs = blobs or open_blobs(DEFAULT_BLOB_STORE)
    artifact_limits = artifact_limits or ArtifactLimits()
    deliveries = Deliveries(database, clock, Outbound(allow_private=webhooks_allow_private).post)
    cleaning = Cleaning(database, blobs, clock, artifact_limits)
    loops = server_loops(
        providers=providers,
        terms=terms,
        sweep=Sweep(database, dispatch, fleet, providers, clock),
        dispatch=dispatch,
        sessions=sessions,
        keys=keys,
        deletion=deletion,
        metrics=metrics,
        deliveries=deliveries,
        cleaning=cleaning,
    )
    return Services(
        providers=providers,
        renters=Renters(database, clock, sandbox_topup),
        jobs=jobs,
        admin=Admin(database, clock),
        withdrawals=Withdrawals(database, clock),
        statements=Statements(database, clock),
        audit=Audit(database),
        accounts=Accounts(database, fleet, providers, sessions, clock),
        sessions=sessions,
        loops=loops,
        terms=terms,
        keys=keys,
        key_ring=KeyRing(database, clock, keys),
        webhooks=Webhooks(database, clock, webhooks_allow_private),
        deliveries=deliveries,
        export=Export(database),
        deletion=deletion,
        operations=Operations(database, dispatch, fleet, providers, clock),
        metrics=metrics,
        fleet=fleet,
        artifacts=Artifacts(database, blobs, jobs, clock, artifact_limits),
        cleaning=cleaning,
    )


class Server:
    """One running server. ``start``, then ``stop``; ``address`` is known in between."""

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._database = Database(config.database_url)
        self._loops: list[asyncio.Task[None]] = []
        self.address = ""

    async def start(self) -> None:
        """Migrates, listens, serves. Raises ConfigError or DatabaseUrlError."""
        _check_free(self._config.listen)
        await asyncio.to_thread(self._database.start)
        await self._database.run(sessions.end_all)
        self.services = build_services(
            self._database,
            self._clock,
            self._config.admin_token,
            self._config.sandbox_topup,
            self._config.max_output_bytes,
            self._config.limits,
            self._config.provider_approval,
            self._config.webhooks_allow_private,
            self._config.minimums,
            open_blobs(self._config.blob_store),
            self._config.artifact_limits,
            self._config.newest_daemon,
        )
        door = Authentication(
            self.services.keys,
            RateLimits(self._config.limits, self._clock),
            Addresses(self._config.trusted_proxies),
        )
        self._grpc = grpc.aio.server(interceptors=[door], options=GRPC_OPTIONS)
        self._register()
        self.address = self._listen()
        await self._grpc.start()
        await self._set_serving()
        self._loops = [asyncio.create_task(loop.run()) for loop in self.services.loops]

    async def stop(self) -> None:
        """Drains: daemons are sent away with jitter, calls finish, waiting heartbeats are written."""
        await self._health.enter_graceful_shutdown()
        for loop in self._loops:
            loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loop
        await self.services.deliveries.stop()
        self._sessions.send_away()
        await self._grpc.stop(STOP_GRACE_SECONDS)
        await self._sessions.drain()
        await self.services.artifacts.stop()
        await self.services.providers.write_beats()
        await self.services.keys.write_uses(now=True)
        await self.services.metrics.store_all()
        await asyncio.to_thread(self._database.stop)

    def _register(self) -> None:
        services, server = self.services, self._grpc
        self._sessions = SessionServicer(services.sessions)
        self._health = DatedHealth(self._config.newest_daemon)
        providers_pb2_grpc.add_ProviderServiceServicer_to_server(
            ProviderServicer(services.providers, self._config.newest_daemon), server
        )
        renters_pb2_grpc.add_RenterServiceServicer_to_server(
            RenterServicer(services.renters, services.providers), server
        )
        jobs_pb2_grpc.add_JobServiceServicer_to_server(JobServicer(services.jobs), server)
        artifacts_pb2_grpc.add_ArtifactServiceServicer_to_server(ArtifactServicer(services.artifacts), server)
        keys_pb2_grpc.add_KeyServiceServicer_to_server(KeyServicer(services.key_ring), server)
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(
            LedgerServicer(services.renters, services.admin), server
        )
        accounts_pb2_grpc.add_AccountServiceServicer_to_server(AccountServicer(services.accounts), server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(
            AdminServicer(services.admin, services.withdrawals, services.audit), server
        )
        webhooks_pb2_grpc.add_WebhookServiceServicer_to_server(WebhookServicer(services.webhooks), server)
        withdrawals_pb2_grpc.add_WithdrawalServiceServicer_to_server(
            WithdrawalServicer(services.withdrawals), server
        )
        metrics_pb2_grpc.add_MetricServiceServicer_to_server(
            MetricServicer(services.metrics, services.providers), server
        )
        operations_pb2_grpc.add_OperationServiceServicer_to_server(
            OperationServicer(services.operations), server
        )
        privacy_pb2_grpc.add_PrivacyServiceServicer_to_server(
            PrivacyServicer(services.export, services.deletion), server
        )
        statements_pb2_grpc.add_StatementServiceServicer_to_server(
            StatementServicer(services.statements), server
        )
        terms_pb2_grpc.add_TermsServiceServicer_to_server(TermsServicer(services.terms), server)
        sessions_pb2_grpc.add_SessionServiceServicer_to_server(self._sessions, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (
            *SERVICES,
            health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            reflection.SERVICE_NAME,
        )
        reflection.enable_server_reflection(names, server, pool=descriptor_pool.Default())

    def _listen(self) -> str:
        host, _, port = self._config.listen.rpartition(":")
        try:
            if self._config.tls is None:
                bound = self._grpc.add_insecure_port(self._config.listen)
            else:
                credentials = grpc.ssl_server_credentials([self._config.tls])
                bound = self._grpc.add_secure_port(self._config.listen, credentials)
        except RuntimeError:
            bound = 0
        if bound == 0:
            hint = (
                "are DCP_TLS_CERT and DCP_TLS_KEY a PEM pair?" if self._config.tls else "is the port in use?"
            )
            raise ConfigError(f"DCP_GRPC_LISTEN: cannot listen on {host}:{port}; {hint}")
        return f"{host}:{bound}"

    async def _set_serving(self) -> None:
        """Tells health checks that the server and each service serve."""
        for name in ("", *SERVICES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)


def _check_free(listen: str) -> None:
    """Says in one line, before anything is touched, what gRPC would say in many. Raises ConfigError."""
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            raise ConfigError(f"DCP_GRPC_LISTEN: cannot listen on {host}:{port}: {error.strerror}") from None
