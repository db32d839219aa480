"""TrainingRun: one training from forming its data set to publishing its model."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from azaion_api.conditions import Conditions, Resource, Resources, StorageClaim, Toleration
from azaion_api.outcome import AttemptReason
from azaion_api.schema import Frozen, Rule, sentence
from azaion_api.ultralytics_arguments import ALLOWED_PARAMETERS, ArgumentKind

FILE_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,120}"
#: Ratios between 0 and 1 as decimal strings: the API carries no floats.
Ratio = Annotated[
    str,
    Meta(
        max_length=32,
        pattern=r"^(0(\.[0-9]+)?|1(\.0+)?)$",
        extra_json_schema=sentence('give a decimal number from 0 to 1 in quotes, for example "0.9"'),
    ),
]
SignedRatio = Annotated[
    str,
    Meta(
        max_length=32,
        pattern=r"^-?(0(\.[0-9]+)?|1(\.0+)?)$",
        extra_json_schema=sentence('give a decimal number from -1 to 1 in quotes, for example "0.005"'),
    ),
]
Decimal = Annotated[str, Meta(max_length=32, pattern=r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$")]


class GroupBy(enum.StrEnum):
    """Name splits image by image; Media keeps all images of one video in one split."""

    NAME = "Name"
    MEDIA = "Media"


class Device(enum.StrEnum):
    """What trains: GPU asks for one nvidia.com/gpu."""

    GPU = "GPU"
    CPU = "CPU"


class Metric(enum.StrEnum):
    """What models are compared by."""

    MAP50 = "MAP50"
    MAP50TO95 = "MAP50To95"


class ExportFormat(enum.StrEnum):
    """Formats a model is exported to."""

    ONNX = "ONNX"
    TENSOR_RT = "TensorRT"
    RKNN = "RKNN"


class ModelFormat(enum.StrEnum):
    """Files of a published model."""

    PYTORCH = "PyTorch"
    ONNX = "ONNX"
    TENSOR_RT = "TensorRT"
    RKNN = "RKNN"


class Promotion(enum.StrEnum):
    """When a model becomes its line's current one."""

    IF_BETTER = "IfBetter"
    ALWAYS = "Always"
    MANUAL = "Manual"


class LineRef(Resource, frozen=True, kw_only=True):
    """The model line a run trains for."""

    name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=40,
            pattern="^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
            description="ModelLine of this namespace; made when absent.",
            extra_json_schema=sentence(
                "use lower-case letters, digits and dashes, for example azaion; the current model is models/<name>.pt"
            ),
        ),
    ] = "azaion"


class Model(Resource, frozen=True, kw_only=True):
    """What training starts from."""

    base: Annotated[
        str,
        Meta(
            max_length=128,
            pattern=rf"^(Current|{FILE_NAME}\.(pt|yaml))$",
            description="A file of models/ (yolo26m.pt), an architecture trained from scratch (yolo26n.yaml), or Current for the line's current model.",
            extra_json_schema=sentence(
                "name a file of models/ such as yolo26m.pt, an architecture such as yolo26n.yaml, or Current for the line's current model; no directories"
            ),
        ),
    ] = "yolo26m.pt"


class Split(Resource, frozen=True, kw_only=True):
    """Parts of the data set in percent; they sum to 100."""

    train: Annotated[int, Meta(ge=0, le=100, description="Percent of the images to train on.")] = 70
    valid: Annotated[int, Meta(ge=0, le=100, description="Percent of the images to validate on after each epoch.")] = 20
    test: Annotated[int, Meta(ge=0, le=100, description="Percent of the images kept unseen for the evaluation.")] = 10


class Classes(Resource, frozen=True, kw_only=True):
    """Where class names come from."""

    path: Annotated[
        str,
        Meta(
            max_length=128,
            pattern=rf"^{FILE_NAME}\.json$",
            description="File at the top of the storage with the list of {Id, Name, ShortName, Color}.",
            extra_json_schema=sentence("name a .json file at the top of the storage, for example classes.json"),
        ),
    ] = "classes.json"


class Dataset(Resource, frozen=True, kw_only=True):
    """What the run learns from."""

    source: Annotated[
        str,
        Meta(
            max_length=63,
            pattern="^[A-Za-z0-9][A-Za-z0-9_-]*$",
            description="Directory with images/ and labels/ that a new data set is formed from.",
            extra_json_schema=sentence(
                "name a directory at the top of the storage, for example data: letters, digits, - and _, no path"
            ),
        ),
    ] = "data"
    existing: (
        Annotated[
            str,
            Meta(
                max_length=140,
                pattern=rf"^datasets/{FILE_NAME}$",
                description="A data set to use as it is instead of forming one; also a plain YOLO directory with a data.yaml.",
                extra_json_schema=sentence("name a data set as datasets/NAME, for example datasets/azaion-2026-01-31"),
            ),
        ]
        | None
    ) = None
    split: Annotated[Split, Meta(description="How a new data set is split.")] = msgspec.field(default_factory=Split)
    seed: Annotated[
        int,
        Meta(
            ge=0,
            le=2147483647,
            description="Seed of the split: the same seed puts an image into the same split for ever.",
        ),
    ] = 0
    group_by: Annotated[
        GroupBy, Meta(description="Name splits image by image; Media keeps the images of one video together.")
    ] = GroupBy.NAME
    classes: Annotated[Classes, Meta(description="Where class names come from.")] = msgspec.field(
        default_factory=Classes
    )
    min_images: Annotated[
        int, Meta(ge=1, le=100000000, description="The run waits as Pending until the source holds this many images.")
    ] = 1


