"""The bodies of requests. Generated from protos/ by scripts/generate; edit the protos instead."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, TypedDict


class _ChatMessageInputRequired(TypedDict):
    role: str
    """The speaker: `system`, `user` or `assistant`."""
    content: str
    """The text of the turn."""


class ChatMessageInput(_ChatMessageInputRequired, total=False):
    """One turn of a conversation."""


class ContainerSpecInput(TypedDict, total=False):
    """The container that a job runs in."""

    image_type: Optional[str]
    """The name of one of the platform's images, such as `vllm-serve`."""
    image: Optional[str]
    """The image, by tag or digest, such as `docker.io/library/python:3.12`. Required for `training`,
    `rendering`, `benchmark` and `custom_container`. Each provider's owner decides which images the
    provider runs.
    """
    command: Optional[List[str]]
    """The command: one item for each argument. Default: the image's own command."""
    env: Optional[Dict[str, str]]
    """Environment variables of the container. Names that begin with `NVIDIA_` or `DCP_` are reserved
    for the provider, and names that begin with `LD_` would also apply to programs outside the
    container: set these in the command.
    """
    gpu_count: Optional[int]
    """The number of GPUs that the job needs. Default: the provider decides."""
    vram_required_mb: Optional[int]
    """The GPU memory that the job needs, in MB."""
    input_files: Optional[Dict[str, str]]
    """Texts by file name, such as `train.py`. The job finds them as files in `/input`
    (`DCP_INPUT_DIR`).
    """
    architecture: Optional[str]
    """The processor that the image is for. Default: the job can be given to any provider, and one
    whose processor cannot run the image gives the job back, which is not charged.
    """


class GpuDeviceInput(TypedDict, total=False):
    """One GPU: its fingerprint and a sample."""

    index: Optional[int]
    """The GPU's index on the machine, counted from 0. It can change when the machine restarts; the
    UUID identifies the GPU. MIG devices have indices from 64: 64 + 8 x the index of their GPU +
    their own.
    """
    uuid: Optional[str]
    """The UUID that the driver reports, such as `GPU-8f6d...`."""
    gpu_name: Optional[str]
    """The product name."""
    gpu_vram_mib: Optional[int]
    """Total memory, in MiB."""
    free_vram_mib: Optional[int]
    """Free memory, in MiB."""
    memory_used_mb: Optional[int]
    """Used memory, in MiB."""
    gpu_util_pct: Optional[float]
    """Utilization in the last sample period, in percent."""
    temp_c: Optional[float]
    """Core temperature, in degrees Celsius."""
    power_w: Optional[float]
    """Power draw, in watts."""
    state: Optional[str]
    """Whether the GPU may get work."""
    state_reason: Optional[str]
    """Why the GPU is not healthy. Absent if it is healthy."""
    throttled: Optional[bool]
    """Whether the GPU runs below its full speed now. Absent if the driver does not report it."""
    throttle_reasons: Optional[List[str]]
    """The reasons why it runs below its full speed."""
    ecc_enabled: Optional[bool]
    """Whether ECC is enabled. Absent if the GPU's memory has no ECC."""
    ecc_volatile_uncorrected: Optional[int]
    """The number of memory errors since the driver was loaded that ECC could not correct."""
    ecc_aggregate_uncorrected: Optional[int]
    """The number of memory errors in the GPU's lifetime that ECC could not correct."""
    row_remap_pending: Optional[bool]
    """A damaged row of the GPU's memory will be replaced at the next reset."""
    row_remap_failed: Optional[bool]
    """A damaged row of the GPU's memory could not be replaced."""
    retired_pages_pending: Optional[bool]
    """A damaged page of the GPU's memory will be retired at the next restart. Older GPUs retire pages
    instead of replacing rows.
    """
    xid_count: Optional[int]
    """The number of Xid errors since the daemon's start that the GPU caused, not a program. Absent if
    the daemon cannot watch Xid errors.
    """
    last_xid: Optional[int]
    """The number of the last of these Xid errors in NVIDIA's list."""
    foreign_processes: Optional[int]
    """The number of compute processes on the GPU that the daemon did not start."""
    foreign_memory_mib: Optional[int]
    """The GPU memory that these processes use, in MiB."""
    persistence_mode: Optional[bool]
    """Whether the driver stays loaded while no program uses the GPU."""
    compute_capability: Optional[str]
    """CUDA compute capability, such as `8.9`."""
    vram_is_shared: Optional[bool]
    """The GPU has no memory of its own and uses the machine's, as a GB10 or a Jetson does. Its figures
    of memory are then those of the machine. Absent if it has its own.
    """


