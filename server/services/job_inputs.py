"""The inputs of jobs: which bytes a submit names. Pure reads, inside the transaction of the submit.

How the daemon that holds the lease reads them is in server.services.run_inputs.
"""

from __future__ import annotations

from dataclasses import replace

from server.domain.errors import DomainError, Reason, invalid_field
from server.domain.inputs import (
    RESUME,
    AskedInput,
    GivenInput,
    artifact_of,
    check_places,
    input_path,
    not_found,
    with_inputs,
)
from server.domain.jobs import FINAL, LEAVE_FILES, Job, JobRequest
from server.store import artifacts, inputs, jobs


def resolved(renter_id: int, request: JobRequest, now_ms: int) -> tuple[JobRequest, list[str]]:
    """The request with the sizes and digests of its inputs in its spec, and the ids of those it names.

    Raises INVALID_FIELD, INPUT_NOT_FOUND, INPUT_NOT_READY, JOB_NOT_FOUND, WRONG_STATE, ARTIFACT_NOT_FOUND.
    """
    if not request.inputs and request.resume_from is None:
        return request, []
    if request.job_type not in LEAVE_FILES:
        raise invalid_field(
            "inputs" if request.inputs else "resume_from",
            f"a job of the type {request.job_type.value} has no folder /input; send its text in params",
        )
    found = [_one(renter_id, asked) for asked in request.inputs]
    if request.resume_from is not None:
        found += _left_by(renter_id, request.resume_from)
    texts = request.spec.get("container_spec", {}).get("input_files", {})
    check_places(
        [*texts, *(one.path for one in found if not one.unpack)],
        [one.path for one in found if one.unpack and one.path],
    )
    named = [one.input_id for one in found if one.input_id]
    inputs.touch_named(renter_id, named, now_ms)
    return replace(request, spec=with_inputs(request.spec, found)), named


def _one(renter_id: int, asked: AskedInput) -> GivenInput:
    if asked.artifact:
        job_id, name = artifact_of(asked.artifact)
        _own_job(renter_id, job_id, "inputs.artifact")
        file = artifacts.published_one(job_id, name)
        if file is None:
            raise file_gone(job_id, name)
        path = input_path(asked, file.name)
        return GivenInput(
            path, file.size_bytes, file.sha256.hex(), asked.unpack, job_id=job_id, name=file.name
        )
    found = inputs.get(renter_id, asked.input_id)
    if found is None:
        raise not_found(asked.input_id)
    if found.problem:
        raise DomainError(
            Reason.INPUT_NOT_READY,
            f"inputs.input_id: {found.input_id} could not be fetched: {found.problem}; announce it again",
        )
    if not found.is_ready:
        raise DomainError(
            Reason.INPUT_NOT_READY,
            f"inputs.input_id: {found.received_bytes} of {found.size_bytes} bytes of {found.input_id} have "
            "arrived; send the rest first",
            received_bytes=found.received_bytes,
        )
    path = input_path(asked, found.name)
    return GivenInput(path, found.size_bytes, found.sha256.hex(), asked.unpack, input_id=found.input_id)


def _left_by(renter_id: int, job_id: str) -> list[GivenInput]:
    """The files of the job that another goes on from."""
    job = _own_job(renter_id, job_id, "resume_from")
    if job.state not in FINAL:
        raise DomainError(
            Reason.WRONG_STATE,
            f"resume_from: job {job_id} is {job.state.value}; wait for it, or cancel it with keep_files",
            status=job.state.value,
        )
    files = artifacts.published(job_id)
    if not files:
        raise DomainError(
            Reason.ARTIFACT_NOT_FOUND,
            f"resume_from: job {job_id} left no files, or they were deleted when their time ended",
            field="resume_from",
        )
    return [
        GivenInput(
            f"{RESUME}/{file.name}",
            file.size_bytes,
            file.sha256.hex(),
            unpack=False,
            job_id=job_id,
            name=file.name,
        )
        for file in files
    ]


def _own_job(renter_id: int, job_id: str, field: str) -> Job:
    job = jobs.get_of_renter(job_id, renter_id)
    if job is None:
        raise DomainError(Reason.JOB_NOT_FOUND, f"{field}: no job {job_id!r} of this account", field=field)
    return job


def file_gone(job_id: str, name: str) -> DomainError:
    """The error for a file of another job that is not there."""
    return DomainError(
        Reason.ARTIFACT_NOT_FOUND,
        f"job {job_id} has no file {name!r}; list its files, which are kept for a limited time",
        field="inputs.artifact",
    )
