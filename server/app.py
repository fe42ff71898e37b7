"""The composition root: one running server, from its configuration to its port."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from functools import partial

import grpc
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from common import tracing
from common.telemetry import OFF, Telemetry
from common.tracing import Traces
from server import figures
from server.blobs import BlobStoreError
from server.blobs.files import FileBlobs
from server.clock import Clock, SystemClock
from server.config import Config, ConfigError
from server.domain.recent_calls import RecentCalls
from server.loops import PERIOD_SECONDS, Duty, Loop, server_loops
from server.rpc.accounts import AccountServicer
from server.rpc.addresses import Addresses
from server.rpc.admin import AdminServicer
from server.rpc.artifacts import ArtifactServicer
from server.rpc.batches import BatchServicer
from server.rpc.chats import ChatServicer
from server.rpc.disputes import DisputeServicer
from server.rpc.events import body_text
from server.rpc.gpu_proofs import GpuProofServicer
from server.rpc.health import ServerHealth
from server.rpc.incidents import IncidentServicer
from server.rpc.inputs import InputServicer
from server.rpc.interceptors import Authentication
from server.rpc.jobs import JobServicer
from server.rpc.keys import KeyServicer
from server.rpc.ledger import LedgerServicer
from server.rpc.limits import RateLimits
from server.rpc.log_ins import LogInServicer
from server.rpc.mailboxes import MailboxServicer
from server.rpc.measures import SERVER_FAULTS
from server.rpc.methods import Methods
from server.rpc.metrics import MetricServicer
from server.rpc.models import ModelServicer
from server.rpc.operations import OperationServicer
from server.rpc.operators import OperatorServicer
from server.rpc.oversight import OversightServicer
from server.rpc.prices import PriceServicer
from server.rpc.privacy import PrivacyServicer
from server.rpc.providers import ProviderServicer
from server.rpc.recovery import RecoveryServicer
from server.rpc.renters import RenterServicer
from server.rpc.sessions import SessionServicer
from server.rpc.statements import StatementServicer
from server.rpc.terms import TermsServicer
from server.rpc.webhooks import WebhookServicer
from server.rpc.withdrawals import WithdrawalServicer
from server.services import blob_folder
from server.services.time_of_database import TimeOfDatabase
from server.store import jobs, providers
from server.store.database import Database
from server.wiring import Services

log = logging.getLogger(__name__)

# More than any request can have: a chat with pictures is the longest, and texts in UTF-8 have less
# (`max_characters` in the protos).
MAX_MESSAGE_BYTES = 36 * 1024 * 1024
STOP_GRACE_SECONDS = 5.0
# Each of these prevents a known outage: see docs/internals.md, "gRPC settings".
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
    # An output that is not UTF-8 can triple in size, since each invalid byte is replaced by three.
    ("grpc.max_send_message_length", 2 * MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 10_000),
)


def servicers(services: Services, config: Config) -> tuple[object, ...]:
    """Every service of dcp.v1 except sessions. Add a new service here."""
    newest = config.newest_daemon
    return (
        AccountServicer(services.accounts, services.standings),
        AdminServicer(services.dashboard, services.withdrawals, services.audit, services.discards),
        ArtifactServicer(services.artifacts),
        BatchServicer(services.batches, services.inputs),
        InputServicer(services.inputs, services.run_inputs),
        ChatServicer(services.chats, services.attendance),
        DisputeServicer(services.disputes),
        GpuProofServicer(services.gpu_proofs),
        IncidentServicer(services.incidents, services.webhooks),
        JobServicer(services.jobs, services.quotes, services.watches, services.preparations),
        KeyServicer(services.key_ring),
        LedgerServicer(services.renters, services.proofs),
        LogInServicer(services.log_ins, services.operator_access),
        MailboxServicer(services.mailboxes),
        MetricServicer(services.metrics, services.providers),
        ModelServicer(services.catalogue),
        OperationServicer(services.operations),
        OperatorServicer(services.roster, services.operator_access, services.passkeys, config.public_url),
        OversightServicer(services.health, services.oversight),
        PriceServicer(services.prices),
        PrivacyServicer(services.export, services.deletion),
        ProviderServicer(
            services.providers, services.registration, services.heartbeats, services.market, newest
        ),
        RecoveryServicer(services.recovery),
        RenterServicer(services.renters, services.registration, services.market),
        StatementServicer(services.statements),
        TermsServicer(services.terms),
        WebhookServicer(services.webhooks),
        WithdrawalServicer(services.withdrawals),
    )


def register(servicer: object, methods: Methods) -> str:
    """Adds a servicer's methods by its generated base class; returns the full name of its service."""
    base = next(c for c in type(servicer).__mro__ if c.__module__.endswith("_pb2_grpc"))
    getattr(sys.modules[base.__module__], f"add_{base.__name__}_to_server")(servicer, methods)
    return f"dcp.v1.{base.__name__.removesuffix('Servicer')}"