class GpuRequirementsInput(TypedDict, total=False):
    """What a provider must have to get a job that names no provider."""

    gpu_model: Optional[str]
    """The GPU model, such as `RTX 4090` or `A100 80GB`. Other spellings of the same model are
    understood; a name that is not known is compared without case and spaces.
    """
    min_vram_gb: Optional[float]
    """The least total memory of a GPU, in GB (1,024 MiB)."""


class GpuStatusInput(TypedDict, total=False):
    """A report of a provider's machine about itself and its GPUs. It combines the fingerprint (facts
    that rarely change, such as name, memory and driver) with a sample (utilization, temperature,
    power). The fields at the top level describe the first GPU; `all_gpus` lists every GPU. A value
    that the machine cannot measure is left out and never sent as 0. Unknown keys are ignored,
    because a daemon can be newer than the server.
    """

    gpu_name: Optional[str]
    """The product name of the first GPU, such as `NVIDIA RTX 4090`."""
    gpu_vram_mib: Optional[int]
    """Total memory of the first GPU, in MiB."""
    free_vram_mib: Optional[int]
    """Free memory of the first GPU, in MiB."""
    memory_used_mb: Optional[int]
    """Used memory of the first GPU, in MiB. The name ends in `mb` because the published API uses it."""
    gpu_util_pct: Optional[float]
    """Utilization of the first GPU in the last sample period, in percent."""
    temp_c: Optional[float]
    """Core temperature of the first GPU, in degrees Celsius."""
    power_w: Optional[float]
    """Power draw of the first GPU, in watts."""
    driver_version: Optional[str]
    """Version of the NVIDIA driver."""
    compute_capability: Optional[str]
    """CUDA compute capability of the first GPU, such as `8.9`."""
    cuda_version: Optional[str]
    """The newest CUDA version that the driver supports, such as `12.4`."""
    gpu_count: Optional[int]
    """The number of GPUs in the machine."""
    all_gpus: Optional[List[GpuDeviceInput]]
    """Every GPU of the machine, sorted by index."""
    daemon_version: Optional[str]
    """Version of the daemon."""
    python_version: Optional[str]
    """Version of the Python interpreter that runs the daemon."""
    os_info: Optional[str]
    """The operating system, as a text for people."""
    container_toolkit_version: Optional[str]
    """Version of the NVIDIA Container Toolkit. Absent if it is not installed or does not report its
    version.
    """
    driver_lost: Optional[bool]
    """The driver does not answer: it answered earlier and has stopped, or it hangs since the daemon's
    start. Until it answers, the state of the GPUs is unknown.
    """
    vram_is_shared: Optional[bool]
    """The first GPU has no memory of its own and uses the machine's, as a GB10 or a Jetson does. Its
    figures of memory are then those of the machine. Absent if it has its own.
    """
    empty_mig_gpus: Optional[List[int]]
    """The indices of the GPUs in MIG mode that have no MIG device. No job can use them, so they are
    not in `all_gpus`. Where a GPU has MIG devices, `all_gpus` lists each of these instead of the
    GPU.
    """
    architecture: Optional[str]
    """The machine's processor, as images name it: `amd64` or `arm64`."""


class JobInput(TypedDict, total=False):
    """One of the inputs of a job."""

    input_id: Optional[str]
    """The id of an input of the account."""
    artifact: Optional[str]
    """A file that another job of the account left: `artifact://JOB_ID/NAME`."""
    path: Optional[str]
    """Where it lies below `/input`, such as `data/train.csv`; with `unpack`, the folder that it is
    unpacked into. Default: the name of the input or of the file; with `unpack`, `/input` itself.
    """
    unpack: Optional[bool]
    """True: it is a tar, perhaps compressed with gzip, that is unpacked. Names that lead out of the
    folder, links that do, devices, and more files or bytes than the provider unpacks are refused,
    at no charge.
    """