class Training(Resource, frozen=True, kw_only=True):
    """How the model is trained; the defaults are the founding values."""

    epochs: Annotated[int, Meta(ge=1, le=10000, description="Epochs in all. May be raised while the run trains.")] = 120
    batch: Annotated[
        int | str,
        Meta(
            description="Images per step (1 to 4096), or Auto to fit the GPU's memory.",
            extra_json_schema={"maxLength": 16},
        ),
    ] = 11
    image_size: Annotated[
        int,
        Meta(
            ge=32, le=4096, multiple_of=32, description="Side of the square training image in pixels, a multiple of 32."
        ),
    ] = 1280
    save_period: Annotated[int, Meta(ge=1, le=10000, description="Epochs between kept epoch checkpoints.")] = 1
    workers: Annotated[int, Meta(ge=0, le=256, description="Loader processes; capped by the cores of the node.")] = 24
    patience: Annotated[
        int,
        Meta(
            ge=0,
            le=10000,
            description="Epochs without improvement after which training ends early; 0 never ends early.",
        ),
    ] = 100
    device: Annotated[Device, Meta(description="GPU asks for one nvidia.com/gpu; CPU asks for none.")] = Device.GPU
    parameters: Annotated[
        dict[str, Annotated[str, Meta(max_length=64)]],
        Meta(
            max_length=64,
            description='Other ultralytics training arguments by name, as strings (lr0: "0.005"). Allowed: '
            + ", ".join(sorted(ALLOWED_PARAMETERS))
            + ". Names that have a field of their own, run code or choose paths are refused.",
        ),
    ] = msgspec.field(default_factory=dict)
    resume_from: (
        Annotated[
            str,
            Meta(
                max_length=140,
                pattern=rf"^runs/{FILE_NAME}$",
                description="Directory of an earlier run whose newest verified checkpoint this run continues from.",
                extra_json_schema=sentence(
                    "name the directory of an earlier run as its status.directory says it, for example runs/nightly-0b7a8d1e"
                ),
            ),
        ]
        | None
    ) = None
    checkpoint_interval_seconds: Annotated[
        int, Meta(ge=10, le=86400, description="At most this much training is lost by a kill, in seconds.")
    ] = 900


class OutOfMemory(Resource, frozen=True, kw_only=True):
    """What happens when the GPU's memory does not suffice."""

    min_batch: Annotated[
        int, Meta(ge=1, le=4096, description="The batch is halved down to this; below it the run fails.")
    ] = 1


class GpuGuard(Resource, frozen=True, kw_only=True):
    """What a training does when its GPU gets too hot; temperatures in degrees Celsius."""

    enabled: Annotated[bool, Meta(description="Watch the temperature of the GPU that is trained on.")] = True
    max_celsius: Annotated[
        int, Meta(ge=40, le=120, description="Above this the training pauses between two batches.")
    ] = 90
    resume_below_celsius: Annotated[
        int,
        Meta(
            ge=30,
            le=119,
            description="Below this it goes on. Hotter than that for 5 minutes, it saves and frees the GPU, and the queue waits.",
        ),
    ] = 75


class Recovery(Resource, frozen=True, kw_only=True):
    """What a run does about its own faults."""

    max_restarts: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="Attempts after the first that the run's own faults may cost; a lost node or an eviction does not count.",
        ),
    ] = 10
    out_of_memory: Annotated[OutOfMemory, Meta(description="What happens when the GPU's memory does not suffice.")] = (
        msgspec.field(default_factory=OutOfMemory)
    )
    stall_timeout_seconds: (
        Annotated[
            int,
            Meta(
                ge=60,
                le=864000,
                description="A pod without any sign of work for this long is ended and resumed; measured from the pace, at least 600 s, when empty.",
            ),
        ]
        | None
    ) = None
    gpu_guard: Annotated[GpuGuard, Meta(description="What happens when the GPU gets too hot.")] = msgspec.field(
        default_factory=GpuGuard
    )


class OnExhausted(enum.StrEnum):
    """Publish goes on with the best model so far, Fail ends the run."""

    PUBLISH = "Publish"
    FAIL = "Fail"


class Budget(Resource, frozen=True, kw_only=True):
    """How long a run may prepare and train; judging and publishing what there is comes on top."""

    active_seconds: (
        Annotated[
            int,
            Meta(
                ge=60,
                le=315360000,
                description="Seconds its pods may run, over all attempts and suspensions; waiting does not count. No limit when empty.",
            ),
        ]
        | None
    ) = None
    on_exhausted: Annotated[
        OnExhausted,
        Meta(description="Publish saves, stops training and goes on with the best model so far; Fail ends the run."),
    ] = OnExhausted.PUBLISH


class Evaluation(Resource, frozen=True, kw_only=True):
    """How the new model is compared with the line's current one."""

    metric: Annotated[Metric, Meta(description="What the models are compared by, on the test split.")] = (
        Metric.MAP50TO95
    )
    min_gain: Annotated[
        SignedRatio,
        Meta(
            description="Gain over the current model, as a difference of ratios, that promotes: 0.005 asks for half a point more."
        ),
    ] = "0"
    confidence: Annotated[
        Ratio, Meta(description="Confidence of the interval of the gain whose lower bound has to reach minGain.")
    ] = "0.9"


class Export(Resource, frozen=True, kw_only=True):
    """What the trained model is exported to."""

    formats: Annotated[
        tuple[ExportFormat, ...],
        Meta(
            max_length=4,
            description=(
                "Formats beside the .pt itself. The others are made from ONNX, which is exported with them: a TensorRT "
                "engine where the training has a GPU and the trainer's image has TensorRT, RKNN by an exporter added to it."
            ),
            extra_json_schema={"x-kubernetes-list-type": "set"},
        ),
    ] = (ExportFormat.ONNX,)
    image_size: Annotated[
        int,
        Meta(
            ge=32,
            le=4096,
            multiple_of=32,
            description="Side of the square input image of the exported model in pixels, a multiple of 32.",
        ),
    ] = 1280


