"""The limits declared in the protos: each generated violation is refused with the field at fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import pytest
from dcp.v1 import (
    batches_pb2,
    chats_pb2,
    gpus_pb2,
    honesty_pb2,
    incidents_pb2,
    jobs_pb2,
    keys_pb2,
    log_ins_pb2,
    operations_pb2,
    operators_pb2,
    options_pb2,
    prices_pb2,
    privacy_pb2,
    providers_pb2,
    recovery_pb2,
    renters_pb2,
    sessions_pb2,
    terms_pb2,
    webhooks_pb2,
    withdrawals_pb2,
)
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from server.domain.errors import DomainError
from server.rpc.validate import validate
from tests.server.rpc import methods
from tests.server.rpc.methods import METHODS
from tests.support.running_server import MODEL, Market, Party, read_refusal, refusal


@dataclass(frozen=True)
class Case:
    """One request with one fault."""

    method: str
    field: str
    fault: str
    spoil: Callable[[Message], None]


NUMBERS = {
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_DOUBLE,
}
TIMES = {options_pb2.FORMAT_TIME_OF_DAY, options_pb2.FORMAT_END_OF_HOURS}


AMOUNTS = (
    "sar_per_hour",
    "sar_per_million_input_tokens",
    "sar_per_million_cached_input_tokens",
    "sar_per_million_output_tokens",
)


def valid_request(method: str) -> Message:
    """A request that breaks no limit."""
    prepared = {
        "ProviderService.RegisterProvider": providers_pb2.RegisterProviderRequest(
            name="P", email="p@example.com"
        ),
        "RenterService.RegisterRenter": renters_pb2.RegisterRenterRequest(name="R", email="r@example.com"),
        "JobService.SubmitJob": jobs_pb2.SubmitJobRequest(
            job_type=jobs_pb2.JOB_TYPE_LLM_INFERENCE,
            duration_minutes=1,
            params=jobs_pb2.JobParams(model=MODEL, prompt="hi"),
        ),
        "JobService.QuoteJob": jobs_pb2.QuoteJobRequest(
            job_type=jobs_pb2.JOB_TYPE_LLM_INFERENCE, params=jobs_pb2.JobParams(model=MODEL, prompt="hi")
        ),
        "OperationService.ChangeRate": operations_pb2.ChangeRateRequest(
            job_type=jobs_pb2.JOB_TYPE_LLM_INFERENCE, halala_per_minute=1
        ),
        "PriceService.SetPrice": prices_pb2.SetPriceRequest(gpu_model="H100", sar_per_hour="11.25"),
        "PriceService.SetOwnPrice": prices_pb2.SetPriceRequest(gpu_model="H100", sar_per_hour="11.25"),
        "TermsService.SetOwnRate": terms_pb2.SetOwnRateRequest(
            job_type=jobs_pb2.JOB_TYPE_LLM_INFERENCE, halala_per_minute=1
        ),
        "WithdrawalService.RequestWithdrawal": withdrawals_pb2.RequestWithdrawalRequest(
            amount_halala=1000, iban="SA0380000000608010167519"
        ),
        "BatchService.CreateBatch": batches_pb2.CreateBatchRequest(
            input_file_id="file-1", endpoint="/v1/embeddings", completion_window="24h"
        ),
        "ChatService.SubmitChat": chats_pb2.SubmitChatRequest(
            model=MODEL, request=b'{"messages": [{"role": "user", "content": "hi"}]}'
        ),
        "ChatService.SubmitEmbeddings": chats_pb2.SubmitEmbeddingsRequest(
            model=MODEL, request=b'{"input": "hi"}'
        ),
        "WebhookService.SetWebhook": webhooks_pb2.SetWebhookRequest(url="https://renter.example/events"),
        "IncidentService.SetOperatorWebhook": incidents_pb2.SetOperatorWebhookRequest(
            url="https://pager.example/dcp"
        ),
        "PrivacyService.DeleteOwnAccount": privacy_pb2.DeleteOwnAccountRequest(email="r@example.com"),
        "LogInService.AskToLogIn": log_ins_pb2.AskToLogInRequest(
            email="r@example.com", role=recovery_pb2.ACCOUNT_ROLE_RENTER
        ),
        "RecoveryService.ReportLostKey": recovery_pb2.ReportLostKeyRequest(
            email="r@example.com", role=recovery_pb2.ACCOUNT_ROLE_RENTER
        ),
        "OperatorService.CreateOperatorKey": operators_pb2.CreateOperatorKeyRequest(
            name="K", expires_in_seconds=3600
        ),
        "KeyService.CreateKey": keys_pb2.CreateKeyRequest(name="K", scopes=[options_pb2.SCOPE_READ]),
    }.get(method)
    request = prepared or methods.empty(METHODS[method])
    for field in request.DESCRIPTOR.fields:
        if methods.field_rule(field).required and field.message_type is not None:
            getattr(request, field.name).SetInParent()
        elif field.type == field.TYPE_BOOL and methods.field_rule(field).required:
            setattr(request, field.name, True)
        elif methods.field_rule(field).required and not getattr(request, field.name):
            is_number = field.type in NUMBERS or field.enum_type is not None
            text: str | bytes = b"job-1" if field.type == field.TYPE_BYTES else "job-1"
            setattr(request, field.name, 1 if is_number else text)
    return request


def cases(method: str, descriptor: MethodDescriptor) -> Iterator[Case]:
    yield from _cases_of_message(method, descriptor.input_type, "", lambda request: request)


def _cases_of_message(method: str, message: Any, path: str, find: Callable[[Message], Any]) -> Iterator[Case]:
    for field in message.fields:
        rule = methods.field_rule(field)
        name = rule.header or path + field.name
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if field.is_repeated:
            yield from _repeated(method, field, rule, name, find, is_map)
        elif field.message_type is not None:
            yield from _cases_of_message(
                method, field.message_type, f"{name}.", partial(_inner, field.name, find)
            )
        else:
            for fault, value in _faults(field, rule):
                yield Case(method, name, fault, partial(_set, field.name, value, find))
            if rule.required:
                yield Case(method, name, "missing", partial(_clear, field.name, find))


def _inner(name: str, find: Callable[[Message], Any], request: Message) -> Any:
    return getattr(find(request), name)


def _set(name: str, value: Any, find: Callable[[Message], Any], request: Message) -> None:
    setattr(find(request), name, value)


def _clear(name: str, find: Callable[[Message], Any], request: Message) -> None:
    find(request).ClearField(name)


def _repeated(
    method: str,
    field: Any,
    rule: options_pb2.FieldRule,
    place: str,
    find: Callable[[Message], Any],
    is_map: bool,
) -> Iterator[Case]:
    attribute = field.name
    if is_map:

        def fill(request: Message, count: int = rule.max_items + 1) -> None:
            for n in range(count):
                getattr(find(request), attribute)[str(n)] = "x"

        def lengthen(request: Message) -> None:
            getattr(find(request), attribute)["K"] = "x" * (rule.max_length + 1)

        yield Case(method, place, "too many", fill)
        yield Case(method, f"{place}.K", "item too long", lengthen)
        return

    def overfill(request: Message) -> None:
        items = getattr(find(request), attribute)
        for _ in range(rule.max_items + 1):
            if field.message_type is not None:
                items.add()
            else:
                items.append("x" if field.type == field.TYPE_STRING else 1)

    assert rule.HasField("max_items"), f"{place} has no limit"
    yield Case(method, place, "too many", overfill)
    if field.message_type is not None:
        yield from _cases_of_message(
            method, field.message_type, f"{place}[0].", lambda r: _first(getattr(find(r), attribute))
        )
    elif rule.HasField("max_length"):
        yield Case(
            method,
            f"{place}[1]",
            "item too long",
            lambda r: getattr(find(r), attribute).extend(["x", "x" * (rule.max_length + 1)]),
        )


def _first(items: Any) -> Any:
    if items:
        return items[0]
    item = items.add()
    for field in item.DESCRIPTOR.fields:
        if methods.field_rule(field).required:
            is_time = methods.field_rule(field).format in TIMES
            text = "08:00" if is_time else "user"
            is_text = field.type == field.TYPE_STRING
            setattr(item, field.name, text if is_text else 1 if field.type in NUMBERS else b"x")
    return item


def _faults(field: Any, rule: options_pb2.FieldRule) -> Iterator[tuple[str, Any]]:
    step = 0.001 if field.type == FieldDescriptor.TYPE_DOUBLE else 1
    convert = float if field.type == FieldDescriptor.TYPE_DOUBLE else int
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        yield from (("nan", math.nan), ("infinite", math.inf))
    if rule.HasField("minimum"):
        yield "below", convert(rule.minimum) - step
    if rule.HasField("maximum"):
        yield "above", convert(rule.maximum) + step
    if rule.HasField("max_length"):
        letter: str | bytes = b"x" if field.type == FieldDescriptor.TYPE_BYTES else "x"
        yield "too long", letter * (rule.max_length + 1)
    if rule.values:
        yield "none of its values", f"{rule.values[0]}s"
    if field.type == FieldDescriptor.TYPE_STRING:
        if rule.shown not in REPORTED:
            yield "nul", "a\0b"
        if rule.shown in (options_pb2.SHOWN_LINE, options_pb2.SHOWN_LINES):
            yield "invisible", "a\u200bb"
            yield "turns text", "\u202eb"
        if rule.required:
            yield "blank", "  \t"


REPORTED = (options_pb2.SHOWN_REPORTED_LINE, options_pb2.SHOWN_REPORTED_LINES)
# Texts of requests that nobody else sees, or that the place where they are used judges.
NOT_SHOWN = {
    *("job_id", "before_job_id", "before", "page", "search", "idempotency_key", "boot_id", "last_event_id"),
    *("range", "if_range"),  # headers of a download
    *(
        "role",
        "content",
        "prompt",
        "command",
        "env",
        "input_files",
        "image_type",
        "image_size",
    ),  # the job's own
    *("object", "object_id", "actor"),  # filters
    "after",  # a position in a list
}


def texts_of_requests() -> Iterator[tuple[str, options_pb2.FieldRule]]:
    """Every text that a caller or a daemon sends, with its options."""
    waiting = [method.input_type for method in METHODS.values()]
    seen = set()
    while waiting:
        message = waiting.pop()
        if message.full_name in seen or not message.full_name.startswith("dcp.v1."):
            continue
        seen.add(message.full_name)
        for field in message.fields:
            if field.type == FieldDescriptor.TYPE_STRING and not message.GetOptions().map_entry:
                yield field.full_name, methods.field_rule(field)
            elif field.message_type is not None:
                waiting.append(field.message_type)


def test_every_text_of_a_request_is_shown_has_a_form_or_is_known_not_to_be_shown() -> None:
    found = dict(texts_of_requests())
    free = {
        name for name, rule in found.items() if not (rule.shown or rule.format or rule.values or rule.header)
    }
    unknown = {name for name in free if name.rpartition(".")[2] not in NOT_SHOWN}
    assert unknown <= {
        *("dcp.v1.ArtifactHeader.name", "dcp.v1.DownloadArtifactRequest.name"),  # judged as paths
        *(f"dcp.v1.ListAvailableProvidersRequest.{name}" for name in ("architecture", "gpu_model", "model")),
        *(f"dcp.v1.{name}Request.code" for name in ("VerifyEmail", "RedeemKeyCode")),  # only digested
        *(f"dcp.v1.RedeemLogInCodeRequest.{name}" for name in ("code", "asked")),  # only digested
        *(f"dcp.v1.{name}InvitationRequest.invitation" for name in ("Open", "Accept")),  # only digested
        *(f"dcp.v1.{name}Request.asked" for name in ("AcceptInvitation", "LogInByPasskey", "AddPasskey")),
        "dcp.v1.ProvableGpu.uuid",  # compared with the reported ones, which are shown
        *(f"dcp.v1.SetPriceRequest.{name}" for name in AMOUNTS),  # decimal numbers
        "dcp.v1.SetStoragePriceRequest.sar_per_gb_day",  # a decimal number
        "dcp.v1.ListAvailableProvidersRequest.cursor",  # made by the server for one list
        "dcp.v1.SubmitJobRequest.quote_id",  # signed by the server
        *(f"dcp.v1.JobInput.{name}" for name in ("input_id", "artifact", "path")),  # ids; judged as paths
        *(f"dcp.v1.{name}JobRequest.resume_from" for name in ("Submit", "Quote")),  # an id
        *(f"dcp.v1.{name}InputRequest.input_id" for name in ("Send", "Get", "Delete")),
        "dcp.v1.CreateInputRequest.sha256",  # a digest
        *(f"dcp.v1.{name}BatchRequest.batch_id" for name in ("Get", "Cancel")),
        *(
            f"dcp.v1.{name}Request.batch_id"
            for name in ("AddBatchLines", "ResumeBatchCheck", "EndBatchCheck", "ReadFile")
        ),
        "dcp.v1.BatchLine.cache_key",  # only compared
        *(f"dcp.v1.{name}FileRequest.file_id" for name in ("Get", "Delete", "Append", "Finish", "Read")),
        "dcp.v1.ListBatchResultsRequest.file_id",  # an id
        "dcp.v1.CreateBatchRequest.input_file_id",  # an id
        "dcp.v1.ListFilesRequest.purpose",  # only compared
        "dcp.v1.BatchLine.custom_id",  # only its renter reads it
        *(f"dcp.v1.BatchError.{name}" for name in ("code", "message", "param")),  # only its renter reads it
        "dcp.v1.SubmitChatRequest.cache_key",  # only compared
        "dcp.v1.TokenLogprob.token",  # compared with those of other daemons
        "dcp.v1.Usage.bounded",  # the server's own words: what a daemon sends there is dropped
    }
    assert len(found) - len(free) > 40


async def test_character_that_others_may_not_see_is_named(market: Market) -> None:
    request = providers_pb2.RegisterProviderRequest(name="Slow\u200b", email="slow@example.com")
    refused = await refusal(market.provider_service.RegisterProvider(request))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", "name")
    assert "U+200B" in refused.message


async def test_what_a_daemon_reports_is_cleaned_and_its_session_goes_on(any_market: Market) -> None:
    market = any_market
    provider, renter = await market.provider(), await market.renter()
    status = gpus_pb2.GpuStatus(gpu_name="RTX\x1b[31m 4090\u202e", gpu_vram_mib=24576, os_info="5\0")
    models = [sessions_pb2.ServedModel(name="نموذج\u3164", context_tokens=2048, warm=True)]
    daemon = await market.daemon(provider, gpu_status=status, models=models)
    await daemon.heartbeat(gpu_status=status)
    request = renters_pb2.ListAvailableProvidersRequest()
    answer = await market.renter_service.ListAvailableProviders(request, metadata=renter.metadata)
    (shown,) = answer.providers
    assert shown.gpu_model == "RTX\ufffd[31m 4090\ufffd"
    assert list(shown.models) == ["نموذج\ufffd"]
    job, lease = await market.running_job(
        renter, provider, daemon, params=jobs_pb2.JobParams(model="نموذج\ufffd", prompt="x")
    )
    failure = {
        "outcome": sessions_pb2.RUN_OUTCOME_FAILED,
        "failure_reason": jobs_pb2.FAILURE_REASON_ENGINE_FAILED,
        "failure_message": "line one\nline \x1b[1mtwo",
    }
    await daemon.finished(lease, **failure)
    assert (await market.job(job)).failure_message == "line one\nline \ufffd[1mtwo"


UNARY = {name: method for name, method in METHODS.items() if not method.client_streaming}
CASES = [case for name, method in UNARY.items() for case in cases(name, method)]


async def _roles(market: Market) -> dict[int, Any]:
    provider, renter = await market.provider(), await market.renter()
    return {
        options_pb2.ROLE_PUBLIC: (),
        options_pb2.ROLE_PROVIDER: provider.metadata,
        options_pb2.ROLE_RENTER: renter.metadata,
        options_pb2.ROLE_ADMIN: market.admin_metadata,
    }


async def test_every_declared_limit_is_enforced(market: Market) -> None:
    roles = await _roles(market)
    wrong: list[tuple[object, ...]] = []
    for case in CASES:
        method = METHODS[case.method]
        request = valid_request(case.method)
        case.spoil(request)
        try:
            await methods.call(market, method, request, roles[methods.rule(method).roles[0]])
        except grpc.aio.AioRpcError as error:
            refused = read_refusal(error)
            answer = (refused.code, refused.reason, refused.facts.field)
            if answer == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", case.field):
                assert refused.message.startswith(f"{case.field}: ")
                continue
            wrong.append((case.method, case.field, case.fault, answer))
        else:
            wrong.append((case.method, case.field, case.fault, "accepted"))
    assert wrong == []


def test_generator_yields_every_kind_of_violation() -> None:
    """Guards the generator: without cases the test above would pass for nothing."""
    assert len(CASES) > 120
    assert {case.fault for case in CASES} == {
        *("missing", "blank", "below", "above", "too long", "too many", "item too long", "nul"),
        *("nan", "infinite", "none of its values", "invisible", "turns text"),
    }
    assert {case.method for case in CASES} >= {"JobService.SubmitJob", "ProviderService.Heartbeat"}


@pytest.mark.parametrize("name", [name for name in UNARY if METHODS[name].input_type.fields])
def test_request_without_a_fault_passes(name: str) -> None:
    validate(valid_request(name))


def requests_on_the_limits() -> Iterator[Message]:
    yield jobs_pb2.SubmitJobRequest(job_type=jobs_pb2.JOB_TYPE_VLLM_SERVE, duration_minutes=0.1, priority=0)
    yield jobs_pb2.SubmitJobRequest(
        job_type=jobs_pb2.JOB_TYPE_VLLM_SERVE, duration_minutes=1440, priority=10, max_cost_halala=10**12
    )
    yield renters_pb2.RegisterRenterRequest(name="x" * 200, email="a@example.com")
    yield gpus_pb2.GpuStatus(gpu_util_pct=100, temp_c=-100, all_gpus=[gpus_pb2.GpuDevice()] * 64)


@pytest.mark.parametrize("request_", list(requests_on_the_limits()))
def test_limits_are_inclusive(request_: Message) -> None:
    validate(request_)


@pytest.mark.parametrize(
    "email",
    [
        "x",
        "@example.com",
        "a@",
        "a b@example.com",
        "a@@example.com",
        "a@example",
        "a@exa mple.com",
        "a@-.com",
    ],
)
def test_malformed_address_is_refused(email: str) -> None:
    for request in (
        renters_pb2.RegisterRenterRequest(name="R", email=email),
        providers_pb2.RegisterProviderRequest(name="P", email=email),
    ):
        with pytest.raises(DomainError) as caught:
            validate(request)
        assert caught.value.facts == {"field": "email"}


@pytest.mark.parametrize("phone", ["x", "0500000000", "+1", "+966", "+96650000000000000", "+999"])
def test_malformed_telephone_number_is_refused(phone: str) -> None:
    with pytest.raises(DomainError) as caught:
        validate(providers_pb2.RegisterProviderRequest(name="P", email="a@example.com", phone=phone))
    assert caught.value.facts == {"field": "phone"}


@pytest.mark.parametrize("phone", ["", "+966500000000", "+966 50 000 0000", "+1 650-253-0000"])
def test_telephone_number_in_international_form_passes(phone: str) -> None:
    validate(providers_pb2.RegisterProviderRequest(name="P", email="a@example.com", phone=phone))


INFERENCE = jobs_pb2.JOB_TYPE_LLM_INFERENCE
CHAT = jobs_pb2.ChatMessage


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"job_type": 99}, "job_type"),
        ({"params": jobs_pb2.JobParams(prompt="hi")}, "params.model"),
        ({"params": jobs_pb2.JobParams(model="  ", prompt="hi")}, "params.model"),
        ({"params": jobs_pb2.JobParams(model="m")}, "params.prompt"),
        ({"params": jobs_pb2.JobParams(model="m", prompt=" \n")}, "params.prompt"),
        (
            {"params": jobs_pb2.JobParams(model="m", prompt="hi", messages=[CHAT(role="user", content="x")])},
            "params.messages",
        ),
        (
            {
                "params": jobs_pb2.JobParams(
                    model="m",
                    messages=[CHAT(role="user", content="x"), CHAT(role="wizard", content="x")],
                )
            },
            "params.messages[1].role",
        ),
    ],
)
async def test_inference_needs_a_model_and_a_prompt(
    market: Market, changes: dict[str, Any], field: str
) -> None:
    renter = await market.renter()
    refused = await refusal(market.submit(renter, **changes))
    assert (refused.reason, refused.facts.field) == ("INVALID_FIELD", field)
    assert await market.wallet(renter) == (5000, 0)


@pytest.mark.parametrize(
    ("untrue", "field"),
    [
        (gpus_pb2.GpuStatus(gpu_util_pct=101), "gpu_util_pct"),
        (gpus_pb2.GpuStatus(gpu_util_pct=4294967295), "gpu_util_pct"),
        (gpus_pb2.GpuStatus(power_w=4294967.295), "power_w"),
        (gpus_pb2.GpuStatus(temp_c=math.nan), "temp_c"),
        (gpus_pb2.GpuStatus(free_vram_mib=-1), "free_vram_mib"),
    ],
)
async def test_figure_that_cannot_be_true_is_left_out_and_the_session_goes_on(
    market: Market, caplog: pytest.LogCaptureFixture, untrue: gpus_pb2.GpuStatus, field: str
) -> None:
    provider = await market.provider()
    daemon = await market.daemon(provider)
    for number in range(3):
        report = gpus_pb2.GpuStatus(gpu_name="NVIDIA RTX 4090", memory_used_mb=number)
        report.MergeFrom(untrue)
        await daemon.heartbeat(gpu_status=report)
        await market.later(5)
    own = await market.provider_service.GetOwnProvider(
        providers_pb2.GetOwnProviderRequest(), metadata=provider.metadata
    )
    assert not own.provider.gpu_status.HasField(field)  # type: ignore[arg-type]
    assert own.provider.gpu_status.memory_used_mb == 2
    assert caplog.text.count(f"left out what cannot be true field=gpu_status.{field}") == 1


async def test_report_of_too_many_models_is_cut_and_the_session_goes_on(market: Market) -> None:
    provider = await market.provider()
    daemon = market.connect(provider)
    models = [sessions_pb2.ServedModel(name=f"m{number}") for number in range(201)]
    failed = honesty_pb2.SelfTest(name="e", reason="x" * 501, models=[model.name for model in models])
    tests = honesty_pb2.SelfTestReport(tests=[failed])
    await daemon.hello(models=models, self_tests=tests)
    own = await market.provider_service.GetOwnProvider(
        providers_pb2.GetOwnProviderRequest(), metadata=provider.metadata
    )
    assert len(own.provider.models) == 200
    assert len(own.provider.self_tests[0].reason) == 500


async def test_refused_registration_creates_no_account(market: Market) -> None:
    await refusal(
        market.renter_service.RegisterRenter(
            renters_pb2.RegisterRenterRequest(name="R", email="a@example.com", phone="x")
        )
    )
    registered = await market.renter_service.RegisterRenter(
        renters_pb2.RegisterRenterRequest(name="R", email="a@example.com")
    )
    assert Party(registered.renter_id, registered.api_key).id == 1


def test_a_number_that_is_not_set_reads_as_its_default() -> None:
    request = jobs_pb2.ListOwnJobsRequest()
    validate(request)
    assert request.page_size == 50
    rotation = keys_pb2.RotateRenterKeyRequest()
    validate(rotation)
    assert rotation.grace_seconds == 86_400


def test_a_number_that_is_set_is_kept_even_if_it_is_0() -> None:
    request = jobs_pb2.ListOwnJobsRequest(page_size=7)
    validate(request)
    assert request.page_size == 7
    rotation = keys_pb2.RotateRenterKeyRequest(grace_seconds=0)
    validate(rotation)
    assert rotation.grace_seconds == 0


def test_each_default_is_within_its_limits_and_its_field_has_presence() -> None:
    """Without presence a sent 0 could not be distinguished from a missing field."""
    with_default = [
        (field, rule)
        for method in METHODS.values()
        for field in method.input_type.fields
        if (rule := methods.field_rule(field)).HasField("default")
    ]
    assert len(with_default) >= 21
    for field, rule in with_default:
        assert field.has_presence, field.full_name
        assert rule.minimum <= rule.default <= rule.maximum, field.full_name
