"""The chart as helm renders it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "azaion"

Manifest = dict[str, Any]


class RenderError(Exception):
    """helm refused; the text is what it said."""


@dataclass
class Chart:
    """Renders `charts/azaion`, as release and namespace `azaion` unless told otherwise; remembers what it did."""

    helm: Path
    rendered: dict[str, list[Manifest]] = field(default_factory=dict)

    def run(self, *arguments: str, values: Manifest | None = None) -> str:
        """Standard output of helm with these values; RenderError when it refuses."""
        done = subprocess.run(
            [str(self.helm), *arguments, "--values", "-"],
            input=json.dumps(values or {}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise RenderError(done.stderr)
        return done.stdout

    def render(
        self, values: Manifest | None = None, *, crds: bool = False, release: str = "azaion", namespace: str = "azaion"
    ) -> list[Manifest]:
        """Every object but the test's pod. The definitions take most of the time, so only when asked for."""
        wanted = {**(values or {}), **({} if crds else {"crds": {"enabled": False}})}
        key = json.dumps([wanted, release, namespace], sort_keys=True)
        if key not in self.rendered:
            text = self.run("template", release, str(CHART), "--namespace", namespace, "--skip-tests", values=wanted)
            found = yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            self.rendered[key] = [manifest for manifest in found if manifest]
        return self.rendered[key]

    def one(self, kind: str, name: str, values: Manifest | None = None) -> Manifest:
        """The object of that kind and name."""
        found = [m for m in self.render(values) if m["kind"] == kind and m["metadata"]["name"] == name]
        assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
        return found[0]

    def names(self, kind: str, values: Manifest | None = None) -> list[str]:
        return [m["metadata"]["name"] for m in self.render(values) if m["kind"] == kind]

    def refusal(self, values: Manifest) -> str:
        """What helm says about values it does not take."""
        with pytest.raises(RenderError) as caught:
            self.run("template", "azaion", str(CHART), "--namespace", "azaion", values=values)
        return str(caught.value)


def find_helm() -> Path:
    """The test cluster's helm, or the user's."""
    sys.path.insert(0, str(ROOT / "tests" / "cluster"))
    from testcluster import binaries

    built = binaries.built()
    if built is not None:
        return built.bin / "helm"
    found = shutil.which("helm")
    if found is None:
        pytest.fail("there is no helm: run `make cluster-build`, or install helm")
    return Path(found)
