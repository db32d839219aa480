"""The stage `upload`: a published model to its targets. Files and network only; the promotion stands whatever comes."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from azaion_api.model_card import read_card
from azaion_api.reporter import utc_now
from azaion_api.training_run import Encryption, ModelFormat, Part, Target, UploadState, UploadStatus
from azaion_trainer import files
from azaion_trainer.encryption import encrypt_file, small_part_bytes
from azaion_trainer.failures import BadDataError, BadSpecError, UploadFailedError
from azaion_trainer.secrets import MissingSecretError, SecretFiles
from azaion_trainer.stage import StageContext
from azaion_trainer.targets import Upload, UploadError, destination

log = logging.getLogger(__name__)

#: Within one pod a target is tried again after these pauses; then the operator starts another pod later.
PAUSES_S = (2.0, 10.0, 30.0, 60.0, 120.0)
_MAX_MESSAGE = 500


@dataclass(frozen=True)
class Places:
    """Where secrets lie, and the pauses between tries."""

    secrets: SecretFiles
    pauses_s: tuple[float, ...] = PAUSES_S


def upload(context: StageContext) -> str:
    """Bring the model to every target that lacks it. Raises UploadFailedError when one still does in the end."""
    return upload_to(context, Places(SecretFiles()))


def upload_to(context: StageContext, places: Places) -> str:
    """`upload` with its surroundings given."""
    publish = context.task.spec.publish
    model = _model(context)
    before = _Record.read(context)
    done: dict[str, UploadStatus] = {entry.target: entry for entry in before.uploads if entry.state is UploadState.OK}
    _tell(context, publish.targets, done)
    tries = len(places.pauses_s) + 1
    for number in range(tries):
        failed = False
        for target in publish.targets:
            if target.name in done and done[target.name].state is UploadState.OK:
                continue
            context.stop.check()
            context.heart.beat()
            context.report.activity(f"uploading to {target.name}")
            status = _try(context, target, model, places.secrets)
            done[target.name] = status
            failed = failed or status.state is not UploadState.OK
            _Record(tuple(done.values())).write(context)
            _tell(context, publish.targets, done)
        if not failed:
            shutil.rmtree(_staging(context), ignore_errors=True)
            return f"uploaded to {', '.join(target.name for target in publish.targets)}"
        if number < tries - 1:
            _pause(context, places.pauses_s[number])
    behind = [status for status in done.values() if status.state is not UploadState.OK]
    raise UploadFailedError("; ".join(f"{status.target}: {status.message}" for status in behind))


def _model(context: StageContext) -> Path:
    """The deployed .pt; beside it lie its exports and its card."""
    deployed = context.task.deployed
    if deployed is None:
        raise BadSpecError("the task names no deployed model; the stage publish has to come first")
    path = context.layout.root / deployed
    if not path.is_file() or not files.within(context.layout.root, path):
        raise BadDataError(f"{deployed} is not there")
    return path


def _tell(context: StageContext, targets: tuple[Target, ...], done: dict[str, UploadStatus]) -> None:
    context.report.publish(uploads=tuple(done.get(t.name, UploadStatus(target=t.name)) for t in targets))


def _pause(context: StageContext, seconds: float) -> None:
    """Wait, but leave at once when the pod is told to go."""
    end = time.monotonic() + seconds
    context.report.activity("waiting to try the targets that failed again")
    while (left := end - time.monotonic()) > 0:
        context.heart.beat()
        context.stop.check()
        time.sleep(min(left, 1.0))


def _try(context: StageContext, target: Target, model: Path, secrets: SecretFiles) -> UploadStatus:
    """One try at one target."""
    publish = context.task.spec.publish
    now = utc_now()
    try:
        place = destination(context.layout, target, {entry.name: entry for entry in publish.targets}, secrets)
        where = tuple(place.put(entry) for entry in _uploads(context, target, model, publish.encryption, secrets))
    except (UploadError, MissingSecretError, OSError) as error:
        message = secrets.without(str(error))[:_MAX_MESSAGE]
        log.warning("the upload failed", extra={"context": {"target": target.name, "reason": message}})
        return UploadStatus(target=target.name, state=UploadState.NOT_OK, message=message, time=now)
    log.info("uploaded", extra={"context": {"target": target.name, "files": list(where)}})
    return UploadStatus(target=target.name, state=UploadState.OK, files=where, time=now)


def _uploads(
    context: StageContext, target: Target, model: Path, encryption: Encryption, secrets: SecretFiles
) -> list[Upload]:
    """The files a target gets. Raises UploadError when the model has none of the formats."""
    card = read_card(model.parent)
    paths = {ModelFormat.PYTORCH: model}
    for entry in card.exports if card else ():
        if entry.format in ModelFormat.__members__.values():
            paths[ModelFormat(entry.format)] = model.parent / entry.path
    wanted = [paths[format_] for format_ in target.formats if format_ in paths]
    if not wanted:
        asked = " or ".join(target.formats)
        raise UploadError(f"the model has no {asked}: it was not exported, or its export failed")
    directory = model.parent.name if target.dated else ""
    return [
        Upload(path, path.name, directory, files.sha256_of(path))
        for path in (_as_asked(context, target.part, plain, encryption, secrets) for plain in wanted)
    ]


def _as_asked(context: StageContext, part: Part, plain: Path, encryption: Encryption, secrets: SecretFiles) -> Path:
    """The file itself, or encrypted, or a part of the encrypted one.

    It is encrypted once for all targets: parts from two encryptions would not fit together.
    """
    if encryption.secret_key_ref.name is None:
        if part is not Part.WHOLE:
            raise UploadError("only an encrypted file is split; set publish.encryption.secretKeyRef")
        return plain
    staging = _staging(context)
    staging.mkdir(parents=True, exist_ok=True)
    encrypted = staging / f"{plain.name}.enc"
    if not encrypted.is_file():
        encrypt_file(plain, encrypted, secrets.key(encryption.secret_key_ref), encryption.format)
    if part is Part.WHOLE:
        return encrypted
    split = small_part_bytes(encrypted.stat().st_size)
    target = staging / f"{plain.name}.{part.value.lower()}"
    if not target.is_file():
        with encrypted.open("rb") as reader, files.replacing(target) as writer:
            if part is Part.SMALL:
                writer.write(reader.read(split))
            else:
                reader.seek(split)
                shutil.copyfileobj(reader, writer, 1 << 20)
    return target


def _staging(context: StageContext) -> Path:
    return context.run.root / "upload"


class _Record(msgspec.Struct, frozen=True, rename="camel"):
    """What earlier pods have uploaded: kept beside the run, so that no target gets a file twice."""

    uploads: tuple[UploadStatus, ...] = ()

    @staticmethod
    def path(context: StageContext) -> Path:
        return context.run.root / "uploads.json"

    @classmethod
    def read(cls, context: StageContext) -> _Record:
        try:
            return msgspec.json.decode(cls.path(context).read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return cls()

    def write(self, context: StageContext) -> None:
        context.run.root.mkdir(parents=True, exist_ok=True)
        files.write_bytes(self.path(context), msgspec.json.encode(self))
