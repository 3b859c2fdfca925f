"""On a cluster of several nodes, each host queries the replica of the model on its node."""

from __future__ import annotations

from pathlib import Path

from mifsim.data import load_data
from mifsim.server.backend import Job
from mifsim.server.client_specs import shards
from mifsim.server.ray.placement import assign_replicas
from mifsim.victims import prepare_victim
from tests.chaos.setups import cluster
from tests.small import small_study


def test_each_replica_answers_the_hosts_that_are_assigned_to_it(tmp_path: Path) -> None:
    import ray

    from mifsim.server.ray.backend import start_actors
    from mifsim.server.ray.cluster import connect
    from mifsim.server.ray.dispatch import dispatch

    study = small_study(server={"hosts": 4, "model_replicas": 2}, filters=[{"none": True}], leakage={"enabled": False})
    victim = prepare_victim(load_data(study.data), study.victim)
    ray.shutdown()
    with cluster(num_cpus=4) as ray_cluster:
        ray_cluster.add_node(num_cpus=4)
        connect(ray_cluster.address)
        try:
            models, hosts, placement = start_actors(Job(study, tmp_path, {}), victim.source())
            before = [facts["rows"] for facts in ray.get([actor.facts.remote() for actor in models.actors])]
            node_ids, host_nodes = ray.get(models.up()), ray.get([host.node.remote() for host in hosts])
            assert len(set(node_ids)) == 2
            dispatch(hosts, shards(study, 2), lambda done: None, 2, placement)
            after = [facts["rows"] for facts in ray.get([actor.facts.remote() for actor in models.actors])]
            queries = [0, 0]
            for number, host in zip(assign_replicas(host_nodes, node_ids), hosts, strict=True):
                queries[number] += ray.get(host.progress.remote()).queries
            # Without a filter each query reaches a replica exactly once.
            assert [end - start for end, start in zip(after, before, strict=True)] == queries
            assert min(queries) > 0
        finally:
            ray.shutdown()
