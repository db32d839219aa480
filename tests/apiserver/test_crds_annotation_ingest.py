"""What the API server makes of an AnnotationIngest."""

from __future__ import annotations

from typing import Any

import pytest
from real_api import Document, Namespace, cases

from azaion_api.names import Kind

INGEST = Kind.ANNOTATION_INGEST

FOUNDING: Document = {
    "stream": {
        "host": "rabbitmq",
        "port": 5552,
        "name": "azaion-annotations",
        "virtualHost": "/",
        "tls": {"enabled": False},
        "credentialsSecretRef": {"name": "azaion-rabbitmq"},
        "startFrom": {"type": "First"},
        "onMissingOffsets": "Stop",
    },
    "storage": {"data": "data", "dataSeed": "data-seed", "dataDeleted": "data_deleted"},
    "classCount": 80,
    "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
    "suspend": False,
}


@pytest.mark.parametrize("spec", [None, {}], ids=["no spec", "empty spec"])
def test_an_empty_ingest_reads_the_founding_stream_into_the_founding_directories(
    namespace: Namespace, spec: Document | None
) -> None:
    assert namespace.create(INGEST, "annotations", spec).object["spec"] == FOUNDING
    assert namespace.get(INGEST, "annotations")["spec"] == FOUNDING


def stream(**fields: Any) -> Document:
    return {"stream": fields}


def start(**fields: Any) -> Document:
    return {"stream": {"startFrom": fields}}


@pytest.mark.parametrize(
    "spec",
    [
        start(type="Next"),
        start(type="Timestamp", timestamp="2026-01-31T00:00:00Z"),
        start(type="Timestamp", timestamp="2026-01-31T00:00:00.5+02:00"),
        start(type="Offset", offset=0),
        stream(host="10.43.0.17", port=1),
        stream(tls={"enabled": True, "caSecretName": "broker-ca"}),
        stream(virtualHost="annotators"),
        {"storage": {"data": "d", "dataSeed": "s", "dataDeleted": "x_1", "claimName": "c", "subPath": "a/b"}},
        {"resources": {"limits": {"memory": "2Gi"}}},
    ],
    ids=str,
)
def test_is_accepted(dry_run: Namespace, spec: Document) -> None:
    assert dry_run.create(INGEST, "annotations", spec, dry_run=True).status == 201


FOR_HOSTS = "give a host name or IPv4 address alone, without scheme, port or path, for example rabbitmq.queue.svc"
FOR_DIRECTORIES = "name a directory at the top of the storage, for example data: letters, digits, - and _, no path"
TAKEN = (
    "this directory belongs to another part of the system (data-corrupted, data-rejected, datasets, models, runs are "
    "taken); choose another name"
)

REFUSED: list[tuple[Document, str, str]] = [
    (
        start(type="Timestamp"),
        "stream.startFrom.timestamp",
        "Required value: type Timestamp needs a time, for example 2026-01-31T00:00:00Z",
    ),
    (
        start(type="Offset"),
        "stream.startFrom.offset",
        "Required value: type Offset needs the first offset wanted, for example 0",
    ),
    (
        start(timestamp="2026-01-31T00:00:00Z"),
        "stream.startFrom.timestamp",
        "Forbidden: a timestamp has an effect with type Timestamp only; set type: Timestamp or leave it out",
    ),
    (
        start(type="Next", offset=3),
        "stream.startFrom.offset",
        "Forbidden: an offset has an effect with type Offset only; set type: Offset or leave it out",
    ),
    (
        start(type="Offset", offset=-1),
        "stream.startFrom.offset",
        "Invalid value: -1: spec.stream.startFrom.offset in body should be greater than or equal to 0",
    ),
    (
        start(type="first"),
        "stream.startFrom.type",
        'Unsupported value: "first": supported values: "First", "Next", "Timestamp", "Offset"',
    ),
    (
        start(type="Timestamp", timestamp="yesterday"),
        "stream.startFrom.timestamp",
        'Invalid value: "yesterday": spec.stream.startFrom.timestamp in body must be of type date-time',
    ),
    (stream(host="rabbitmq:5552"), "stream.host", f'Invalid value: "rabbitmq:5552": {FOR_HOSTS}'),
    (stream(host="amqp://rabbitmq"), "stream.host", f'Invalid value: "amqp://rabbitmq": {FOR_HOSTS}'),
    (stream(port=0), "stream.port", "Invalid value: 0: spec.stream.port in body should be greater than or equal to 1"),
    (
        stream(port=65536),
        "stream.port",
        "Invalid value: 65536: spec.stream.port in body should be less than or equal to 65535",
    ),
    (stream(name="a/b"), "stream.name", 'Invalid value: "a/b": name a stream: no / and no control characters'),
    (stream(name="a\x00b"), "stream.name", 'Invalid value: "a\\x00b": name a stream: no / and no control characters'),
    (
        stream(tls={"caSecretName": "broker-ca"}),
        "stream.tls.caSecretName",
        "Forbidden: a private CA has an effect with TLS only; set enabled: true beside it or leave it out",
    ),
    (
        stream(credentialsSecretRef={"name": "My Secret"}),
        "stream.credentialsSecretRef.name",
        'Invalid value: "My Secret": name a Secret: lower-case letters, digits, - and .',
    ),
    ({"storage": {"data": "../models"}}, "storage.data", f'Invalid value: "../models": {FOR_DIRECTORIES}'),
    ({"storage": {"data": "/data"}}, "storage.data", f'Invalid value: "/data": {FOR_DIRECTORIES}'),
    ({"storage": {"dataSeed": ".."}}, "storage.dataSeed", f'Invalid value: "..": {FOR_DIRECTORIES}'),
    ({"storage": {"dataDeleted": ".ingest"}}, "storage.dataDeleted", f'Invalid value: ".ingest": {FOR_DIRECTORIES}'),
    (
        {"storage": {"dataSeed": "data"}},
        "storage",
        "Invalid value: data, dataSeed and dataDeleted have to be three different directories",
    ),
    ({"storage": {"data": "models"}}, "storage.data", f'Invalid value: "models": {TAKEN}'),
    ({"storage": {"dataDeleted": "data-rejected"}}, "storage.dataDeleted", f'Invalid value: "data-rejected": {TAKEN}'),
    (
        {"classCount": 0},
        "classCount",
        "Invalid value: 0: spec.classCount in body should be greater than or equal to 1",
    ),
]