class JobParamsInput(TypedDict, total=False):
    """The parameters of a job. `llm-inference` needs `model` and either `prompt` or `messages`;
    `image_generation` needs `model` and `prompt`, and so does `embeddings`, of which the prompt is
    the text.
    """

    model: Optional[str]
    """The model's public name, such as `HuggingFaceTB/SmolLM2-135M-Instruct`."""
    prompt: Optional[str]
    """A single prompt. It is treated as one turn of the user."""
    messages: Optional[List[ChatMessageInput]]
    """A conversation, instead of `prompt`."""
    max_tokens: Optional[int]
    """The greatest number of tokens in the answer. Default: 256."""
    temperature: Optional[float]
    """The randomness of the answer; 0 means none. Default: the model server's default."""
    image_size: Optional[str]
    """The width and height of the image in pixels, such as `1024x1024`, for `image_generation`.
    Default: the model server's default.
    """


class _WeeklyHoursInputRequired(TypedDict):
    start: str
    """The time of day at which they begin, such as `22:00`."""
    end: str
    """The time of day at which they end, such as `08:00`. If it is not later than `start`, they end on
    the next day. `24:00` is the end of the day.
    """


class WeeklyHoursInput(_WeeklyHoursInputRequired, total=False):
    """Hours of the week in which the machine takes jobs, in local time."""

    days: Optional[List[str]]
    """The days on which the hours begin. Default: every day."""


class _SuspendProviderBodyRequired(TypedDict):
    reason: str
    """The reason, recorded in the audit log."""


class SuspendProviderBody(_SuspendProviderBodyRequired, total=False):
    """Identifies the provider and gives the reason."""


class UnsuspendProviderBody(TypedDict, total=False):
    """Identifies the provider."""


class ApproveProviderBody(TypedDict, total=False):
    """Identifies the provider."""


class _VouchForProviderBodyRequired(TypedDict):
    vouched: bool
    """True: vouch for it from now on. False: no longer."""
    reason: str
    """The reason, recorded in the audit log."""


class VouchForProviderBody(_VouchForProviderBodyRequired, total=False):
    """Identifies the provider, and gives the decision and the reason."""


class _SuspendRenterBodyRequired(TypedDict):
    reason: str
    """The reason, recorded in the audit log."""


class SuspendRenterBody(_SuspendRenterBodyRequired, total=False):
    """Identifies the renter and gives the reason."""


class UnsuspendRenterBody(TypedDict, total=False):
    """Identifies the renter."""


class CancelBatchBody(TypedDict, total=False):
    """Identifies a batch."""


class _OpenDisputeBodyRequired(TypedDict):
    reason: str
    """Why the charge is wrong, as sentences for people. The provider and the operator see it."""


class OpenDisputeBody(_OpenDisputeBodyRequired, total=False):
    """Names the job and the reason."""


class _DecideDisputeBodyRequired(TypedDict):
    decision: str
    """The decision."""
    note: str
    """The reasons for the decision, as sentences for people. The renter and the provider see them."""


class DecideDisputeBody(_DecideDisputeBodyRequired, total=False):
    """Identifies the dispute and says the decision."""

    refund_halala: Optional[int]
    """How much is refunded, in halala: at most the charge. Default: the whole charge. Only with
    `uphold`. Unit: halala.
    """


class _SetOperatorWebhookBodyRequired(TypedDict):
    url: str
    """The address. It must use `https`, contain no user name, and be public."""


class SetOperatorWebhookBody(_SetOperatorWebhookBodyRequired, total=False):
    """Sets the address for operators' events."""


class RemoveOperatorWebhookBody(TypedDict, total=False):
    """Empty: there is one webhook for all operators."""


class RotateOperatorWebhookSecretBody(TypedDict, total=False):
    """Sets the grace period of the previous secret."""

    grace_seconds: Optional[int]
    """How long events are signed with the previous secret too, in seconds: at most seven days; 0 ends
    it at once.
    """


class TestOperatorWebhookBody(TypedDict, total=False):
    """Empty: there is one webhook for all operators."""


class _CreateInputBodyRequired(TypedDict):
    name: str
    """A name, for people; jobs say where the input lies."""
    size_bytes: int
    """The size of the whole input, in bytes."""
    sha256: str
    """The SHA-256 of the whole input, in hexadecimal."""


