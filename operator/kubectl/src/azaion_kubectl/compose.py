"""The settings of a Docker Compose installation, .env and config.yaml, as values, Secrets and resources."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import yaml

from azaion_api.names import API_VERSION, Kind
from azaion_api.resources import AnnotationIngest, ModelLine, TrainingRun
from azaion_kubectl.errors import CommandError

ENV_FILE, CONFIG_FILE = ".env", "config.yaml"
BROKER_SECRET, API_SECRET = "azaion-rabbitmq", "azaion-api"
LINE = "azaion"
INGEST = "annotations"
#: Ports that the chart lets consumers connect to.
_STREAM_PORTS = (5552, 5551)
_LOOPBACK = re.compile(r"(?i)^(localhost|127(\.\d+){3}|::1|0\.0\.0\.0|host\.docker\.internal)$")
T = TypeVar("T")


@dataclass(frozen=True)
class Variable:
    """One setting: its name in .env, and what config.yaml may call it, as section and key."""

    name: str
    sections: tuple[str, ...]
    keys: tuple[str, ...]
    number: bool = False

    @property
    def spellings(self) -> Iterator[str]:
        yield self.name.lower()
        yield from (f"{section}.{key}" for section in self.sections for key in self.keys)


_API, _QUEUE, _DIRECTORIES = ("api",), ("queue", "rabbitmq", "annotation_queue"), ("dirs", "directories", "paths")
_TRAINING, _EXPORT = ("training", "train"), ("export", "onnx")
VARIABLES = (
    Variable("AZAION_API_URL", _API, ("url", "base_url")),
    Variable("AZAION_API_EMAIL", _API, ("email", "user", "username")),
    Variable("AZAION_API_PASSWORD", _API, ("password", "pw")),
    Variable("RABBITMQ_HOST", _QUEUE, ("host",)),
    Variable("RABBITMQ_PORT", _QUEUE, ("port",), number=True),
    Variable("RABBITMQ_USER", _QUEUE, ("consumer_user", "user", "username")),
    Variable("RABBITMQ_PASSWORD", _QUEUE, ("consumer_pw", "consumer_password", "password", "pw")),
    Variable("RABBITMQ_QUEUE_NAME", _QUEUE, ("name", "queue_name", "stream")),
    Variable("AZAION_ROOT_DIR", _DIRECTORIES, ("root", "root_dir")),
    Variable("AZAION_DATA_DIR", _DIRECTORIES, ("data", "data_dir")),
    Variable("AZAION_DATA_SEED_DIR", _DIRECTORIES, ("data_seed", "data_seed_dir")),
    Variable("AZAION_DATA_DELETED_DIR", _DIRECTORIES, ("data_deleted", "data_deleted_dir")),
    Variable("TRAINING_MODEL", _TRAINING, ("model", "base_model")),
    Variable("TRAINING_EPOCHS", _TRAINING, ("epochs",), number=True),
    Variable("TRAINING_BATCH_SIZE", _TRAINING, ("batch", "batch_size"), number=True),
    Variable("TRAINING_IMGSZ", _TRAINING, ("imgsz", "image_size"), number=True),
    Variable("TRAINING_SAVE_PERIOD", _TRAINING, ("save_period",), number=True),
    Variable("TRAINING_WORKERS", _TRAINING, ("workers",), number=True),
    Variable("EXPORT_ONNX_IMGSZ", _EXPORT, ("onnx_imgsz", "imgsz", "image_size"), number=True),
)
_NAMES = frozenset(variable.name for variable in VARIABLES)
REQUIRED = ("RABBITMQ_HOST", "RABBITMQ_USER", "RABBITMQ_PASSWORD")


@dataclass(frozen=True)
class Settings:
    """What .env and config.yaml say, by the names of .env; none of it is shown when this is printed."""

    values: Mapping[str, str] = field(repr=False)
    #: The file each comes from.
    sources: Mapping[str, str]
    #: Keys that nothing is made of.
    unused: tuple[str, ...] = ()
    #: Names for which config.yaml says something else than .env.
    differing: tuple[str, ...] = ()

    def get(self, name: str, default: str = "") -> str:
        return self.values.get(name) or default

    def number(self, name: str) -> int:
        """Raises CommandError when it is none; the text itself is not repeated."""
        text = self.get(name).strip()
        if not text.isdecimal():
            raise CommandError(f"{name} in {self.sources[name]} is no whole number; correct it")
        return int(text)

    @property
    def data_directories(self) -> tuple[str, str, str]:
        """Names of data, data-seed and data_deleted."""
        return (
            self.get("AZAION_DATA_DIR", "data"),
            self.get("AZAION_DATA_SEED_DIR", "data-seed"),
            self.get("AZAION_DATA_DELETED_DIR", "data_deleted"),
        )

    @property
    def api_secret(self) -> Mapping[str, str] | None:
        """Keys of the API's Secret; None when no one signs in there."""
        email, password = self.get("AZAION_API_EMAIL"), self.get("AZAION_API_PASSWORD")
        return {"email": email, "password": password} if email and password else None

    @property
    def api_host(self) -> str | None:
        return urlsplit(self.get("AZAION_API_URL")).hostname


