"""Uploading to a directory and to the API: what arrives, what is tried again, and that nothing secret is said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import msgspec
import pytest
from api_server import Api, served
from tests.loopback import serving
from trainer_make import UID, dataset_status, spec, stage_context, task, wait_until

from azaion_api import logs
from azaion_api.layout import Layout
from azaion_api.model_card import CARD_FILE, ExportRecord, ModelCard
from azaion_api.names import JobStage
from azaion_api.outcome import AttemptReason
from azaion_api.reporter import utc_now
from azaion_api.training_run import (
    EncryptionFormat,
    Publish,
    UploadState,
)
from azaion_trainer.encryption import decrypt_file, encrypt_file
from azaion_trainer.failures import BadDataError, BadSpecError, UploadFailedError, outcome_of
from azaion_trainer.notify import message_of, notify
from azaion_trainer.secrets import MissingSecretError, SecretFiles
from azaion_trainer.stage import StageContext
from azaion_trainer.targets import UploadError
from azaion_trainer.upload import Places, upload_to

WEIGHTS, GRAPH = b"weights " * 4000, b"graph " * 5000
KEY = "the key text of this company"
NAME = "azaion-2026-11-23"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Secrets as the kubelet mounts them."""
    for name, keys in {
        "model-key": {"key": KEY},
        "api": {"email": Api.email, "password": Api.password},
        "hook": {"url": "http://127.0.0.1:1/T000/secret-path"},
    }.items():
        (tmp_path / "secrets" / name).mkdir(parents=True)
        for key, value in keys.items():
            (tmp_path / "secrets" / name / key).write_text(value + "\n")
    return tmp_path / "secrets"


@pytest.fixture
def api() -> Iterator[Api]:
    with served(Api()) as found:
        yield found


def published(layout: Layout, publish: dict[str, Any], exports: bool = True) -> StageContext:
    """A run whose model lies in models/, about to upload it."""
    directory = layout.models / NAME
    if not directory.exists():
        directory.mkdir()
        (directory / "azaion.pt").write_bytes(WEIGHTS)
        (directory / "azaion.onnx").write_bytes(GRAPH)
        record = ExportRecord(
            format="ONNX", path="azaion.onnx", sha256="", image_size=64, max_batch=8, agreement="the same"
        )
        card = ModelCard(
            name=NAME,
            line="azaion",
            run="run",
            run_uid=UID,
            published=utc_now(),
            model="azaion.pt",
            sha256=hashlib.sha256(WEIGHTS).hexdigest(),
            dataset=dataset_status("datasets/x"),
            evaluation=None,
            per_class={},
            exports=(record,) if exports else (),
            reason="better",
            ultralytics="8",
        )
        (directory / CARD_FILE).write_bytes(msgspec.json.encode(card))
    run_spec = msgspec.structs.replace(spec(), publish=msgspec.convert(publish, Publish))
    return stage_context(
        layout,
        task(JobStage.UPLOAD, run_spec, deployed=f"models/{NAME}/azaion.pt", dataset=dataset_status("datasets/x")),
    )


def upload(context: StageContext, secrets: Path, *pauses_s: float) -> str:
    return upload_to(context, Places(SecretFiles(secrets), pauses_s))


def states(context: StageContext) -> dict[str, UploadState]:
    return {entry.target: entry.state for entry in context.report.current.uploads}


def api_target(api: Api, name: str = "api", **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "type": "API",
        "api": {"url": api.url, "folder": "models", "credentialsSecretRef": {"name": "api"}},
        **fields,
    }


ENCRYPTED = {"encryption": {"secretKeyRef": {"name": "model-key"}}}


def opened(tmp_path: Path, content: bytes, format_: EncryptionFormat = EncryptionFormat.GCM) -> bytes:
    (tmp_path / "closed").write_bytes(content)
    decrypt_file(tmp_path / "closed", tmp_path / "opened", KEY, format_)
    return (tmp_path / "opened").read_bytes()