class CreateInputBody(_CreateInputBodyRequired, total=False):
    """What is announced."""

    url: Optional[str]
    """An https address from which the market fetches the input, instead of the account sending it. It
    must be on the public internet, and so must be where it redirects to. Ask for the input until
    its `status` is `ready`.
    """


class DeleteInputBody(TypedDict, total=False):
    """Identifies an input."""


class _SubmitJobBodyRequired(TypedDict):
    job_type: str
    """The job type."""


class SubmitJobBody(_SubmitJobBodyRequired, total=False):
    """A job to submit."""

    provider_id: Optional[int]
    """The id of the provider that shall run the job. Default: the platform chooses a provider."""
    duration_minutes: Optional[float]
    """The greatest time that the job may run, in minutes; fractions are allowed. Where time is paid
    for, the hold is computed from it. Default: three times as long as the longest of your last jobs
    with the same model or of the same type, and without any 10 minutes, or 60 for a job in a
    container. Unit: minutes.
    """
    container_spec: Optional[ContainerSpecInput]
    """The container that the job runs in."""
    params: Optional[JobParamsInput]
    """The parameters of the job."""
    gpu_requirements: Optional[GpuRequirementsInput]
    """What the provider must have. Used when `provider_id` is left out."""
    priority: Optional[int]
    """The job's priority: jobs with a higher number run sooner. Default: 2."""
    max_cost_halala: Optional[int]
    """The greatest charge, in halala. The job is stopped before it would cost more. Default: only the
    hold limits the charge. Unit: halala.
    """
    start_within_seconds: Optional[int]
    """How long the job may wait until a provider accepts it, in seconds; after that it fails and the
    whole hold returns. Default: 600. Unit: seconds.
    """
    lost_after_seconds: Optional[int]
    """How long the job's daemon may be silent before the job returns to the queue, in seconds.
    Default: 300. Unit: seconds.
    """
    wait_for_supply: Optional[bool]
    """True: the job waits even if no provider that was seen in the last ten minutes serves its model
    or job type. Default: such a job is refused at once. It changes nothing for a job that names a
    provider.
    """
    min_standing: Optional[str]
    """The least standing of the provider, for a job that names none: `new`, `proven` or `trusted`.
    Default: the best standing that is there, proven and trusted counting alike, except that one job
    in twenty is offered to new providers first, by which they can rise.
    """
    quote_id: Optional[str]
    """The `quote_id` of a quote for this very request: the job has its price, whatever prices are now.
    It is refused when it has expired.
    """
    inputs: Optional[List[JobInput]]
    """The data that the run reads at `/input`."""
    resume_from: Optional[str]
    """The id of another job of the account that has ended: its files lie in `/input/resume`."""


class _QuoteJobBodyRequired(TypedDict):
    job_type: str
    """The job type."""


class QuoteJobBody(_QuoteJobBodyRequired, total=False):
    """The job that is asked about: the body of a submit."""

    provider_id: Optional[int]
    """The id of the provider that shall run the job. Default: the platform chooses a provider."""
    duration_minutes: Optional[float]
    """The greatest time that the job may run, in minutes; fractions are allowed. Where time is paid
    for, the hold is computed from it. Default: three times as long as the longest of your last jobs
    with the same model or of the same type, and without any 10 minutes, or 60 for a job in a
    container. Unit: minutes.
    """
    container_spec: Optional[ContainerSpecInput]
    """The container that the job runs in."""
    params: Optional[JobParamsInput]
    """The parameters of the job."""
    gpu_requirements: Optional[GpuRequirementsInput]
    """What the provider must have. Used when `provider_id` is left out."""
    priority: Optional[int]
    """The job's priority: jobs with a higher number run sooner. Default: 2."""
    max_cost_halala: Optional[int]
    """The greatest charge, in halala. The job is stopped before it would cost more. Default: only the
    hold limits the charge. Unit: halala.
    """
    start_within_seconds: Optional[int]
    """How long the job may wait until a provider accepts it, in seconds; after that it fails and the
    whole hold returns. Default: 600. Unit: seconds.
    """
    lost_after_seconds: Optional[int]
    """How long the job's daemon may be silent before the job returns to the queue, in seconds.
    Default: 300. Unit: seconds.
    """
    wait_for_supply: Optional[bool]
    """True: the job waits even if no provider that was seen in the last ten minutes serves its model
    or job type. Default: such a job is refused at once. It changes nothing for a job that names a
    provider.
    """
    min_standing: Optional[str]
    """The least standing of the provider, for a job that names none: `new`, `proven` or `trusted`.
    Default: the best standing that is there, proven and trusted counting alike, except that one job
    in twenty is offered to new providers first, by which they can rise.
    """
    inputs: Optional[List[JobInput]]
    """The data that the run reads at `/input`."""
    resume_from: Optional[str]
    """The id of another job of the account that has ended: its files lie in `/input/resume`."""