def _note_call(calls: RecentCalls, clock: Clock, method: str, seconds: float, code: str) -> None:
    """Counts a call that ended, for the operators' view of the last hour."""
    calls.note(clock.now(), method, seconds, has_failed=code in SERVER_FAULTS)


def _refresh() -> None:
    """Corrects what an earlier run of a server, or an older release, stored."""
    providers.rename_gpus()
    jobs.rename_gpus()


class Server:
    """One running server. Call ``start``, then ``stop``; ``address`` and ``methods`` are known in between."""

    def __init__(
        self,
        config: Config,
        clock: Clock | None = None,
        telemetry: Telemetry = OFF,
        traces: Traces = tracing.OFF,
    ) -> None:
        self._config = config
        self._traces = traces
        self._telemetry = telemetry
        self._clock = clock or SystemClock()
        self._database = Database(config.database_url)
        self._database.telemetry = telemetry
        self._database.traces = traces
        self._tasks: list[asyncio.Task[None]] = []
        self.address = ""
        self.gateway_address = ""
        """Where gateways call, if not at ``address``."""

    async def start(self) -> None:
        """Migrates the database, listens and serves. Raises ConfigError or DatabaseUrlError."""
        _check_free(self._config.listen)
        await asyncio.to_thread(self._database.start, first=_refresh)
        duties = []
        if isinstance(self._clock, SystemClock) and not self._database.is_sqlite:
            shared_time = TimeOfDatabase(self._database, self._clock)
            await shared_time.begin()
            duties.append(Duty("follow the database's time", shared_time.tick))
        self.services = Services(self._database, self._clock, self._config, body_text, self._telemetry)
        await self.services.servers.begin()
        await self._check_folder()
        if self._config.mail is None:
            log.info(
                "sends no mail, so accounts need no proof of their e-mail addresses: DCP_SMTP_URL is not set"
            )
        self._limits = RateLimits(self._config.limits, self._clock, self.services.bus)
        needs_certificate = bool(self._config.gateway_listen)
        addresses = Addresses(self._config.trusted_proxies, needs_certificate=needs_certificate)
        authentication = Authentication(
            self.services.keys,
            self._limits,
            addresses,
            self.services.discards.note_key,
            partial(_note_call, self.services.calls, self._clock),
            self._telemetry,
            self._traces,
        )
        self.methods = Methods(authentication)
        self._grpc = grpc.aio.server(
            handlers=[self.methods], interceptors=[authentication], options=GRPC_OPTIONS
        )
        self._register()
        self.address = self._listen()
        self._listen_for_gateways()
        await self.services.bus.start()
        await self._grpc.start()
        await self._health.tick()
        # Loops of their own, since a dead database holds up those that use it.
        duties.append(Duty("report health", self._health.tick))
        alone = (Loop(PERIOD_SECONDS, (duty,)) for duty in duties)
        loops = (*server_loops(self.services), *alone)
        self.loops = figures.measured(loops, self._telemetry, self.services, self._database, self._clock)
        self._tasks = [asyncio.create_task(loop.run()) for loop in self.loops]

    async def stop(self) -> None:
        """Drains: asks daemons to reconnect later, lets calls finish, writes waiting heartbeats.

        A step that fails is logged, and those after it still run: the database is closed in any case.
        """
        services = self.services
        steps = (
            Duty("stop: report it", self._health.enter_graceful_shutdown),
            Duty("stop: end the loops", self._end_loops),
            Duty("stop: send no more webhooks", services.deliveries.stop),
            Duty("stop: send watchers away", services.watches.stop),
            Duty("stop: let calls finish", self._let_calls_finish),
            Duty("stop: end the sessions", self._sessions.drain),
            Duty("stop: fetch no more inputs", services.input_fetches.stop),
            Duty("stop: end uploads of inputs", services.inputs.stop),
            Duty("stop: end transfers of artifacts", services.artifacts.stop),
            Duty("stop: write heartbeats", services.heartbeats.write_all),
            Duty("stop: write uses of keys", partial(services.keys.write_uses, now=True)),
            Duty("stop: store metrics", services.metrics.store_all),
            Duty("stop: store discards", services.discards.tick),
            Duty("stop: follow no hints", services.neighbours.stop),
            Duty("stop: leave the other servers", services.servers.end),
            Duty("stop: leave the bus", services.bus.stop),
        )
        await Loop(PERIOD_SECONDS, steps).tick()
        await asyncio.to_thread(self._database.stop)

    async def _end_loops(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _let_calls_finish(self) -> None:
        self.services.servers.is_leaving = True
        self._sessions.send_away()
        await self._grpc.stop(STOP_GRACE_SECONDS)

    def _register(self) -> None:
        self._sessions = SessionServicer(self.services.streams, self._limits)
        ours = (*servicers(self.services, self._config), self._sessions)
        self._names = tuple(register(servicer, self.methods) for servicer in ours)
        self._health = ServerHealth(self._names, self._database.probe, self._config.newest_daemon)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.methods)
        names = (
            *self._names,
            health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            reflection.SERVICE_NAME,
        )
        reflection.enable_server_reflection(names, self._grpc, pool=descriptor_pool.Default())

    async def _check_folder(self) -> None:
        """Raises ConfigError if other servers have another folder for the files of jobs."""
        blobs = self.services.blobs
        if self._database.is_sqlite or not isinstance(blobs, FileBlobs):
            return
        try:
            await blob_folder.check(self._database, self.services.servers, blobs)
        except blob_folder.NotSharedError:
            await self.services.servers.end()
            raise ConfigError(
                f"DCP_BLOB_STORE: {self._config.blob_store} is not the folder that the other servers have, "
                "so each would miss files of the others; use a bucket (s3://...), or mount one folder at all"
            ) from None
        except BlobStoreError as error:
            log.error("the folder of jobs' files cannot be used now: %s", error)

    def _listen_for_gateways(self) -> None:
        config = self._config
        if not config.gateway_listen or config.tls is None:
            return
        credentials = grpc.ssl_server_credentials([config.tls], config.gateway_ca, require_client_auth=True)
        with contextlib.suppress(RuntimeError):
            if port := self._grpc.add_secure_port(config.gateway_listen, credentials):
                self.gateway_address = f"{config.gateway_listen.rpartition(':')[0]}:{port}"
                return
        raise ConfigError(
            f"DCP_GATEWAY_LISTEN: cannot listen on {config.gateway_listen}; is the port in use?"
        )

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


def _check_free(listen: str) -> None:
    """Raises ConfigError, in one line and before anything is changed, if the port cannot be bound."""
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            raise ConfigError(f"DCP_GRPC_LISTEN: cannot listen on {host}:{port}: {error.strerror}") from None
