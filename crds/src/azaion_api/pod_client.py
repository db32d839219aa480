"""How a pod speaks to the API server with its own token: plain HTTP of the standard library, small and quick to start."""

from __future__ import annotations

import http.client
import os
import ssl
from pathlib import Path

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MERGE_PATCH = "application/merge-patch+json"
_TIMEOUT_S = 10.0


class UnreachableError(Exception):
    """No answer came from the API server; the message says why."""


class PodClient:
    """One connection, made anew when it broke.

    Token and authority are read where they are used: both are replaced under a running pod.
    """

    def __init__(self, service_account: Path = SERVICE_ACCOUNT) -> None:
        self._host = os.environ["KUBERNETES_SERVICE_HOST"]
        self._port = int(os.environ.get("KUBERNETES_SERVICE_PORT", "443"))
        self._service_account = service_account
        self._connection: http.client.HTTPSConnection | None = None

    def ask(self, method: str, path: str, body: bytes | None = None, content_type: str = "") -> tuple[int, bytes]:
        """Status and body of the answer. The request may arrive twice, so it has to be one that does no harm then.

        Raises UnreachableError.
        """
        headers = {"Authorization": f"Bearer {self._token()}", "Accept": "application/json"}
        if content_type:
            headers["Content-Type"] = content_type
        try:
            return self._send(method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self._close()
            raise UnreachableError(
                f"the API server at {self._host}:{self._port} cannot be reached: {error or type(error).__name__}"
            ) from error

    def _token(self) -> str:
        path = self._service_account / "token"
        try:
            return path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UnreachableError(f"the pod's token {path} cannot be read: {error}") from error

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        if self._connection is not None:
            try:
                return self._exchange(self._connection, method, path, body, headers)
            except (OSError, http.client.HTTPException):
                # Epochs last for hours and the API server closes idle connections after minutes; only what a
                # new connection says counts.
                self._close()
        self._connection = http.client.HTTPSConnection(
            self._host,
            self._port,
            timeout=_TIMEOUT_S,
            context=ssl.create_default_context(cafile=str(self._service_account / "ca.crt")),
        )
        return self._exchange(self._connection, method, path, body, headers)

    def _exchange(
        self,
        connection: http.client.HTTPSConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
    ) -> tuple[int, bytes]:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