def read_settings(directory: Path, broker: str | None = None) -> Settings:
    """The settings in a directory's .env and config.yaml; `broker` stands in for RABBITMQ_HOST.

    Raises CommandError naming all that is missing at once, never with a value.
    """
    env, config = directory / ENV_FILE, directory / CONFIG_FILE
    texts = {path: text for path in (env, config) if (text := _read(path)) is not None}
    if not texts:
        raise CommandError(
            f"neither {ENV_FILE} nor {CONFIG_FILE} is in {directory}; "
            "name the directory of the Compose installation with --compose"
        )
    from_env = parse_env(env, texts[env]) if env in texts else {}
    known = {name: value for name, value in from_env.items() if name in _NAMES}
    unused = sorted(set(from_env) - _NAMES)
    flat = dict(_flatten(_load(config, texts[config]))) if config in texts else {}
    from_config: dict[str, str] = {}
    for variable in VARIABLES:
        for spelling in variable.spellings:
            value = flat.pop(spelling, None)
            if value:
                from_config.setdefault(variable.name, value)
    values = {name: value for name, value in (from_config | known).items() if value}
    if broker is not None:
        values["RABBITMQ_HOST"] = broker
    missing = [name for name in REQUIRED if not values.get(name)]
    if missing:
        where = " and ".join(str(path) for path in texts)
        raise CommandError(f"{where} lack {', '.join(missing)}; the ingest cannot reach the broker without, add them")
    if _LOOPBACK.match(values["RABBITMQ_HOST"]):
        raise CommandError(
            f"RABBITMQ_HOST is {values['RABBITMQ_HOST']}, which within a pod is the pod itself; "
            "give the broker's name or address as the node reaches it: --broker HOST"
        )
    return Settings(
        values=values,
        sources={name: ENV_FILE if name in known else CONFIG_FILE for name in values}
        | ({"RABBITMQ_HOST": "--broker"} if broker is not None else {}),
        unused=(*unused, *sorted(flat)),
        differing=tuple(sorted(n for n, v in from_config.items() if known.get(n, v) != v)),
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is no UTF-8 text (byte {error.start}); correct it") from error
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror}); run this as its owner or as root") from error


_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_REFERENCE = re.compile(r"\\(.)|\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


def parse_env(path: Path, text: str) -> dict[str, str]:
    """NAME=VALUE lines as Compose and a shell read them. Raises CommandError with the line's number, not its text."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(line)
        if match is None:
            raise CommandError(f"line {number} of {path} is no NAME=VALUE; correct it")
        name, raw = match[1], match[2]
        where = f"line {number} of {path} ({name})"
        if raw[:1] in ("'", '"'):
            value, rest = _quoted(raw, where)
            if rest and not rest.startswith("#"):
                raise CommandError(f"{where} goes on after its closing quote; correct it")
        else:
            value = re.split(r"(?:^|\s)#", raw, maxsplit=1)[0].strip()
        found[name] = value if raw.startswith("'") else _expand(value, found, where, quoted=raw.startswith('"'))
    return found


def _quoted(raw: str, where: str) -> tuple[str, str]:
    quote, place = raw[0], 1
    while place < len(raw) and raw[place] != quote:
        place += 2 if quote == '"' and raw[place] == "\\" else 1
    if place >= len(raw):
        raise CommandError(f"{where} has no closing quote; a value over several lines cannot be taken over, correct it")
    return raw[1:place], raw[place + 1 :].strip()


def _expand(value: str, known: Mapping[str, str], where: str, *, quoted: bool) -> str:
    """What `$NAME` stands for; between double quotes also backslashes."""

    def one(match: re.Match[str]) -> str:
        if match[1] is not None:
            return match[1] if quoted and match[1] in '"\\$`' else match[0]
        name = match[2] or match[3]
        if name not in known:
            raise CommandError(f"{where} refers to ${name}, which is not set above it; put a value with a $ between ''")
        return known[name]

    return _REFERENCE.sub(one, value)


def _load(path: Path, text: str) -> dict[str, Any]:
    """config.yaml. What is wrong is told by its line: the text itself may hold a password."""
    try:
        # Every scalar as it is written: a password may look like a number or a truth value.
        found = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - it makes nothing but texts, lists and maps
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise CommandError(f"{path} cannot be read: line {line} is no YAML; correct it, or move it away") from error
    except yaml.YAMLError as error:
        raise CommandError(f"{path} cannot be read: it is no YAML; correct it, or move it away") from error
    if found in (None, ""):
        return {}
    if not isinstance(found, dict):
        raise CommandError(f"{path} holds no settings (key: value); correct it, or move it away")
    return found


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        path = f"{prefix}{str(key).lower().replace('-', '_')}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{path}.")
        else:
            yield path, value if isinstance(value, str) else ""


# ---- what is made of them ----


@dataclass(frozen=True)
class Installation:
    """Where the tree is to be used."""

    namespace: str
    path: str
    node: str
    size_bytes: int


def chart_values(settings: Settings, where: Installation, classes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Values of the chart, to be given after the profile of the machine."""
    hosts = [settings.get("RABBITMQ_HOST")]
    secrets = [BROKER_SECRET]
    if settings.api_secret is not None:
        secrets.append(API_SECRET)
        hosts += [settings.api_host] if settings.api_host else []
    values: dict[str, Any] = {
        "storage": {
            "size": f"{max(1, where.size_bytes >> 30)}Gi",
            "hostPath": {"path": where.path, "node": where.node},
        },
        "classes": [dict(entry) for entry in classes],
        "access": {"secrets": secrets, "hosts": list(dict.fromkeys(hosts))},
    }
    if "RABBITMQ_PORT" in settings.values and settings.number("RABBITMQ_PORT") not in _STREAM_PORTS:
        values["networkPolicies"] = {"broker": {"ports": [settings.number("RABBITMQ_PORT")]}}
    return values


def secrets(settings: Settings, where: Installation) -> list[dict[str, Any]]:
    """The Secrets, as manifests."""
    broker = {"username": settings.get("RABBITMQ_USER"), "password": settings.get("RABBITMQ_PASSWORD")}
    found = {BROKER_SECRET: broker, API_SECRET: settings.api_secret}
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": where.namespace},
            "type": "Opaque",
            "stringData": dict(data),
        }
        for name, data in found.items()
        if data
    ]