class CancelJobBody(TypedDict, total=False):
    """Identifies the job."""

    keep_files: Optional[bool]
    """True: the files that a running job has written to `/output` so far are kept, and another job can
    go on from them with `resume_from`. The run ends as soon as they are stored.
    """


class _CreateKeyBodyRequired(TypedDict):
    name: str
    """The name of the key, for its owner."""
    scopes: List[str]
    """The scopes that the key can be used for; at least one."""


class CreateKeyBody(_CreateKeyBodyRequired, total=False):
    """Describes the new sub-key."""

    expires_in_seconds: Optional[int]
    """When the key expires, in seconds from now: from a minute to ten years. Default: never."""
    budget_halala_per_day: Optional[int]
    """What the jobs of the key may cost on one day (UTC), in halala: charges of ended jobs and holds
    of open ones. Default: no limit. Unit: halala.
    """
    budget_halala_per_month: Optional[int]
    """The same for a calendar month (UTC). Unit: halala."""
    budget_halala_total: Optional[int]
    """The same for all time. Unit: halala."""
    allowed_models: Optional[List[str]]
    """The models that the key may use. A job must then name one of them. Empty: any."""
    allowed_providers: Optional[List[int]]
    """The ids of the providers that the key may use. A job must then name one of them. Empty: any."""


class SetKeyLimitsBody(TypedDict, total=False):
    """The limits of a sub-key."""

    budget_halala_per_day: Optional[int]
    """What the jobs of the key may cost on one day (UTC), in halala: charges of ended jobs and holds
    of open ones. Default: no limit. Unit: halala.
    """
    budget_halala_per_month: Optional[int]
    """The same for a calendar month (UTC). Unit: halala."""
    budget_halala_total: Optional[int]
    """The same for all time. Unit: halala."""
    allowed_models: Optional[List[str]]
    """The models that the key may use. A job must then name one of them. Empty: any."""
    allowed_providers: Optional[List[int]]
    """The ids of the providers that the key may use. A job must then name one of them. Empty: any."""


class RevokeKeyBody(TypedDict, total=False):
    """Identifies the key."""


class RotateRenterKeyBody(TypedDict, total=False):
    """Sets the grace period of the previous key."""

    grace_seconds: Optional[int]
    """How long the previous key stays valid, in seconds: at most seven days; 0 ends it at once."""


class RotateProviderKeyBody(TypedDict, total=False):
    """Sets the grace period of the previous key."""

    grace_seconds: Optional[int]
    """How long the previous key stays valid, in seconds: at most seven days; 0 ends it at once."""


class _CreditRenterBodyRequired(TypedDict):
    amount_halala: int
    """The amount, in halala. Unit: halala."""


class CreditRenterBody(_CreditRenterBodyRequired, total=False):
    """Names the renter and the amount."""


class LogInBody(TypedDict, total=False):
    """Empty: the key identifies the account."""


class _AskToLogInBodyRequired(TypedDict):
    email: str
    """The e-mail address of the account, in any way to write it."""
    role: str
    """Whose the account is."""


class AskToLogInBody(_AskToLogInBodyRequired, total=False):
    """Names the account by its address."""


class _RedeemLogInCodeBodyRequired(TypedDict):
    code: str
    """The mailed code."""


class RedeemLogInCodeBody(_RedeemLogInCodeBodyRequired, total=False):
    """The code of the mail."""


class LogOutBody(TypedDict, total=False):
    """Says what to end."""

    everywhere: Optional[bool]
    """Every log-in of the account ends, in all browsers. Otherwise only the one that the request
    carries.
    """


class _VerifyEmailBodyRequired(TypedDict):
    code: str
    """The mailed code. It can be used once, for 24 hours; after ten wrong codes it is void."""


class VerifyEmailBody(_VerifyEmailBodyRequired, total=False):
    """The code of the mail."""


