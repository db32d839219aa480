"""The demo's steps: a cluster, a broker, the chart, annotations, a training, and what came of it."""

from __future__ import annotations

import base64
import json
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import yaml
from tests.demo.access import ROOT, Access, CommandError, DemoError, Object, wait_for
from tests.demo.annotations import Broker, messages_for, publish
from tests.demo.clusters import DEMO_LABEL, NAMESPACE, RELEASE, Place
from tests.demo.progress import Foretold, RunView, fraction_done
from tests.demo.scenes import DIGITS, Scene, make_scenes, scene_names
from tests.demo.terminal import Terminal

from azaion_api.training_run import TrainingRunSpec
from azaion_trainer.split import SplitPlan, assign

OUTPUT = ROOT / "build" / "demo"
SAMPLES = ROOT / "samples"
RUN = "demo"
INGEST = "annotations"
LINE = "azaion"
BROKER_SECRET = "azaion-rabbitmq"
STREAM_PORT = 5552
COLOURS = ("#E6194B", "#3CB44B", "#4363D8")

#: Scenes published, and how many of them are first an operator's work that a validator approves later.
SCENES = 480
VALIDATED_LATER = 30
#: The demo has failed below this.
WANTED_MAP50 = 0.9
INGEST_TIMEOUT_S = 180.0
RUN_TIMEOUT_S = 45 * 60.0
STEPS = 9


