"""What the chart installs, and what it never does."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from rendered_chart import CHART, ROOT, Chart, Manifest

from azaion_api.layout import GID, MOUNT_PATH, UID
from azaion_api.names import LABEL_COMPONENT, LABEL_MANAGED_BY, LABEL_PART_OF, PART_OF, PLURALS, STORAGE_REPORT
from azaion_operator.settings import read_settings

VERSION = str(yaml.safe_load((CHART / "Chart.yaml").read_text())["version"])
DIGEST = "sha256:" + "0123456789abcdef" * 4
DEPLOYMENTS = ["azaion-kube-state-metrics", "azaion-operator", "azaion-storage"]
OF_NO_NAMESPACE = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "PersistentVolume",
    "PriorityClass",
}
EVERYTHING: Manifest = {"storage": {"hostPath": {"path": "/azaion", "node": "gpu-1"}}}
EVERY_DEPLOYMENT = pytest.mark.parametrize("deployment", DEPLOYMENTS)


def pod(manifest: Manifest) -> Manifest:
    found: Manifest = manifest["spec"]["template"]["spec"]
    return found


def container(manifest: Manifest) -> Manifest:
    containers = pod(manifest)["containers"]
    assert len(containers) == 1
    found: Manifest = containers[0]
    return found


def environment(manifest: Manifest) -> dict[str, str]:
    """What the container gets; a field of the pod stands as its path."""
    return {
        variable["name"]: variable.get("value")
        or variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        for variable in container(manifest)["env"]
    }


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value


# Helm itself


def test_helm_lint_has_nothing_to_say(chart: Chart) -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in chart.run("lint", "--strict", str(CHART))


@pytest.mark.parametrize(
    ("namespace", "command"),
    [
        ("azaion", "     kubectl apply -f samples/{}\n"),
        ("ml", "     sed 's/namespace: azaion/namespace: ml/' samples/{} | kubectl apply -f -\n"),
    ],
)
def test_the_notes_lead_to_the_first_training(chart: Chart, namespace: str, command: str) -> None:
    values = {"crds": {"enabled": False}}
    text = chart.run("install", "azaion", str(CHART), "--namespace", namespace, "--dry-run=client", values=values)
    notes = text.partition("NOTES:")[2]
    for sample in ("annotationingest.yaml", "trainingrun.yaml"):
        assert command.format(sample) in notes
        assert "  namespace: azaion\n" in (ROOT / "samples" / sample).read_text()


def test_a_release_fits_into_its_secret_with_room_to_spare(chart: Chart) -> None:
    """Helm keeps chart and manifests in one Secret, gzipped; the API server takes 1 MiB."""
    files = [path for path in CHART.rglob("*") if path.is_file()]
    content = [base64.b64encode(path.read_bytes()).decode() for path in files]
    release = json.dumps({"chart": content, "manifest": chart.render(crds=True)}).encode()
    assert len(base64.b64encode(base64.b64encode(gzip.compress(release)))) < 700 * 1024


# Definitions


def test_the_definitions_in_the_chart_are_the_generated_ones() -> None:
    generated = {path.name: path.read_text() for path in (ROOT / "crds").glob("*.azaion.com.yaml")}
    copied = {path.name: path.read_text() for path in (CHART / "files" / "crds").glob("*")}
    assert len(generated) == len(PLURALS)
    assert copied == generated, "run: cp crds/*.azaion.com.yaml charts/azaion/files/crds/ (`make generate` does)"


def test_definitions_are_installed_unchanged_and_outlive_the_chart(chart: Chart) -> None:
    installed = {m["metadata"]["name"]: m for m in chart.render(crds=True) if m["kind"] == "CustomResourceDefinition"}
    assert set(installed) == {f"{plural}.azaion.com" for plural in PLURALS.values()}
    for name, manifest in installed.items():
        generated = yaml.safe_load((ROOT / "crds" / f"{name}.yaml").read_text())
        assert manifest["spec"] == generated["spec"]
        assert manifest["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_definitions_go_with_the_chart_when_asked_to(chart: Chart) -> None:
    found = [m for m in chart.render({"crds": {"keep": False}}, crds=True) if m["kind"] == "CustomResourceDefinition"]
    assert [m["metadata"].get("annotations") for m in found] == [None] * len(PLURALS)


def test_definitions_are_left_to_others_when_asked_to(chart: Chart) -> None:
    assert chart.names("CustomResourceDefinition") == []


# What there is


def test_nothing_runs_once_and_no_resource_of_ours_is_made(chart: Chart) -> None:
    """No Job and no hook that an upgrade in the middle of a training could wait for, and no custom resources."""
    rendered = chart.render(EVERYTHING, crds=True)
    assert {m["kind"] for m in rendered} == {
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "CronJob",
        "CustomResourceDefinition",
        "DaemonSet",
        "Deployment",
        "NetworkPolicy",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "PriorityClass",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    }
    assert not any("helm.sh/hook" in text for m in rendered for text in strings(m["metadata"]))


def test_every_object_has_the_recommended_labels(chart: Chart) -> None:
    for manifest in chart.render(EVERYTHING, crds=True):
        labels = manifest["metadata"]["labels"]
        assert labels[LABEL_PART_OF] == PART_OF
        assert labels[LABEL_MANAGED_BY] == "Helm"
        assert labels["app.kubernetes.io/instance"] == "azaion"
        assert labels["app.kubernetes.io/name"] == f"azaion-{labels[LABEL_COMPONENT]}"
        assert labels["app.kubernetes.io/version"] == VERSION
        assert labels["helm.sh/chart"] == f"azaion-{VERSION}"


def test_everything_lies_in_the_release_s_namespace(chart: Chart) -> None:
    rendered = chart.render({"storage": {"hostPath": {"path": "/azaion", "node": "gpu-1"}}}, namespace="ml", crds=True)
    for manifest in rendered:
        namespace = manifest["metadata"].get("namespace")
        assert namespace == (None if manifest["kind"] in OF_NO_NAMESPACE else "ml"), manifest["metadata"]["name"]
    for manifest in rendered:
        for subject in manifest.get("subjects", []):
            assert subject["namespace"] == "ml"


def test_two_installations_in_two_namespaces_share_definitions_only(chart: Chart) -> None:
    def cluster_wide(namespace: str) -> set[tuple[str, str]]:
        found = chart.render({"storage": EVERYTHING["storage"]}, namespace=namespace)
        return {(m["kind"], m["metadata"]["name"]) for m in found if m["kind"] in OF_NO_NAMESPACE}

    assert cluster_wide("one") & cluster_wide("two") == set()


@EVERY_DEPLOYMENT
def test_a_pod_runs_under_the_restricted_profile(chart: Chart, deployment: str) -> None:
    manifest = chart.one("Deployment", deployment)
    security = pod(manifest)["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(manifest)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        assert name not in pod(manifest)
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim"}
    assert {key for volume in pod(manifest).get("volumes", []) for key in volume if key != "name"} <= allowed


@EVERY_DEPLOYMENT
def test_a_pod_has_requests_a_memory_limit_and_probes(chart: Chart, deployment: str) -> None:
    found = container(chart.one("Deployment", deployment))
    assert set(found["resources"]["requests"]) == {"cpu", "memory"}
    assert "memory" in found["resources"]["limits"]
    ports = {port["name"] for port in found["ports"]}
    for probe in ("livenessProbe", "readinessProbe"):
        assert found[probe]["httpGet"]["port"] in ports


@EVERY_DEPLOYMENT
def test_a_service_finds_its_pod(chart: Chart, deployment: str) -> None:
    manifest, service = chart.one("Deployment", deployment), chart.one("Service", deployment)
    template = manifest["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert manifest["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    named = {port["name"] for port in container(manifest)["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= named


def test_selectors_tell_the_three_deployments_apart_and_never_change(chart: Chart) -> None:
    mine = {"commonLabels": {"team": "vision"}}
    selectors = {}
    for name in DEPLOYMENTS:
        manifest = chart.one("Deployment", name, mine)
        selectors[name] = manifest["spec"]["selector"]["matchLabels"]
        assert manifest["metadata"]["labels"]["team"] == "vision"
        assert manifest["spec"]["template"]["metadata"]["labels"]["team"] == "vision"
    assert selectors == {
        name: {"app.kubernetes.io/name": name, "app.kubernetes.io/instance": "azaion"} for name in DEPLOYMENTS
    }


def test_pods_do_not_carry_the_chart_s_version_so_an_upgrade_restarts_only_what_changed(chart: Chart) -> None:
    for name in DEPLOYMENTS:
        template = chart.one("Deployment", name)["spec"]["template"]
        assert not any(VERSION in value for value in template["metadata"]["labels"].values())


# helm test


def test_the_test_is_a_restricted_pod_with_the_right_to_look_and_nothing_else(chart: Chart) -> None:
    text = chart.run("template", "azaion", str(CHART), "--namespace", "azaion", values={"crds": {"enabled": False}})
    (found,) = [m for m in yaml.safe_load_all(text) if m and m["kind"] == "Pod"]
    assert found["metadata"]["annotations"] == {
        "helm.sh/hook": "test",
        "helm.sh/hook-delete-policy": "before-hook-creation",
    }
    spec = found["spec"]
    assert spec["restartPolicy"] == "Never"
    assert spec["securityContext"]["runAsNonRoot"] is True
    (only,) = spec["containers"]
    assert only["args"] == ["test"]
    assert only["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {name.partition(".")[0] for name in only["env"][1]["value"].split(",")} == {
        "http://azaion-operator",
        "http://azaion-kube-state-metrics",
    }
    verbs = {verb for rule in chart.one("Role", "azaion-test")["rules"] for verb in rule["verbs"]}
    assert verbs == {"get", "list"}


# Images


def test_all_images_come_with_the_chart_s_version(chart: Chart) -> None:
    assert container(chart.one("Deployment", "azaion-operator"))["image"] == f"docker.io/azaion/operator:{VERSION}"
    assert container(chart.one("Deployment", "azaion-storage"))["image"] == f"docker.io/azaion/operator:{VERSION}"
    given = environment(chart.one("Deployment", "azaion-operator"))
    assert given["AZAION_TRAINER_IMAGE"] == f"docker.io/azaion/trainer:{VERSION}"
    assert given["AZAION_CONSUMER_IMAGE"] == f"docker.io/azaion/consumer:{VERSION}"


def test_kube_state_metrics_comes_from_its_own_registry(chart: Chart) -> None:
    image = container(chart.one("Deployment", "azaion-kube-state-metrics", {"images": {"registry": "example.com"}}))
    assert image["image"] == "registry.k8s.io/kube-state-metrics/kube-state-metrics:v2.20.0"


def test_registry_tag_and_digest_can_be_chosen_image_by_image(chart: Chart) -> None:
    values = {
        "images": {
            "registry": "example.com:5000/mirror",
            "tag": "9.9",
            "consumer": {"repository": "our/consumer", "tag": "8.8"},
            "trainer": {"repository": "azaion/trainer", "tag": "8.8", "digest": DIGEST},
        }
    }
    manifest = chart.one("Deployment", "azaion-operator", values)
    assert container(manifest)["image"] == "example.com:5000/mirror/azaion/operator:9.9"
    given = environment(manifest)
    assert given["AZAION_CONSUMER_IMAGE"] == "example.com:5000/mirror/our/consumer:8.8"
    assert given["AZAION_TRAINER_IMAGE"] == f"example.com:5000/mirror/azaion/trainer@{DIGEST}"


def test_pull_secrets_reach_every_pod_those_of_the_operator_too(chart: Chart) -> None:
    values = {"images": {"pullSecrets": [{"name": "one"}, {"name": "two"}], "pullPolicy": "Always"}}
    for name in DEPLOYMENTS:
        manifest = chart.one("Deployment", name, values)
        assert pod(manifest)["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
        assert container(manifest)["imagePullPolicy"] == "Always"
    given = environment(chart.one("Deployment", "azaion-operator", values))
    assert given["AZAION_IMAGE_PULL_SECRETS"] == "one,two"
    assert given["AZAION_IMAGE_PULL_POLICY"] == "Always"


# Operator


def test_the_operator_understands_everything_it_is_told(chart: Chart) -> None:
    values = {
        "trainer": {"runtimeClassName": "nvidia"},
        "storage": {"existingClaim": "big-disk"},
        "operator": {"logLevel": "DEBUG"},
    }
    settings = read_settings(environment(chart.one("Deployment", "azaion-operator", values)))
    assert settings.log_level == "DEBUG"
    assert settings.http_port == container(chart.one("Deployment", "azaion-operator"))["ports"][0]["containerPort"]
    assert settings.pods.claim == "big-disk"
    assert settings.pods.runtime_class == "nvidia"
    assert settings.pods.trainer_priority_class == "azaion-training"
    assert settings.pods.consumer_priority_class == "azaion-ingest"
    assert settings.pods.image_pull_secrets == ()


def test_the_operator_learns_who_it_is_from_its_own_pod(chart: Chart) -> None:
    given = environment(chart.one("Deployment", "azaion-operator"))
    assert given["AZAION_NAMESPACE"] == "metadata.namespace"
    assert given["AZAION_POD_NAME"] == "metadata.name"
    assert given["AZAION_POD_UID"] == "metadata.uid"


def test_there_are_never_two_operators(chart: Chart) -> None:
    spec = chart.one("Deployment", "azaion-operator")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def rights(role: Manifest) -> dict[str, list[str]]:
    return {
        f"{group}/{resource}".removeprefix("/"): rule["verbs"]
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_the_operator_may_do_this_and_nothing_else(chart: Chart) -> None:
    assert rights(chart.one("Role", "azaion-operator")) == {
        "azaion.com/trainingruns": ["get", "list", "watch", "create", "delete"],
        "azaion.com/annotationingests": ["list", "watch"],
        "azaion.com/modellines": ["get", "list", "watch", "create"],
        "azaion.com/trainingruns/status": ["update"],
        "azaion.com/annotationingests/status": ["update"],
        "azaion.com/modellines/status": ["update"],
        "batch/jobs": ["get", "list", "watch", "create", "delete"],
        "apps/deployments": ["list", "watch", "create", "patch"],
        "pods": ["list", "watch"],
        "configmaps": ["get", "list", "watch", "create", "patch"],
        "serviceaccounts": ["get", "create"],
        "rbac.authorization.k8s.io/roles": ["get", "create"],
        "rbac.authorization.k8s.io/rolebindings": ["get", "create"],
        "events": ["create"],
        "coordination.k8s.io/leases": ["get", "list", "watch", "create", "update"],
    }


def test_nobody_may_read_secrets_or_use_wildcards(chart: Chart) -> None:
    for manifest in chart.render(EVERYTHING):
        for rule in manifest.get("rules", []):
            assert "secrets" not in rule["resources"]
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


def test_beyond_the_namespace_only_definitions_and_nodes_are_seen(chart: Chart) -> None:
    found = {m["metadata"]["name"]: rights(m) for m in chart.render() if m["kind"] == "ClusterRole"}
    assert found == {
        "azaion-kube-state-metrics": {
            "apiextensions.k8s.io/customresourcedefinitions": ["list", "watch"],
            "nodes": ["list", "watch"],
        },
        "azaion-health": {"nodes": ["list"]},
    }
    for bound in (m for m in chart.render() if m["kind"] == "ClusterRoleBinding"):
        assert bound["roleRef"]["name"] == bound["metadata"]["name"]
        assert [subject["name"] for subject in bound["subjects"]] == [bound["metadata"]["name"]]


# Storage


def claim_of(manifest: Manifest) -> str:
    (volume,) = [v for v in pod(manifest)["volumes"] if "persistentVolumeClaim" in v]
    (mount,) = [m for m in container(manifest)["volumeMounts"] if m["name"] == volume["name"]]
    assert mount["mountPath"] == MOUNT_PATH
    found: str = volume["persistentVolumeClaim"]["claimName"]
    return found


def test_a_new_claim_is_of_the_default_class_and_outlives_the_chart(chart: Chart) -> None:
    claim = chart.one("PersistentVolumeClaim", "azaion")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "200Gi"}},
    }
    assert claim_of(chart.one("Deployment", "azaion-storage")) == "azaion"
    assert environment(chart.one("Deployment", "azaion-operator"))["AZAION_CLAIM"] == "azaion"


def test_a_new_claim_can_have_another_class_size_and_annotations(chart: Chart) -> None:
    values = {"storage": {"storageClassName": "fast", "size": "2Ti", "annotations": {"backup": "yes"}}}
    claim = chart.one("PersistentVolumeClaim", "azaion", values)
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"]["requests"]["storage"] == "2Ti"
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep", "backup": "yes"}


def test_an_existing_claim_is_used_and_none_is_made(chart: Chart) -> None:
    values = {"storage": {"existingClaim": "big-disk"}}
    assert chart.names("PersistentVolumeClaim", values) == []
    assert claim_of(chart.one("Deployment", "azaion-storage", values)) == "big-disk"


def test_a_directory_of_the_node_is_adopted_through_a_volume_that_nobody_else_can_take(chart: Chart) -> None:
    volume = chart.one("PersistentVolume", "azaion-azaion", EVERYTHING)
    claim = chart.one("PersistentVolumeClaim", "azaion", EVERYTHING)
    assert volume["spec"]["local"] == {"path": "/azaion"}
    assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert volume["spec"]["storageClassName"] == claim["spec"]["storageClassName"] == ""
    assert volume["spec"]["claimRef"]["name"] == "azaion"
    assert volume["spec"]["claimRef"]["namespace"] == "azaion"
    assert claim["spec"]["volumeName"] == "azaion-azaion"
    (term,) = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["gpu-1"]}]
    for manifest in (volume, claim):
        assert manifest["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_storage_pod_owns_what_it_writes_and_does_not_touch_millions_of_files(chart: Chart) -> None:
    security = pod(chart.one("Deployment", "azaion-storage"))["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (UID, GID, GID)
    assert security["fsGroupChangePolicy"] == "OnRootMismatch"


def test_the_storage_pod_may_write_its_report_and_nothing_else(chart: Chart) -> None:
    assert chart.one("Role", "azaion-storage")["rules"] == [
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [STORAGE_REPORT], "verbs": ["get", "patch"]}
    ]


def test_an_upgrade_leaves_the_storage_report_alone(chart: Chart) -> None:
    assert set(chart.one("ConfigMap", STORAGE_REPORT)) == {"apiVersion", "kind", "metadata"}


class _Class(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    Id: int
    Name: str
    ShortName: str
    Color: str


def test_classes_json_lists_every_class_with_its_four_fields(chart: Chart) -> None:
    text = chart.one("ConfigMap", "azaion-classes")["data"]["classes.json"]
    found = msgspec.json.decode(text, type=list[_Class])
    assert [entry.Id for entry in found] == list(range(17))
    assert len({entry.Name for entry in found}) == 17


def test_classes_json_is_mounted_where_the_storage_pod_looks_for_it(chart: Chart) -> None:
    manifest = chart.one("Deployment", "azaion-storage")
    (volume,) = [v for v in pod(manifest)["volumes"] if v.get("configMap", {}).get("name") == "azaion-classes"]
    (mount,) = [m for m in container(manifest)["volumeMounts"] if m["name"] == volume["name"]]
    assert f"{mount['mountPath']}/classes.json" in (
        Path(ROOT / "operator/src/azaion_operator/storage_keeper.py").read_text()
    )


# Priorities


def test_a_training_never_displaces_a_pod_and_goes_before_other_work(chart: Chart) -> None:
    classes = {m["metadata"]["name"]: m for m in chart.render() if m["kind"] == "PriorityClass"}
    assert classes["azaion-training"]["preemptionPolicy"] == "Never"
    assert 0 < classes["azaion-training"]["value"] < classes["azaion-ingest"]["value"]
    assert classes["azaion-ingest"]["value"] < classes["azaion-platform"]["value"]
    for name in DEPLOYMENTS:
        assert pod(chart.one("Deployment", name))["priorityClassName"] == "azaion-platform"


def test_without_priority_classes_no_pod_names_one(chart: Chart) -> None:
    values = {"priorityClasses": {"create": False}}
    assert chart.names("PriorityClass", values) == []
    for name in DEPLOYMENTS:
        assert "priorityClassName" not in pod(chart.one("Deployment", name, values))
    settings = read_settings(environment(chart.one("Deployment", "azaion-operator", values)))
    assert (settings.pods.trainer_priority_class, settings.pods.consumer_priority_class) == (None, None)


def test_classes_of_one_s_own_go_before_the_chart_s(chart: Chart) -> None:
    values = {"trainer": {"priorityClassName": "mine"}, "consumer": {"priorityClassName": "yours"}}
    settings = read_settings(environment(chart.one("Deployment", "azaion-operator", values)))
    assert settings.pods.trainer_priority_class == "mine"
    assert settings.pods.consumer_priority_class == "yours"


# Metrics


def test_without_kube_state_metrics_nothing_of_it_is_left(chart: Chart) -> None:
    rendered = chart.render({"kubeStateMetrics": {"enabled": False}, "health": {"enabled": False}})
    assert not any("kube-state-metrics" in m["metadata"]["name"] for m in rendered)
    assert not any(m["kind"] in ("ClusterRole", "ClusterRoleBinding") for m in rendered)


def test_kube_state_metrics_reads_exactly_what_it_may_read(chart: Chart) -> None:
    arguments = container(chart.one("Deployment", "azaion-kube-state-metrics"))["args"]
    allowed = rights(chart.one("Role", "azaion-kube-state-metrics"))
    assert "--namespaces=azaion" in arguments
    (resources,) = [a.removeprefix("--resources=") for a in arguments if a.startswith("--resources=")]
    ours = {f"azaion.com/{plural}" for plural in PLURALS.values()}
    # Nodes belong to no namespace: that right is in the ClusterRole.
    assert {name.rpartition("/")[2] for name in set(allowed) - ours} | {"nodes"} == set(resources.split(","))
    assert ours <= set(allowed)
    assert {tuple(verbs) for verbs in allowed.values()} == {("list", "watch")}


def test_kube_state_metrics_starts_again_when_its_configuration_changes(chart: Chart) -> None:
    def checksum(namespace: str) -> str:
        (found,) = [
            m
            for m in chart.render(namespace=namespace)
            if (m["kind"], m["metadata"]["name"]) == ("Deployment", "azaion-kube-state-metrics")
        ]
        annotation: str = found["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        return annotation

    assert len(checksum("azaion")) == 64
    assert checksum("azaion") == checksum("other")


def test_nodes_can_be_chosen_for_operator_and_metrics(chart: Chart) -> None:
    placed = {"nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}
    values = {"operator": {**placed, "podAnnotations": {"note": "x"}}, "kubeStateMetrics": placed}
    for name in ("azaion-operator", "azaion-kube-state-metrics"):
        found = pod(chart.one("Deployment", name, values))
        assert found["nodeSelector"] == placed["nodeSelector"]
        assert found["tolerations"] == placed["tolerations"]
    template = chart.one("Deployment", "azaion-operator", values)["spec"]["template"]
    assert template["metadata"]["annotations"] == {"note": "x"}