class ResendEmailCodeBody(TypedDict, total=False):
    """Empty: the key identifies the account."""


class RequeueJobBody(TypedDict, total=False):
    """Identifies the job and gives the reason."""

    reason: Optional[str]
    """The reason, recorded in the audit log and shown by ExplainJob."""


class _ChangeRateBodyRequired(TypedDict):
    job_type: str
    """The job type."""
    halala_per_minute: int
    """The rate, in halala per minute. Unit: halala."""


class ChangeRateBody(_ChangeRateBodyRequired, total=False):
    """Names the job type and its new rate."""


class _InviteOperatorBodyRequired(TypedDict):
    name: str
    """The name, as the audit log shows it."""
    role: str
    """What the operator may do."""


class InviteOperatorBody(_InviteOperatorBodyRequired, total=False):
    """Describes the new operator."""

    email: Optional[str]
    """The e-mail address, for other operators; nothing is sent to it."""


class InviteOperatorAgainBody(TypedDict, total=False):
    """Names the operator."""


class _SetOperatorRoleBodyRequired(TypedDict):
    role: str
    """What the operator may do from now on."""


class SetOperatorRoleBody(_SetOperatorRoleBodyRequired, total=False):
    """Names the operator and its new role."""


class RemoveOperatorBody(TypedDict, total=False):
    """Names the operator."""


class _OpenInvitationBodyRequired(TypedDict):
    invitation: str
    """The part of the link after `#`."""


class OpenInvitationBody(_OpenInvitationBodyRequired, total=False):
    """Carries the invitation."""


class _AcceptInvitationBodyRequired(TypedDict):
    invitation: str
    """The part of the link after `#`."""
    name: str
    """The name of the passkey, for the operator."""
    credential: str
    """The passkey's id of itself: `rawId` of what the browser created."""
    client_data: str
    """What the browser signed: `clientDataJSON`."""
    attestation: str
    """The passkey's description of itself: `attestationObject`."""


class AcceptInvitationBody(_AcceptInvitationBodyRequired, total=False):
    """Carries the invitation and the passkey."""


class AskForPasskeyBody(TypedDict, total=False):
    """Empty: the browser knows its passkeys."""


class _LogInByPasskeyBodyRequired(TypedDict):
    credential: str
    """The passkey's id of itself: `rawId` of the answer."""
    client_data: str
    """What the browser signed: `clientDataJSON`."""
    authenticator_data: str
    """What the passkey says of itself: `authenticatorData`."""
    signature: str
    """The signature."""
    user: str
    """The id of the operator for passkeys: `userHandle`."""


class LogInByPasskeyBody(_LogInByPasskeyBodyRequired, total=False):
    """The answer of a passkey."""


class BeginPasskeyBody(TypedDict, total=False):
    """Empty: the log-in identifies the operator."""


class _AddPasskeyBodyRequired(TypedDict):
    name: str
    """The name of the passkey, for the operator."""
    credential: str
    """The passkey's id of itself: `rawId` of what the browser created."""
    client_data: str
    """What the browser signed: `clientDataJSON`."""
    attestation: str
    """The passkey's description of itself: `attestationObject`."""


class AddPasskeyBody(_AddPasskeyBodyRequired, total=False):
    """Carries the passkey."""


class RemovePasskeyBody(TypedDict, total=False):
    """Names the passkey."""


class LogInOperatorBody(TypedDict, total=False):
    """Empty: the key identifies the operator."""


class _CreateOperatorKeyBodyRequired(TypedDict):
    name: str
    """The name of the key, for the operator."""
    expires_in_seconds: int
    """When the key ends, in seconds from now: from a minute to a year."""


class CreateOperatorKeyBody(_CreateOperatorKeyBodyRequired, total=False):
    """Describes the new key."""


class RevokeOperatorKeyBody(TypedDict, total=False):
    """Names the key."""


