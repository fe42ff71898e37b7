"""The authorization matrix: every RPC with every role, on own and on foreign objects, over gRPC and HTTP.

It is generated from the descriptors. The test fails for an RPC whose request names an object that is not in
``OBJECTS``, and for an entry in ``OBJECTS`` that no RPC has any more.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from dcp.v1 import options_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gateway.routes import BASES, Binding, bindings, discover
from gateway.transcode import body_reader, query_reader
from scripts.market import UNLIMITED
from server.domain import batches
from server.domain.batches import Part, file_id_of_input, file_id_of_part
from server.domain.inputs import Purpose
from server.domain.keys import Scope
from server.domain.operators import OperatorRole
from server.services import keys as keys_of
from server.services.inputs import Announced
from server.services.keys import digest, issue
from server.store import disputes, withdrawals
from server.store.models import ApiKey, Artifact, AuditEntry, Job, OperatorKey
from server.store.operators import access, passkeys, roster
from tests.server.rpc.methods import first_answer
from tests.support.running_server import bearer, read_refusal
from tests.support.whole_stack import ADMIN_TOKEN, Stack, running_stack

METHODS: dict[str, MethodDescriptor] = {
    f"{service.name}.{method.name}": method
    for file in discover()
    for service in file.services_by_name.values()
    for method in service.methods
}
BINDINGS: dict[str, list[Binding]] = {}
for _binding in bindings(discover()):
    BINDINGS.setdefault(f"{_binding.method.containing_service.name}.{_binding.method.name}", []).append(
        _binding
    )

JOB, RENTER, PROVIDER, WITHDRAWAL, KEY = "job", "renter", "provider", "withdrawal", "key"
DISPUTE, INPUT = "dispute", "input"
OPERATOR, OPERATOR_KEY, PASSKEY = "operator", "key of an operator", "passkey"
BATCH, FILE, OUTPUT = "batch", "file of a batch", "output of a batch"
FREE = "anybody's to name: a filter, a place in a list, or whom to do business with"
# The kind of object that each id in a request names, by RPC and field.
OBJECTS = {
    "JobService.SubmitJob provider_id": FREE,
    "JobService.SubmitJob quote_id": FREE,
    # tests/protocol/test_inputs names somebody else's.
    "JobService.SubmitJob inputs.input_id": FREE,
    "JobService.QuoteJob inputs.input_id": FREE,
    **{
        f"BatchService.{name} batch_id": BATCH
        for name in ("GetBatch", "CancelBatch", "AddBatchLines", "ResumeBatchCheck", "EndBatchCheck")
    },
    **{
        f"BatchService.{name} file_id": FILE
        for name in ("GetFile", "DeleteFile", "AppendFile", "FinishFile", "ReadFile")
    },
    # Only a gateway names it, which tests/server/services/test_batches proves; a renter's file decides.
    "BatchService.ReadFile batch_id": FREE,
    "BatchService.CreateBatch input_file_id": FILE,
    "BatchService.ListBatchResults file_id": OUTPUT,
    "BatchService.AddBatchLines lines.custom_id": FREE,
    "InputService.SendInput input_id": INPUT,
    "InputService.GetInput input_id": INPUT,
    "InputService.DeleteInput input_id": INPUT,
    "InputService.ListInputs before_id": FREE,
    "JobService.QuoteJob provider_id": FREE,
    "JobService.WatchJob job_id": JOB,
    "JobService.WatchJob last_event_id": FREE,
    "JobService.GetJob job_id": JOB,
    "JobService.GetJobOutput job_id": JOB,
    "JobService.GetJobLogs job_id": JOB,
    "JobService.ExplainJob job_id": JOB,
    "JobService.CancelJob job_id": JOB,
    "JobService.ListOwnJobs before_job_id": FREE,
    "JobService.ListProviderJobs before_job_id": FREE,
    "DisputeService.OpenDispute job_id": JOB,
    "DisputeService.ListOwnDisputes before_id": FREE,
    "DisputeService.ListProviderDisputes before_id": FREE,
    "DisputeService.ListDisputes before_id": FREE,
    "DisputeService.GetDispute dispute_id": DISPUTE,
    "DisputeService.DecideDispute dispute_id": DISPUTE,
    "ArtifactService.ListArtifacts job_id": JOB,
    "ArtifactService.DownloadArtifact job_id": JOB,
    "KeyService.ListKeys before_id": FREE,
    "KeyService.RevokeKey key_id": KEY,
    "KeyService.SetKeyLimits key_id": KEY,
    "LedgerService.CreditRenter renter_id": RENTER,
    "AdminService.ListAuditEntries object_id": FREE,
    "AdminService.ListAuditEntries before_id": FREE,
    "AdminService.ListDiscards provider_id": FREE,
    "AdminService.ListDiscards before_id": FREE,
    "AdminService.ListWithdrawals before_id": FREE,
    "RenterService.ListAvailableProviders after_id": FREE,
    "StatementService.ListOwnLedger before_id": FREE,
    "StatementService.GetOwnLedgerCsv before_id": FREE,
    "MetricService.GetProviderMetrics provider_id": PROVIDER,
    "ProviderService.ListProviderHistory provider_id": PROVIDER,
    "SessionService.Connect hello.boot_id": FREE,
    "OversightService.GetPayoutEvidence withdrawal_id": WITHDRAWAL,
    "OversightService.GetProviderAccount provider_id": PROVIDER,
    "OversightService.GetRenterAccount renter_id": RENTER,
    "OversightService.ListProviderKeys before_id": FREE,
    "OversightService.ListProviderKeys provider_id": PROVIDER,
    "OversightService.ListProviderLedger before_id": FREE,
    "OversightService.ListProviderLedger provider_id": PROVIDER,
    "OversightService.ListRenterKeys before_id": FREE,
    "OversightService.ListRenterKeys renter_id": RENTER,
    "OversightService.ListRenterLedger before_id": FREE,
    "OversightService.ListRenterLedger renter_id": RENTER,
    "WebhookService.ListWebhookDeliveries before_id": FREE,
    "IncidentService.ListIncidents before_id": FREE,
    "IncidentService.ListOperatorWebhookDeliveries before_id": FREE,
    "WithdrawalService.ListOwnWithdrawals before_id": FREE,
    "WithdrawalService.GetWithdrawal withdrawal_id": WITHDRAWAL,
    "WithdrawalService.CancelWithdrawal withdrawal_id": WITHDRAWAL,
    "WithdrawalService.ProcessWithdrawal withdrawal_id": WITHDRAWAL,
    "WithdrawalService.PayWithdrawal withdrawal_id": WITHDRAWAL,
    "WithdrawalService.RejectWithdrawal withdrawal_id": WITHDRAWAL,
    "OperationService.ListProviders before_id": FREE,
    "OperationService.ListRenters before_id": FREE,
    "OperationService.ListJobs renter_id": FREE,
    "OperationService.ListJobs provider_id": FREE,
    "OperationService.ListJobs before_job_id": FREE,
    "OperationService.RequeueJob job_id": JOB,
    "AccountService.SuspendProvider provider_id": PROVIDER,
    "AccountService.UnsuspendProvider provider_id": PROVIDER,
    "AccountService.ApproveProvider provider_id": PROVIDER,
    "AccountService.VouchForProvider provider_id": PROVIDER,
    "RecoveryService.RecoverProviderKey provider_id": PROVIDER,
    "RecoveryService.RecoverRenterKey renter_id": RENTER,
    "OperatorService.ListOperators before_id": FREE,
    "OperatorService.ListOperatorKeys before_id": FREE,
    "OperatorService.InviteOperatorAgain operator_id": OPERATOR,
    "OperatorService.SetOperatorRole operator_id": OPERATOR,
    "OperatorService.RemoveOperator operator_id": OPERATOR,
    "OperatorService.RevokeOperatorKey key_id": OPERATOR_KEY,
    "OperatorService.RemovePasskey passkey_id": PASSKEY,
    "AccountService.SuspendRenter renter_id": RENTER,
    "AccountService.UnsuspendRenter renter_id": RENTER,
}
# Additional values that a request needs and that no example contains, because a GET has none.
NEEDED: dict[str, dict[str, str]] = {
    "ArtifactService.DownloadArtifact": {"name": "file"},
    "ModelService.GetModel": {"model": "test/model"},
    "BatchService.CreateFile": {"filename": "file"},
    "BatchService.CreateBatch": {"endpoint": "/v1/embeddings", "completion_window": "24h"},
}
# In these, a secret grants access, not an id; tests/server/services/test_sessions tries foreign secrets.
PROVEN_BY_SECRET = {"dcp.v1.Lease"}

CREDENTIALS = (
    "none",
    "wrong key",
    "revoked provider",
    "revoked renter",
    "foreign provider",
    "foreign renter",
    "provider",
    "renter",
    "inference sub-key",
    "billing sub-key",
    "read sub-key",
    "admin",
    *(f"{role} operator" for role in OperatorRole),
    *(f"{role} log-in" for role in OperatorRole),
)
# The roles of operators, who present a key of their own or the log-in of a browser.
OPERATORS = {f"{role} {what}": role for what in ("operator", "log-in") for role in OperatorRole}
SUB_KEYS = {f"{scope} sub-key": scope for scope in Scope}
ROLE_OF = {
    "foreign provider": options_pb2.ROLE_PROVIDER,
    "foreign renter": options_pb2.ROLE_RENTER,
    "provider": options_pb2.ROLE_PROVIDER,
    "renter": options_pb2.ROLE_RENTER,
    **dict.fromkeys(SUB_KEYS, options_pb2.ROLE_RENTER),
    "admin": options_pb2.ROLE_ADMIN,
    **dict.fromkeys(OPERATORS, options_pb2.ROLE_ADMIN),
}
ADMITTED = "admitted"
REFUSED = "not its object"
OF_CREDENTIAL = {
    *("MISSING_CREDENTIAL", "INVALID_CREDENTIAL", "WRONG_ROLE", "ADMIN_NOT_CONFIGURED"),
    *("MISSING_SCOPE", "MAIN_KEY_NEEDED", "OPERATOR_ROLE_NEEDED"),
}


def named(name: str) -> list[str]:
    """The paths of an RPC's request fields whose name says that they are ids."""
    return [f"{name} {path}" for path in _ids(METHODS[name].input_type)]


