"""The places a promoted model is uploaded to: a directory of the volume, an S3 bucket, the HTTP API."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import urllib3
import yaml

from azaion_api.layout import Layout
from azaion_api.training_run import ApiTarget, EncryptionFormat, S3Target, Target, TargetType
from azaion_trainer import files
from azaion_trainer.encryption import DecryptionError, decrypt_file
from azaion_trainer.secrets import SecretFiles

log = logging.getLogger(__name__)

_TIMEOUT = urllib3.Timeout(connect=10, read=300)
#: What the API answers when the token is not, or no longer, good.
_SIGN_IN_AGAIN = (401, 403)
_PROVISIONED_FILE = "cdn.yaml"
_DIGEST_KEY = "sha256"


class UploadError(Exception):
    """A target did not take a file; the message says why, without anything secret."""


@dataclass(frozen=True)
class Upload:
    """One file as a target gets it."""

    path: Path
    #: Name at the target, without directories.
    name: str
    #: Directory the target puts it into, empty for none.
    directory: str
    sha256: str


class Destination(Protocol):
    """A target that can be uploaded to; doing it again is harmless."""

    def put(self, upload: Upload) -> str:
        """Upload and check it; returns where it is now. Raises UploadError, OSError."""


def destination(layout: Layout, target: Target, targets: Mapping[str, Target], secrets: SecretFiles) -> Destination:
    """The destination of a target. Raises MissingSecretError, UploadError."""
    if target.type is TargetType.DIRECTORY:
        return Directory(layout, target.directory.path)
    if target.type is TargetType.API:
        return api(target.api, secrets)
    wanted = target.s3
    if wanted.provisioned_by is not None:
        provider = targets.get(wanted.provisioned_by)
        if provider is None or provider.type is not TargetType.API:
            raise UploadError(f"s3.provisionedBy names {wanted.provisioned_by}, which is no target of type API")
        return Bucket(wanted, provisioned(api(provider.api, secrets), wanted, secrets))
    key_id, secret = secrets.keys(wanted.credentials_secret_ref, "accessKeyId", "secretAccessKey")
    return Bucket(wanted, Access(wanted.endpoint or "", wanted.bucket or "", key_id, secret))


@dataclass(frozen=True)
class Directory:
    """A directory of the volume, outside of what the platform itself keeps there."""

    layout: Layout
    path: str

    def put(self, upload: Upload) -> str:
        directory = self.layout.root / self.path / upload.directory
        directory.mkdir(parents=True, exist_ok=True)
        if not files.within(self.layout.root, directory):
            raise UploadError(f"{self.path} leads out of the storage by a symbolic link")
        target = directory / upload.name
        if not (target.is_file() and files.sha256_of(target) == upload.sha256):
            files.copy_file(upload.path, target)
        return str(target.relative_to(self.layout.root))


@dataclass(frozen=True)
class Access:
    """A bucket and who may write to it."""

    endpoint: str
    bucket: str
    key_id: str
    secret: str

    def __repr__(self) -> str:
        return f"Access({self.endpoint}/{self.bucket})"


class Bucket:
    """A bucket of an S3-compatible store."""

    def __init__(self, wanted: S3Target, access: Access) -> None:
        self._wanted = wanted
        self._access = access

    def put(self, upload: Upload) -> str:
        import boto3
        import botocore.exceptions
        from boto3.exceptions import S3UploadFailedError
        from botocore.config import Config

        quiet()
        key = "/".join(part for part in (self._wanted.prefix, upload.directory, upload.name) if part)
        client: Any = boto3.client(
            "s3",
            endpoint_url=self._access.endpoint,
            region_name=self._wanted.region,
            aws_access_key_id=self._access.key_id,
            aws_secret_access_key=self._access.secret,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                retries={"mode": "standard", "max_attempts": 3},
                connect_timeout=10,
                read_timeout=120,
                # Checksums that stores of other makers do not know are left out; the digest is compared below.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        where = f"s3://{self._access.bucket}/{key}"
        try:
            client.upload_file(
                str(upload.path), self._access.bucket, key, ExtraArgs={"Metadata": {_DIGEST_KEY: upload.sha256}}
            )
            there = client.head_object(Bucket=self._access.bucket, Key=key)
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, S3UploadFailedError) as error:
            raise UploadError(f"{where}: {_reason(error)}") from error
        size = upload.path.stat().st_size
        if there["ContentLength"] != size or there.get("Metadata", {}).get(_DIGEST_KEY) != upload.sha256:
            raise UploadError(f"{where} does not hold what was uploaded: {there['ContentLength']} of {size} bytes")
        return where


def _reason(error: Exception) -> str:
    """The store's own word, or what kept us from it; never the request."""
    # An upload that fails is told by boto3 in words of its own around the store's.
    answer = getattr(error, "response", None) or getattr(error.__context__, "response", None)
    if isinstance(answer, dict):
        found = answer.get("Error", {})
        return f"the store refuses: {found.get('Code', '?')} {found.get('Message', '')}".strip()
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return text[:300]


