"""Whether a run could start if it were its turn, and what is missing if not. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit

from azaion_api.layout import CLASSES_FILE, needed_free_bytes
from azaion_api.report import StorageReport
from azaion_api.resources import ModelLine, TrainingRun
from azaion_operator.settings import PodSettings
from azaion_operator.specs.secrets import upload_secrets
from azaion_operator.texts import plural, sentence, size


def uses_own_storage(run: TrainingRun, settings: PodSettings) -> bool:
    """Whether the run works on another tree than the one the storage pod reports on; then `prepare` checks it."""
    storage = run.spec.storage
    return storage.sub_path is not None or storage.claim_name not in (None, settings.claim)


def current_model(line_name: str, line: ModelLine | None, storage: StorageReport | None) -> str | None:
    """The line's current model, a .pt relative to the storage root: the one recorded, or a link found on the volume."""
    if line is not None and line.status.current is not None:
        return line.status.current.path
    link = f"{line_name}.pt"
    return f"models/{link}" if storage is not None and link in storage.base_models else None


def missing(
    run: TrainingRun, line: ModelLine | None, storage: StorageReport | None, settings: PodSettings
) -> str | None:
    """What the run waits for as Pending, in one sentence with what to do; None when it is ready for the queue."""
    if refused := _refused(run, settings):
        return sentence(refused)
    if uses_own_storage(run, settings):
        return None
    if storage is None:
        return (
            "the storage pod has not reported what is on the volume yet; "
            "if this lasts, see kubectl logs deployment/azaion-storage"
        )
    text = (
        _unhealthy(storage)
        or _missing_base(run, current_model(run.spec.line_ref.name, line, storage), storage)
        or _missing_data(run, storage)
    )
    return sentence(text) if text else None


def _refused(run: TrainingRun, settings: PodSettings) -> str | None:
    """What the run names and the chart does not let it name."""
    publish, access = run.spec.publish, settings.access
    secrets = (*upload_secrets(publish), publish.notify.url_secret_ref.name)
    addresses = (address for target in publish.targets for address in (target.s3.endpoint, target.api.url) if address)
    return (
        access.refused_claim(run.spec.storage.claim_name, settings.claim)
        or access.refused_secret(name for name in secrets if name)
        or access.refused_host(urlsplit(address).hostname or address for address in addresses)
    )


def has_space(storage: StorageReport | None) -> bool | None:
    """Whether enough of the volume is free; None when nobody knows."""
    if storage is None or storage.capacity_bytes <= 0:
        return None
    return storage.available_bytes >= needed_free_bytes(storage.capacity_bytes)


def _unhealthy(storage: StorageReport) -> str | None:
    if storage.problems:
        more = f" (and {len(storage.problems) - 1} more)" if len(storage.problems) > 1 else ""
        return f"the storage needs care: {storage.problems[0]}{more}"
    if has_space(storage) is False:
        return (
            f"only {size(storage.available_bytes)} of the volume are free and a run starts from "
            f"{size(needed_free_bytes(storage.capacity_bytes))} on; remove old directories of runs/ or datasets/"
        )
    return None


def _missing_base(run: TrainingRun, current: str | None, storage: StorageReport) -> str | None:
    base = run.spec.model.base
    if run.spec.training.resume_from is not None:
        return None
    if base == "Current":
        if current is None:
            return (
                f"model.base is Current, but line {run.spec.line_ref.name} has no model yet; "
                "start its first run from a base model such as yolo26m.pt"
            )
        return None
    if base.endswith(".pt") and base not in storage.base_models:
        return (
            f"models/{base} is not on the volume; add it with: azaion-trainer add-model {base} "
            "(kubectl cp and the other ways are in the README)"
        )
    return None


def _missing_data(run: TrainingRun, storage: StorageReport) -> str | None:
    dataset = run.spec.dataset
    if dataset.existing is not None:
        return None
    if dataset.classes.path == CLASSES_FILE and not storage.classes_present:
        return f"{CLASSES_FILE} is not on the volume; the chart's value `classes` makes it"
    found = storage.images.get(dataset.source, 0)
    if found < dataset.min_images:
        return f"{dataset.source}/images holds {plural(found, 'image')}, the run needs {dataset.min_images}"
    return None
