"""Two processes against one. They are started by PyTorch's launcher, on the CPU."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from resight.detection.folding import fold_batchnorm
from resight.errors import ResightError
from resight.fpn.config import FpnModelConfig
from resight.models.build import build_model
from resight.models.checkpoints import LAST, load_checkpoint
from resight.tfod.config import TfodModelConfig
from resight.training import distributed as module
from resight.training.distributed import Distributed, join, launch, processes
from resight.training.run_record import read_run_record
from resight.training.train import check_devices, train

CUDA = torch.device("cuda")
PLAIN = {
    "train__optimizer": "sgd",
    "train__warmup_steps": 0,
    "train__learning_rate": 0.001,
    "augment__scale": (0.8, 1.2),
}


def launched(config, run, *arguments, **environment):
    """``resight train`` on two devices, with ``config`` as TOML."""
    (run.parent / "two.toml").write_text(config)
    command = [sys.executable, "-m", "resight", "train", str(run.parent / "two.toml"), "-o", str(run), "--devices", "2"]
    return subprocess.Popen(
        [*command, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a group of its own
    )


def toml(config):
    from resight.config.toml_text import to_toml

    return to_toml(config)


def test_the_parts_of_all_processes_are_the_whole():
    items = list(range(7))
    parts = [Distributed(rank, 3).shard(items) for rank in range(3)]
    assert parts == [[0, 3, 6], [1, 4], [2, 5]]
    alone = Distributed()
    assert alone.shard(items) == items == alone.all_gather(items) and alone.all_reduce([2, 3]) == [2, 3]
    assert alone.counts([5]) == [5] and alone.largest(3, 4) == (3, 4) and alone.is_main


@pytest.fixture(scope="module")
def one_thread():
    """As many as each of the two has: other sums come out of other numbers of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["resumed", pytest.param("begun", marks=pytest.mark.soak)])
def pair(request, one_thread, shapes, tiny, tmp_path_factory):
    """The second step by one process and by two, of which the two begin or go on from the first step of the one: seven
    images make a batch of 4 and one of 3, which differ in size."""
    folder = tmp_path_factory.mktemp("distributed")
    options = {"model__heads": 2, "train__batch_size": 4, "train__ema": 0, **PLAIN}
    configs = [tiny(shapes(train=7, val=3), train__steps=steps, **options) for steps in (1, 2, 3)]
    train(configs[0], folder / "one")
    if request.param == "resumed":
        shutil.copytree(folder / "one", folder / "two")
    train(configs[1], folder / "one", resume=True)
    assert train(configs[1], folder / "two", resume=True, devices=2).exit_code == 0
    return folder, configs[2]


def test_two_processes_take_the_step_of_one(pair):
    folder, _ = pair
    one, two = (load_checkpoint(folder / name / LAST) for name in ("one", "two"))
    assert one.tensors.keys() == two.tensors.keys()
    for name, value in one.part("optimizer").items():  # the velocity is the gradient, and the shrunk one before it
        torch.testing.assert_close(two.part("optimizer")[name], value, rtol=1e-5, atol=1e-5 * float(value.abs().max()))
    assert one.state["best"] == pytest.approx(two.state["best"], abs=1e-6)
    keys = ("step", "batches", "evaluated_at", "order")
    assert [one.state[key] for key in keys] == [two.state[key] for key in keys] and one.state["step"] == 2


def test_a_run_of_two_goes_on_with_one(pair):
    folder, config = pair
    for name in ("one", "two"):
        train(config, folder / name, resume=True)
    one, two = (load_checkpoint(folder / name / LAST) for name in ("one", "two"))
    assert one.state["step"] == two.state["step"] == 3
    for name, value in one.part("model").items():
        torch.testing.assert_close(two.part("model")[name], value, rtol=1e-4, atol=1e-4 * float(value.abs().max()))


def processes_of(process):
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    return [int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]


def wait_for(path, process):
    for _ in range(600):
        if path.exists() or process.poll() is not None:
            return
        time.sleep(0.2)