class SetPriceBody(TypedDict, total=False):
    """Names a model and its three prices, or a GPU model and its price, or what has no own price from
    now on.
    """

    model: Optional[str]
    """The public name of the model."""
    gpu_model: Optional[str]
    """The GPU model, such as `RTX 4090`; other spellings are understood."""
    sar_per_hour: Optional[str]
    """With `gpu_model`: the price for an hour of a GPU, in SAR, with at most 8 decimals."""
    sar_per_million_input_tokens: Optional[str]
    """With `model`: the price for a million tokens of prompts, in SAR, with at most 8 decimals."""
    sar_per_million_cached_input_tokens: Optional[str]
    """With `model`: the same for those that the model server still had from earlier. Default: as for
    the others.
    """
    sar_per_million_output_tokens: Optional[str]
    """With `model`: the price for a million tokens of answers, in SAR, with at most 8 decimals."""
    remove: Optional[bool]
    """If true, the price ends; no amounts are given then."""


class _SetStoragePriceBodyRequired(TypedDict):
    sar_per_gb_day: str
    """In SAR, with at most 8 decimals; `0`: nothing is paid."""


class SetStoragePriceBody(_SetStoragePriceBodyRequired, total=False):
    """The price from now on."""


class SetOwnPriceBody(TypedDict, total=False):
    """Names a model and its three prices, or a GPU model and its price, or what has no own price from
    now on.
    """

    model: Optional[str]
    """The public name of the model."""
    gpu_model: Optional[str]
    """The GPU model, such as `RTX 4090`; other spellings are understood."""
    sar_per_hour: Optional[str]
    """With `gpu_model`: the price for an hour of a GPU, in SAR, with at most 8 decimals."""
    sar_per_million_input_tokens: Optional[str]
    """With `model`: the price for a million tokens of prompts, in SAR, with at most 8 decimals."""
    sar_per_million_cached_input_tokens: Optional[str]
    """With `model`: the same for those that the model server still had from earlier. Default: as for
    the others.
    """
    sar_per_million_output_tokens: Optional[str]
    """With `model`: the price for a million tokens of answers, in SAR, with at most 8 decimals."""
    remove: Optional[bool]
    """If true, the price ends; no amounts are given then."""


class _DeleteOwnAccountBodyRequired(TypedDict):
    email: str
    """The account's own e-mail address, compared as at the registration. It prevents a deletion by
    mistake.
    """


class DeleteOwnAccountBody(_DeleteOwnAccountBodyRequired, total=False):
    """The renter's confirmation of the deletion."""

    forfeit_balance_halala: Optional[int]
    """The exact balance of the wallet, in halala, which the renter gives up. Default: the deletion is
    refused if the wallet holds money. Unit: halala.
    """


class _RegisterProviderBodyRequired(TypedDict):
    name: str
    """The name that renters see."""
    email: str
    """The provider's e-mail address. Only one provider can use a mailbox, whose address can be written
    in many ways: letter case and what follows a `+` do not count, and at some domains, such as
    gmail.com, dots do not either.
    """


class RegisterProviderBody(_RegisterProviderBodyRequired, total=False):
    """Describes a new provider."""

    gpu_model: Optional[str]
    """The GPU model, such as `RTX 4090`. The daemon's report replaces it later."""
    os: Optional[str]
    """The operating system."""
    phone: Optional[str]
    """A telephone number in international form."""


class _HeartbeatBodyRequired(TypedDict):
    gpu_status: GpuStatusInput
    """The machine's report about its GPUs. An empty object changes nothing in the last report."""


class HeartbeatBody(_HeartbeatBodyRequired, total=False):
    """A heartbeat by POST. The key can be in the body as `api_key`."""


class PauseOwnProviderBody(TypedDict, total=False):
    """Empty: the key identifies the account."""


class ResumeOwnProviderBody(TypedDict, total=False):
    """Empty: the key identifies the account."""


class _ReportLostKeyBodyRequired(TypedDict):
    email: str
    """The e-mail address of the account, in any way to write it."""
    role: str
    """Whose the account is."""


class ReportLostKeyBody(_ReportLostKeyBodyRequired, total=False):
    """Names the account by its address."""


class _RedeemKeyCodeBodyRequired(TypedDict):
    code: str
    """The code. It must be sent for the first time within 24 hours, and again within seven days after
    the delay.
    """


class RedeemKeyCodeBody(_RedeemKeyCodeBodyRequired, total=False):
    """The code of the mail, or of the operator."""


class _RecoverRenterKeyBodyRequired(TypedDict):
    reason: str
    """The reason, recorded in the audit log."""


class RecoverRenterKeyBody(_RecoverRenterKeyBodyRequired, total=False):
    """Identifies the renter and gives the reason."""