class Demo:
    """The steps, in order; each prints what it does and raises DemoError when it cannot."""

    def __init__(self, place: Place, terminal: Terminal) -> None:
        self._place = place
        self._terminal = terminal
        self.access = Access(NAMESPACE)
        self._results: dict[str, object] = {}
        self._foretold = Foretold()

    def run(self) -> None:
        step = self._terminal.step
        with step("cluster", "A Kubernetes node"):
            self.access = self._place.start(self._terminal)
        with step("images", "The images on it (the trainer's has 6.5 GB: minutes, the first time)"):
            self._place.bring_images(self.access, self._terminal)
        with step("broker", "A RabbitMQ with streams, and the Secret that opens it"):
            broker = self._start_broker()
        with step("install", "helm install: operator, storage, kube-state-metrics"):
            self._install()
        with step("annotations", "Annotated pictures onto the stream"):
            self._publish(broker)
        with step("ingest", "kubectl apply -f samples/annotationingest.yaml: from the stream onto the volume"):
            self._ingest()
        with step("training", "kubectl apply -f samples/trainingrun-demo.yaml"):
            self._train()
        with step("results", "What came of it"):
            self._show_results()
        with step("series", "The run in kube-state-metrics"):
            self._show_series()
        self._say_goodbye()

    def where_to_look(self) -> list[str]:
        """Commands for a person whose demo failed."""
        return [
            *self._place.hints(),
            f"kubectl -n {NAMESPACE} get azaion,pods -o wide",
            f"kubectl -n {NAMESPACE} get events --sort-by=.lastTimestamp",
            f"kubectl -n {NAMESPACE} logs deploy/azaion-operator",
        ]

    def write_timings(self) -> None:
        """build/demo/timings.json: seconds of each step and in all, and what was reached."""
        seconds = {**self._terminal.seconds, "total": round(self._terminal.elapsed_s, 1)}
        (OUTPUT / "timings.json").write_text(json.dumps({"seconds": seconds, **self._results}, indent=2) + "\n")

    # ---- the platform ----

    def _start_broker(self) -> tuple[str, str]:
        labels = {DEMO_LABEL: "true", "pod-security.kubernetes.io/enforce": "restricted"}
        self.access.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
        if self.access.find("secret", BROKER_SECRET) is None:
            secret = document(SAMPLES / "secret-rabbitmq.example.yaml")
            secret["stringData"]["password"] = secrets.token_urlsafe(18)
            self.access.apply(secret)
        self.access.kubectl("apply", "-f", str(ROOT / "tests" / "broker" / "broker.yaml"))
        self.access.kubectl("rollout", "status", "deployment/rabbitmq", "--timeout=180s")
        data = self.access.get("secret", BROKER_SECRET)["data"]
        self._terminal.line(
            f"rabbitmq is ready; the Secret {BROKER_SECRET} holds its user and a password made just now"
        )
        return _decoded(data["username"]), _decoded(data["password"])

    def _install(self) -> None:
        values = OUTPUT / "values.yaml"
        values.write_text(yaml.safe_dump({**demo_values(), **self._place.values()}, sort_keys=False))
        chart = str(ROOT / "charts" / "azaion")
        self.access.helm("upgrade", "--install", RELEASE, chart, "--wait", "--timeout", "5m", "-f", str(values))
        self._terminal.line(self.access.kubectl("get", "pods"))

    # ---- annotations ----

    def _publish(self, credentials: tuple[str, str]) -> None:
        scenes = demo_scenes()
        entries = messages_for(scenes, VALIDATED_LATER)
        self._terminal.line(
            f"{len(scenes)} pictures with {sum(len(scene.boxes) for scene in scenes)} handwritten digits; "
            "those to test with come from scans of their own"
        )
        stream = document(SAMPLES / "annotationingest.yaml")["spec"]["stream"]["name"]
        with self.access.forward("service/rabbitmq", STREAM_PORT) as port:
            publish(
                Broker("127.0.0.1", port, *credentials),
                stream,
                entries,
                lambda sent: self._terminal.bar(sent / len(entries), f"{sent} of {len(entries)} messages"),
            )
        self._terminal.line(f"the broker confirmed {len(entries)} messages")

    def _ingest(self) -> None:
        self.access.kubectl("apply", "-f", str(SAMPLES / "annotationingest.yaml"))

        def filed() -> Object | None:
            status = self.access.status("annotationingest", INGEST)
            count = int(status.get("images", {}).get("data", 0))
            self._terminal.bar(count / SCENES, str(status.get("message", "")))
            if status.get("rejected"):
                raise DemoError(
                    f"annotations were rejected: {status['rejected']}",
                    [f"kubectl -n {NAMESPACE} exec deploy/azaion-storage -- ls -R /azaion/data-rejected"],
                )
            return status if count >= SCENES and status.get("lag") == 0 else None

        try:
            status = wait_for(f"{SCENES} annotations filed", filed, INGEST_TIMEOUT_S)
        except DemoError as error:
            said = self.access.status("annotationingest", INGEST).get("message", "")
            raise DemoError(f"{error}; the ingest says: {said}", error.look) from error
        self._terminal.line(self.access.kubectl("get", "annotationingests"))
        self._terminal.line("images: " + ", ".join(f"{count} in {name}/" for name, count in status["images"].items()))

    # ---- the training ----

    def _train(self) -> None:
        if self.access.find("trainingrun", RUN) is not None:
            self.access.kubectl("delete", "trainingrun", RUN, "--wait")
        self.access.kubectl("apply", "-f", str(SAMPLES / "trainingrun-demo.yaml"))
        view = RunView()
        self._terminal.line(view.header)
        look = [f"kubectl -n {NAMESPACE} describe trainingrun {RUN}"]
        deadline_s = self._terminal.elapsed_s + RUN_TIMEOUT_S
        while self._terminal.elapsed_s < deadline_s:
            # The API server ends a watch now and then; the next one begins with the current state.
            for run in self.access.watch("trainingrun", RUN):
                self._foretold.see(run)
                if row := view.row(run):
                    self._terminal.line(row)
                status = run.get("status", {})
                self._terminal.bar(fraction_done(run), status.get("message", ""))
                if status.get("phase") == "Succeeded":
                    return
                if status.get("phase") == "Failed":
                    raise DemoError(f"the run failed: {status.get('message', '')}", look)
                if self._terminal.elapsed_s > deadline_s:
                    break
            time.sleep(1)
        raise DemoError(f"the run did not finish within {RUN_TIMEOUT_S / 60:.0f} minutes", look)

    def _show_results(self) -> None:
        status = self.access.status("trainingrun", RUN)
        evaluation, directory = status["evaluation"], status["directory"]
        deployed = next(m for m in status["models"] if (m["role"], m["format"]) == ("deployed", "PyTorch"))
        found = self.access.on_volume("sha256sum", f"/azaion/{deployed['path']}").decode().split()[0]
        if found != deployed["sha256"]:
            raise DemoError(f"{deployed['path']} on the volume is not what the run published: its sha256 is {found}")
        current = self.access.get("modelline", LINE)["status"]["current"]["name"]
        map50 = float(evaluation["new"]["map50"])
        self._results.update(testMap50=round(map50, 4), testImages=evaluation["images"], epochs=status["epochs"])
        self._results.update(foretoldSeconds=self._foretold.said_s, trainedSeconds=self._foretold.took_s)
        for title, text in (
            ("test mAP50", f"{map50:.3f} on {evaluation['images']} pictures of handwriting it has never seen"),
            ("mAP50-95", f"{float(evaluation['new']['map50to95']):.3f}"),
            ("remaining time", self._foretold.sentence),
            ("model", f"{deployed['path']} on the volume, {deployed['sizeBytes'] / 1e6:.1f} MB, sha256 as published"),
            ("", f"copied to {shown(self._copy(deployed['path'], 'azaion.pt'))}"),
            ("current model", f"models/{LINE}.pt is {current}: {status['promotion']['reason']}"),
            ("predictions", shown(self._copy(f"{directory}/evaluation/predictions.png", "predictions.png"))),
        ):
            self._terminal.line(f"{title:15}{text}")
        if map50 < WANTED_MAP50:
            raise DemoError(f"the test mAP50 is {map50:.3f}, below the {WANTED_MAP50} that the demo is to reach")

    def _copy(self, path: str, name: str) -> Path:
        """A file of the volume, copied into build/demo."""
        target = OUTPUT / name
        target.write_bytes(self.access.on_volume("cat", f"/azaion/{path}"))
        return target

    def _show_series(self) -> None:
        service = f"/api/v1/namespaces/{NAMESPACE}/services/azaion-kube-state-metrics:http-metrics"
        series = wait_for(
            "kube-state-metrics shows the run as Succeeded",
            lambda: finished_series(RUN, self.access.kubectl("get", "--raw", f"{service}/proxy/metrics")),
            30.0,
        )
        (OUTPUT / "series.txt").write_text("\n".join(series) + "\n")
        for line in telling(series):
            self._terminal.line(line)
        self._terminal.line(f"all {len(series)}: {shown(OUTPUT / 'series.txt')}")

    def _say_goodbye(self) -> None:
        say = self._terminal.line
        say("\nLook around:", 0)
        for command in (
            *self._place.hints(),
            f"kubectl -n {NAMESPACE} get azaion -o wide",
            f"kubectl -n {NAMESPACE} describe trainingrun {RUN}",
            f"kubectl -n {NAMESPACE} logs job/{RUN}-train-1",
            f"kubectl -n {NAMESPACE} exec deploy/azaion-storage -- ls -l /azaion/models /azaion/runs",
        ):
            say(f"  {command}", 0)
        say("Clean up:", 0)
        say("  make demo-down" + ("" if self._place.hints() else " CLUSTER=current"), 0)