def test_a_directory_gets_the_asked_formats_under_the_models_name(layout: Layout, secrets: Path) -> None:
    target = {"name": "edge", "type": "Directory", "formats": ["ONNX", "PyTorch"], "directory": {"path": "published/e"}}
    context = published(layout, {"targets": [target]})
    assert upload(context, secrets) == "uploaded to edge"
    there = layout.root / "published/e" / NAME
    assert {path.name: path.read_bytes() for path in there.iterdir()} == {"azaion.onnx": GRAPH, "azaion.pt": WEIGHTS}
    assert context.report.current.uploads[0].files == (
        f"published/e/{NAME}/azaion.onnx",
        f"published/e/{NAME}/azaion.pt",
    )


def test_an_undated_target_holds_the_newest_model_only(layout: Layout, secrets: Path) -> None:
    (layout.root / "published").mkdir()
    (layout.root / "published" / "azaion.onnx").write_bytes(b"the one before")
    upload(published(layout, {"targets": [{"name": "edge", "type": "Directory", "dated": False}]}), secrets)
    assert (layout.root / "published" / "azaion.onnx").read_bytes() == GRAPH


@pytest.mark.parametrize("format_", list(EncryptionFormat))
def test_encrypted_files_can_be_read_with_the_key_text(
    layout: Layout, secrets: Path, tmp_path: Path, format_: EncryptionFormat
) -> None:
    encryption = {"encryption": {"secretKeyRef": {"name": "model-key"}, "format": format_.value}}
    context = published(layout, encryption | {"targets": [{"name": "edge", "type": "Directory"}]})
    upload(context, secrets)
    content = (layout.root / "published" / NAME / "azaion.onnx.enc").read_bytes()
    assert b"graph graph" not in content
    assert opened(tmp_path, content, format_) == GRAPH
    assert not (context.run.root / "upload").exists(), "nothing is left over"


def test_small_and_big_part_make_the_encrypted_file(layout: Layout, secrets: Path, api: Api, tmp_path: Path) -> None:
    targets = [api_target(api, part="Small"), {"name": "cdn", "type": "Directory", "part": "Big"}]
    upload(published(layout, ENCRYPTED | {"targets": targets}), secrets)
    small = api.files["models/azaion.onnx.small"]
    big = (layout.root / "published" / NAME / "azaion.onnx.big").read_bytes()
    assert len(small) == 3072
    assert opened(tmp_path, small + big) == GRAPH


def test_parts_fit_together_when_one_target_took_its_part_days_before(
    layout: Layout, secrets: Path, api: Api, tmp_path: Path
) -> None:
    targets = [{"name": "cdn", "type": "Directory", "part": "Big"}, api_target(api, part="Small")]
    api.answers = [503]
    context = published(layout, ENCRYPTED | {"targets": targets})
    with pytest.raises(UploadFailedError, match=r"api: upload of azaion\.onnx\.small: the API answers 503"):
        upload(context, secrets)
    assert states(context) == {"cdn": UploadState.OK, "api": UploadState.NOT_OK}
    again = published(layout, ENCRYPTED | {"targets": targets})
    upload(again, secrets)
    assert states(again) == {"cdn": UploadState.OK, "api": UploadState.OK}
    big = (layout.root / "published" / NAME / "azaion.onnx.big").read_bytes()
    assert opened(tmp_path, api.files["models/azaion.onnx.small"] + big) == GRAPH


def test_the_api_is_signed_in_to_once_for_all_files(layout: Layout, secrets: Path, api: Api) -> None:
    upload(published(layout, {"targets": [api_target(api, formats=["ONNX", "PyTorch"])]}), secrets)
    assert api.files == {"models/azaion.onnx": GRAPH, "models/azaion.pt": WEIGHTS}
    assert api.logins == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_ran_out_is_renewed(layout: Layout, secrets: Path, api: Api, status: int) -> None:
    api.token_lasts, api.refuse_tokens_with = 1, status
    upload(published(layout, {"targets": [api_target(api, formats=["ONNX", "PyTorch"])]}), secrets)
    assert api.files == {"models/azaion.onnx": GRAPH, "models/azaion.pt": WEIGHTS}
    assert api.logins == 2


