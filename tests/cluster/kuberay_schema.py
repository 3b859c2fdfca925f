"""The part of KubeRay's and Kubernetes' schemas that the manifests use, written by hand; unknown fields are refused.

Sources are the field references of ``ray.io/v1`` (KubeRay 1.5 to 1.7: RayCluster, RayJob, HeadGroupSpec,
WorkerGroupSpec, AutoscalerOptions, AuthOptions) and of Kubernetes 1.32 (PodTemplateSpec, PersistentVolumeClaim,
NetworkPolicy): names, types, enumerations and required fields. KubeRay publishes no Python package of its definitions,
so they are not available offline. A field that is missing here is not necessarily wrong: look it up, and add it.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"}
COUNT: Schema = {"type": "integer", "minimum": 0}
QUANTITY: Schema = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def table(required: tuple[str, ...] = (), **fields: Schema) -> Schema:
    """Return the schema of an object with exactly these fields."""
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def rows(item: Schema, least: int = 1) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": item, "minItems": least}


def among(*values: str) -> Schema:
    """Return the schema of an enumeration."""
    return {"enum": list(values)}


METADATA = table(("name",), name=NAME, namespace=NAME, labels=TEXTS, annotations=TEXTS)
RESOURCES = table(
    requests={"type": "object", "additionalProperties": QUANTITY},
    limits={"type": "object", "additionalProperties": QUANTITY},
)
CONTAINER = table(
    ("name", "image"),
    name=NAME,
    image=TEXT,
    imagePullPolicy=among("Always", "IfNotPresent", "Never"),
    env=rows(table(("name", "value"), name=TEXT, value={"type": "string"})),
    resources=RESOURCES,
    securityContext=table(
        allowPrivilegeEscalation={"type": "boolean"}, capabilities=table(drop=rows(TEXT), add=rows(TEXT, 0))
    ),
    volumeMounts=rows(table(("name", "mountPath"), name=NAME, mountPath=TEXT, readOnly={"type": "boolean"})),
)
POD = table(
    ("containers",),
    automountServiceAccountToken={"type": "boolean"},
    serviceAccountName=NAME,
    securityContext=table(
        runAsNonRoot={"type": "boolean"},
        runAsUser=COUNT,
        fsGroup=COUNT,
        seccompProfile=table(("type",), type=among("RuntimeDefault", "Unconfined", "Localhost")),
    ),
    tolerations=rows(
        table(
            key=TEXT,
            operator=among("Exists", "Equal"),
            value=TEXT,
            effect=among("NoSchedule", "PreferNoSchedule", "NoExecute"),
        )
    ),
    containers=rows(CONTAINER),
    volumes=rows(
        table(
            ("name",),
            name=NAME,
            persistentVolumeClaim=table(("claimName",), claimName=NAME),
            emptyDir=table(medium=among("", "Memory"), sizeLimit=QUANTITY),
        )
    ),
)
TEMPLATE = table(("spec",), metadata=table(labels=TEXTS, annotations=TEXTS), spec=POD)
CLUSTER = table(
    ("headGroupSpec",),
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=table(mode=among("disabled", "token")),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=table(
        version=among("v1", "v2"),
        upscalingMode=among("Default", "Aggressive", "Conservative"),
        idleTimeoutSeconds=COUNT,
        resources=RESOURCES,
        imagePullPolicy=TEXT,
    ),
    headGroupSpec=table(
        ("template",),
        serviceType=among("ClusterIP", "NodePort", "LoadBalancer"),
        enableIngress={"type": "boolean"},
        rayStartParams=TEXTS,
        template=TEMPLATE,
    ),
    workerGroupSpecs=rows(
        table(
            ("groupName", "template"),
            groupName=NAME,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            numOfHosts=COUNT,
            idleTimeoutSeconds=COUNT,
            rayStartParams=TEXTS,
            template=TEMPLATE,
        )
    ),
)
JOB = table(
    ("entrypoint", "rayClusterSpec"),
    entrypoint=TEXT,
    submissionMode=among("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    backoffLimit=COUNT,
    activeDeadlineSeconds=COUNT,
    shutdownAfterJobFinishes={"type": "boolean"},
    ttlSecondsAfterFinished=COUNT,
    runtimeEnvYAML={"type": "string"},
    entrypointNumCpus={"type": "number"},
    rayClusterSpec=CLUSTER,
)
CLAIM = table(
    ("accessModes", "resources"),
    accessModes=rows(among("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")),
    storageClassName=TEXT,
    resources=table(("requests",), requests=table(("storage",), storage=QUANTITY)),
)
SELECTOR = table(matchLabels=TEXTS)
POLICY = table(
    ("podSelector",),
    podSelector=SELECTOR,
    policyTypes=rows(among("Ingress", "Egress")),
    ingress=rows(table(**{"from": rows(table(podSelector=SELECTOR, namespaceSelector=SELECTOR))})),
)
KINDS = {
    ("ray.io/v1", "RayCluster"): CLUSTER,
    ("ray.io/v1", "RayJob"): JOB,
    ("v1", "PersistentVolumeClaim"): CLAIM,
    ("networking.k8s.io/v1", "NetworkPolicy"): POLICY,
}


def schema_of(manifest: dict[str, Any]) -> Schema:
    """Return the schema for a manifest by its kind."""
    spec = KINDS[manifest["apiVersion"], manifest["kind"]]
    return table(("apiVersion", "kind", "metadata", "spec"), apiVersion=TEXT, kind=TEXT, metadata=METADATA, spec=spec)
