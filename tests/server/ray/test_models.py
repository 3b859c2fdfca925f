"""On a cluster of several nodes each host asks the copy of the model that is on its own."""

from __future__ import annotations

from pathlib import Path

from mifsim.data import load_data
from mifsim.server.backend import Job, ModelFile
from mifsim.server.client_specs import shards
from mifsim.server.ray.placement import assign_replicas
from mifsim.victims import prepare_victim
from tests.chaos.stages import cluster
from tests.small import small_study


def test_each_copy_answers_the_hosts_that_were_dealt_to_it(tmp_path: Path) -> None:
    import ray

    from mifsim.server.ray.backend import start_actors
    from mifsim.server.ray.cluster import connect
    from mifsim.server.ray.dispatch import dispatch

    study = small_study(server={"hosts": 4, "model_replicas": 2}, filters=[{"none": True}], leakage={"enabled": False})
    victim = prepare_victim(load_data(study.data), study.victim)
    with cluster(num_cpus=4) as made:
        made.add_node(num_cpus=4)
        connect(made.address)
        try:
            models, hosts, placed = start_actors(
                Job(study, tmp_path, {}), ModelFile(victim.model_bytes(), victim.logits)
            )
            before = [facts["rows"] for facts in ray.get([actor.facts.remote() for actor in models.actors])]
            node_ids, at = ray.get(models.up()), ray.get([host.node.remote() for host in hosts])
            assert len(set(node_ids)) == 2
            dispatch(hosts, shards(study, 2), lambda done: None, 2, placed)
            after = [facts["rows"] for facts in ray.get([actor.facts.remote() for actor in models.actors])]
            asked = [0, 0]
            for number, host in zip(assign_replicas(at, node_ids), hosts, strict=True):
                asked[number] += ray.get(host.progress.remote()).queries
            # Without a filter every query is asked of a model, once.
            assert [then - now for then, now in zip(after, before, strict=True)] == asked
            assert min(asked) > 0
        finally:
            ray.shutdown()
