"""A pod's newest report reaches its ConfigMap whatever the API server does meanwhile, and no work waits for it."""

from __future__ import annotations

import http.server
import ipaddress
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from azaion_api import reporter as reporter_module
from azaion_api.report import RunReport, parse_run_report
from azaion_api.reporter import ConfigMapSink, LogSink, Reporter, ReportError, sink_for, utc_now
from azaion_api.training_run import Stage

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
DEADLINE_S = 20.0


def report(sequence: int, message: str = "") -> RunReport:
    return RunReport(pod_uid="pod-1", sequence=sequence, time=NOON, stage=Stage.TRAINING, message=message)


def sequences(bodies: list[bytes]) -> list[int]:
    found = [parse_run_report(body.decode()) for body in bodies]
    return [r.sequence for r in found if r is not None]


class Gate:
    """A sink that answers as it is told; `written` holds what it took, `asked` everything it was asked."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.asked: list[bytes] = []
        self.written: list[bytes] = []
        self.open = threading.Event()
        self.open.set()
        self.changed = threading.Condition()

    def write(self, body: bytes) -> None:
        with self.changed:
            self.asked.append(body)
            self.changed.notify_all()
        assert self.open.wait(DEADLINE_S), "the test never opened the gate"
        with self.changed:
            if self.failures:
                self.failures -= 1
                raise ReportError("the API server is away")
            self.written.append(body)
            self.changed.notify_all()

    def wait(self, what: str, ready: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(ready, DEADLINE_S), f"{what} did not happen within {DEADLINE_S:.0f} s"


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter_module, "_MAX_BACKOFF_S", 0.001)


def test_a_report_is_written_without_the_caller_waiting() -> None:
    sink = Gate()
    sink.open.clear()
    found = Reporter(sink)
    started_s = time.monotonic()
    found.send(report(1))
    assert time.monotonic() - started_s < 1.0, "send waited for the sink"
    sink.open.set()
    assert found.close()
    assert sequences(sink.written) == [1]


def test_reports_that_pile_up_are_dropped_for_the_newest() -> None:
    sink = Gate()
    sink.open.clear()
    found = Reporter(sink)
    found.send(report(1))
    sink.wait("the first write", lambda: len(sink.asked) == 1)
    for sequence in range(2, 100):
        found.send(report(sequence))
    sink.open.set()
    assert found.close()
    assert sequences(sink.written) == [1, 99]


@pytest.mark.usefixtures("no_backoff")
def test_a_report_that_was_refused_is_written_again() -> None:
    sink = Gate(failures=3)
    found = Reporter(sink)
    found.send(report(1))
    sink.wait("the write", lambda: len(sink.written) == 1)
    assert found.close()
    assert (sequences(sink.asked), sequences(sink.written)) == ([1, 1, 1, 1], [1])


@pytest.mark.usefixtures("no_backoff")
def test_a_newer_report_takes_the_place_of_a_refused_one() -> None:
    sink = Gate(failures=1)
    sink.open.clear()
    found = Reporter(sink)
    found.send(report(1))
    sink.wait("the first write", lambda: len(sink.asked) == 1)
    found.send(report(2))
    sink.open.set()
    assert found.close()
    assert sequences(sink.written) == [2]


def test_a_report_older_than_the_last_is_dropped() -> None:
    sink = Gate()
    found = Reporter(sink)
    found.send(report(5))
    sink.wait("the write", lambda: len(sink.written) == 1)
    found.send(report(4))
    found.send(report(6))
    assert found.close()
    assert sequences(sink.written) == [5, 6]


def test_refusals_are_followed_by_growing_pauses_up_to_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    waits: list[float] = []

    class Watched(Reporter):
        def _back_off(self, delay_s: float) -> None:
            waits.append(delay_s)

    sink = Gate(failures=12)
    found = Watched(sink)
    with caplog.at_level(logging.WARNING):
        found.send(report(1))
        sink.wait("the write", lambda: len(sink.written) == 1)
        assert found.close()
    for number, wait_s in enumerate(waits):
        most_s = min(15.0, 0.5 * 2**number)
        assert most_s / 2 <= wait_s <= most_s
    assert len(waits) == 12
    assert "the API server is away" in caplog.text


def test_close_tries_a_waiting_report_at_once_instead_of_sitting_out_its_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = threading.Event()

    class Watched(Reporter):
        def _back_off(self, delay_s: float) -> None:
            waiting.set()
            super()._back_off(3600.0)

    sink = Gate(failures=1)
    found = Watched(sink)
    found.send(report(1))
    assert waiting.wait(DEADLINE_S), "the reporter never paused"
    started_s = time.monotonic()
    assert found.close(timeout_s=DEADLINE_S)
    assert time.monotonic() - started_s < DEADLINE_S / 2
    assert sequences(sink.written) == [1]


def test_close_says_when_the_last_report_was_not_written() -> None:
    sink = Gate()
    sink.open.clear()
    found = Reporter(sink)
    found.send(report(1))
    started_s = time.monotonic()
    assert not found.close(timeout_s=0.2)
    assert time.monotonic() - started_s < DEADLINE_S / 2
    sink.open.set()


def test_close_keeps_trying_a_refused_report_without_a_hot_loop() -> None:
    sink = Gate(failures=10_000)
    found = Reporter(sink)
    found.send(report(1))
    assert not found.close(timeout_s=1.5)
    assert 2 <= len(sink.asked) <= 12


def test_close_without_any_report_returns_at_once_and_may_be_called_again() -> None:
    sink = Gate()
    found = Reporter(sink)
    assert found.close()
    assert found.close()
    found.send(report(1))
    assert sink.asked == []


def test_a_fault_of_the_sink_itself_is_seen_and_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken:
        def write(self, body: bytes) -> None:
            raise ZeroDivisionError

    seen: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda found: seen.append(found.exc_type))
    found = Reporter(Broken())
    found.send(report(1))
    assert found.close(timeout_s=DEADLINE_S)
    assert seen == [ZeroDivisionError]


def test_sequences_rise_over_threads_and_over_a_restart_of_the_container() -> None:
    first = Reporter(Gate())
    taken: list[int] = []
    threads = [
        threading.Thread(target=lambda: taken.extend(first.next_sequence() for _ in range(500))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(taken)) == 2000
    # Far fewer than one report a millisecond is sent in a container's life.
    second = Reporter(Gate())
    deadline_s = time.monotonic() + DEADLINE_S
    while (found := second.next_sequence()) <= max(taken):
        assert time.monotonic() < deadline_s, f"{found} is not above {max(taken)}"
    assert first.close()
    assert second.close()


def test_every_report_names_the_process_that_wrote_it() -> None:
    sinks = Gate(), Gate()
    for sink in sinks:
        found = Reporter(sink)
        found.send(report(1))
        assert found.close()
    processes = {msgspec.json.decode(sink.written[0])["process"] for sink in sinks}
    assert len(processes) == 2


def test_now_is_aware_and_in_utc() -> None:
    assert utc_now().utcoffset() == timedelta(0)


# The ConfigMap of the pod


@dataclass
class ApiServer:
    """What of the API server a pod's report meets: TLS, a bearer token, a merge patch on one ConfigMap."""

    directory: Path
    data: dict[str, str] = field(default_factory=dict)
    token: str = "token-1"
    #: Statuses to answer instead of taking the patch.
    answers: list[int] = field(default_factory=list)
    #: Ends this many kept connections without an answer, as after an idle timeout.
    hang_up: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)
    connections: int = 0
    open: list[socket.socket] = field(default_factory=list)
    server: http.server.ThreadingHTTPServer | None = None

    def start(self, port: int = 0) -> None:
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                api.connections += 1
                api.open.append(self.connection)
                self.requests_here = 0

            def do_PATCH(self) -> None:
                api.requests.append((self.path, self.headers["Content-Type"]))
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.requests_here += 1
                if api.hang_up and self.requests_here > 1:
                    api.hang_up -= 1
                    self.close_connection = True
                    return
                status = api.answers.pop(0) if api.answers else 200
                if self.headers["Authorization"] != f"Bearer {api.token}":
                    status = 401
                if status == 200:
                    api.data.update(json.loads(body)["data"])
                answer = json.dumps({"kind": "Status", "message": f"answer {status}", "data": api.data}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Nothing on standard error."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / "server.pem")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def port(self) -> int:
        assert self.server is not None
        return int(self.server.server_address[1])

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            for connection in self.open:
                connection.close()


def write_certificate(directory: Path, address: str = "127.0.0.1") -> None:
    """A private authority's certificate (`ca.crt`) and the server's own with its key (`server.pem`)."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes-ca")])
    now = datetime.now(UTC)

    def builder(subject: x509.Name) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
        )

    ca = (
        builder(ca_name)
        .public_key(ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(ca_key, hashes.SHA256())
    )
    server = (
        builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")]))
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    directory.joinpath("ca.crt").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    directory.joinpath("server.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + server.public_bytes(serialization.Encoding.PEM)
    )


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    write_certificate(tmp_path)
    (tmp_path / "token").write_text("token-1\n")
    found = ApiServer(tmp_path)
    found.start()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(found.port))
    monkeypatch.setenv("AZAION_NAMESPACE", "azaion")
    yield found
    found.stop()


@pytest.fixture
def sink(api: ApiServer) -> ConfigMapSink:
    return ConfigMapSink("nightly-run-report", "train.json", api.directory)


def test_a_report_patches_its_key_and_leaves_the_others(api: ApiServer, sink: ConfigMapSink) -> None:
    api.data["prepare.json"] = "{}"
    sink.write("Straße 東京".encode())
    assert api.data == {"prepare.json": "{}", "train.json": "Straße 東京"}
    assert api.requests == [("/api/v1/namespaces/azaion/configmaps/nightly-run-report", "application/merge-patch+json")]


def test_one_connection_is_kept_for_many_reports(api: ApiServer, sink: ConfigMapSink) -> None:
    for number in range(5):
        sink.write(str(number).encode())
    assert (api.data["train.json"], api.connections) == ("4", 1)


def test_a_connection_the_api_server_closed_meanwhile_is_opened_anew_at_once(
    api: ApiServer, sink: ConfigMapSink
) -> None:
    sink.write(b"1")
    api.hang_up = 1
    sink.write(b"2")
    assert (api.data["train.json"], api.connections) == ("2", 2)


def test_a_rotated_token_is_used_from_the_next_report_on(api: ApiServer, sink: ConfigMapSink) -> None:
    sink.write(b"1")
    api.token = "token-2"
    with pytest.raises(ReportError, match="refused the report with 401"):
        sink.write(b"2")
    (api.directory / "token").write_text("token-2")
    sink.write(b"3")
    assert api.data["train.json"] == "3"


def test_a_replaced_authority_is_used_from_the_next_connection_on(api: ApiServer, sink: ConfigMapSink) -> None:
    sink.write(b"1")
    port = api.port
    api.stop()
    write_certificate(api.directory)
    api.start(port)
    sink.write(b"2")
    assert api.data["train.json"] == "2"


@pytest.mark.parametrize("status", [403, 404, 409, 422, 429, 500, 503])
def test_a_refusal_says_what_the_api_server_said(api: ApiServer, sink: ConfigMapSink, status: int) -> None:
    api.answers = [status]
    with pytest.raises(ReportError, match=f"the API server refused the report with {status}: .*answer {status}"):
        sink.write(b"1")
    sink.write(b"2")
    assert (api.data["train.json"], api.connections) == ("2", 1), "the connection is good after a refusal"


def test_an_api_server_that_is_away_is_an_error_that_names_it(api: ApiServer, sink: ConfigMapSink) -> None:
    port = api.port
    api.stop()
    with pytest.raises(ReportError, match=rf"the API server at 127\.0\.0\.1:{port} cannot be reached: "):
        sink.write(b"1")


def test_a_server_with_a_certificate_of_another_authority_gets_no_token(
    api: ApiServer, sink: ConfigMapSink, tmp_path: Path
) -> None:
    kept = (tmp_path / "server.pem").read_bytes()
    write_certificate(tmp_path)
    (tmp_path / "server.pem").write_bytes(kept)
    with pytest.raises(ReportError, match=r"CERTIFICATE_VERIFY_FAILED"):
        sink.write(b"1")
    assert api.requests == []


def test_a_missing_token_is_an_error_that_is_tried_again(api: ApiServer, sink: ConfigMapSink) -> None:
    (api.directory / "token").unlink()
    with pytest.raises(ReportError, match=r"the pod's token .*/token cannot be read: .*No such file"):
        sink.write(b"1")
    (api.directory / "token").write_text("token-1")
    sink.write(b"2")
    assert api.data["train.json"] == "2"


def test_a_missing_authority_is_an_error_that_is_tried_again(api: ApiServer, sink: ConfigMapSink) -> None:
    kept = (api.directory / "ca.crt").read_bytes()
    (api.directory / "ca.crt").unlink()
    with pytest.raises(ReportError, match=r"cannot be reached: .*No such file"):
        sink.write(b"1")
    (api.directory / "ca.crt").write_bytes(kept)
    sink.write(b"2")
    assert api.data["train.json"] == "2"


@pytest.mark.usefixtures("no_backoff")
def test_the_newest_report_is_there_after_an_outage(api: ApiServer, sink: ConfigMapSink) -> None:
    api.answers = [503, 500, 429]
    found = Reporter(sink)
    found.send(report(1))
    found.send(report(2, "epoch 2"))
    assert found.close(timeout_s=DEADLINE_S)
    assert sequences([api.data["train.json"].encode()]) == [2]


def test_the_token_is_in_no_error(api: ApiServer, sink: ConfigMapSink, caplog: pytest.LogCaptureFixture) -> None:
    (api.directory / "token").write_text("very-secret-token")
    with caplog.at_level(logging.DEBUG), pytest.raises(ReportError) as refused:
        sink.write(b"1")
    assert "very-secret" not in str(refused.value) + caplog.text


def test_the_sink_is_the_log_outside_a_cluster(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    found = sink_for("nightly-run-report", "train.json")
    assert isinstance(found, LogSink)
    with caplog.at_level(logging.DEBUG):
        found.write(b'{"a":1}')
    assert [getattr(record, "context", None) for record in caplog.records] == [{"report": '{"a":1}'}]


@pytest.mark.usefixtures("api")
def test_the_sink_is_the_config_map_inside_a_cluster() -> None:
    assert isinstance(sink_for("nightly-run-report", "train.json"), ConfigMapSink)
