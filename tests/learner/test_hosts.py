"""What the driver makes of what ranks say, where they may run and when a run goes on by itself: without processes, without Ray."""

from __future__ import annotations

import json
import logging
import socket
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from keel.core.errors import ConfigError, ModelError, RankError, RankLostError
from keel.learner import host as host_module
from keel.learner import hosts
from keel.learner.actors import check_looks, fate_of, world_of
from keel.learner.config import ClusterConfig
from keel.learner.group import Fate
from keel.learner.host import Host
from keel.learner.ray_cluster import connect, running_cluster, worker_environment
from keel.learner.ray_rank import Look, frames, interface_of, joined, versions
from keel.learner.serving import told
from keel.learner.wire import packed, unpacked
from keel.runs.checkpoints import Checkpoints
from keel.runs.interrupt import Interrupts
from keel.verbs.shared import restarts
from keel.verbs.shared.restarts import gone_on

CPU, GPU = torch.device("cpu"), torch.device("cuda")
TWO = ClusterConfig(ranks=2)


class Scripted:
    """A ``Group`` whose ranks say what a test wrote down, one message at a time. None: it is gone."""

    world = 2

    def __init__(self, *said: tuple[int, Any]) -> None:
        self.said, self.ended, self.asked = list(said), False, []

    def begin(self, data: bytes) -> None:
        self.asked.append(unpacked(data))

    def answers(self, waited: Collection[int], within_s: float) -> list[tuple[int, bytes | None]]:
        if not self.said:
            return []
        rank, message = self.said.pop(0)
        assert rank in waited, "nobody waits for it"
        return [(rank, None if message is None else packed(message))]

    def fate(self, rank: int) -> Fate:
        return Fate("was killed by signal 9", "Memory?")

    def end(self) -> None:
        self.ended = True


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a script does not say never comes."""
    monkeypatch.setattr(host_module, "_GRACE_S", 0.05)
    monkeypatch.setattr(host_module, "_CRASH_GRACE_S", 0.05)


def test_rank_0_answers_when_all_are_done() -> None:
    group = Scripted((1, ("done", "other")), (0, ("item", 1)), (0, ("item", 2)), (0, ("done", "mine")))
    items = Host(TWO, group).stream("weights", "policy")
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(StopIteration) as end:
        next(items)
    assert end.value.value == "mine"
    assert group.asked == [("weights", ("policy",))]
    assert not group.ended


def test_a_dead_rank_is_named_and_all_end() -> None:
    group = Scripted((0, ("done", None)), (1, None))
    host = Host(TWO, group)
    with pytest.raises(RankLostError, match=r"rank 1 of 2 was killed by signal 9; the others were ended\n.*checkpoint\. Memory\?"):
        host.call("step")
    assert group.ended
    with pytest.raises(RankLostError, match="rank 1 of 2"):
        host.call("step")
    assert len(group.asked) == 1


def test_the_dead_one_is_named_and_not_who_missed_it() -> None:
    group = Scripted((0, ("lost", "gloo/transport: closed")), (1, None))
    with pytest.raises(RankLostError, match="rank 1 of 2 was killed"):
        Host(TWO, group).call("step")


def test_a_network_that_breaks_is_no_fault_of_the_program() -> None:
    for said in ([(0, ("lost", "reset")), (1, ("lost", "timeout"))], [(0, ("lost", "reset"))]):
        group = Scripted(*said)
        with pytest.raises(RankLostError, match="rank 0 of 2 lost touch with the others: reset"):
            Host(TWO, group).call("step")
        assert group.ended


def test_a_fault_of_the_program_is_told_whole_and_is_no_loss() -> None:
    group = Scripted((0, ("lost", "reset")), (1, ("crash", "Traceback: IndexError")))
    with pytest.raises(RankError, match="rank 1 of 2 failed:\nTraceback: IndexError") as found:
        Host(TWO, group).call("step")
    assert not isinstance(found.value, RankLostError)


def test_what_all_find_wrong_is_the_users_and_what_one_finds_ends_all() -> None:
    wrong = ("user", ("ModelError", "no such part", "name another"))
    group = Scripted((0, wrong), (1, wrong), (0, ("done", 3)), (1, ("done", 3)))
    host = Host(TWO, group)
    with pytest.raises(ModelError, match="no such part"):
        host.call("train_only")
    assert host.call("step") == 3
    alone = Scripted((1, wrong))
    with pytest.raises(RankError, match="rank 1 of 2 failed: no such part"):
        Host(TWO, alone).call("train_only")
    assert alone.ended


def test_closed_ranks_do_nothing() -> None:
    group = Scripted()
    host = Host(TWO, group)
    host.close()
    with pytest.raises(RankError, match="ended before"):
        host.call("step")
    assert group.ended


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_folder_that_is_not_shared_is_refused(elsewhere: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "_SEEN_S", 0.0)
    other = tmp_path / "other" if elsewhere else tmp_path
    other.mkdir(exist_ok=True)

    class Writing(Scripted):
        def begin(self, data: bytes) -> None:
            (path, mark) = unpacked(data)[1]
            for rank in (0, 1):
                (other / f"{path.name}-{rank}").write_text(mark)
            self.said = [(0, ("done", "")), (1, ("done", ""))]

    host = Host(TWO, Writing())
    if elsewhere:
        with pytest.raises(ConfigError, match="not the same folder for all ranks"):
            host.check_shared(tmp_path)
    else:
        host.check_shared(tmp_path)
    assert not list(tmp_path.glob(".ranks-*")), "nothing is left behind"
    with pytest.raises(ConfigError, match="rank 1 on far: No such file"):
        Host(TWO, Scripted((0, ("done", "rank 1 on far: No such file")), (1, ("done", "")))).check_shared(tmp_path)


# -------------------------------------------------------------------------------------------------------------------------- restarts


def test_a_run_goes_on_while_it_gets_ahead(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost twice at step 0, three times at step 4: five restarts with a limit of 3; the fourth in a row ends it."""
    monkeypatch.setattr(restarts.gc, "collect", lambda: 0)  # seconds, among the objects of all tests
    store = Checkpoints(tmp_path / "checkpoints")
    tried: list[int] = []

    def run(failures: int) -> dict[str, Any]:
        tried.append(1)
        if len(tried) > failures:
            return {"steps": 8}
        if len(tried) == 3:
            store.save(4, {}, {})
        raise RankLostError(f"rank 1 of 2, time {len(tried)}")

    with caplog.at_level(logging.WARNING):
        assert gone_on(lambda: run(5), tmp_path, 3) == {"steps": 8}
    assert [r.getMessage().partition(". ")[2] for r in caplog.records] == [
        f"Going on from step {s} (restart {k} of 3 without a new checkpoint)" for s, k in ((0, 1), (0, 2), (4, 1), (4, 2), (4, 3))
    ]
    tried.clear()
    with pytest.raises(RankLostError, match="time 4"):
        gone_on(lambda: run(9), tmp_path, 3)
    tried.clear()
    with pytest.raises(RankLostError, match="time 1"):
        gone_on(lambda: run(9), tmp_path, 0)