class _RecoverProviderKeyBodyRequired(TypedDict):
    reason: str
    """The reason, recorded in the audit log."""


class RecoverProviderKeyBody(_RecoverProviderKeyBodyRequired, total=False):
    """Identifies the provider and gives the reason."""


class _RegisterRenterBodyRequired(TypedDict):
    name: str
    """The renter's name."""
    email: str
    """The renter's e-mail address. Only one renter can use a mailbox, whose address can be written in
    many ways: letter case and what follows a `+` do not count, and at some domains, such as
    gmail.com, dots do not either.
    """


class RegisterRenterBody(_RegisterRenterBodyRequired, total=False):
    """Describes a new renter."""

    organization: Optional[str]
    """The renter's organization."""
    phone: Optional[str]
    """A telephone number in international form."""


class _TopUpOwnWalletBodyRequired(TypedDict):
    amount_halala: int
    """The amount, in halala. Unit: halala."""


class TopUpOwnWalletBody(_TopUpOwnWalletBodyRequired, total=False):
    """The amount to add."""


class _SetOwnRateBodyRequired(TypedDict):
    job_type: str
    """The job type."""


class SetOwnRateBody(_SetOwnRateBodyRequired, total=False):
    """Names the job type and its rate from now on: set exactly one of `halala_per_minute` and
    `platform_rate`.
    """

    halala_per_minute: Optional[int]
    """The provider's own rate, in halala per minute. Unit: halala per minute."""
    platform_rate: Optional[bool]
    """If true, the platform's rate applies, including its later changes."""


class SetOwnSettingsBody(TypedDict, total=False):
    """The complete settings: a field that is left out means no limit."""

    hours: Optional[List[WeeklyHoursInput]]
    """The hours in which the machine takes jobs. Default: always."""
    timezone: Optional[str]
    """The time zone of the hours: an IANA name, such as `Asia/Riyadh`. Required with `hours`."""
    max_temp_c: Optional[int]
    """The GPU temperature limit for new jobs, in degrees Celsius. A GPU that gets hotter takes no new
    job until it has cooled to 5 degrees below the limit. Default: no limit.
    """
    vram_reserve_mib: Optional[int]
    """The GPU memory that is reserved for the owner, in MiB; jobs may use the rest. Default: 0."""


class _SetWebhookBodyRequired(TypedDict):
    url: str
    """The address. It must use `https`, contain no user name, and be public."""


class SetWebhookBody(_SetWebhookBodyRequired, total=False):
    """Sets the address for events."""

    balance_low_halala: Optional[int]
    """The threshold of the wallet's balance, in halala, below which `balance.low` is sent. Default: it
    is never sent. Unit: halala.
    """


class RemoveWebhookBody(TypedDict, total=False):
    """Empty: the key identifies the account."""


class RotateWebhookSecretBody(TypedDict, total=False):
    """Sets the grace period of the previous secret."""

    grace_seconds: Optional[int]
    """How long events are signed with the previous secret too, in seconds: at most seven days; 0 ends
    it at once.
    """


class TestWebhookBody(TypedDict, total=False):
    """Empty: the key identifies the account."""


class _RequestWithdrawalBodyRequired(TypedDict):
    amount_halala: int
    """The amount, in halala: at least 1000. Unit: halala."""
    iban: str
    """The IBAN of a Saudi bank account: `SA` and 22 digits; spaces are allowed. Its check digits must
    be correct.
    """


class RequestWithdrawalBody(_RequestWithdrawalBodyRequired, total=False):
    """The amount and the bank account."""


class CancelWithdrawalBody(TypedDict, total=False):
    """Identifies the withdrawal request."""


class ProcessWithdrawalBody(TypedDict, total=False):
    """Identifies the withdrawal request."""


class _PayWithdrawalBodyRequired(TypedDict):
    reference: str
    """The bank's reference of the transfer. The provider sees it."""


class PayWithdrawalBody(_PayWithdrawalBodyRequired, total=False):
    """Identifies the withdrawal request and gives the bank's reference."""


class _RejectWithdrawalBodyRequired(TypedDict):
    reason: str
    """The reason, as a sentence for people. The provider sees it."""


class RejectWithdrawalBody(_RejectWithdrawalBodyRequired, total=False):
    """Identifies the withdrawal request and gives the reason for the rejection."""
