"""`zopo-fast sweep --ray` on a cluster of two nodes: a worker is killed and a node removed in mid-sweep."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_tools import ended, serving
from sweep_tools import (
    Gate,
    SweepBench,
    assert_is_complete,
    assert_nothing_is_paid_twice,
    chat_counts,
    is_alive,
)
from time_tools import until

pytest.importorskip("ray.cluster_utils", reason="needs the extra ray: make bridges")

TASKS = 3


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> SweepBench:
    return SweepBench(tmp_path_factory.mktemp("ray"), TASKS)


@pytest.fixture(scope="module")
def cluster(bench: SweepBench) -> Iterator[Any]:
    """Start a cluster whose nodes have the environment of the runs: keys are never part of a task."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bench.env(RAY_USAGE_STATS_ENABLED="0").items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=small)
        try:
            yield cluster
        finally:
            cluster.shutdown()


def node_of(process: int, nodes: list[Any]) -> int:
    """Return the number of the node whose raylet started a worker."""
    parent = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
    raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
    return raylets.index(parent)


def test_every_run_ends_though_workers_die_and_a_node_is_removed(bench: SweepBench, cluster: Any) -> None:
    second = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    nodes = [cluster.head_node, second]
    gate = Gate(closed=range(TASKS))
    with serving(plan=gate) as server:
        name = bench.write(server, "limit-calls = 500")
        process = bench.start("sweep", name, "--ray", cluster.address)
        gate.wait(0, 1)  # one on each node
        places = {node_of(bench.processes(task)[-1], nodes): task for task in (0, 1)}
        assert set(places) == {0, 1}
        killed = bench.processes(places[0])[-1]
        gate.closed.remove(places[0])
        bench.kill(places[0])
        until(lambda: len(bench.processes(places[0])) == 2)
        gate.closed.clear()
        bench.settle(places[1])
        lost = bench.processes(places[1])[-1]
        cluster.remove_node(second, allow_graceful=False)
        done = ended(process)
        assert_nothing_is_paid_twice(server)
    assert_is_complete(bench, done)
    assert len(bench.processes(places[1])) == 2
    assert not is_alive(killed)
    assert not is_alive(lost)


def test_an_address_without_a_cluster(bench: SweepBench) -> None:
    with serving() as server:
        name = bench.write(server, name="nowhere.toml")
        done = bench.run("sweep", name, "--ray", "127.0.0.1:1")
    assert done.code == 2, done
    assert "--ray 127.0.0.1:1: no cluster there" in done.err
    assert "ray start --head" in done.err


def test_ctrl_c_ends_the_tasks_in_order(bench: SweepBench, cluster: Any) -> None:
    gate = Gate(closed=range(TASKS))
    with serving(plan=gate) as server:
        name = bench.write(server, name="stopped.toml")
        process = bench.start("sweep", name, "--ray", cluster.address)
        gate.wait(0)
        process.send_signal(signal.SIGINT)
        done = ended(process)
    assert done.code == 130, done
    assert bench.rows("stopped")[0]["stopped_by"] == "interrupted"
    assert (bench.folder / "stopped" / "runs" / "t0" / "result.json").exists()  # what there was is kept


def test_the_killed_command_resumes(bench: SweepBench, cluster: Any) -> None:
    gate = Gate(closed=[1])
    with serving(plan=gate) as server:
        name = bench.write(server, "limit-calls = 500", name="killed.toml")
        process = bench.start("sweep", name, "--ray", cluster.address)
        gate.wait(1)
        process.kill()
        ended(process)
        gate.closed.clear()
        done = bench.run("sweep", name, "--ray", cluster.address)
        assert done.code == 0, done
        repeated = sum(count - 1 for count in chat_counts(server).values())
        assert repeated <= 1, "more than the call in flight at the kill"
    assert {row["stopped_by"] for row in bench.rows("killed")} == {"budget"}