def test_a_fault_of_the_program_does_not_start_it_again(tmp_path: Path) -> None:
    tried = []

    def run() -> dict[str, Any]:
        tried.append(1)
        raise RankError("rank 0 of 2 failed: IndexError")

    with pytest.raises(RankError):
        gone_on(run, tmp_path, 3)
    assert len(tried) == 1


def test_a_run_that_was_told_to_stop_does_not_go_on_by_itself() -> None:
    def step(asked: bool) -> None:
        with Interrupts() as interrupts:
            interrupts.requested = asked
            raise RankLostError("rank 1 of 2 was killed")

    with pytest.raises(RankLostError):
        step(asked=False)
    with pytest.raises(RankError, match="rank 1") as found:
        step(asked=True)
    assert not isinstance(found.value, RankLostError)


def test_losses_are_told_from_faults() -> None:
    loss = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4\nmore")
    assert unpacked(told(loss))[0] == "lost"
    assert unpacked(told(torch.distributed.DistNetworkError("no route")))[0] == "lost"
    assert unpacked(told(IndexError("list index out of range")))[0] == "crash"


# ------------------------------------------------------------------------------------------------------------------------ Ray, before it


def test_settings_of_a_cluster() -> None:
    assert ClusterConfig(ray="auto", shard=1, restarts=0).several
    assert ClusterConfig(ray="10.0.0.1:6379").several
    assert not ClusterConfig().several
    for wrong, said in (("ray://a:1", "start the command on a machine of the cluster"), ("somewhere", "no address")):
        with pytest.raises(ValueError, match=said):
            ClusterConfig(ray=wrong)
    with pytest.raises(ValueError, match=r"cluster\.restarts would have no effect"):
        ClusterConfig(restarts=1)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package ray") as found:
        hosts.check_ray()
    assert "keel-align[ray]" in found.value.hint


