import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import engine_job
import numpy as np
import pytest
import torch
from msgspec.structs import replace

from medfm_compress.compress.training import prefetch as feeding
from medfm_compress.compress.training.ema import ExponentialMovingAverage, decay_at
from medfm_compress.compress.training.loop import train
from medfm_compress.compress.training.prefetch import Prefetcher, plan_epoch
from medfm_compress.compress.training.schedule import rate
from medfm_compress.early_refusals import refuse_to_overwrite
from medfm_compress.runtime.device.lock import exclusive
from medfm_compress.runtime.errors import InputError

SCRIPT = Path(engine_job.__file__)
CASES, CONFIG, SIZE, Learner = engine_job.CASES, engine_job.CONFIG, engine_job.SIZE, engine_job.Learner
make_job, network = engine_job.make_job, engine_job.network


def quiet(text):
    pass


def test_a_second_training_in_one_folder_is_refused(tmp_path):
    checkpoint = tmp_path / "training" / "checkpoint.pt"
    checkpoint.parent.mkdir()
    with exclusive(checkpoint.with_suffix(".lock")):
        with pytest.raises(InputError, match=r"another process trains in .*training; try again"):
            train(make_job(checkpoint), CONFIG, quiet)
        with pytest.raises(InputError, match=r"another process trains in .*training; try again"):
            refuse_to_overwrite(tmp_path, overwrite=True)
    assert not checkpoint.exists()
    refuse_to_overwrite(tmp_path, overwrite=False)  # the file alone locks nothing
    assert len(train(make_job(checkpoint), replace(CONFIG, epochs=1), quiet).history) == 1


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(single, other):
    return all(torch.equal(single[name], other[name]) for name in single)


def curve(trained):
    return [row["loss"] for row in trained.history]


def run_script(folder, name, delay_s=0.0, dropout=0.1, wrapper=()):
    python = [sys.executable] if not wrapper else list(wrapper)
    arguments = [str(SCRIPT), str(folder / f"{name}.pt"), str(folder / name), str(delay_s), str(dropout)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*python, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process, timeout_s=180):
    """What it said; it must have ended well."""
    message = process.communicate(timeout=timeout_s)[0]
    assert process.returncode == 0, message
    return message


def read(folder, name, rank=0):
    return json.loads((folder / f"{name}.{rank}").read_text())


def test_it_learns_and_keeps_the_best_average():
    trained = train(make_job(), replace(CONFIG, epochs=6), quiet)
    assert trained.history[-1]["loss"] < trained.history[0]["loss"]
    assert trained.best == max(row["score"] for row in trained.history)
    job = make_job()
    assert trained.best == pytest.approx(job.score(trained.network), abs=1e-5)


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not():
    single, two = (weights(train(make_job(), CONFIG, quiet).network) for _ in range(2))
    other = weights(train(make_job(), replace(CONFIG, seed=1), quiet).network)
    assert same(single, two)
    assert not same(single, other)


def test_a_run_killed_within_an_epoch_goes_on_to_the_same_weights(tmp_path):
    finish(run_script(tmp_path, "whole"))
    killed = run_script(tmp_path, "killed", delay_s=0.3)
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.7)  # a few more steps: 5 steps of 0.3 s make an epoch
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    state = torch.load(tmp_path / "killed.pt", weights_only=True)
    assert not (tmp_path / "killed.0").exists()
    assert len(state["history"]) < CONFIG.epochs
    lines = finish(run_script(tmp_path, "killed"))
    assert "resuming after epoch" in lines
    assert read(tmp_path, "killed") == read(tmp_path, "whole")


def test_two_processes_follow_the_curve_of_one(tmp_path):
    one = train(make_job(dropout=0.0), CONFIG, quiet)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    lines = finish(run_script(tmp_path, "two", dropout=0.0, wrapper=torchrun))
    actual = read(tmp_path, "two")
    np.testing.assert_allclose([row["loss"] for row in actual[0]], curve(one), rtol=1e-3)
    assert read(tmp_path, "two", rank=1) == actual  # both hold the same network
    assert lines.count("epoch   1/3") == 1  # only the first process speaks


def test_accumulation_gives_the_step_of_the_whole_batch():
    whole = train(make_job(dropout=0.0), CONFIG, quiet)
    parts = train(make_job(dropout=0.0), replace(CONFIG, micro_batch=3), quiet)
    np.testing.assert_allclose(curve(parts), curve(whole), rtol=1e-4)


def test_a_micro_batch_as_large_as_the_batch_changes_nothing():
    whole = train(make_job(), CONFIG, quiet)
    parts = train(make_job(), replace(CONFIG, micro_batch=8), quiet)
    assert same(weights(whole.network), weights(parts.network))


def test_it_stops_when_the_score_stays_away():
    job = make_job()
    scores = iter([0.5, 0.9, 0.1, 0.2, 0.3, 0.4, 0.5])
    lines = []
    stopped = train(
        type(job)(**{**vars(job), "score": lambda network: next(scores)}),
        replace(CONFIG, epochs=20, patience=3),
        lines.append,
    )
    assert len(stopped.history) == 5
    assert stopped.best == 0.9