OBJECT_NAME = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"
_NAME_WORDS = "name a Secret of this namespace: lower-case letters, digits, - and ."


class SecretRef(Resource, frozen=True, kw_only=True):
    """A Secret of this namespace; it is mounted into the pod that needs it and read nowhere else."""

    name: (
        Annotated[
            str,
            Meta(
                max_length=253,
                pattern=OBJECT_NAME,
                description="Secret; none when empty.",
                extra_json_schema=sentence(_NAME_WORDS),
            ),
        ]
        | None
    ) = None


class SecretKeyRef(SecretRef, frozen=True, kw_only=True):
    """One key of a Secret of this namespace; it is mounted into the pod that needs it and read nowhere else."""

    key: Annotated[
        str,
        Meta(
            max_length=253,
            pattern="^[A-Za-z0-9_-][A-Za-z0-9._-]*$",
            description="Key within the Secret.",
            extra_json_schema=sentence("name a key of the Secret: letters, digits, -, _ and ."),
        ),
    ] = "key"


class EncryptionFormat(enum.StrEnum):
    """GCM tells when a file was changed; CBC is the layout of readers from before it."""

    GCM = "GCM"
    CBC = "CBC"


class Encryption(Resource, frozen=True, kw_only=True):
    """How uploaded files are encrypted: AES-256 with a key made from a Secret. Off without a Secret."""

    secret_key_ref: Annotated[SecretKeyRef, Meta(description="Where the secret text lies.")] = msgspec.field(
        default_factory=SecretKeyRef
    )
    format: Annotated[
        EncryptionFormat, Meta(description="GCM is authenticated; CBC for readers that know no other.")
    ] = EncryptionFormat.GCM


class TargetType(enum.StrEnum):
    """Where a target is."""

    DIRECTORY = "Directory"
    S3 = "S3"
    API = "API"


class Part(enum.StrEnum):
    """What of an encrypted file a target gets: without its small part the big one cannot be read."""

    WHOLE = "Whole"
    SMALL = "Small"
    BIG = "Big"


class DirectoryTarget(Resource, frozen=True, kw_only=True):
    """A directory on the volume."""

    path: Annotated[
        str,
        Meta(
            max_length=200,
            pattern=rf"^published(/{FILE_NAME})*$",
            description="Directory relative to the top of the storage.",
            extra_json_schema=sentence("name published or a directory in it, for example published/edge; no .."),
        ),
    ] = "published"


class S3Target(Resource, frozen=True, kw_only=True):
    """A bucket of an S3-compatible store."""

    endpoint: (
        Annotated[
            str,
            Meta(
                max_length=512,
                pattern=r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/?$",
                description="Address of the store.",
                extra_json_schema=sentence("give an address without a path, for example https://cdn.example.com"),
            ),
        ]
        | None
    ) = None
    bucket: (
        Annotated[
            str,
            Meta(
                max_length=63,
                pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
                description="Bucket; it has to exist.",
                extra_json_schema=sentence("name a bucket: 3 to 63 lower-case letters, digits, - and ."),
            ),
        ]
        | None
    ) = None
    prefix: Annotated[
        str,
        Meta(
            max_length=200,
            pattern=rf"^({FILE_NAME}(/{FILE_NAME})*)?$",
            description="Path in the bucket.",
            extra_json_schema=sentence("give a path without leading or trailing /, for example models/edge"),
        ),
    ] = ""
    region: Annotated[
        str,
        Meta(
            max_length=64,
            pattern="^[a-z0-9-]+$",
            description="Region the requests are signed for.",
            extra_json_schema=sentence("name a region, for example us-east-1"),
        ),
    ] = "us-east-1"
    credentials_secret_ref: Annotated[
        SecretRef, Meta(description="Secret with accessKeyId and secretAccessKey of the writer.")
    ] = msgspec.field(default_factory=SecretRef)
    provisioned_by: (
        Annotated[
            str,
            Meta(
                max_length=40,
                description="Instead of a Secret with keys: name of the API target whose encrypted cdn.yaml holds endpoint, bucket and keys.",
            ),
        ]
        | None
    ) = None
    provision_key_ref: Annotated[SecretKeyRef, Meta(description="Secret text that cdn.yaml is encrypted with.")] = (
        msgspec.field(default_factory=SecretKeyRef)
    )


class ApiTarget(Resource, frozen=True, kw_only=True):
    """The HTTP API: login, then one multipart request a file."""

    url: (
        Annotated[
            str,
            Meta(
                max_length=512,
                pattern=r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*/?$",
                description="Address of the API.",
                extra_json_schema=sentence("give an address without a query, for example https://api.example.com"),
            ),
        ]
        | None
    ) = None
    folder: Annotated[
        str,
        Meta(
            max_length=120,
            pattern=rf"^{FILE_NAME}$",
            description="Folder of the API's resources.",
            extra_json_schema=sentence("name one folder: letters, digits, -, _ and ."),
        ),
    ] = "models"
    credentials_secret_ref: Annotated[SecretRef, Meta(description="Secret with email and password.")] = msgspec.field(
        default_factory=SecretRef
    )