def test_a_notice_and_a_signal_reach_all_and_the_caller_is_told(shapes, tiny, tmp_path, metadata):
    metadata.announce(600)  # at which the two save together
    config = tiny(shapes(train=7), train__steps=5000, train__batch_size=4, evaluate__every=1e6, **PLAIN)
    process = launched(toml(config), tmp_path / "run", "--log-format", "json", RESIGHT_LOG_STREAM="stdout")
    wait_for(tmp_path / "run" / LAST, process)
    process.send_signal(signal.SIGTERM)
    messages, _ = process.communicate(timeout=120)
    assert process.returncode == 75 and "--resume" in messages
    assert messages.count("stopping after this step and saving; press Ctrl-C to quit without saving") == 1
    assert "saving a checkpoint and continuing" in messages and all(json.loads(line) for line in messages.splitlines())
    (attempt,) = read_run_record(tmp_path / "run")[0].attempts
    assert load_checkpoint(tmp_path / "run" / LAST).state["step"] == attempt.step >= 1
    assert attempt.notice and (attempt.ended, attempt.exit_code) == ("interrupted", 75)


def test_the_death_of_one_ends_the_training_with_its_cause(shapes, tiny, tmp_path):
    config = tiny(shapes(train=7, val=3), train__steps=5000, train__batch_size=4, checkpoint__every_steps=2, **PLAIN)
    before = multiprocessing.active_children()

    def kill():
        while not (tmp_path / "run" / LAST).exists():
            time.sleep(0.1)
        os.kill([one.pid for one in multiprocessing.active_children() if one not in before][-1], signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(ResightError, match=r"process \d of 2 ended with -9(.|\n)*--resume"):
        train(config, tmp_path / "run", devices=2)
    assert load_checkpoint(tmp_path / "run" / LAST)


def test_a_job_with_gpus_that_pytorch_does_not_see_is_refused(shapes, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "GPU-8f2d")
    check_devices(1, tiny(shapes(train=7)))  # no job
    monkeypatch.setenv("AWS_BATCH_JOB_ID", "job")
    with pytest.raises(ResightError, match="PyTorch sees none") as caught:
        train(tiny(shapes(train=7), train__device="auto"), tmp_path)
    assert caught.value.where == "train.device"
    check_devices(1, tiny(shapes(train=7), train__device="cpu"))


def test_more_devices_than_images_in_a_batch_are_refused(shapes, tiny, tmp_path):
    with pytest.raises(ResightError, match="3 devices share a batch of 2"):
        train(tiny(shapes(train=7), train__batch_size=2), tmp_path, devices=3)


def test_the_launcher_opens_no_context_on_a_gpu(shapes, tiny, monkeypatch):
    def context(*_, **__):
        raise AssertionError("a tensor on a GPU")

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.zeros", context)
    config = tiny(shapes(train=7), train__device="cuda", train__batch_size=3)
    check_devices(2, config)
    with pytest.raises(ResightError, match="3 devices requested, 2 available"):
        check_devices(3, config)


def test_a_device_that_does_not_work_is_refused_before_anything_is_written(shapes, tiny, tmp_path, monkeypatch):
    zeros = torch.zeros

    def broken(*size, device=None, **options):
        if torch.device(device or "cpu").type == "cuda":
            raise RuntimeError("CUDA driver initialization failed\nmore")
        return zeros(*size, device=device, **options)

    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.zeros", broken)
    with pytest.raises(ResightError, match=r"the device cannot be used: CUDA driver initialization failed$"):
        train(tiny(shapes(train=7), train__device="cuda"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["2", "", "first"])
def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch, place):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", place)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ResightError, match=f"process '{place}' of this machine .* there are 2"), join(CUDA):
        pass


def test_a_process_has_its_own_gpu_before_it_joins_the_others(monkeypatch):
    order = []
    environment = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", order.append)
    monkeypatch.setattr(module.dist, "init_process_group", lambda *kind, **options: order.append((*kind, options)))
    monkeypatch.setattr(module.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(module.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(module.dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(module, "check_device", order.append)
    with join(CUDA) as distributed:
        assert distributed == Distributed(1, 2)
    options = {"timeout": module.TIMEOUT, "device_id": torch.device("cuda", 1)}
    assert order == [1, torch.device("cuda", 1), ("nccl", options)] and module.TIMEOUT.total_seconds() >= 3600


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK, MASTER_ADDR, MASTER_PORT are not set"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "but RANK is not set"),
    ],
)
def test_half_a_launchers_environment_is_refused(monkeypatch, environment, message):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ResightError, match=message), join(torch.device("cpu")):
        pass


@pytest.mark.parametrize("count", ["two", "0", "-1", ""])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch, count):
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(ResightError, match=f"'{count}' is not a number of processes"):
        processes()


