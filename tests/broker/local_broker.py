"""A real RabbitMQ of our own on loopback: own node name, ports, data directory and port mapper, gone when closed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.broker.certificates import write_certificates
from tests.loopback import free_ports

_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_CONTROL = Path("/usr/lib/rabbitmq/bin/rabbitmqctl")
START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 60.0


class BrokerError(RuntimeError):
    """The broker did not start, stop or obey; the message ends with its last words."""


class LocalBroker:
    """One node with the stream plugin; `start`, `stop`, `kill` and `start` again keep its ports and data."""

    def __init__(self, directory: Path, host: str = "127.0.0.1") -> None:
        self.directory = directory
        self.username = "annotator"
        self.password = "first password"
        self.amqp_port, self.stream_port, self.tls_port, self._dist_port, self._epmd_port = free_ports(5)
        self.host = host
        self._process: subprocess.Popen[bytes] | None = None
        self._log = directory / "console.log"

    @staticmethod
    def is_installed() -> bool:
        """True when Debian's package rabbitmq-server is there."""
        return _SERVER.exists()

    def start(self) -> None:
        """Start the node and wait until it takes stream connections."""
        self._write_configuration()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [_SERVER], env=self._environment(), stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _accepts(self.host, self.stream_port):
            if self._process.poll() is not None:
                raise BrokerError(f"RabbitMQ ended with {self._process.returncode} while starting:\n{self._tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise BrokerError(f"RabbitMQ was not up within {START_TIMEOUT_S:.0f} s:\n{self._tail()}")
            _pause()

    @property
    def authority(self) -> Path:
        """Certificate of the private authority that signed the broker's, for connections to `tls_port`."""
        return self.directory / "ca.crt"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End the node in order, as a shutdown of the machine does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the node at once, as a crash does."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze the node: its connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End everything this object started and remove its files."""
        if self._process is not None:
            self.kill()
        subprocess.run(
            ["epmd", "-port", str(self._epmd_port), "-kill"],
            env=self._environment(),
            capture_output=True,
            check=False,
        )
        shutil.rmtree(self.directory, ignore_errors=True)

    def control(self, *arguments: str, text: str | None = None) -> str:
        """Run rabbitmqctl against the node and return what it prints; `text` is its standard input."""
        done = subprocess.run(
            [_CONTROL, "--quiet", *arguments],
            env=self._environment(),
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise BrokerError(f"rabbitmqctl {arguments[0]} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return done.stdout

    def change_password(self, password: str) -> None:
        self.control("change_password", self.username, text=password + "\n")
        self.password = password

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_configuration(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.authority.exists():
            write_certificates(self.directory)
        (self.directory / "enabled_plugins").write_text("[rabbitmq_stream].\n")
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = {self.host}:{self.amqp_port}\n"
            f"stream.listeners.tcp.default = {self.host}:{self.stream_port}\n"
            f"stream.listeners.ssl.default = {self.host}:{self.tls_port}\n"
            f"ssl_options.cacertfile = {self.authority}\n"
            f"ssl_options.certfile = {self.directory / 'broker.crt'}\n"
            f"ssl_options.keyfile = {self.directory / 'broker.key'}\n"
            "ssl_options.verify = verify_none\n"
            f"stream.advertised_host = {self.host}\n"
            f"stream.advertised_port = {self.stream_port}\n"
            f"default_user = {self.username}\n"
            f"default_pass = {self.password}\n"
            "loopback_users = none\n"
            # What a frame of the stream protocol may hold: a test publishes one message of 64 MiB.
            f"stream.frame_max = {80 * 1024 * 1024}\n"
            "disk_free_limit.absolute = 50MB\n"
            "log.console = true\n"
            "log.file = false\n"
        )

    def _environment(self) -> dict[str, str]:
        d = self.directory
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(d),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            # Lets `epmd -kill` end our port mapper although a killed node is still registered.
            "ERL_EPMD_RELAXED_COMMAND_CHECK": "1",
            "RABBITMQ_NODENAME": f"azaion-{self.stream_port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONFIG_FILE": str(d / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(d / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(d / "mnesia"),
            "RABBITMQ_LOG_BASE": str(d / "log"),
            "RABBITMQ_PID_FILE": str(d / "pid"),
            # Of a broker that a test kills; Erlang writes it where it was started.
            "ERL_CRASH_DUMP": str(d / "erl_crash.dump"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2",
        }

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise BrokerError("the broker does not run")
        os.killpg(self._process.pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        group = self._process.pid
        self.resume()
        os.killpg(group, number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        try:
            # The script's Erlang node outlives it by a moment, and a new one needs its name and ports.
            while self._process.poll() is None or _is_alive(group) or _accepts(self.host, self.stream_port):
                if time.monotonic() > deadline:
                    os.killpg(group, signal.SIGKILL)
                    raise BrokerError(f"RabbitMQ did not stop within {STOP_TIMEOUT_S:.0f} s:\n{self._tail()}")
                _pause()
        finally:
            self._process = None

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])


def _is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def _pause() -> None:
    """Between two looks at something that cannot be waited for."""
    time.sleep(0.1)
