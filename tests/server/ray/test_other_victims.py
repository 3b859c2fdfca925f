"""A service and a plug-in's function as the victim on Ray: the same rows, without TensorFlow, and clear errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mifsim.errors import VictimError
from mifsim.plugins import load_plugin, unload_plugins
from mifsim.run.simulate import simulate
from tests.run.test_other_victims import STARTED, requests_of_check
from tests.run.victims import assert_same_sessions, of_service, study_of
from tests.victims.inference_service import service
from tests.victims.test_plugin_engine import PLUGIN


def test_the_rows_are_those_of_one_process_and_the_model_actor_imports_no_tensorflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from mifsim.server.ray import backend
    from mifsim.server.ray.cluster import connect

    imported = []

    def observed(hosts: Any, *arguments: Any) -> None:
        models = [ray.get_actor(item["name"]) for item in ray.util.list_named_actors(all_namespaces=True)]
        dispatch(hosts, *arguments)
        imported.extend(ray.get([model.__ray_call__.remote(_loaded_tensorflow) for model in models]))

    dispatch = backend.dispatch
    monkeypatch.setattr(backend, "dispatch", observed)
    ray.shutdown()  # the actors of other tests must not be found
    connect(None)
    try:
        with service((28, 28, 1), 10) as found:
            steady = simulate(study_of(of_service(found)), tmp_path / "one process", backend="in-process")
            run = simulate(study_of(of_service(found), hosts=2), tmp_path / "run")
            assert_same_sessions(steady, run)
            load_plugin(PLUGIN)
            assert_same_sessions(steady, simulate(study_of({"plugin": "linear"}, hosts=1), tmp_path / "plug-in"))
            assert imported == [False, False]
            study = study_of(of_service(found, retries=0), hosts=1)
            found.faults(*[{}] * (requests_of_check(found, study) + STARTED), *[{"status": 503}] * 500)
            with pytest.raises(VictimError, match=r"answers HTTP 503: overloaded, and victim.retries = 0"):
                simulate(study, tmp_path / "failed")
            assert (tmp_path / "failed" / "run.json").is_file()  # it failed after it had started
    finally:
        unload_plugins()
        ray.shutdown()


def _loaded_tensorflow(actor: object) -> bool:
    import sys

    return "tensorflow" in sys.modules