@pytest.mark.parametrize(("spec", "field", "sentence"), REFUSED, ids=cases(REFUSED))
def test_is_refused_with_a_sentence(dry_run: Namespace, spec: Document, field: str, sentence: str) -> None:
    answer = dry_run.create(INGEST, "annotations", spec, dry_run=True)
    assert answer.sentence.removeprefix("[").startswith(f"spec.{field}: {sentence}")


def test_an_unknown_field_is_refused_by_its_name(dry_run: Namespace) -> None:
    answer = dry_run.create(INGEST, "annotations", stream(password="hunter2"), dry_run=True)
    assert answer.sentence.endswith('strict decoding error: unknown field "spec.stream.password"')
    assert "hunter2" not in str(answer.body)


FORBIDDEN: list[tuple[Document, str, str]] = [
    ({"storage": {"data": "other"}}, "storage", "these directories"),
    ({"storage": {"claimName": "disk-2"}}, "storage", "these directories"),
    ({"storage": {"subPath": "azaion"}}, "storage", "these directories"),
    (stream(name="other"), "stream.name", "this stream"),
    (stream(virtualHost="other"), "stream.virtualHost", "this stream"),
]


@pytest.mark.parametrize(("change", "field", "owner"), FORBIDDEN, ids=cases(FORBIDDEN))
def test_a_change_that_would_lose_annotations_is_refused(
    namespace: Namespace, change: Document, field: str, owner: str
) -> None:
    assert namespace.create(INGEST, "annotations", {}).status == 201
    assert namespace.patch(INGEST, "annotations", {"spec": change}).sentence == (
        f"spec.{field}: Forbidden: cannot change after creation: the stored offset belongs to {owner}; "
        "make a new AnnotationIngest"
    )
    assert namespace.get(INGEST, "annotations")["spec"] == FOUNDING


@pytest.mark.parametrize(
    "change",
    [
        {"suspend": True},
        {"classCount": 17},
        {"resources": {"limits": {"memory": "2Gi"}}},
        stream(host="rabbitmq-2", port=5551, tls={"enabled": True}, credentialsSecretRef={"name": "rotated"}),
        start(type="Next"),
    ],
    ids=str,
)
def test_may_change(namespace: Namespace, change: Document) -> None:
    assert namespace.create(INGEST, "annotations", {}).status == 201
    assert namespace.patch(INGEST, "annotations", {"spec": change}).status == 200


def test_a_change_of_the_spec_leaves_the_status_and_the_other_way_round(namespace: Namespace) -> None:
    assert namespace.create(INGEST, "annotations", {}).status == 201
    status = {"phase": "Running", "committedOffset": 41, "images": {"data": 3}, "rejected": {"BadImage": 1}}
    reported = namespace.patch_status(INGEST, "annotations", status).object
    assert reported["spec"] == FOUNDING
    changed = namespace.patch(INGEST, "annotations", {"spec": {"suspend": True}, "status": {"phase": "Failed"}}).object
    assert changed["status"] == reported["status"]
    assert status.items() <= changed["status"].items()