def test_an_account_without_rights_is_not_signed_in_again_and_again(layout: Layout, secrets: Path, api: Api) -> None:
    api.answers = [403] * 10
    context = published(layout, {"targets": [api_target(api)]})
    with pytest.raises(UploadFailedError, match="answers 403"):
        upload(context, secrets)
    assert api.logins == 1
    assert len(api.answers) == 9


def test_a_target_that_fails_is_tried_again_and_the_others_are_not(layout: Layout, secrets: Path, api: Api) -> None:
    api.answers = [500, 502]
    targets = [{"name": "edge", "type": "Directory"}, api_target(api)]
    context = published(layout, {"targets": targets})
    assert upload(context, secrets, 0.0, 0.0) == "uploaded to edge, api"
    assert states(context) == {"edge": UploadState.OK, "api": UploadState.OK}


def test_a_pod_that_was_killed_leaves_the_next_one_only_what_is_missing(
    layout: Layout, secrets: Path, api: Api
) -> None:
    targets = [api_target(api, "one"), api_target(api, "two")]
    api.answers = [500]
    with pytest.raises(UploadFailedError, match=r"one: .*500"):
        upload(published(layout, {"targets": targets}), secrets)
    api.files.clear()
    logins = api.logins
    upload(published(layout, {"targets": targets}), secrets)
    assert list(api.files) == ["models/azaion.onnx"]
    assert api.logins == logins + 1


def test_credentials_that_are_changed_are_used_at_the_next_try(layout: Layout, secrets: Path, api: Api) -> None:
    (secrets / "api" / "password").write_text("the old one")
    context = published(layout, {"targets": [api_target(api)]})
    with pytest.raises(UploadFailedError, match="login: the API answers 409"):
        upload(context, secrets)
    (secrets / "api" / "password").write_text(Api.password)
    assert upload(published(layout, {"targets": [api_target(api)]}), secrets) == "uploaded to api"


@pytest.mark.parametrize(
    ("publish", "message"),
    [
        (
            {
                "targets": [
                    {"name": "a", "type": "API", "api": {"url": "http://x", "credentialsSecretRef": {"name": "n"}}}
                ]
            },
            "Secret n is not there; it needs email and password; kubectl create secret generic n",
        ),
        (
            {"encryption": {"secretKeyRef": {"name": "nokey"}}, "targets": [{"name": "a", "type": "Directory"}]},
            "Secret nokey is not there; it needs key",
        ),
        (
            {"encryption": {"secretKeyRef": {"name": "api"}}, "targets": [{"name": "a", "type": "Directory"}]},
            "Secret api is there without key",
        ),
        (
            {"targets": [{"name": "a", "type": "Directory", "part": "Big"}]},
            "only an encrypted file is split",
        ),
        (
            {
                "targets": [
                    {
                        "name": "a",
                        "type": "API",
                        "api": {"url": "http://127.0.0.1:1", "credentialsSecretRef": {"name": "api"}},
                    }
                ]
            },
            "login: the API cannot be reached: the connection is refused",
        ),
        (
            {
                "targets": [
                    {
                        "name": "a",
                        "type": "API",
                        "api": {"url": "http://nowhere.invalid", "credentialsSecretRef": {"name": "api"}},
                    }
                ]
            },
            "login: the API cannot be reached",
        ),
    ],
)
def test_what_keeps_a_target_from_its_file_is_said(
    layout: Layout, secrets: Path, publish: dict[str, Any], message: str
) -> None:
    context = published(layout, publish)
    with pytest.raises(UploadFailedError) as failed:
        upload(context, secrets)
    assert message in str(failed.value)
    assert outcome_of(failed.value).reason is AttemptReason.UPLOAD_FAILED
    assert message in context.report.current.uploads[0].message


