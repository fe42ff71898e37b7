"""Builds every service, with one database, clock and configuration. Services are built only here.

It does not know gRPC: server.app passes the services to their servicers.
"""

from __future__ import annotations

from pathlib import Path

from server.blobs import Blobs
from server.blobs.files import FileBlobs
from server.clock import Clock
from server.config import Config
from server.domain.gpu_proofs import Scale
from server.domain.payouts import Period
from server.domain.standing import Facts, assess
from server.mail import SmtpMail
from server.outbound import Outbound
from server.services.artifacts import Artifacts
from server.services.bus import LocalBus
from server.services.canaries import Canaries
from server.services.catalogue import Catalogue
from server.services.chats import Chats
from server.services.cleaning import Cleaning
from server.services.deliveries import Deliveries, Write
from server.services.dispatch import Dispatch
from server.services.disputes import Disputes
from server.services.fleet import Fleet
from server.services.gpu_proofs import GpuProofs
from server.services.heartbeats import Heartbeats
from server.services.jobs import Jobs
from server.services.key_ring import KeyRing
from server.services.keys import Credentials
from server.services.mailboxes import Mailboxes
from server.services.mailer import Mailer
from server.services.market import Market
from server.services.metrics import Metrics
from server.services.operators.accounts import Accounts
from server.services.operators.audit import Audit
from server.services.operators.dashboard import Dashboard
from server.services.operators.discards import Discards
from server.services.operators.operations import Operations
from server.services.operators.proofs import Proofs
from server.services.payouts import Payouts
from server.services.prices import PriceList
from server.services.privacy.deletion import Deletion
from server.services.privacy.export import Export
from server.services.providers import Providers
from server.services.quotes import Quotes
from server.services.recovery import Recovery
from server.services.registration import Registration
from server.services.renters import Renters
from server.services.retention import Retention
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
from server.store.database import Database


class Services:
    """The use cases of one server, by noun."""

    def __init__(self, database: Database, clock: Clock, config: Config, write_event: Write) -> None:
        blobs = open_blobs(config.blob_store)
        post = Outbound(allow_private=config.webhooks_allow_private).post
        mail, sends_mail = config.mail, config.mail is not None
        payouts = config.payouts
        matures = not payouts.is_immediate
        checks_are_on = bool(config.canary_percent)
        first = assess(Facts(), checks_are_on=checks_are_on)
        self.fleet = Fleet(first if config.standing_counts else None)
        self.standings = Standings(database, self.fleet, clock, payouts, checks_are_on=checks_are_on)
        period: Period = self.standings.period
        self.dispatch = Dispatch(database, self.fleet, clock, config.max_output_bytes)
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
        shared = Shared(
            database,
            self.dispatch,
            self.fleet,
            self.heartbeats,
            self.discards,
            clock,
            newest_daemon=config.newest_daemon,
            payouts_mature=matures,
        )
        self.streams = Streams(shared, config.limits.streams)
        self.keys = Credentials(database, clock, config.admin_token)
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
        bus = LocalBus()
        database.announce = bus.publish
        self.watches = Watches(database, bus, clock)
        self.quotes = Quotes(database, self.jobs, self.fleet, clock)
        self.gpu_proofs = GpuProofs(database, self.fleet, clock, Scale(rounds=config.gpu_proof_rounds))
        self.canaries = Canaries(database, self.fleet, self.jobs, clock, config.canary_percent)
        self.sweep = Sweep(database, self.dispatch, self.fleet, self.heartbeats, clock, matures)
        self.artifacts = Artifacts(
            database, blobs, self.jobs, clock, config.artifact_limits, config.storage_limits
        )
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
        self.mailer = Mailer(
            database, clock, SmtpMail(mail).send if mail else None, mail.public_url if mail else ""
        )
        self.export = Export(database)
        self.deletion = Deletion(database, clock, self.keys)
        self.webhooks = Webhooks(database, clock, config.webhooks_allow_private)
        self.deliveries = Deliveries(database, clock, write_event, post)
        self.withdrawals = Withdrawals(database, clock, needs_proof=sends_mail)
        self.payouts = Payouts(database, clock, period)
        self.disputes = Disputes(database, clock, payouts.dispute_days)
        self.statements = Statements(database, clock)
        self.dashboard = Dashboard(database, clock)
        self.proofs = Proofs(database, clock)
        self.audit = Audit(database)
        self.accounts = Accounts(database, self.fleet, self.providers, self.streams, clock)
        self.operations = Operations(database, self.dispatch, self.fleet, self.providers, clock)


def open_blobs(url: str) -> Blobs:
    """The store at ``file:FOLDER`` or ``s3://BUCKET/PREFIX``. It is not contacted before its first use."""
    kind, _, place = url.partition(":")
    if kind == "file":
        # file:///folder and file:/folder are the same; file:folder is relative to the working directory.
        return FileBlobs(Path(place.removeprefix("//")))
    from server.blobs.s3 import S3Blobs

    bucket, _, prefix = place.removeprefix("//").partition("/")
    return S3Blobs(bucket, prefix.strip("/"))
