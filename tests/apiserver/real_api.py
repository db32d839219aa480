"""A real API server without nodes, as the tests speak to it."""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from azaion_api.names import API_VERSION, PLURALS, Kind

Document = dict[str, Any]
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
SERVER_SIDE_APPLY = "application/apply-patch+yaml"
CHART = Path(__file__).resolve().parents[2] / "charts" / "azaion"


@dataclass(frozen=True)
class Answer:
    """What the API server said; `body` is an object, a list or a Status."""

    status: int
    body: Document

    @property
    def sentence(self) -> str:
        """What a person is told; of a refusal only what follows the name of the object."""
        assert self.status >= 400, f"this was not refused: {self.body}"
        message: str = self.body["message"]
        return message.partition(" is invalid: ")[2] or message

    @property
    def object(self) -> Document:
        assert self.status < 300, f"{self.status}: {self.body.get('message', self.body)}"
        return self.body


class RealApi:
    """One control plane and its administrator."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = {**os.environ, **environment}
        config = yaml.safe_load(Path(environment["KUBECONFIG"]).read_text())
        user = config["users"][0]["user"]
        cluster = config["clusters"][0]["cluster"]
        address = urlsplit(cluster["server"])
        self.host, self.port = address.hostname or "", address.port or 443
        self.authority = base64.b64decode(cluster["certificate-authority-data"])
        context = ssl.create_default_context(cadata=self.authority.decode())
        with tempfile.NamedTemporaryFile("wb") as pair:
            for part in ("client-certificate-data", "client-key-data"):
                pair.write(base64.b64decode(user[part]))
            pair.flush()
            context.load_cert_chain(pair.name)
        self._connection = http.client.HTTPSConnection(self.host, self.port, context=context, timeout=30)

    def rendered(self, template: str, namespace: str) -> list[Document]:
        """The objects of one of the chart's templates, with its default values."""
        command = ["helm", "template", "azaion", str(CHART), "--namespace", namespace, "--show-only", template]
        text = subprocess.run(command, capture_output=True, text=True, check=True, env=self.environment).stdout
        return [found for found in yaml.safe_load_all(text) if found]

    def request(self, method: str, path: str, body: object = None, content_type: str = JSON) -> Answer:
        """One request, with the administrator's rights."""
        self._connection.request(
            method, path, None if body is None else json.dumps(body), {"Content-Type": content_type, "Accept": JSON}
        )
        response = self._connection.getresponse()
        return Answer(response.status, json.loads(response.read()))

    def kubectl(self, *arguments: str, stdin: object = None) -> subprocess.CompletedProcess[str]:
        """kubectl as a person runs it; `stdin` is a document for `-f -`."""
        return subprocess.run(
            ["kubectl", *arguments],
            input=None if stdin is None else yaml.safe_dump(stdin),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=self.environment,
        )

    def output(self, *arguments: str, stdin: object = None) -> str:
        """What kubectl prints; it has to succeed."""
        done = self.kubectl(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout


@dataclass(frozen=True)
class Namespace:
    """A namespace of one test's own, and our kinds in it."""

    api: RealApi
    name: str

    def path(self, kind: Kind, name: str = "", subresource: str = "", query: str = "") -> str:
        parts = [f"/apis/{API_VERSION}/namespaces/{self.name}/{PLURALS[kind]}", name, subresource]
        return "/".join(part for part in parts if part) + query

    def create(self, kind: Kind, name: str, spec: object = None, *, dry_run: bool = False) -> Answer:
        """Create as kubectl does it: strict about unknown and duplicate fields."""
        return self.api.request(
            "POST",
            self.path(kind, query=f"?fieldValidation=Strict{'&dryRun=All' if dry_run else ''}"),
            resource(kind, name, spec),
        )

    def get(self, kind: Kind, name: str) -> Document:
        return self.api.request("GET", self.path(kind, name)).object

    def patch(self, kind: Kind, name: str, patch: Document) -> Answer:
        """Merge-patch; null removes a field."""
        return self.api.request("PATCH", self.path(kind, name, query="?fieldValidation=Strict"), patch, MERGE_PATCH)

    def patch_status(self, kind: Kind, name: str, status: Document) -> Answer:
        return self.api.request("PATCH", self.path(kind, name, "status"), {"status": status}, MERGE_PATCH)

    def apply(self, kind: Kind, name: str, spec: object) -> Answer:
        """Server-side apply."""
        return self.api.request(
            "PATCH",
            self.path(kind, name, query="?fieldManager=person&fieldValidation=Strict"),
            resource(kind, name, spec),
            SERVER_SIDE_APPLY,
        )


def resource(kind: Kind, name: str, spec: object = None) -> Document:
    """The YAML a person writes; without a spec when it is None."""
    document = {"apiVersion": API_VERSION, "kind": kind.value, "metadata": {"name": name}}
    return document if spec is None else {**document, "spec": spec}


def cases(table: Iterable[tuple[Document, str, object]]) -> list[str]:
    """Names for the cases of a table: the field, and what was written."""
    return [f"{field} {json.dumps(written):.60}" for written, field, _ in table]