def test_a_format_the_model_does_not_have_is_said(layout: Layout, secrets: Path) -> None:
    context = published(layout, {"targets": [{"name": "edge", "type": "Directory"}]}, exports=False)
    with pytest.raises(UploadFailedError, match="the model has no ONNX: it was not exported, or its export failed"):
        upload(context, secrets)


def test_a_link_out_of_the_storage_is_not_followed(layout: Layout, secrets: Path, tmp_path: Path) -> None:
    (layout.root / "published").symlink_to(tmp_path)
    with pytest.raises(UploadFailedError, match="leads out of the storage"):
        upload(published(layout, {"targets": [{"name": "edge", "type": "Directory"}]}), secrets)


def test_without_a_published_model_it_says_what_has_to_come_first(layout: Layout, secrets: Path) -> None:
    context = stage_context(layout, task(JobStage.UPLOAD))
    with pytest.raises(BadSpecError, match="publish has to come first"):
        upload(context, secrets)
    context = stage_context(layout, task(JobStage.UPLOAD, deployed="models/gone/azaion.pt"))
    with pytest.raises(BadDataError, match="is not there"):
        upload(context, secrets)


def test_nothing_secret_is_logged_reported_or_raised(
    layout: Layout, secrets: Path, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even at DEBUG, and even when the API quotes what it was sent."""
    logs.configure("azaion-trainer", "DEBUG")
    api.answers = [500, 500]
    context = published(layout, ENCRYPTED | {"targets": [api_target(api)]})
    with pytest.raises(UploadFailedError) as failed:
        upload(context, secrets, 0.0)
    (secrets / "api" / "password").write_text("a wrong password")
    with pytest.raises(UploadFailedError) as refused:
        upload(context, secrets)
    said = capsys.readouterr()
    record = (context.run.root / "uploads.json").read_text()
    everything = said.out + said.err + str(failed.value) + str(refused.value) + record
    everything += msgspec.json.encode(context.report.current).decode()
    for secret in (KEY, Api.password, "a wrong password", "secret-token"):
        assert secret not in everything, secret
    assert "***" in everything, "the API did quote it"


# The webhook


def notice(**fields: Any) -> Any:
    from azaion_api.task import decode_notice_task

    content = {
        "event": "Promoted",
        "run": "nightly",
        "line": "azaion",
        "namespace": "azaion",
        "message": "test mAP50-95 0.71 against 0.69",
        "model": f"models/{NAME}/azaion.pt",
        "urlSecret": {"name": "hook", "key": "url"},
    } | fields
    return decode_notice_task(json.dumps(content))


def test_a_webhook_is_told_what_happened_in_words_and_in_fields(secrets: Path, api: Api) -> None:
    found = json.loads(message_of(notice()))
    assert found["text"] == (f"Promoted: run nightly of line azaion as models/{NAME}. test mAP50-95 0.71 against 0.69")
    assert (found["event"], found["run"], found["line"]) == ("Promoted", "nightly", "azaion")
    assert "urlSecret" not in found
    failed = json.loads(message_of(notice(event="Failed", model=None, message="gave up after 10 restarts")))
    assert failed["text"] == "Failed: run nightly of line azaion. gave up after 10 restarts"


def test_a_webhook_that_is_away_is_told_later_and_its_address_is_never_said(
    secrets: Path, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("azaion-trainer", "DEBUG")
    assert notify(notice(), SecretFiles(secrets), (0.0,)) == 20
    (secrets / "hook" / "url").write_text(f"{api.url}/login")
    assert notify(notice(), SecretFiles(secrets), ()) == 20, "an answer of 409 is no success"
    (secrets / "hook" / "url").write_text("no address at all")
    assert notify(notice(), SecretFiles(secrets), ()) == 20
    (secrets / "hook" / "url").unlink()
    assert notify(notice(), SecretFiles(secrets), ()) == 20
    said = capsys.readouterr()
    assert "T000" not in said.out + said.err
    assert "secret-path" not in said.out + said.err
    assert "the connection is refused" in said.out + said.err


def test_a_webhook_that_takes_it_is_told_once(secrets: Path) -> None:
    got: list[bytes] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

    with serving(Hook) as url:
        (secrets / "hook" / "url").write_text(f"{url}/hook")
        assert notify(notice(), SecretFiles(secrets), (0.0, 0.0)) == 0
        wait_until(lambda: len(got) == 1, "the message")
    assert json.loads(got[0])["event"] == "Promoted"


# Secrets and provisioning


def test_all_missing_keys_are_named_at_once(tmp_path: Path) -> None:
    from azaion_api.training_run import SecretRef

    with pytest.raises(
        MissingSecretError, match=r"Secret s is not there; it needs a and b; kubectl create .*--from-literal=a"
    ):
        SecretFiles(tmp_path).keys(SecretRef(name="s"), "a", "b")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a").write_text("value")
    with pytest.raises(MissingSecretError, match="Secret s is there without b"):
        SecretFiles(tmp_path).keys(SecretRef(name="s"), "a", "b")
    with pytest.raises(MissingSecretError, match="no Secret is named"):
        SecretFiles(tmp_path).keys(SecretRef(), "a")


CDN = {
    "host": "https://cdn.example.com",
    "bucket": "models",
    "uploader_access_key": "writer-id",
    "uploader_access_secret": "writer-secret",
    "downloader_access_key": "reader-id",
    "downloader_access_secret": "reader-secret",
}


def provision(api: Api, secrets: Path, content: bytes, tmp_path: Path, key: str = KEY) -> Any:
    from azaion_api.training_run import ApiTarget, S3Target
    from azaion_trainer import targets

    (tmp_path / "plain").write_bytes(content)
    encrypt_file(tmp_path / "plain", tmp_path / "cdn", key, EncryptionFormat.CBC)
    api.resources["cdn.yaml"] = (tmp_path / "cdn").read_bytes()
    found = SecretFiles(secrets)
    source = targets.api(msgspec.convert(api_target(api)["api"], ApiTarget), found)
    wanted = msgspec.convert({"provisionedBy": "api", "provisionKeyRef": {"name": "model-key"}}, S3Target)
    return targets.provisioned(source, wanted, found), found


def test_the_api_provisions_the_store_by_an_encrypted_file(api: Api, secrets: Path, tmp_path: Path) -> None:
    access, known = provision(api, secrets, json.dumps(CDN).encode(), tmp_path)
    assert (access.endpoint, access.bucket) == ("https://cdn.example.com", "models")
    assert (access.key_id, access.secret) == ("writer-id", "writer-secret")
    assert "writer-secret" not in repr(access)
    assert known.without("the store says writer-secret is wrong") == "the store says *** is wrong"


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (json.dumps(CDN).encode(), "another key"),
        (b"host: https://cdn.example.com\nbucket: models\n", KEY),
        (b"- a list", KEY),
        (b"\xff\xfe no text", KEY),
        (b"{broken: [", KEY),
    ],
)
def test_a_provisioning_that_cannot_be_used_is_said_without_quoting_it(
    api: Api, secrets: Path, tmp_path: Path, content: bytes, key: str
) -> None:
    with pytest.raises(UploadError, match=r"cdn\.yaml") as refused:
        provision(api, secrets, content, tmp_path, key)
    assert "writer" not in str(refused.value)


def test_a_resource_the_api_does_not_have_is_said(api: Api, secrets: Path) -> None:
    from azaion_api.training_run import ApiTarget
    from azaion_trainer import targets

    source = targets.api(msgspec.convert(api_target(api)["api"], ApiTarget), SecretFiles(secrets))
    with pytest.raises(UploadError, match=r"cdn\.yaml of the API: the API answers 404: no such resource"):
        source.get("cdn.yaml")
