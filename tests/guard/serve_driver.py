"""Ray Serve on a cluster of this machine, for tests and measurements.

Each line of the input is the path of a configuration; the word ``deployed`` is printed when it runs. The cluster ends
with the process.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import yaml
from ray import serve
from ray.serve._private.api import serve_start
from ray.serve.schema import ServeDeploySchema

from mifsim.server.ray.cluster import connect

SECONDS = 120.0


def deploy(path: Path) -> None:
    """Do what ``serve deploy`` makes a cluster do, and wait until all replicas run."""
    config = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    options: dict[str, Any] = config.http_options.model_dump()
    serve_start(http_options=options, proxy_location=config.proxy_location).deploy_apps(config)
    (application,) = config.applications
    wanted = {deployment.name: {"RUNNING": deployment.num_replicas} for deployment in application.deployments}
    end = time.monotonic() + SECONDS
    while True:
        state = serve.status().applications.get(application.name)
        running = {} if state is None else {name: one.replica_states for name, one in state.deployments.items()}
        if state is not None and state.status == "RUNNING" and running == wanted:
            return
        if time.monotonic() > end or (state is not None and state.status == "DEPLOY_FAILED"):
            raise RuntimeError(f"{state}")
        time.sleep(0.5)


if __name__ == "__main__":
    connect(None)
    for line in sys.stdin:
        deploy(Path(line.strip()))
        print("deployed", flush=True)