def test_frozen_statistics_are_not_sent_at_every_forward(monkeypatch):
    monkeypatch.setattr(module, "DistributedDataParallel", lambda model, broadcast_buffers: broadcast_buffers)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    assert Distributed(0, 2).parallel(model) is True
    fold_batchnorm(model.eval(), torch.rand(1, 3, 8, 8))
    assert Distributed(0, 2).parallel(model.train()) is False
    assert Distributed(0, 2).parallel(build_model(FpnModelConfig(name="test_efficientnet"), 2).train()) is False
    for trained in (False, True):
        config = TfodModelConfig(name="faster_rcnn_resnet50_v1", tfod={"train_norms": trained})
        assert Distributed(0, 2).parallel(build_model(config, 2).train()) is trained


def test_what_torchrun_started_is_what_shares_the_batches(shapes, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    config = tiny(shapes(train=7), train__batch_size=3)
    for dry_run in (True, False):
        with pytest.raises(ResightError, match="torchrun has started 4 processes") as caught:
            train(config, tmp_path, devices=2, dry_run=dry_run)
        assert caught.value.where == "--devices"
        with pytest.raises(ResightError, match="4 devices share a batch of 3"):
            train(config, tmp_path, dry_run=dry_run)


def test_the_error_of_one_process_is_what_is_told(shapes, tiny, tmp_path, capfd):
    config = tiny(shapes(broken=1, train=5), train__steps=50, train__batch_size=4, **PLAIN)
    with pytest.raises(ResightError, match="train-00000") as caught:
        train(config, tmp_path / "run", devices=2)
    assert "decode" in str(caught.value) or "image" in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.soak
@pytest.mark.parametrize("blow", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_processes_start_is_not_lost(shapes, tiny, tmp_path, blow):
    config = tiny(shapes(train=7), train__steps=5000, train__batch_size=4, **PLAIN)
    process = launched(toml(config), tmp_path / "run")
    while not processes_of(process):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    os.killpg(process.pid, blow)
    messages, _ = process.communicate(timeout=300)
    assert process.returncode == 75, messages
    assert load_checkpoint(tmp_path / "run" / LAST).state["step"] <= 2


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_after_a_signal_ends_processes_that_are_not_yet_started(monkeypatch, first):
    def slow(config, function):
        def run():
            time.sleep(0.5)
            child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
            child.start()
            child.join()
            return {0: None}

        return run

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", slow)
    for delay, number in ((0.1, first), (0.2, signal.SIGINT)):
        threading.Timer(delay, os.kill, (os.getpid(), number)).start()
    with pytest.raises(KeyboardInterrupt):
        launch(2, print)
    assert "launcher" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.soak
def test_a_training_that_diverges_ends_as_that_of_one_process(shapes, tiny, tmp_path):
    options = PLAIN | {"train__learning_rate": 1e12, "train__clip_norm": 0}
    process = launched(toml(tiny(shapes(train=7), train__steps=9, train__batch_size=4, **options)), tmp_path / "run")
    messages, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and "is not finite" in messages and "process 0 of 2" not in messages, messages


@pytest.mark.soak
@pytest.mark.parametrize("torchrun", [True, False])
def test_two_machines_train_one_run(shapes, tiny, tmp_path, free_port, torchrun):
    """As docs/cloud.md starts them: by a torchrun on each, or each process by itself, which then ends with 75."""
    config = tiny(shapes(train=7, val=3), train__steps=6 if torchrun else 5000, checkpoint__every_steps=2)
    (tmp_path / "two.toml").write_text(toml(config))
    launcher = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "first"]
    launcher = ["torch.distributed.run", *launcher, "--rdzv-endpoint", f"127.0.0.1:{free_port}", "-m"] * torchrun
    command = [sys.executable, "-m", *launcher, "resight", "train", "two.toml", "-o", "run", "--resume"]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}

    def start(rank):
        own = {} if torchrun else {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **own}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)

    both = [start(rank) for rank in range(2)]
    if not torchrun:
        wait_for(tmp_path / "run" / LAST, both[0])
        for process in both:
            process.send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == ([0, 0] if torchrun else [75, 75]), said
    assert load_checkpoint(tmp_path / "run" / LAST).state["step"] >= 2
