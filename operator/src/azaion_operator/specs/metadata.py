"""Names, labels and owners of everything the operator makes."""

from __future__ import annotations

from azaion_api.names import (
    API_VERSION,
    GROUP,
    LABEL_COMPONENT,
    LABEL_INGEST,
    LABEL_LINE,
    LABEL_MANAGED_BY,
    LABEL_PART_OF,
    LABEL_RUN,
    MANAGED_BY,
    PART_OF,
    Kind,
)
from azaion_api.resources import AnnotationIngest, ModelLine, TrainingRun
from azaion_operator.objects import RawObject

#: UID of the run a Job or pod is for: a new run of the same name must not take an old one's pod for its own.
LABEL_RUN_UID = f"{GROUP}/training-run-uid"

Owner = TrainingRun | AnnotationIngest | ModelLine

_OWNERS = {
    TrainingRun: (Kind.TRAINING_RUN, LABEL_RUN, "trainer"),
    AnnotationIngest: (Kind.ANNOTATION_INGEST, LABEL_INGEST, "consumer"),
    ModelLine: (Kind.MODEL_LINE, LABEL_LINE, "trainer"),
}


def labels(owner: Owner) -> dict[str, str]:
    """Labels every child carries; the operator's watches select by them."""
    _, label, component = _OWNERS[type(owner)]
    return {
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_PART_OF: PART_OF,
        LABEL_COMPONENT: component,
        label: owner.metadata.name,
    }


def metadata(owner: Owner, name: str, more: dict[str, str] | None = None) -> RawObject:
    """Metadata of a child: Kubernetes deletes it with its owner."""
    kind, _, _ = _OWNERS[type(owner)]
    return {
        "name": name,
        "labels": labels(owner) | (more or {}),
        # No blockOwnerDeletion: it would need a right on the owner's finalizers and hold up its deletion.
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": kind.value,
                "name": owner.metadata.name,
                "uid": owner.metadata.uid,
                "controller": True,
            }
        ],
    }
