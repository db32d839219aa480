"""The one place that talks to Kubernetes: `kubernetes.aio` for access and transport, plain JSON for objects."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import msgspec
from kubernetes.aio import config as access
from kubernetes.aio.client import ApiClient, Configuration

from azaion_operator.errors import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    InvalidError,
    NotFoundError,
    RefusedError,
    UnreachableError,
)
from azaion_operator.objects import RawObject, ResourceType

log = logging.getLogger(__name__)

T = TypeVar("T")

FIELD_MANAGER = "azaion-operator"
_TIMEOUT = aiohttp.ClientTimeout(total=15, sock_connect=5)
_PAGE_SIZE = 500


@dataclass(frozen=True)
class Listing:
    """Every object of a type that matched, and the state of the API server they are of."""

    items: Iterable[RawObject]
    resource_version: str


class _PageMetadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct):
    """A part of a LIST, its objects as they came."""

    metadata: _PageMetadata
    items: tuple[msgspec.Raw, ...] | None = None


class _Items:
    """Objects that are decoded as they are asked for: a thousand runs are 5 MB as text and 40 MB as dictionaries."""

    def __init__(self, raw: list[msgspec.Raw]) -> None:
        self._raw = raw

    def __iter__(self) -> Iterator[RawObject]:
        return map(msgspec.json.decode, self._raw)


_object_decoder = msgspec.json.Decoder(RawObject)
_page_decoder = msgspec.json.Decoder(_Page)


@dataclass(frozen=True)
class Access:
    """Where the API server is and how a client of it proves who it is, as of now: tokens change within the hour."""

    server: str
    ca_path: str | None
    insecure: bool
    token: str | None
    certificate_path: str | None
    private_key_path: str | None


class Cluster:
    """The objects of one namespace. Every method raises a ClusterError that says what was asked and what came back."""

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self._client = client
        self.namespace = namespace

    @classmethod
    async def connect(cls, namespace: str, *, in_cluster: bool) -> Cluster:
        """Use the cluster this pod runs in, or outside of one that of KUBECONFIG.

        Raises UnreachableError when there is none.
        """
        found = Configuration()
        try:
            if in_cluster:
                access.load_incluster_config(client_configuration=found)
            else:
                await access.load_kube_config(client_configuration=found)
        except access.ConfigException as error:
            raise UnreachableError(f"no access to a cluster: {error}; set KUBECONFIG outside of one") from error
        # Proxies of the environment are for the world outside, never for the API server.
        found.client_session_kwargs = {"trust_env": False}
        found.connection_pool_maxsize = 32
        client = ApiClient(found)
        # What is sent is plain JSON already: walking through a status to make sure costs more than to encode it.
        client.sanitize_for_serialization = lambda plain: plain
        return cls(client, namespace)

    async def access(self) -> Access:
        """What another client needs to speak to the same API server."""
        found = self._client.configuration
        # A service account's token is read anew when it was read a minute ago.
        header: str = await found.get_api_key_with_prefix("BearerToken") or ""
        return Access(
            server=found.host,
            ca_path=found.ssl_ca_cert,
            insecure=not found.verify_ssl,
            token=header.rpartition(" ")[2].strip() or None,
            certificate_path=found.cert_file,
            private_key_path=found.key_file,
        )

    async def close(self) -> None:
        await self._client.close()

    async def list(self, resource: ResourceType, label_selector: str = "") -> Listing:
        """A full, consistent LIST, past every cache."""
        items: list[msgspec.Raw] = []
        token = ""
        while True:
            query = {"limit": str(_PAGE_SIZE)}
            if label_selector:
                query["labelSelector"] = label_selector
            if token:
                query["continue"] = token
            page = await self._ask_for("GET", resource.path(self.namespace), _page_decoder, query=query)
            items += page.items or ()
            token = page.metadata.continue_
            if not token:
                return Listing(_Items(items), page.metadata.resource_version)

    async def get(self, resource: ResourceType, name: str) -> RawObject:
        return await self._ask("GET", resource.path(self.namespace, name))

    async def create(self, resource: ResourceType, manifest: RawObject) -> RawObject:
        return await self._ask("POST", resource.path(self.namespace), body=manifest)

    async def replace(self, resource: ResourceType, manifest: RawObject) -> RawObject:
        """Replace the object if it is still the one that was read (metadata.resourceVersion)."""
        return await self._ask("PUT", resource.path(self.namespace, manifest["metadata"]["name"]), body=manifest)

    async def replace_status(self, resource: ResourceType, manifest: RawObject) -> RawObject:
        """Replace the status alone if the object is still the one that was read (metadata.resourceVersion)."""
        path = resource.path(self.namespace, manifest["metadata"]["name"], "status")
        return await self._ask("PUT", path, body=manifest)

    async def apply(self, resource: ResourceType, manifest: RawObject) -> RawObject:
        """Make the object what the manifest says, fields of other managers apart (server-side apply)."""
        return await self._ask(
            "PATCH",
            resource.path(self.namespace, manifest["metadata"]["name"]),
            body=manifest,
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            content_type="application/apply-patch+yaml",
        )

    async def delete(self, resource: ResourceType, name: str, uid: str, *, children_first: bool = False) -> None:
        """Delete that very object; one that is gone already is fine.

        With `children_first` it stays visible until what it owns is gone.
        """
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground" if children_first else "Background",
            "preconditions": {"uid": uid},
        }
        try:
            await self._ask("DELETE", resource.path(self.namespace, name), body=body)
        except (NotFoundError, ConflictError):
            log.debug("%s %s is gone already", resource.kind, name)

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: RawObject | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> RawObject:
        return await self._ask_for(method, path, _object_decoder, body=body, query=query, content_type=content_type)

    async def _ask_for(
        self,
        method: str,
        path: str,
        decoder: msgspec.json.Decoder[T],
        *,
        body: RawObject | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> T:
        what = f"{method} {path}"
        try:
            method_, url, headers, plain, _ = await self._client.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._client.call_api(method_, url, headers, plain, _request_timeout=_TIMEOUT)
            data = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnreachableError(f"{what}: {type(error).__name__}: {error}") from error
        if response.status >= 400:
            raise _error(what, response.status, data)
        try:
            return decoder.decode(data)
        except msgspec.DecodeError as error:
            raise UnreachableError(f"{what}: the answer is not what was asked for: {error}") from error


def _error(what: str, status: int, data: bytes) -> ClusterError:
    """The API server's own words as one of our errors."""
    reason, message = "", data[:300].decode(errors="replace")
    try:
        answer: Any = msgspec.json.decode(data)
    except msgspec.DecodeError:
        answer = None
    if isinstance(answer, dict):
        reason, message = str(answer.get("reason", "")), str(answer.get("message", ""))
    text = f"{what}: {status} {message}".strip()
    if status == 404:
        return NotFoundError(text)
    if status == 409:
        return AlreadyExistsError(text) if reason == "AlreadyExists" else ConflictError(text)
    if status in (401, 408, 410, 429) or status >= 500:
        return UnreachableError(text)
    return InvalidError(message or text) if status == 422 else RefusedError(message or text)