def _ids(message: Descriptor, seen: frozenset[str] = frozenset()) -> Iterator[str]:
    if message.full_name in PROVEN_BY_SECRET | seen:
        return
    for field in message.fields:
        if _is_id(field):
            yield field.name
        if field.message_type is not None:
            inner = _ids(field.message_type, seen | {message.full_name})
            yield from (f"{field.name}.{path}" for path in inner)


def _is_id(field: FieldDescriptor) -> bool:
    return field.name in ("id", "ids") or field.name.endswith(("_id", "_ids"))


def test_every_object_that_a_request_names_is_in_the_table() -> None:
    assert {place for name in METHODS for place in named(name)} == set(OBJECTS)


def object_of(name: str) -> tuple[str, str]:
    """The field and the kind of the owned object that an RPC names; two empty texts if it names none."""
    owned = [place for place in named(name) if OBJECTS[place] is not FREE]
    assert len(owned) <= 1, f"{name} names two objects: extend the matrix for that"
    return (owned[0].partition(" ")[2], OBJECTS[owned[0]]) if owned else ("", "")


@dataclass
class World:
    """The parties, their keys, and an object of each kind that belongs to `provider` or `renter`."""

    stack: Stack
    keys: dict[str, str]
    objects: dict[str, str | int]

    async def read(self, work: Callable[[], Any]) -> Any:
        """Runs a write without the services."""
        return await self.stack.server._database.run(work)