def resources(settings: Settings, where: Installation) -> list[dict[str, Any]]:
    """The ingest and the line. Raises CommandError for a setting that they cannot take."""
    data, seed, deleted = settings.data_directories
    stream: dict[str, Any] = {"host": settings.get("RABBITMQ_HOST")}
    if "RABBITMQ_PORT" in settings.values:
        stream["port"] = settings.number("RABBITMQ_PORT")
    stream |= {
        "name": settings.get("RABBITMQ_QUEUE_NAME", "azaion-annotations"),
        "credentialsSecretRef": {"name": BROKER_SECRET},
    }
    storage = {"data": data, "dataSeed": seed, "dataDeleted": deleted}
    ingest = _manifest(Kind.ANNOTATION_INGEST, INGEST, where, {"stream": stream, "storage": storage}, AnnotationIngest)
    line = _manifest(Kind.MODEL_LINE, LINE, where, {"description": "Adopted from Docker Compose"}, ModelLine)
    return [ingest, line]


def training_run(settings: Settings, where: Installation) -> dict[str, Any]:
    """The next training, with the old settings. Raises CommandError for one that it cannot take."""
    fields = {
        "epochs": "TRAINING_EPOCHS",
        "batch": "TRAINING_BATCH_SIZE",
        "imageSize": "TRAINING_IMGSZ",
        "savePeriod": "TRAINING_SAVE_PERIOD",
        "workers": "TRAINING_WORKERS",
    }
    training = {key: settings.number(name) for key, name in fields.items() if name in settings.values}
    spec: dict[str, Any] = {
        "lineRef": {"name": LINE},
        "model": {"base": settings.get("TRAINING_MODEL", "yolo26m.pt")},
        "dataset": {"source": settings.data_directories[0]},
    }
    if training:
        spec["training"] = training
    if "EXPORT_ONNX_IMGSZ" in settings.values:
        spec["export"] = {"imageSize": settings.number("EXPORT_ONNX_IMGSZ")}
    return _manifest(Kind.TRAINING_RUN, "full", where, spec, TrainingRun)


def _manifest(kind: Kind, name: str, where: Installation, spec: dict[str, Any], type_: type[Any]) -> dict[str, Any]:
    found = {
        "apiVersion": API_VERSION,
        "kind": kind.value,
        "metadata": {"name": name, "namespace": where.namespace},
        "spec": spec,
    }
    try:
        msgspec.convert(found, type_)
    except msgspec.ValidationError as error:
        raise CommandError(
            f"{ENV_FILE} or {CONFIG_FILE} holds what {kind.value} does not take: {error}; correct it there"
        ) from error
    return found


def as_yaml(*documents: Any) -> str:
    """Documents as people write them."""
    return "---\n".join(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=120) for found in documents)
