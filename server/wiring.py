"""Builds every service, with one database, clock and configuration. Services are built only here.

It does not know gRPC: server.app passes the services to their servicers.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from common.telemetry import OFF, Telemetry
from server.blobs import Blobs
from server.blobs.files import FileBlobs
from server.bus import Bus, BusAddress, Topic
from server.bus.local import LocalBus
from server.clock import Clock
from server.config import Config
from server.domain.gpu_proofs import Scale
from server.domain.payouts import Period
from server.domain.recent_calls import RecentCalls
from server.domain.standing import Facts, assess
from server.domain.webhooks import Answer
from server.mail import SmtpMail
from server.outbound import Outbound
from server.passkeys import Site, refused
from server.services.artifacts import Artifacts
from server.services.attendance import Attendance
from server.services.batch_runs import BatchRuns
from server.services.batches import Batches
from server.services.canaries import Canaries
from server.services.catalogue import Catalogue
from server.services.chats import Chats
from server.services.cleaning import Cleaning
from server.services.deliveries import Deliveries, Post, Write
from server.services.dispatch import Dispatch
from server.services.disputes import Disputes
from server.services.fleet import Fleet
from server.services.gpu_proofs import GpuProofs
from server.services.heartbeats import Heartbeats
from server.services.input_fetches import InputFetches
from server.services.inputs import Inputs
from server.services.jobs import Jobs
from server.services.key_ring import KeyRing
from server.services.keys import Credentials
from server.services.log_ins import LogIns
from server.services.mailboxes import Mailboxes
from server.services.mailer import Mailer
from server.services.market import Market
from server.services.metrics import Metrics
from server.services.neighbours import Neighbours
from server.services.operators.access import Access
from server.services.operators.accounts import Accounts
from server.services.operators.audit import Audit
from server.services.operators.dashboard import Dashboard
from server.services.operators.discards import Discards
from server.services.operators.health import MarketHealth
from server.services.operators.incidents import Incidents
from server.services.operators.operations import Operations
from server.services.operators.oversight import Oversight
from server.services.operators.passkeys import Passkeys
from server.services.operators.proofs import Proofs
from server.services.operators.roster import Roster
from server.services.payouts import Payouts
from server.services.preparations import Preparations
from server.services.prices import PriceList
from server.services.privacy.deletion import Deletion
from server.services.privacy.export import Export
from server.services.providers import Providers
from server.services.quotes import Quotes
from server.services.recovery import Recovery
from server.services.registration import Registration
from server.services.renters import Renters
from server.services.retention import Retention
from server.services.run_inputs import RunInputs
from server.services.servers import Servers
from server.services.sessions import Shared
from server.services.standing import Standings
from server.services.statements import Statements
from server.services.storage_charges import StorageCharges
from server.services.streams import Streams
from server.services.sweep import Sweep
from server.services.terms import OwnTerms
from server.services.watch import Watches
from server.services.webhooks import Webhooks
from server.services.withdrawals import Withdrawals
from server.store.changes import Changed
from server.store.database import Database


class Services:
    """The use cases of one server, by noun."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        config: Config,
        write_event: Write,
        telemetry: Telemetry = OFF,
    ) -> None:
        self.blobs = blobs = open_blobs(config.blob_store)
        outbound = Outbound(allow_private=config.webhooks_allow_private)
        post = outbound.post
        mail, sends_mail = config.mail, config.mail is not None
        payouts = config.payouts
        matures = not payouts.is_immediate
        checks_are_on = bool(config.canary_percent)
        first = assess(Facts(), checks_are_on=checks_are_on)
        self.fleet = Fleet(first if config.standing_counts else None)
        self.standings = Standings(database, self.fleet, clock, payouts, checks_are_on=checks_are_on)
        period: Period = self.standings.period
        self.bus: Bus = open_bus(config.bus)
        database.announce = self._announce
        self.fleet.announce = lambda provider_id: self.bus.publish(Topic.PROVIDER, [str(provider_id)])
        self.servers = Servers(database, clock, config.server_name or socket.gethostname())
        self.preparations = Preparations(self.bus, clock)
        self.dispatch = Dispatch(database, self.fleet, clock, config.max_output_bytes, self.bus)
        self.metrics = Metrics(database, clock)
        self.providers = Providers(
            database,
            self.fleet,
            clock,
            config.minimums,
            config.storage_limits,
            period,
        )
        self.heartbeats = Heartbeats(
            database, self.fleet, self.metrics, clock, config.minimums, bool(config.canary_percent)
        )
        self.market = Market(database, self.fleet, self.providers, clock)
        self.catalogue = Catalogue(database, clock, config.sar_per_usd)
        self.discards = Discards(database, clock)
        self.attendance = Attendance(self.bus, lambda caller, job_id: self.jobs.cancel(caller, job_id))
        self.watches = Watches(database, self.bus, clock, self.preparations, self.attendance)
        shared = Shared(
            database,
            self.dispatch,
            self.fleet,
            self.heartbeats,
            self.discards,
            clock,
            self.servers,
            self.preparations,
            newest_daemon=config.newest_daemon,
            payouts_mature=matures,
            show=self.watches.show,
        )
        self.streams = Streams(shared, config.limits.streams)
        self.neighbours = Neighbours(shared, self.streams, self.bus)
        self.keys = Credentials(database, clock, config.admin_token, self.bus)
        self.key_ring = KeyRing(database, clock, self.keys)
        self.terms = OwnTerms(database, self.fleet, self.dispatch, clock)
        self.storage_charges = StorageCharges(database, clock)
        self.prices = PriceList(database, self.terms, clock)
        self.jobs = Jobs(
            database,
            self.dispatch,
            self.fleet,
            clock,
            config.limits.open_jobs,
            config.storage_limits,
            needs_proof=sends_mail,
        )
        self.chats = Chats(self.jobs, self.fleet)
        self.keys.changed = self._check_keys_soon
        self.quotes = Quotes(database, self.jobs, self.fleet, clock)
        self.gpu_proofs = GpuProofs(database, self.fleet, clock, Scale(rounds=config.gpu_proof_rounds))
        self.canaries = Canaries(database, self.fleet, self.jobs, clock, config.canary_percent)
        self.sweep = Sweep(database, self.dispatch, self.fleet, self.heartbeats, clock, matures)
        self.artifacts = Artifacts(
            database, blobs, self.jobs, clock, config.artifact_limits, config.storage_limits
        )
        self.inputs = Inputs(
            database,
            blobs,
            clock,
            config.input_limits,
            config.storage_limits,
            allow_private=config.webhooks_allow_private,
        )
        self.input_fetches = InputFetches(database, self.inputs, outbound.get)
        self.run_inputs = RunInputs(database, blobs, self.inputs)
        self.batches = Batches(database, clock, self.inputs)
        self.batch_runs = BatchRuns(database, clock, self.chats, self.jobs, config.limits.open_jobs)
        self.cleaning = Cleaning(database, blobs, clock, config.artifact_limits)
        self.retention = Retention(database, clock, config.storage_limits)
        self.renters = Renters(
            database, clock, config.sandbox_topup, config.storage_limits, needs_proof=sends_mail
        )
        self.registration = Registration(
            database, clock, needs_approval=config.provider_approval, sends_mail=sends_mail
        )
        self.mailboxes = Mailboxes(database, clock, sends_mail=sends_mail)
        self.recovery = Recovery(
            database, clock, self.keys, sends_mail=sends_mail, delay_hours=config.recovery_hours
        )
        self.log_ins = LogIns(database, clock, self.keys, sends_mail=sends_mail)
        self.mailer = Mailer(
            database, clock, SmtpMail(mail).send if mail else None, mail.public_url if mail else ""
        )
        self.export = Export(database)
        self.deletion = Deletion(database, clock, self.keys)
        self.webhooks = Webhooks(database, clock, config.webhooks_allow_private)
        self.deliveries = Deliveries(database, clock, write_event, _measured(post, telemetry), self.bus)
        self.withdrawals = Withdrawals(database, clock, needs_proof=sends_mail)
        self.payouts = Payouts(database, clock, period)
        self.disputes = Disputes(database, clock, payouts.dispute_days)
        self.statements = Statements(database, clock)
        self.dashboard = Dashboard(database, clock)
        self.proofs = Proofs(database, clock)
        self.incidents = Incidents(
            database, self.fleet, self.proofs, clock, config.incidents, _places(blobs, database)
        )
        self.calls = RecentCalls(clock.now())
        self.health = MarketHealth(database, self.fleet, self.incidents, self.proofs, self.calls, clock)
        self.oversight = Oversight(database, self.renters, self.providers, clock)
        self.audit = Audit(database)
        self.roster = Roster(database, clock, self.keys, has_token=config.admin_token is not None)
        self.operator_access = Access(database, clock, self.keys)
        self.passkeys = Passkeys(database, clock, self.keys, Site(config.public_url), refused)
        self.accounts = Accounts(database, self.fleet, self.providers, self.streams, self.keys, clock)
        self.operations = Operations(database, self.dispatch, self.fleet, self.providers, clock)

    def _announce(self, changed: Changed) -> None:
        """Wakes what waits for a change of a transaction. Called after its commit, in the thread of it."""
        if changed.jobs:
            self.bus.publish(Topic.JOB, changed.jobs)
        if texts := changed.texts - changed.jobs:
            self.watches.stored(texts)
            self.bus.publish(Topic.TEXT, texts)
        if changed.outboxes:
            self.deliveries.note_due(changed.outboxes)

    def _check_keys_soon(self) -> None:
        self.streams.check_soon()
        self.watches.check_soon()