class Target(Resource, frozen=True, kw_only=True):
    """One place a promoted model is uploaded to."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.type != 'S3' || has(self.s3.provisionedBy) || (has(self.s3.endpoint) && has(self.s3.bucket)"
            " && has(self.s3.credentialsSecretRef.name))",
            field_path=".s3",
            message="give endpoint, bucket and credentialsSecretRef.name, or provisionedBy",
        ),
        Rule(
            rule="self.type != 'S3' || !has(self.s3.provisionedBy) || has(self.s3.provisionKeyRef.name)",
            field_path=".s3",
            message="provisionedBy needs provisionKeyRef.name, the Secret with the text cdn.yaml is encrypted with",
        ),
        Rule(
            rule="self.type != 'API' || (has(self.api.url) && has(self.api.credentialsSecretRef.name))",
            field_path=".api",
            message="give url and credentialsSecretRef.name",
        ),
    )

    name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=40,
            pattern="^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
            description="Name of the target, for the status.",
            extra_json_schema=sentence("use lower-case letters, digits and dashes"),
        ),
    ]
    type: Annotated[TargetType, Meta(description="Directory on the volume, S3 bucket, or the HTTP API.")]
    formats: Annotated[
        tuple[ModelFormat, ...],
        Meta(
            min_length=1,
            max_length=4,
            description="Files of the model to upload, as far as they were exported.",
            extra_json_schema={"x-kubernetes-list-type": "set"},
        ),
    ] = (ModelFormat.ONNX,)
    part: Annotated[Part, Meta(description="Whole file, or of an encrypted one the Small or the Big part.")] = (
        Part.WHOLE
    )
    dated: Annotated[
        bool,
        Meta(description="Into a directory named like the model (azaion-2026-11-22); false replaces the one before."),
    ] = True
    directory: Annotated[DirectoryTarget, Meta(description="With type Directory.")] = msgspec.field(
        default_factory=DirectoryTarget
    )
    s3: Annotated[S3Target, Meta(description="With type S3.")] = msgspec.field(default_factory=S3Target)
    api: Annotated[ApiTarget, Meta(description="With type API.")] = msgspec.field(default_factory=ApiTarget)


class Notify(Resource, frozen=True, kw_only=True):
    """A webhook that is told of Promoted, Rejected and Failed. Off without a Secret."""

    url_secret_ref: Annotated[
        SecretKeyRef, Meta(description="Where the address lies; addresses of webhooks are secrets.")
    ] = msgspec.field(default_factory=lambda: SecretKeyRef(key="url"))


class Publish(Resource, frozen=True, kw_only=True):
    """What happens to the trained model."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="!has(self.targets) || has(self.encryption.secretKeyRef.name) || self.targets.all(t, t.part == 'Whole')",
            field_path=".targets",
            message="part Small and Big need encryption.secretKeyRef.name: only an encrypted file is split",
        ),
        Rule(
            rule="!has(self.targets) || self.targets.all(t, !has(t.s3.provisionedBy)"
            " || self.targets.exists(o, o.name == t.s3.provisionedBy && o.type == 'API'))",
            field_path=".targets",
            message="s3.provisionedBy has to name a target of type API in this list",
        ),
    )

    promotion: Annotated[
        Promotion, Meta(description="IfBetter promotes a better model, Always any, Manual waits for approved.")
    ] = Promotion.IF_BETTER
    approved: Annotated[bool, Meta(description="With promotion Manual: true publishes the waiting model.")] = False
    encryption: Annotated[Encryption, Meta(description="How uploaded files are encrypted.")] = msgspec.field(
        default_factory=Encryption
    )
    targets: Annotated[
        tuple[Target, ...],
        Meta(
            max_length=8,
            description="Where a promoted model is uploaded to, beside models/ on the volume.",
            extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = ()
    notify: Annotated[Notify, Meta(description="Who is told of the outcome.")] = msgspec.field(default_factory=Notify)


#: CEL patterns of what each kind of ultralytics argument takes.
_VALUE_PATTERNS: dict[ArgumentKind, str] = {
    "int": "^-?[0-9]+$",
    "float": "^-?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]+)?$",
    "bool": "^([Tt]rue|[Ff]alse)$",
}
_VALUE_WORDS: dict[ArgumentKind, str] = {
    "int": 'a whole number in quotes, for example "3"',
    "float": 'a number in quotes, for example "0.01"',
    "bool": 'true or false in quotes: "true"',
}


def _names(names: Iterable[str]) -> str:
    """A CEL list of names."""
    return "[" + ",".join(f"'{name}'" for name in names) + "]"


def _parameter_values(kind: ArgumentKind) -> Rule:
    """The parameters of one kind have values that can be read as that kind."""
    wrong = (
        f"k in {_names(name for name, of in ALLOWED_PARAMETERS.items() if of == kind)} "
        f"&& !self[k].matches('{_VALUE_PATTERNS[kind]}')"
    )
    return Rule(
        at="training.parameters",
        rule=f"!self.exists(k, {wrong})",
        message=f"give {_VALUE_WORDS[kind]}",
        message_expression=f"'%s: give {_VALUE_WORDS[kind]}'.format([self.filter(k, {wrong})])",
    )


_NOT_ALLOWED = f"!(k in {_names(ALLOWED_PARAMETERS)})"
_WHY_NOT_ALLOWED = (
    "arguments with a field of their own (epochs, batch, imageSize, workers, patience, device, model.base) are set there, "
    "and those that run code, choose paths or belong to other tasks are refused; "
    "kubectl explain trainingrun.spec.training.parameters lists the allowed ones"
)


class TrainingRunSpec(Resource, frozen=True, kw_only=True):
    """What to train, on what, and what becomes of it. An empty spec is a full training with the founding values."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            at="dataset.split",
            rule="!has(self.train) || self.train + self.valid + self.test == 100",
            message="train, valid and test are percentages and have to sum to 100, for example 70, 20 and 10",
            message_expression="'train %d, valid %d and test %d have to sum to 100 percent'.format([self.train, self.valid, self.test])",
        ),
        Rule(
            at="dataset.split",
            rule="!has(self.train) || (self.train > 0 && self.valid > 0)",
            message="train and valid need at least 1 percent each, training cannot do without them",
        ),
        Rule(
            at="training.batch",
            rule="type(self) == int ? (self >= 1 && self <= 4096) : self == 'Auto'",
            message="has to be a number of images from 1 to 4096, or Auto to fit the GPU's memory",
        ),
        Rule(
            at="recovery.gpuGuard",
            rule="!has(self.maxCelsius) || self.resumeBelowCelsius < self.maxCelsius",
            message="resumeBelowCelsius has to be lower than maxCelsius, for example 75 and 90",
        ),
        Rule(
            at="training.parameters",
            rule=f"!self.exists(k, {_NOT_ALLOWED})",
            message=f"a name is not an ultralytics argument that may be set here: {_WHY_NOT_ALLOWED}",
            message_expression=f"'%s may not be set here: {_WHY_NOT_ALLOWED}'.format([self.filter(k, {_NOT_ALLOWED})])",
        ),
        *(_parameter_values(kind) for kind in _VALUE_PATTERNS),
        Rule(
            at="training.epochs",
            rule="self >= oldSelf",
            message="can only be raised; to end a run early suspend or delete it, its checkpoints stay",
            message_expression="'can only be raised, it is %d now; to end a run early suspend or delete it, its checkpoints stay'.format([oldSelf])",
            reason="FieldValueForbidden",
        ),
    )
    FROZEN: ClassVar[tuple[Frozen, ...]] = (
        Frozen(
            (
                "lineRef",
                "model",
                "dataset",
                "training.batch",
                "training.imageSize",
                "training.savePeriod",
                "training.workers",
                "training.patience",
                "training.device",
                "training.parameters",
                "training.resumeFrom",
                "training.checkpointIntervalSeconds",
                "resources",
                "nodeSelector",
                "tolerations",
                "runtimeClassName",
                "queueName",
                "storage",
                "smoke",
                "budget",
                "recovery",
                "evaluation",
                "export",
                "publish.encryption",
                "publish.targets",
                "publish.notify",
            ),
            "cannot change after creation; make a new TrainingRun (its training.resumeFrom takes over this run's checkpoints)",
        ),
    )

    line_ref: Annotated[LineRef, Meta(description="The model line this run trains for.")] = msgspec.field(
        default_factory=LineRef
    )
    model: Annotated[Model, Meta(description="What training starts from.")] = msgspec.field(default_factory=Model)
    dataset: Annotated[Dataset, Meta(description="What the run learns from.")] = msgspec.field(default_factory=Dataset)
    training: Annotated[
        Training, Meta(description="How the model is trained; the defaults are the founding values.")
    ] = msgspec.field(default_factory=Training)
    resources: Annotated[
        Resources, Meta(description="Compute resources of the stages' pods; one GPU is added for device GPU.")
    ] = msgspec.field(default_factory=lambda: Resources(requests={"cpu": "1", "memory": "4Gi"}))
    node_selector: Annotated[
        dict[
            str,
            Annotated[
                str,
                Meta(
                    max_length=63,
                    pattern="^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$",
                    extra_json_schema=sentence("is no value of a label: use letters, digits, -, _ and ."),
                ),
            ],
        ],
        Meta(max_length=16, description="Labels of the nodes the pods may run on."),
    ] = msgspec.field(default_factory=dict)
    tolerations: Annotated[
        tuple[Toleration, ...],
        Meta(
            max_length=16,
            description="Taints the pods tolerate, beside an unreachable node.",
            extra_json_schema={"x-kubernetes-list-type": "atomic"},
        ),
    ] = ()
    runtime_class_name: (
        Annotated[
            str,
            Meta(
                max_length=63,
                pattern="^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
                description="RuntimeClass of the GPU pods (nvidia); the chart's when empty.",
                extra_json_schema=sentence(
                    "name a RuntimeClass, for example nvidia: lower-case letters, digits, - and ."
                ),
            ),
        ]
        | None
    ) = None
    priority: Annotated[
        int,
        Meta(
            ge=-1000,
            le=1000,
            description="Place in the queue: higher goes first, then the older run. Never ends a running one.",
        ),
    ] = 0
    queue_name: (
        Annotated[
            str,
            Meta(
                max_length=63,
                pattern="^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
                description="Kueue LocalQueue that the GPU Jobs are handed to.",
                extra_json_schema=sentence("name a LocalQueue of Kueue: lower-case letters, digits, - and ."),
            ),
        ]
        | None
    ) = None
    storage: Annotated[StorageClaim, Meta(description="Where the directory tree lies.")] = msgspec.field(
        default_factory=StorageClaim
    )
    suspend: Annotated[
        bool, Meta(description="True saves a checkpoint and frees the GPU; false goes on where it was.")
    ] = False
    smoke: Annotated[
        bool,
        Meta(
            description="True takes two batches through every stage, to check a long run before committing to it; nothing is published."
        ),
    ] = False
    budget: Annotated[Budget, Meta(description="How long the run may train.")] = msgspec.field(default_factory=Budget)
    ttl_seconds_after_finished: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=315360000,
                description="The finished run is deleted after this many seconds; its files stay. Never when empty.",
            ),
        ]
        | None
    ) = None
    recovery: Annotated[Recovery, Meta(description="What the run does about its own faults.")] = msgspec.field(
        default_factory=Recovery
    )
    evaluation: Annotated[Evaluation, Meta(description="How the new model is compared with the current one.")] = (
        msgspec.field(default_factory=Evaluation)
    )
    export: Annotated[Export, Meta(description="What the trained model is exported to.")] = msgspec.field(
        default_factory=Export
    )
    publish: Annotated[Publish, Meta(description="What happens to the trained model.")] = msgspec.field(
        default_factory=Publish
    )

    @property
    def epochs(self) -> int:
        """Epochs in all: one of two batches in a smoke run."""
        return 1 if self.smoke else self.training.epochs


class Phase(enum.StrEnum):
    """Where a run is. Pending cannot be queued yet; the message says why."""

    PENDING = "Pending"
    QUEUED = "Queued"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    AWAITING_APPROVAL = "AwaitingApproval"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


FINISHED_PHASES = frozenset({Phase.SUCCEEDED, Phase.FAILED})


class Stage(enum.StrEnum):
    """What a running run does."""

    PREPARING = "Preparing"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    EXPORTING = "Exporting"
    PUBLISHING = "Publishing"


#: What holds between spec and status of a TrainingRun.
RUN_RULES = (
    Rule(
        rule="self.spec.training.epochs == oldSelf.spec.training.epochs || !has(self.status)"
        f" || !((has(self.status.phase) && self.status.phase in {_names((Phase.AWAITING_APPROVAL, Phase.SUCCEEDED, Phase.FAILED))})"
        f" || (has(self.status.stage) && self.status.stage in {_names((Stage.EVALUATING, Stage.EXPORTING, Stage.PUBLISHING))}))",
        field_path=".spec.training.epochs",
        message="cannot change any more, the training has ended; make a new TrainingRun whose training.resumeFrom names this run's directory",
        message_expression="'cannot change any more, the training has ended; make a new TrainingRun with training.resumeFrom'"
        " + (has(self.status.directory) ? ': ' + self.status.directory : '')",
        reason="FieldValueForbidden",
    ),
)


class ValidationMetrics(Resource, frozen=True, kw_only=True):
    """The newest epoch's figures on the validation split, ratios as decimal strings."""

    map50: Annotated[Decimal, Meta(description="Mean average precision at IoU 0.50.")] | None = None
    map50to95: Annotated[Decimal, Meta(description="Mean average precision over IoU 0.50 to 0.95.")] | None = None
    precision: Annotated[Decimal, Meta(description="Precision at the best F1.")] | None = None
    recall: Annotated[Decimal, Meta(description="Recall at the best F1.")] | None = None
    f1: Annotated[Decimal, Meta(description="Best F1 over confidences.")] | None = None
    train_loss: (
        Annotated[Decimal, Meta(description="Sum of the training loss components, mean of the epoch.")] | None
    ) = None
    losses: Annotated[
        dict[str, Decimal], Meta(max_length=16, description="Loss components by name (train/box, val/cls, ...).")
    ] = msgspec.field(default_factory=dict)
    learning_rate: Annotated[Decimal, Meta(description="Learning rate of the first parameter group.")] | None = None


class Best(Resource, frozen=True, kw_only=True):
    """The best epoch so far on the validation split."""

    epoch: Annotated[int, Meta(description="Epoch, from 1.")]
    map50to95: Annotated[Decimal, Meta(description="Its mean average precision over IoU 0.50 to 0.95.")]


class Checkpoint(Resource, frozen=True, kw_only=True):
    """The newest checkpoint that was read back and verified."""

    epoch: Annotated[int, Meta(description="Completed epochs it holds.")]
    images_seen: Annotated[int, Meta(description="Images of the epoch after that it holds already.")] = 0
    time: Annotated[datetime, Meta(tz=True, description="When it was verified.")]
    path: Annotated[str, Meta(max_length=512, description="File relative to the storage root.")]
    sha256: Annotated[str, Meta(max_length=64, description="Digest of the file.")]


class DatasetStatus(Resource, frozen=True, kw_only=True):
    """The data set the run uses."""

    path: Annotated[str, Meta(max_length=256, description="Directory relative to the storage root.")]
    train: Annotated[int, Meta(description="Images to train on.")]
    valid: Annotated[int, Meta(description="Images to validate on.")]
    test: Annotated[int, Meta(description="Images for the evaluation.")]
    corrupted: Annotated[int, Meta(description="Pairs set aside as unusable.")] = 0
    digest: Annotated[str, Meta(max_length=71, description="Digest over names, contents and splits.")] | None = None
    stream_offset: (
        Annotated[int, Meta(description="Stream offset up to which annotations were on disk when it was formed.")]
        | None
    ) = None


class Scores(Resource, frozen=True, kw_only=True):
    """One model's figures on the test split, ratios as decimal strings."""

    map50: Annotated[Decimal, Meta(description="Mean average precision at IoU 0.50.")]
    map50to95: Annotated[Decimal, Meta(description="Mean average precision over IoU 0.50 to 0.95.")]
    precision: Annotated[Decimal, Meta(description="Precision at the best F1.")]
    recall: Annotated[Decimal, Meta(description="Recall at the best F1.")]
    f1: Annotated[Decimal, Meta(description="Best F1 over confidences.")]


class Gain(Resource, frozen=True, kw_only=True):
    """What the new model gains over the current one: a paired bootstrap over the images both were judged on."""

    metric: Annotated[Metric, Meta(description="What the models are compared by.")]
    new: Annotated[Decimal, Meta(description="The trained model's figure on the compared images.")]
    current: Annotated[Decimal, Meta(description="The current model's figure on the compared images.")]
    value: Annotated[Decimal, Meta(description="Difference of the two figures.")]
    low: Annotated[Decimal, Meta(description="Lower bound of its interval; minGain is compared with it.")]
    high: Annotated[Decimal, Meta(description="Upper bound of its interval.")]
    confidence: Annotated[Decimal, Meta(description="Confidence of the interval.")]
    images: Annotated[int, Meta(description="Images compared on.")]
    left_out: Annotated[
        int, Meta(description="Images of the split left out, because the current model was trained on them.")
    ] = 0


class EvaluationStatus(Resource, frozen=True, kw_only=True):
    """What the evaluation found on the test split."""

    new: Annotated[Scores, Meta(description="The trained model.")]
    current: (
        Annotated[
            Scores,
            Meta(
                description="The line's current model with the same settings; empty when there is none or it cannot be judged."
            ),
        ]
        | None
    ) = None
    current_message: (
        Annotated[
            str,
            Meta(
                max_length=1024, description="Why the current model was not judged, or what the comparison leaves out."
            ),
        ]
        | None
    ) = None
    current_model: (
        Annotated[
            str,
            Meta(
                max_length=512,
                description="The .pt that was current when the models were judged, relative to the storage root.",
            ),
        ]
        | None
    ) = None
    gain: (
        Annotated[Gain, Meta(description="How the two compare; empty when the current model was not judged.")] | None
    ) = None
    hard_samples: Annotated[int, Meta(description="Images with a missed or low-confidence object.")] = 0
    images: Annotated[int, Meta(description="Images evaluated.")] = 0
    export_message: (
        Annotated[str, Meta(max_length=1024, description="What could not be exported, and why; the model is kept.")]
        | None
    ) = None


class Attempt(Resource, frozen=True, kw_only=True):
    """One pod that ended, or the one that runs."""

    pod: Annotated[str, Meta(max_length=253, description="Pod name.")]
    pod_uid: Annotated[str, Meta(max_length=64, description="Pod UID.")]
    stage: Annotated[str, Meta(max_length=16, description="prepare, train, evaluate, publish or upload.")]
    number: Annotated[int, Meta(description="Number of the attempt within its stage, from 1.")]
    started: Annotated[datetime, Meta(description="When its container started.")] | None = None
    ended: Annotated[datetime, Meta(description="When it ended; empty while it runs.")] | None = None
    reason: Annotated[AttemptReason, Meta(description="Why it ended.")] | None = None
    message: Annotated[str, Meta(max_length=1024, description="Its last word.")] = ""
    exit_code: Annotated[int, Meta(description="Exit code of the container.")] | None = None
    resumed: Annotated[
        str,
        Meta(max_length=512, description="Checkpoint it went on from, and those it skipped as damaged, with why."),
    ] = ""
    first_epoch: Annotated[int, Meta(description="Completed epochs when it began.")] | None = None
    last_epoch: Annotated[int, Meta(description="Completed epochs when it ended.")] | None = None
    batch: Annotated[int, Meta(description="Images per step.")] | None = None
    active_seconds: Annotated[int, Meta(description="Seconds it ran, as far as is known.")] = 0
    checkpoint_failures: Annotated[int, Meta(description="Checkpoints it could not write.")] = 0
    node: Annotated[str, Meta(max_length=253, description="Node it ran on.")] | None = None

    @property
    def words(self) -> str:
        """What it went on from and its last word, for tables."""
        return "; ".join(text for text in (self.resumed, self.message) if text)


class RunPlanStatus(Resource, frozen=True, kw_only=True):
    """What the run is going to take, measured with a few batches on its own device before it started."""

    seconds_per_batch: Annotated[Decimal, Meta(description="Seconds a batch takes, loading included.")]
    batches_per_epoch: Annotated[int, Meta(description="Batches of one epoch.")]
    training_seconds: Annotated[int, Meta(description="Expected seconds of all epochs, validation included.")]
    dataset_bytes: Annotated[int, Meta(description="Size of the data set's files in bytes; hard links share it.")] = 0
    checkpoint_bytes: Annotated[
        int, Meta(description="Most bytes that verified checkpoints and kept epochs are going to take.")
    ] = 0
    export_bytes: Annotated[int, Meta(description="Bytes that model and exports are going to take.")] = 0
    available_bytes: Annotated[int, Meta(description="Bytes the volume had free for the run.")] = 0
    gpu_memory_bytes: Annotated[int, Meta(description="GPU memory a step takes in bytes; empty on a CPU.")] | None = (
        None
    )
    gpu_memory_total_bytes: Annotated[int, Meta(description="GPU memory there is in bytes; empty on a CPU.")] | None = (
        None
    )


class PublishedModel(Resource, frozen=True, kw_only=True):
    """One file the run made."""

    role: Annotated[str, Meta(max_length=16, description="trained, evaluated, exported or deployed.")]
    format: Annotated[str, Meta(max_length=16, description="PyTorch, ONNX, ...")]
    path: Annotated[str, Meta(max_length=512, description="File relative to the storage root.")]
    sha256: Annotated[str, Meta(max_length=64, description="Digest of the file.")]
    size_bytes: Annotated[int, Meta(description="Size of the file in bytes.")] = 0


class PromotionDecision(enum.StrEnum):
    """Waiting until it is decided."""

    WAITING = "Waiting"
    PROMOTED = "Promoted"
    REJECTED = "Rejected"


class PromotionStatus(Resource, frozen=True, kw_only=True):
    """Whether the model became the line's current one."""

    decision: Annotated[PromotionDecision, Meta(description="Waiting, Promoted or Rejected.")] = (
        PromotionDecision.WAITING
    )
    reason: Annotated[str, Meta(max_length=1024, description="The numbers behind the decision.")] = ""


class Publication(enum.StrEnum):
    """Whether the model lies where it is to be used; the founding words of the deployment's state."""

    WAITING = "Waiting"
    OK = "OK"
    NOT_OK = "NotOK"


class UploadState(enum.StrEnum):
    """Waiting until it was tried, NotOK while it fails."""

    WAITING = "Waiting"
    OK = "OK"
    NOT_OK = "NotOK"


class UploadStatus(Resource, frozen=True, kw_only=True):
    """How one target stands."""

    target: Annotated[str, Meta(max_length=40, description="Name of the target.")]
    state: Annotated[UploadState, Meta(description="Waiting, OK or NotOK.")] = UploadState.WAITING
    files: Annotated[
        tuple[Annotated[str, Meta(max_length=512)], ...],
        Meta(max_length=8, description="What it holds now.", extra_json_schema={"x-kubernetes-list-type": "atomic"}),
    ] = ()
    message: Annotated[str, Meta(max_length=1024, description="Why it failed the last time.")] = ""
    time: Annotated[datetime, Meta(description="When it was tried last.")] | None = None


class TrainingRunStatus(Resource, frozen=True, kw_only=True):
    """What the run does and has done; written by the operator alone."""

    phase: (
        Annotated[
            Phase,
            Meta(
                description="Pending (cannot be queued yet), Queued, Running, Suspended, AwaitingApproval, Succeeded or Failed."
            ),
        ]
        | None
    ) = None
    stage: (
        Annotated[Stage, Meta(description="Preparing, Training, Evaluating, Exporting or Publishing while it runs.")]
        | None
    ) = None
    message: Annotated[
        str, Meta(max_length=1024, description="One sentence: what the run does or waits for, and why.")
    ] = ""
    completed_epochs: Annotated[int, Meta(description="Epochs completed.")] = 0
    epochs: Annotated[int, Meta(description="Epochs in all.")] = 0
    epoch_column: Annotated[str, Meta(max_length=24, description="Completed of all epochs, for people.")] = ""
    remaining_seconds: Annotated[int, Meta(description="Expected seconds to the end of the run.")] | None = None
    estimated_completion_time: Annotated[datetime, Meta(description="When the run is expected to end.")] | None = None
    time_left: Annotated[str, Meta(max_length=24, description="Expected time to the end, for people.")] | None = None
    active_seconds: Annotated[int, Meta(description="Seconds its pods ran, over all attempts.")] = 0
    start_time: Annotated[datetime, Meta(description="When the run was released from the queue.")] | None = None
    completion_time: Annotated[datetime, Meta(description="When the run finished.")] | None = None
    batch: (
        Annotated[int, Meta(description="Images per step in force; smaller than asked for after GPU memory ran out.")]
        | None
    ) = None
    metrics: (
        Annotated[ValidationMetrics, Meta(description="The newest epoch's figures on the validation split.")] | None
    ) = None
    best: Annotated[Best, Meta(description="The best epoch so far.")] | None = None
    checkpoint: Annotated[Checkpoint, Meta(description="The newest verified checkpoint.")] | None = None
    checkpoint_failures: Annotated[
        int, Meta(description="Checkpoints that could not be written, over all attempts.")
    ] = 0
    dataset: Annotated[DatasetStatus, Meta(description="The data set the run uses.")] | None = None
    evaluation: Annotated[EvaluationStatus, Meta(description="What the evaluation found on the test split.")] | None = (
        None
    )
    plan: (
        Annotated[RunPlanStatus, Meta(description="What the run is going to take, measured before it started.")] | None
    ) = None
    attempts: Annotated[
        tuple[Attempt, ...],
        Meta(
            max_length=20, description="The newest 20 attempts.", extra_json_schema={"x-kubernetes-list-type": "atomic"}
        ),
    ] = ()
    restarts: Annotated[int, Meta(description="Attempts the run's own faults have cost.")] = 0
    attempts_by_reason: Annotated[
        dict[str, Annotated[int, Meta(ge=0)]],
        Meta(max_length=32, description="Attempts that ended, by reason, also those that `attempts` no longer lists."),
    ] = msgspec.field(default_factory=dict)
    models: Annotated[
        tuple[PublishedModel, ...],
        Meta(max_length=16, description="Files the run made.", extra_json_schema={"x-kubernetes-list-type": "atomic"}),
    ] = ()
    promotion: (
        Annotated[PromotionStatus, Meta(description="Whether the model became the line's current one.")] | None
    ) = None
    publication: (
        Annotated[Publication, Meta(description="Waiting, OK once the model is published everywhere, or NotOK.")] | None
    ) = None
    uploads: Annotated[
        tuple[UploadStatus, ...],
        Meta(
            max_length=8,
            description="Each target of publish.targets; one that fails is tried again and the promotion stands.",
            extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["target"]},
        ),
    ] = ()
    notices: Annotated[
        tuple[Annotated[str, Meta(max_length=16)], ...],
        Meta(
            max_length=4,
            description="What the webhook of publish.notify was told of.",
            extra_json_schema={"x-kubernetes-list-type": "set"},
        ),
    ] = ()
    iteration: Annotated[int, Meta(description="Which training of its line this is, counted from 1.")] | None = None
    learning_rate_factor: (
        Annotated[
            Decimal,
            Meta(description="What the learning rate is multiplied by; halved after each loss that is not finite."),
        ]
        | None
    ) = None
    lost_turn_time: (
        Annotated[
            datetime,
            Meta(description="When its pod could not be scheduled for so long that the runs behind it went first."),
        ]
        | None
    ) = None
    image: (
        Annotated[str, Meta(max_length=512, description="Trainer image, fixed at release for all attempts.")] | None
    ) = None
    directory: (
        Annotated[str, Meta(max_length=256, description="The run's directory relative to the storage root.")] | None
    ) = None
    observed_generation: (
        Annotated[int, Meta(description="The metadata.generation this status was decided for.")] | None
    ) = None
    conditions: Conditions = ()


#: Condition types of a TrainingRun, in the order of the work.
RUN_CONDITIONS = (
    "DatasetReady",
    "Training",
    "CheckpointSaved",
    "LossFinite",
    "Evaluated",
    "Exported",
    "Published",
    "Succeeded",
    "Finished",
)