def test_torchrun_is_refused() -> None:
    hosts.refuse_launchers({"WORLD_SIZE": "1", "RANK": "0"})
    hosts.refuse_launchers({})
    with pytest.raises(ConfigError, match="process 3 of 8") as found:
        hosts.refuse_launchers({"WORLD_SIZE": "8", "RANK": "3"})
    assert "cluster.ranks=8" in found.value.hint


def test_as_many_ranks_as_asked_for_or_as_there_are_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    ray = ClusterConfig(ray="auto")
    four = ClusterConfig(ray="auto", ranks=4)
    assert world_of(ray, GPU, {"GPU": 16.0, "CPU": 64.0}) == 16
    assert world_of(four, GPU, {"GPU": 16.0, "CPU": 64.0}) == 4
    assert world_of(four, CPU, {"CPU": 8.0}) == 4
    for cluster, device, there, said in (
        (four, GPU, {"GPU": 2.0}, "has 2 GPUs"),
        (ray, GPU, {"GPU": 1.0}, "has 1 GPUs"),
        (ray, CPU, {"CPU": 8.0}, "this driver has no GPU"),
        (four, CPU, {"CPU": 7.0}, "4 ranks of 2 threads need 8 CPUs, and the Ray cluster has 7"),
    ):
        with pytest.raises(ConfigError, match=said):
            world_of(cluster, device, there)


def test_other_versions_and_other_folders_are_refused() -> None:
    same = Look("10.0.0.2", "far", 7, versions(), True)
    check_looks([same, same])
    with pytest.raises(ConfigError, match=r"rank 1 on far runs torch 1\.0 \(here"):
        check_looks([same, replace(same, versions={**versions(), "torch": "1.0"})])
    with pytest.raises(ConfigError, match="rank 0 on far does not find the folder"):
        check_looks([replace(same, folder=False)])


def test_a_machine_that_is_gone_is_told_from_a_process() -> None:
    look = Look("10.0.0.2", "far", 7, {}, True)
    for why, said in (
        ("The actor died because its node has died. Node Id: 7", "(process 7 on far, 10.0.0.2) is gone with its machine"),
        ("Task was killed due to the node running low on memory.", "(process 7 on far, 10.0.0.2) was ended by Ray, because memory was low"),
        ("The actor is dead because its worker process has died.", "(process 7 on far, 10.0.0.2) was killed or ended by itself"),
    ):
        assert fate_of(look, why).how == said


def test_messages_go_in_frames() -> None:
    for n in (0, 1, 9, 10, 11, 30):
        message = bytes(range(n))
        parts = list(frames(message, 10))
        assert len(parts) == max(1, -(-n // 10))
        assert [joined(parts[: k + 1]) for k in range(len(parts))] == [None] * (len(parts) - 1) + [message]
    assert joined([]) is None


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_the_interface_of_an_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.7") is None


def test_a_running_cluster_is_found_and_a_dead_one_is_not(tmp_path: Path) -> None:
    here = {"RAY_TMPDIR": str(tmp_path)}
    assert running_cluster({**here, "RAY_ADDRESS": "10.0.0.1:6379"}) == "10.0.0.1:6379"
    assert running_cluster(here) == ""
    file = tmp_path / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        file.write_text(address)
        assert running_cluster(here) == address
    assert running_cluster(here) == ""
    with pytest.raises(ConfigError, match=f"nothing answers at {address}"):
        connect(address, 2)
    file.write_text("nonsense")
    assert running_cluster(here) == ""


def test_ranks_find_keel_and_the_users_settings() -> None:
    found = worker_environment(3, {"HF_HOME": "/data/hf", "PYTHONPATH": "/mine", "SECRET": "x"})
    assert found["HF_HOME"] == "/data/hf"
    assert found["OMP_NUM_THREADS"] == "3"
    assert found["PYTHONPATH"].split(":")[1:] == ["/mine"]
    assert (Path(found["PYTHONPATH"].split(":")[0]) / "keel" / "learner" / "ray_rank.py").is_file()
    assert "SECRET" not in json.dumps(found)
