"""Names of children fit where Kubernetes puts them and never meet one another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from azaion_api.names import (
    MAX_NAME_LENGTH,
    JobStage,
    ingest_deployment,
    ingest_report,
    job_name,
    report_key,
    run_directory,
    run_identity,
    run_report,
)

LONGEST = "a" * MAX_NAME_LENGTH
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True)
STAGES = st.sampled_from(list(JobStage))


def test_every_name_made_from_the_longest_resource_name_fits_a_label() -> None:
    made = [
        *(job_name(LONGEST, stage, 99999) for stage in JobStage),
        run_identity(LONGEST),
        run_report(LONGEST),
        ingest_deployment(LONGEST),
        ingest_report(LONGEST),
    ]
    assert {name: len(name) for name in made if len(name) > 63} == {}


@given(NAMES, STAGES, st.integers(1, 9999), NAMES, STAGES, st.integers(1, 9999))
def test_two_attempts_never_share_a_job_name(
    run: str, stage: JobStage, attempt: int, other: str, other_stage: JobStage, other_attempt: int
) -> None:
    same = (run, stage, attempt) == (other, other_stage, other_attempt)
    assert (job_name(run, stage, attempt) == job_name(other, other_stage, other_attempt)) == same


def test_a_run_whose_name_looks_like_a_job_of_another_keeps_its_own_jobs() -> None:
    assert job_name("a-train-1", JobStage.TRAIN, 1) != job_name("a", JobStage.TRAIN, 1)


@given(NAMES, NAMES)
def test_a_run_and_an_ingest_never_share_an_account_or_a_report(run: str, ingest: str) -> None:
    assert run_identity(run) != ingest_deployment(ingest)
    assert run_report(run) != ingest_report(ingest)


def test_a_new_run_of_the_same_name_has_another_directory() -> None:
    old = run_directory("nightly", "0b7a8d1e-5f0c-4c3e-9c55-1f5a54d1c001")
    new = run_directory("nightly", "9c1d2e3f-5f0c-4c3e-9c55-1f5a54d1c001")
    assert (old, new) == ("runs/nightly-0b7a8d1e", "runs/nightly-9c1d2e3f")


def test_each_stage_reports_under_its_own_key() -> None:
    assert [report_key(stage) for stage in JobStage] == [
        "prepare.json",
        "train.json",
        "evaluate.json",
        "publish.json",
        "upload.json",
    ]