def _places(blobs: Blobs, database: Database) -> dict[str, Path]:
    """The folders whose disks this server fills: not a bucket's, and not PostgreSQL's."""
    places = {}
    if isinstance(blobs, FileBlobs):
        places["files"] = blobs.folder
    if database.is_sqlite:
        places["database"] = Path(database.peewee.database).absolute().parent
    return places


def open_bus(address: BusAddress | None) -> Bus:
    """The bus between servers; without an address, the one within this process."""
    if address is None:
        return LocalBus()
    from server.bus.nats import NatsBus  # NATS's client is installed with [cluster]

    return NatsBus(address)


def _measured(post: Post, telemetry: Telemetry) -> Post:
    if not telemetry.is_on:
        return post

    async def measured(url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        with telemetry.timed("dcp_webhook_duration_seconds"):
            answer = await post(url, headers, body)
        outcome = "accepted" if answer.is_good else "failed" if answer.status_code is None else "refused"
        telemetry.count("dcp_webhook_requests_total", outcome)
        return answer

    return measured


def open_blobs(url: str) -> Blobs:
    """The store at ``file:FOLDER`` or ``s3://BUCKET/PREFIX``. It is not contacted before its first use."""
    kind, _, place = url.partition(":")
    if kind == "file":
        # file:///folder and file:/folder are the same; file:folder is relative to the working directory.
        return FileBlobs(Path(place.removeprefix("//")))
    from server.blobs.s3 import S3Blobs

    bucket, _, prefix = place.removeprefix("//").partition("/")
    return S3Blobs(bucket, prefix.strip("/"))