SHOWN_SERIES = (
    "phase",
    "epoch",
    "epochs_target",
    "validation_map50_ratio",
    "validation_map50to95_ratio",
    "evaluation_map50_ratio",
    "dataset_images",
    "start_timestamp_seconds",
    "completion_timestamp_seconds",
)


def demo_spec() -> TrainingRunSpec:
    """The run the demo applies."""
    return msgspec.convert(document(SAMPLES / "trainingrun-demo.yaml")["spec"], TrainingRunSpec)


def demo_scenes() -> list[Scene]:
    """Every scene of the demo, each made from the originals of the split that the run will put its name into."""
    spec = demo_spec()
    plan = SplitPlan(spec.dataset.seed, spec.dataset.split, spec.dataset.group_by)
    return list(make_scenes(assign(scene_names(SCENES), plan, {}), spec.training.image_size))


def demo_values() -> Object:
    """The chart's values for the demo: classes named after the digits, and a volume that fits on any machine."""
    names = [{"Id": n, "Name": f"Digit{n}", "ShortName": str(n), "Color": COLOURS[n]} for n in DIGITS]
    return {"storage": {"size": "5Gi"}, "classes": names}


def finished_series(run: str, text: str) -> list[str] | None:
    """The lines of kube-state-metrics' text that speak of that run, once they say that it succeeded."""
    series = [line for line in text.splitlines() if line.startswith("azaion_trainingrun_") and f'name="{run}"' in line]
    succeeded = any("_phase{" in line and 'phase="Succeeded"' in line and line.endswith(" 1") for line in series)
    return series if succeeded else None


def telling(series: list[str]) -> list[str]:
    """Those of the series that a person wants to see, without the labels that are the same for all."""
    wanted = {f"azaion_trainingrun_{name}" for name in SHOWN_SERIES}
    shown = [line for line in series if line.partition("{")[0] in wanted and not line.endswith(" 0")]
    return [re.sub(r'(customresource_\w+|namespace)="[^"]*",?', "", line).replace(",}", "}") for line in shown]


def diagnosis(access: Access) -> str:
    """What a person would look at first; a command that fails is left out."""
    looks: dict[str, Callable[[], str]] = {
        "resources": lambda: access.kubectl("get", "azaion", "-o", "wide"),
        "pods": lambda: access.kubectl("get", "pods", "-o", "wide"),
        "newest events": lambda: _last_lines(access.kubectl("get", "events", "--sort-by=.lastTimestamp"), 12),
        "the operator's last words": lambda: access.kubectl("logs", "deploy/azaion-operator", "--tail=12"),
        "the run's newest pod": lambda: _newest_log(access),
    }
    parts = []
    for title, look in looks.items():
        with suppress(CommandError):
            parts.append(f"--- {title}\n{look().rstrip()}")
    return "\n".join(parts)


def _newest_log(access: Access) -> str:
    pods = access.items("pods", "-l", f"azaion.com/training-run={RUN}", "--sort-by=.metadata.creationTimestamp")
    return access.kubectl("logs", pods[-1]["metadata"]["name"], "--tail=15") if pods else "there is none"


def _last_lines(text: str, count: int) -> str:
    return "\n".join(text.splitlines()[-count:])


def document(path: Path) -> Object:
    """The one YAML document of a file."""
    found: Object = yaml.safe_load(path.read_text())
    return found


def shown(path: Path) -> str:
    """A path as a person at the repository's root would type it."""
    return str(path.relative_to(ROOT))


def _decoded(value: str) -> str:
    return base64.b64decode(value).decode()