async def world(stack: Stack, prefix: str) -> World:
    """Creates new parties and objects, because the previous RPC may have deleted them."""
    keys, ids = {"admin": ADMIN_TOKEN, "wrong key": "dcp-renter-" + "x" * 43}, {}
    for who in CREDENTIALS:
        kind = who.rpartition(" ")[2]
        if kind in (PROVIDER, RENTER):
            email = f"{prefix}-{who.replace(' ', '-')}@example.com"
            ids[who], keys[who] = await stack.register(kind, email)
    await stack.post(
        f"/api/admin/renters/{ids[RENTER]}/credit", {"amount_halala": 9000}, **{"x-admin-token": ADMIN_TOKEN}
    )
    job = {"job_type": "training", "duration_minutes": 3, "container_spec": {"image": "busybox"}}
    job_id, disputed_id = [
        (await stack.post("/api/jobs/submit", job, **{"x-renter-key": keys[RENTER]}))["job"]["job_id"]
        for _ in range(2)
    ]

    def prepare() -> tuple[int, ...]:
        Job.update(provider_id=ids[PROVIDER]).where(Job.job_id == job_id).execute()
        revoked = [digest(keys[who]) for who in ("revoked provider", "revoked renter")]
        ApiKey.update(revoked_ms=1).where(ApiKey.sha256.in_(revoked)).execute()
        for who, scope in SUB_KEYS.items():
            keys[who] = issue(RENTER, ids[RENTER], 1, scopes=frozenset({scope}))
        issue(RENTER, ids[RENTER], 1, name="to revoke", scopes=frozenset({Scope.READ}))
        to_revoke = ApiKey.select(ApiKey.id).where(ApiKey.name == "to revoke").order_by(ApiKey.id.desc())
        Artifact.insert(
            job_id=job_id,
            lease_epoch=0,
            name="file",
            size_bytes=0,
            sha256=b"",
            blob_key=f"blob-{job_id}",
            state="published",
            created_ms=1,
            published_ms=int(stack.clock.now() * 1000),
        ).execute()
        withdrawal_id = withdrawals.insert(ids[PROVIDER], 1000, "SA0380000000608010167519", 1)
        Job.update(state="completed", ended_ms=1).where(Job.job_id == disputed_id).execute()
        disputes.insert(
            job_id=disputed_id,
            renter_id=ids[RENTER],
            provider_id=ids[PROVIDER],
            reason="filler",
            **dict.fromkeys(("charge_micros", "payout_micros", "payout_id"), 1),
            **dict.fromkeys(("held_micros", "maturing_micros"), 0),
            now_ms=1,
        )
        dispute = disputes.of_job(disputed_id)
        assert dispute is not None
        mine = add_operators(keys, prefix, int(stack.clock.now() * 1000))
        return withdrawal_id, to_revoke.scalar(), dispute.id, *mine

    withdrawal_id, key_id, dispute_id, *operators = await stack.server._database.run(prepare)
    await stack.server.services.artifacts._blobs.put(f"blob-{job_id}", _nothing(), 0)
    services = stack.server.services
    found = await services.inputs.begin(ids[RENTER], Announced("input", 1))
    file = await services.inputs.store(ids[RENTER], Announced("file", 0, purpose=Purpose.BATCH), _nothing())
    file_id = file_id_of_input(file.input_id)
    batch = await services.batches.create(ids[RENTER], None, batches.Announced("/v1/embeddings", file_id))
    objects = {
        JOB: job_id,
        RENTER: ids[RENTER],
        PROVIDER: ids[PROVIDER],
        WITHDRAWAL: withdrawal_id,
        KEY: key_id,
        DISPUTE: dispute_id,
        INPUT: found.input_id,
        BATCH: batch.batch_id,
        FILE: file_id,
        OUTPUT: file_id_of_part(batch.batch_id, Part.OUTPUT),
        **dict(zip((OPERATOR, OPERATOR_KEY, PASSKEY), operators, strict=True)),
    }
    return World(stack, keys, objects)


