"""Who a pod of ours is: a ServiceAccount that may read and patch its own report and nothing else."""

from __future__ import annotations

from azaion_api.names import (
    ingest_deployment,
    ingest_report,
    line_identity,
    line_report,
    run_identity,
    run_report,
)
from azaion_api.resources import AnnotationIngest, TrainingRun
from azaion_operator.objects import CONFIG_MAPS, ROLE_BINDINGS, ROLES, SERVICE_ACCOUNTS, RawObject, ResourceType
from azaion_operator.specs.metadata import Owner, metadata

Child = tuple[ResourceType, RawObject]


def identity(owner: Owner) -> tuple[Child, ...]:
    """ServiceAccount, Role and RoleBinding of one name, and the empty ConfigMap the Role is for."""
    name, report = _names(owner)
    return (
        report_map(owner),
        (
            SERVICE_ACCOUNTS,
            {
                "apiVersion": SERVICE_ACCOUNTS.api_version,
                "kind": SERVICE_ACCOUNTS.kind,
                "metadata": metadata(owner, name),
                # Only the pods that report mount the token, and they say so themselves.
                "automountServiceAccountToken": False,
            },
        ),
        (
            ROLES,
            {
                "apiVersion": ROLES.api_version,
                "kind": ROLES.kind,
                "metadata": metadata(owner, name),
                "rules": [
                    {
                        "apiGroups": [""],
                        "resources": ["configmaps"],
                        "resourceNames": [report],
                        "verbs": ["get", "patch"],
                    }
                ],
            },
        ),
        (
            ROLE_BINDINGS,
            {
                "apiVersion": ROLE_BINDINGS.api_version,
                "kind": ROLE_BINDINGS.kind,
                "metadata": metadata(owner, name),
                "roleRef": {"apiGroup": ROLES.group, "kind": ROLES.kind, "name": name},
                "subjects": [{"kind": SERVICE_ACCOUNTS.kind, "name": name, "namespace": owner.metadata.namespace}],
            },
        ),
    )


def _names(owner: Owner) -> tuple[str, str]:
    """Of the ServiceAccount, Role and RoleBinding, and of the report ConfigMap."""
    name = owner.metadata.name
    if isinstance(owner, TrainingRun):
        return run_identity(name), run_report(name)
    if isinstance(owner, AnnotationIngest):
        return ingest_deployment(name), ingest_report(name)
    return line_identity(name), line_report(name)


def report_map(owner: Owner) -> Child:
    """The ConfigMap its pods report in; empty, and made before them: their Role cannot create one."""
    _, name = _names(owner)
    return (
        CONFIG_MAPS,
        {
            "apiVersion": CONFIG_MAPS.api_version,
            "kind": CONFIG_MAPS.kind,
            "metadata": metadata(owner, name),
        },
    )