def test_a_loss_that_is_not_finite_is_an_error():
    class Broken(Learner):
        def forward(self, batch):
            return super().forward(batch) * float("nan")

    job = make_job()
    with pytest.raises(InputError, match="the loss became nan in epoch 1; lower --learning-rate"):
        train(type(job)(**{**vars(job), "learner": Broken(job.network)}), CONFIG, quiet)


def test_memory_that_does_not_suffice_says_what_to_lower():
    class Greedy(Learner):
        def forward(self, batch):
            raise torch.OutOfMemoryError("CUDA out of memory")

    job = make_job()
    greedy = type(job)(**{**vars(job), "learner": Greedy(job.network)})
    with pytest.raises(InputError, match=r"with 8 images of \(1, 32, 32\) at once; give --micro-batch 4"):
        train(greedy, CONFIG, quiet)


def test_too_few_cases_for_the_processes(monkeypatch):
    job = make_job()
    few = type(job)(**{**vars(job), "images": job.images[:1]})
    with pytest.raises(InputError, match="too few"):
        train(few, CONFIG, quiet)


def test_a_checkpoint_of_another_job_is_not_used(tmp_path):
    job = make_job(tmp_path / "c.pt")
    train(job, replace(CONFIG, epochs=1), quiet)
    lines = []
    other = type(job)(**{**vars(make_job(tmp_path / "c.pt")), "fingerprint": "another"})
    train(other, replace(CONFIG, epochs=1), lines.append)
    assert not any("resuming" in line for line in lines)


def test_a_damaged_checkpoint_is_not_used(tmp_path):
    (tmp_path / "c.pt").write_bytes(b"not a checkpoint")
    assert len(train(make_job(tmp_path / "c.pt"), replace(CONFIG, epochs=1), quiet).history) == 1


def test_event_files_for_tensorboard(tmp_path):
    train(make_job(), replace(CONFIG, tensorboard=str(tmp_path)), quiet)
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(
        str(tmp_path)
    )
    events.Reload()
    assert len(events.Scalars("loss/epoch")) == CONFIG.epochs


def test_every_case_is_dealt_once_and_parts_are_even():
    plan = plan_epoch(21, 8, 3, seed=0, epoch=0)
    dealt = torch.cat([index for parts in plan.steps for index in parts])
    assert sorted(dealt.tolist()) == list(range(21))
    assert plan.sizes == (8, 8, 5)
    assert [[len(part) for part in parts] for parts in plan.steps] == [[3, 3, 2], [3, 3, 2], [3, 2]]
    other = plan_epoch(21, 8, 3, seed=0, epoch=1)
    assert not torch.equal(other.steps[0][0], plan.steps[0][0])


def test_a_rest_of_one_case_is_left_out():
    assert plan_epoch(17, 8, 0, seed=0, epoch=0).sizes == (8, 8)


def test_processes_share_each_batch(monkeypatch):
    seen = []
    for rank in range(2):
        monkeypatch.setattr(feeding, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(feeding, "world_size", lambda: 2)
        seen.append(plan_epoch(20, 8, 0, seed=3, epoch=2))
    together = [torch.cat([a[0], b[0]]).tolist() for a, b in zip(seen[0].steps, seen[1].steps, strict=True)]
    monkeypatch.setattr(feeding, "world_size", lambda: 1)
    monkeypatch.setattr(feeding, "rank", lambda: 0)
    alone = plan_epoch(20, 8, 0, seed=3, epoch=2)
    assert [sorted(step) for step in together] == [sorted(parts[0].tolist()) for parts in alone.steps]


def test_the_feed_counts_waiting_and_hands_errors_on():
    job = make_job()

    def slow(index, epoch):
        time.sleep(0.05)
        return {}

    plan = plan_epoch(CASES, 8, 0, seed=0, epoch=0)
    starved = Prefetcher(type(job)(**{**vars(job), "extras": slow}), plan, 0, 0, pin=False)
    assert len(list(starved)) == 5
    assert starved.waited > 0.15
    fed = Prefetcher(job, plan, 0, 0, pin=False)
    for _ in fed:
        time.sleep(0.02)  # the device is busy meanwhile
    assert fed.waited < 0.05

    def broken(index, epoch):
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        list(Prefetcher(type(job)(**{**vars(job), "extras": broken}), plan, 0, 0, pin=False))


def test_schedule():
    rates = [rate(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.01 + 0.99 * 0.5)
    assert rates[-1] < 0.011


def test_average_against_the_formula():
    single, other = network(), network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    before = weights(single)
    ExponentialMovingAverage(single, other).update(0.75)
    for name, value in weights(single).items():
        torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * other.state_dict()[name])
    assert decay_at(0, 0.995) == pytest.approx(0.1)
    assert decay_at(100_000, 0.995) == 0.995


def test_images_have_the_size_the_job_says():
    assert make_job().images.shape == (CASES, 1, SIZE, SIZE)