def add_operators(keys: dict[str, str], prefix: str, now_ms: int) -> tuple[int, ...]:
    """Operators of each role, with a key or a log-in; another one, and the ids of its key and passkey."""
    ends_ms = now_ms + 3_600_000
    for who, role in OPERATORS.items():
        name, is_log_in = f"{prefix} {who}", who.endswith("log-in")
        operator_id = roster.add(name, name, "", role, name.encode(), now_ms)
        beginning = keys_of.OPERATOR_LOG_IN if is_log_in else keys_of.OPERATOR_KEY
        keys[who] = f"{beginning}{prefix}-{role}-{'x' * 30}"
        access.add(operator_id, digest(keys[who]), "last", who, now_ms, ends_ms, is_log_in=is_log_in)
    name = f"{prefix} other"
    other = roster.add(name, name, "", OperatorRole.SUPPORT, name.encode(), now_ms)
    key_id = access.add(other, name.encode(), "last", name, now_ms, ends_ms, is_log_in=False)
    passkey_id = passkeys.add(other, name.encode(), b"", 0, name, now_ms)
    assert passkey_id is not None
    return other, key_id, passkey_id


async def log_in_again(there: World) -> None:
    """Undoes what a log-out did, since the next call has the same log-in."""
    is_revoked = OperatorKey.revoked_ms.is_null(False)
    await there.read(lambda: OperatorKey.update(revoked_ms=None).where(is_revoked).execute())


