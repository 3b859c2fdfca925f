"""The parts of the KubeRay and Kubernetes schemas that the manifests use, written by hand; unknown fields are refused.

Sources are the field references of ``ray.io/v1`` (KubeRay 1.5 to 1.7: RayCluster, RayJob, RayService, HeadGroupSpec,
WorkerGroupSpec, AutoscalerOptions, AuthOptions) and of Kubernetes 1.32 (PodTemplateSpec, PersistentVolumeClaim,
NetworkPolicy): names, types, enumerations and required fields. KubeRay publishes no Python package of its definitions,
so they are not available offline. A field that is missing here may be valid: look it up in these sources, and add it.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"}
COUNT: Schema = {"type": "integer", "minimum": 0}
QUANTITY: Schema = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def object_with(required: tuple[str, ...] = (), **fields: Schema) -> Schema:
    """Return the schema of an object with exactly these fields."""
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def array(item: Schema, min_items: int = 1) -> Schema:
    """Return the schema of a list with at least `min_items` items."""
    return {"type": "array", "items": item, "minItems": min_items}


def one_of(*values: str) -> Schema:
    """Return the schema of an enumeration."""
    return {"enum": list(values)}


METADATA = object_with(("name",), name=NAME, namespace=NAME, labels=TEXTS, annotations=TEXTS)
RESOURCES = object_with(
    requests={"type": "object", "additionalProperties": QUANTITY},
    limits={"type": "object", "additionalProperties": QUANTITY},
)
CONTAINER = object_with(
    ("name", "image"),
    name=NAME,
    image=TEXT,
    imagePullPolicy=one_of("Always", "IfNotPresent", "Never"),
    env=array(object_with(("name", "value"), name=TEXT, value={"type": "string"})),
    resources=RESOURCES,
    securityContext=object_with(
        allowPrivilegeEscalation={"type": "boolean"}, capabilities=object_with(drop=array(TEXT), add=array(TEXT, 0))
    ),
    volumeMounts=array(object_with(("name", "mountPath"), name=NAME, mountPath=TEXT, readOnly={"type": "boolean"})),
)
POD = object_with(
    ("containers",),
    automountServiceAccountToken={"type": "boolean"},
    serviceAccountName=NAME,
    securityContext=object_with(
        runAsNonRoot={"type": "boolean"},
        runAsUser=COUNT,
        fsGroup=COUNT,
        seccompProfile=object_with(("type",), type=one_of("RuntimeDefault", "Unconfined", "Localhost")),
    ),
    tolerations=array(
        object_with(
            key=TEXT,
            operator=one_of("Exists", "Equal"),
            value=TEXT,
            effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
        )
    ),
    containers=array(CONTAINER),
    volumes=array(
        object_with(
            ("name",),
            name=NAME,
            persistentVolumeClaim=object_with(("claimName",), claimName=NAME),
            emptyDir=object_with(medium=one_of("", "Memory"), sizeLimit=QUANTITY),
        )
    ),
)
TEMPLATE = object_with(("spec",), metadata=object_with(labels=TEXTS, annotations=TEXTS), spec=POD)
CLUSTER = object_with(
    ("headGroupSpec",),
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=object_with(mode=one_of("disabled", "token")),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=object_with(
        version=one_of("v1", "v2"),
        upscalingMode=one_of("Default", "Aggressive", "Conservative"),
        idleTimeoutSeconds=COUNT,
        resources=RESOURCES,
        imagePullPolicy=TEXT,
    ),
    headGroupSpec=object_with(
        ("template",),
        serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer"),
        enableIngress={"type": "boolean"},
        rayStartParams=TEXTS,
        template=TEMPLATE,
    ),
    workerGroupSpecs=array(
        object_with(
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
JOB = object_with(
    ("entrypoint", "rayClusterSpec"),
    entrypoint=TEXT,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    backoffLimit=COUNT,
    activeDeadlineSeconds=COUNT,
    shutdownAfterJobFinishes={"type": "boolean"},
    ttlSecondsAfterFinished=COUNT,
    runtimeEnvYAML={"type": "string"},
    entrypointNumCpus={"type": "number"},
    rayClusterSpec=CLUSTER,
)
SERVICE = object_with(("serveConfigV2", "rayClusterConfig"), serveConfigV2=TEXT, rayClusterConfig=CLUSTER)
CLAIM = object_with(
    ("accessModes", "resources"),
    accessModes=array(one_of("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")),
    storageClassName=TEXT,
    resources=object_with(("requests",), requests=object_with(("storage",), storage=QUANTITY)),
)
SELECTOR = object_with(matchLabels=TEXTS)
POLICY = object_with(
    ("podSelector",),
    podSelector=SELECTOR,
    policyTypes=array(one_of("Ingress", "Egress")),
    ingress=array(
        object_with(
            **{"from": array(object_with(podSelector=SELECTOR, namespaceSelector=SELECTOR))},
            ports=array(object_with(protocol=one_of("TCP", "UDP", "SCTP"), port=COUNT)),
        )
    ),
)
KINDS = {
    ("ray.io/v1", "RayCluster"): CLUSTER,
    ("ray.io/v1", "RayJob"): JOB,
    ("ray.io/v1", "RayService"): SERVICE,
    ("v1", "PersistentVolumeClaim"): CLAIM,
    ("networking.k8s.io/v1", "NetworkPolicy"): POLICY,
}


def schema_of(manifest: dict[str, Any]) -> Schema:
    """Return the schema of a manifest of this kind and API version."""
    spec = KINDS[manifest["apiVersion"], manifest["kind"]]
    return object_with(
        ("apiVersion", "kind", "metadata", "spec"), apiVersion=TEXT, kind=TEXT, metadata=METADATA, spec=spec
    )