class Api:
    """The HTTP API: one login, a new one when the token is refused."""

    def __init__(self, wanted: ApiTarget, credentials: Callable[[], tuple[str, str]], secrets: SecretFiles) -> None:
        self._url = (wanted.url or "").rstrip("/")
        self._folder = wanted.folder
        quiet()
        self._credentials = credentials
        self._secrets = secrets
        self._pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=urllib3.Retry(2, redirect=0, status=0))
        self._token: str | None = None

    def put(self, upload: Upload) -> str:
        content = upload.path.read_bytes()

        def send(headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
            return self._pool.request(
                "POST",
                f"{self._url}/resources/{self._folder}",
                headers=headers,
                fields={"data": (upload.name, content, "application/octet-stream")},
            )

        self._signed_in(f"upload of {upload.name}", send)
        return f"{self._folder}/{upload.name}"

    def get(self, name: str) -> bytes:
        """A resource of the API's own. Raises UploadError."""

        def send(headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
            return self._pool.request(
                "POST",
                f"{self._url}/resources/get/{self._folder}",
                headers={**headers, "Content-Type": "application/json"},
                body=msgspec.json.encode({"fileName": name}),
            )

        return self._signed_in(f"{name} of the API", send).data

    def _signed_in(
        self, what: str, send: Callable[[dict[str, str]], urllib3.BaseHTTPResponse]
    ) -> urllib3.BaseHTTPResponse:
        fresh = self._token is None
        answer = self._ask(what, lambda: send(self._bearer()))
        if answer.status in _SIGN_IN_AGAIN and not fresh:
            self._token = None
            answer = self._ask(what, lambda: send(self._bearer()))
        if not 200 <= answer.status < 300:
            raise UploadError(f"{what}: the API answers {answer.status}{self._words(answer)}")
        return answer

    def _bearer(self) -> dict[str, str]:
        if self._token is None:
            self._token = self._login()
        return {"Authorization": f"Bearer {self._token}"}

    def _login(self) -> str:
        email, password = self._credentials()
        answer = self._ask(
            "login",
            lambda: self._pool.request(
                "POST",
                f"{self._url}/login",
                headers={"Content-Type": "application/json"},
                body=msgspec.json.encode({"email": email, "password": password}),
            ),
        )
        if not 200 <= answer.status < 300:
            raise UploadError(f"login: the API answers {answer.status}{self._words(answer)}")
        try:
            token = msgspec.json.decode(answer.data, type=_Token).token
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise UploadError("login: the API's answer holds no token") from None
        self._secrets.remember(token)
        return token

    def _ask(self, what: str, send: Callable[[], urllib3.BaseHTTPResponse]) -> urllib3.BaseHTTPResponse:
        try:
            return send()
        except urllib3.exceptions.HTTPError as error:
            raise UploadError(f"{what}: the API cannot be reached: {cause(error)}") from error

    def _words(self, answer: urllib3.BaseHTTPResponse) -> str:
        words = " ".join(answer.data[:200].decode(errors="replace").split())
        return f": {self._secrets.without(words)}" if words else ""


class _Token(msgspec.Struct, frozen=True):
    token: str


def quiet() -> None:
    """What these libraries tell of requests holds addresses and signed headers; what went wrong is told here."""
    for name in ("boto3", "botocore", "s3transfer", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)


def cause(error: BaseException) -> str:
    """Why a request came to nothing, without its address: an address may be a secret."""
    reason = getattr(error, "reason", None) or error
    found = {
        urllib3.exceptions.NameResolutionError: "its name is not known",
        urllib3.exceptions.NewConnectionError: "the connection is refused",
        urllib3.exceptions.ConnectTimeoutError: "it does not answer in time",
        urllib3.exceptions.ReadTimeoutError: "it does not answer in time",
        urllib3.exceptions.SSLError: "its certificate is not trusted",
        urllib3.exceptions.ProtocolError: "it closed the connection",
    }
    return next((words for kind, words in found.items() if isinstance(reason, kind)), type(reason).__name__)


def api(wanted: ApiTarget, secrets: SecretFiles) -> Api:
    """The API; its credentials are read at each login."""

    def credentials() -> tuple[str, str]:
        email, password = secrets.keys(wanted.credentials_secret_ref, "email", "password")
        return email, password

    credentials()  # what is missing is said before anything is sent
    return Api(wanted, credentials, secrets)


class _Provisioned(msgspec.Struct, frozen=True):
    """The part of cdn.yaml that a writer needs."""

    host: str
    bucket: str
    uploader_access_key: str
    uploader_access_secret: str


def provisioned(source: Api, wanted: S3Target, secrets: SecretFiles) -> Access:
    """The store's address and keys from the API's encrypted cdn.yaml. Raises UploadError, MissingSecretError."""
    secret = secrets.key(wanted.provision_key_ref)
    encrypted = source.get(_PROVISIONED_FILE)
    with tempfile.TemporaryDirectory() as directory:
        closed, opened = Path(directory) / "closed", Path(directory) / "opened"
        closed.write_bytes(encrypted)
        try:
            decrypt_file(closed, opened, secret, EncryptionFormat.CBC)
            found = msgspec.convert(yaml.safe_load(opened.read_bytes()), _Provisioned)
        except DecryptionError as error:
            raise UploadError(f"{_PROVISIONED_FILE}: {error}") from error
        except (yaml.YAMLError, UnicodeDecodeError, msgspec.ValidationError):
            # Their words would quote the file.
            raise UploadError(
                f"{_PROVISIONED_FILE} is not readable: another secret text, or it lacks host, bucket, "
                "uploader_access_key or uploader_access_secret"
            ) from None
    secrets.remember(found.uploader_access_key, found.uploader_access_secret)
    return Access(
        wanted.endpoint or found.host,
        wanted.bucket or found.bucket,
        found.uploader_access_key,
        found.uploader_access_secret,
    )