def role_needed(method: MethodDescriptor) -> OperatorRole:
    """The least role of an operator that may call the method, by its options."""
    number = method.GetOptions().Extensions[options_pb2.method].operator_role
    return OperatorRole(options_pb2.OperatorRole.Name(number).removeprefix("OPERATOR_ROLE_").lower())


def expected(method: MethodDescriptor, credential: str, kind: str) -> str:
    """The expected outcome by the roles in the options and the owner of the object."""
    roles = set(method.GetOptions().Extensions[options_pb2.method].roles)
    if options_pb2.ROLE_PUBLIC in roles:
        return ADMITTED
    if credential == "none":
        return "MISSING_CREDENTIAL"
    if credential not in ROLE_OF:
        return "INVALID_CREDENTIAL"
    if ROLE_OF[credential] not in roles:
        return "WRONG_ROLE"
    if credential in OPERATORS and not OPERATORS[credential].allows(role_needed(method)):
        return "OPERATOR_ROLE_NEEDED"
    scopes = method.GetOptions().Extensions[options_pb2.method].scopes
    if credential in SUB_KEYS and SUB_KEYS[credential].name not in {
        options_pb2.Scope.Name(scope).removeprefix("SCOPE_") for scope in scopes
    }:
        return "MISSING_SCOPE" if scopes else "MAIN_KEY_NEEDED"
    if kind == OPERATOR_KEY:
        return REFUSED  # an operator's keys are its own, also before admins
    return REFUSED if kind and credential.startswith("foreign") else ADMITTED


def judged(reason: str) -> str:
    """The outcome of authorization for an error reason; other errors come after authorization."""
    if reason in OF_CREDENTIAL:
        return reason
    if reason == "MODEL_NOT_FOUND":  # nobody's object: the world has no models
        return ADMITTED
    return REFUSED if reason == "NOT_OWNER" or reason.endswith("_NOT_FOUND") else ADMITTED


def request_of(name: str, objects: dict[str, str | int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """An RPC's example with an object of the world, as JSON and as the values of its message."""
    method = METHODS[name]
    example = method.GetOptions().Extensions[options_pb2.method].example_request
    plain: dict[str, Any] = json.loads(example) if example else {}
    for field in ("api_key", *(place.partition(" ")[2] for place in named(name))):
        plain.pop(field, None)
    if method.client_streaming:
        return {}, {}
    plain |= NEEDED.get(name, {})
    in_body = BINDINGS[name][0].fields_in_body if name in BINDINGS else True
    texts = {key: [str(value)] for key, value in plain.items()}
    values = body_reader(method.input_type)(plain) if in_body else query_reader(method.input_type)(texts)
    field, kind = object_of(name)
    return plain, values | ({field: objects[kind]} if kind else {})


async def by_grpc(there: World, name: str, credential: str) -> str:
    """The reason for which the server refuses the call, or ADMITTED."""
    method = METHODS[name]
    _, values = request_of(name, there.objects)
    request: Message = GetMessageClass(method.input_type)(**values)
    metadata = bearer(there.keys[credential]) if credential in there.keys else ()
    path = f"/{method.containing_service.full_name}/{method.name}"
    codecs: dict[str, Any] = {
        "request_serializer": lambda message: message.SerializeToString(),
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    try:
        if method.client_streaming:
            await first_answer(there.stack.channel.stream_stream(path, **codecs), metadata, request)
        elif method.server_streaming:
            async for _ in there.stack.channel.unary_stream(path, **codecs)(request, metadata=metadata):
                break  # what follows may last as long as a job
        else:
            await there.stack.channel.unary_unary(path, **codecs)(request, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return judged(read_refusal(error).reason)
    return ADMITTED


async def _nothing() -> AsyncIterator[bytes]:
    for _ in range(0):
        yield b""


def paths(binding: Binding) -> list[str]:
    """Under which paths it is served: what is under the first base is so under all of them."""
    if not binding.path.startswith(f"{BASES[0]}/"):
        return [binding.path]
    return [base + binding.path.removeprefix(BASES[0]) for base in BASES]


async def by_http(there: World, name: str, credential: str, binding: Binding, path: str) -> str:
    """The reason for which the gateway refuses the request, or ADMITTED."""
    plain, _ = request_of(name, there.objects)
    field, kind = object_of(name)
    path = path.replace(f"{{{field}}}", str(there.objects.get(kind)))
    for other, value in NEEDED.get(name, {}).items():
        path = path.replace(f"{{{other}}}", plain.pop(other) and value)
    assert "{" not in path, f"{name} has a path field that is not an object of the table"
    headers = {"authorization": f"Bearer {there.keys[credential]}"} if credential in there.keys else {}
    if credential.endswith("log-in"):
        headers = {"cookie": f"dcp-session={there.keys[credential]}", "content-type": "application/json"}
    headers["origin"] = str(there.stack.http.base_url).rstrip("/")  # what sets cookies is for our own pages
    where: dict[str, Any] = {"json": plain} if binding.fields_in_body else {"params": plain}
    there.stack.http.cookies.clear()  # or a log-in of the call before would do for a key
    answer = None
    if METHODS[name].server_streaming:
        # The first message decides, and what follows may last as long as a job.
        answer = await there.stack.http.head(path, headers=headers, **where)
    if answer is None or not answer.is_success:
        answer = await there.stack.http.request(binding.verb, path, headers=headers, **where)
    if answer.is_success:
        return ADMITTED
    assert answer.status_code < 500, answer.text
    told = answer.json()
    return judged(told["code"] if "code" in told else told["error"]["reason"])


async def test_every_rpc_admits_only_its_roles_and_only_to_their_own_objects(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    wrong: dict[tuple[str, ...], str] = {}
    grpc_cases = http_cases = 0
    # The objects' rows are written without the services, and the withdrawal without its money.
    async with running_stack(tmp_path, prove=False, **UNLIMITED) as stack:
        for number, (name, method) in enumerate(METHODS.items()):
            there = await world(stack, f"w{number}")
            _, kind = object_of(name)
            for credential in CREDENTIALS:
                want = expected(method, credential, kind)
                owner = ("foreign" if credential.startswith("foreign") else "own") if kind else "none"
                got = await by_grpc(there, name, credential)
                grpc_cases += 1
                await log_in_again(there)
                if got != want:
                    wrong["grpc", name, credential, owner] = f"{got}, not {want}"
                for binding in BINDINGS.get(name, []):
                    for path in paths(binding):
                        got = await by_http(there, name, credential, binding, path)
                        http_cases += 1
                        await log_in_again(there)
                        if got != want:
                            wrong[path, name, credential, owner] = f"{got}, not {want}"
        entries = await stack.server._database.run(lambda: list(AuditEntry.select()))
    assert wrong == {}
    # What each did is under its own name, by whichever credential.
    actors = {each.actor.partition(" ")[2] for each in entries if each.actor.startswith("w")}
    assert actors == set(OPERATORS)
    assert {each.actor for each in entries if not each.actor.startswith("w")} <= {"admin", "owner"}
    places = sum(len(paths(binding)) for found in BINDINGS.values() for binding in found)
    assert grpc_cases == len(METHODS) * len(CREDENTIALS) >= 17 * len(CREDENTIALS)
    assert http_cases == places * len(CREDENTIALS) >= 16 * 2 * len(CREDENTIALS)
    record_property("authorization matrix, (RPC, role, object) over gRPC", grpc_cases)
    record_property("authorization matrix, (RPC, role, object) over HTTP", http_cases)
