"""What is done to trials, workers and nodes, and that nothing is lost by it."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from speaq import config as configs
from speaq.config import Config
from speaq.config.before_encoder import from_features
from speaq.data.features import read_header
from speaq.data.loading import train_loader
from speaq.data.visual_genome import open_data
from speaq.study import file
from speaq.training import checkpoint
from speaq.training.loop import train
from tests.helpers.listening import free_port
from tests.helpers.same_run import assert_same_run, timeless
from tests.helpers.shared import ROOT
from tests.helpers.tiny import tiny

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.search import messages
from launch.search import searcher as searches
from launch.search.messages import Died, Displaced, Ended, Failed, Finished, Halt, Stopped, TooLarge
from launch.store.workspace import Workspace
from launch.trials.outcomes import outcome_of
from launch.trials.trial import Job, Run
from speaq.files.locks import Taken
from speaq.study.errors import Halted, StorageLost
from speaq.training.endings import OutOfMemory
from tests.helpers.fake_tune import Fake, make_plan

pytestmark = pytest.mark.slow
SMALL = "tests.helpers.faulty_training:one_image_at_a_time"


def run_of(config: Config, toy: Path, folder: Path, train: str = file.TRAIN, **options: Any) -> Run:
    folder.mkdir(exist_ok=True)  # as the driver of a search makes it: trials make none above their own
    return Run(
        Job(str(toy), str(folder), "F@50", train, **options), {"config": configs.to_dict(config), "trial": "0000"}
    )


def outcome(run: Run) -> Ended:
    """Plays Tune until the trial ends."""
    while not (result := run.next()).get("done"):
        pass
    found = messages.outcome_of(result, died=False)
    assert not isinstance(found, Stopped)
    return found


def test_a_trial_that_is_too_large_goes_on_in_smaller_parts_of_the_same_batch(toy: Path, tmp_path: Path) -> None:
    ended = outcome(run_of(tiny(), toy, tmp_path, SMALL))
    assert isinstance(ended, Finished)
    assert ended.cost["micro_batch_size"] == 1
    kept = configs.load(tmp_path / "0000" / "config.yaml").training
    assert (kept.batch_size, kept.micro_batch_size) == (4, 1)
    train(tiny(training__micro_batch_size=1), toy, tmp_path / "by_one")
    assert_same_run(tmp_path / "by_one", tmp_path / "0000")


def test_a_trial_stays_too_large_where_memory_is_the_question_or_one_image_is_too_much(
    toy: Path, tmp_path: Path
) -> None:
    reason = "OutOfMemory: training.micro_batch_size: 4 images at once do not fit into the device's memory at step 0"
    ended = outcome(run_of(tiny(), toy, tmp_path / "whole", SMALL, in_parts=False))
    assert isinstance(ended, TooLarge)
    assert ended.reason.startswith(reason)
    none = "tests.launch.trials.test_faults:no_image_at_all"
    ended = outcome(run_of(tiny(), toy, tmp_path / "none", none))
    assert isinstance(ended, TooLarge)
    assert ended.reason.startswith(reason.replace("4 images", "1 images"))


def no_image_at_all(config: Config, data: Path, output: Path, **options: Any) -> dict[str, Any]:
    from speaq.training.endings import OutOfMemory

    share = config.training.micro_batch_size or config.training.batch_size
    raise OutOfMemory(
        f"training.micro_batch_size: {share} images at once do not fit into the device's memory at step 0"
    )


@pytest.fixture
def quiet_children() -> Iterator[None]:
    """PyTorch's loader, used in the main thread by a test before, leaves a handler that raises there."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGCHLD, before)


def test_a_killed_decoding_process_costs_an_attempt(toy: Path, tmp_path: Path, quiet_children: None) -> None:
    import psutil

    config = tiny(data__num_workers=1, data__cache_images=False, training__max_steps=12)
    before = set(psutil.Process().children())
    run = run_of(config, toy, tmp_path)
    assert run.next()["step"] == 3  # and waits; the process is batches ahead
    (decoding,) = set(psutil.Process().children()) - before
    decoding.kill()
    reason = "LoaderDied: data.num_workers: one of 1 processes that decode images was killed (too little memory?)"
    assert outcome(run) == Died(reason)
    ended = outcome(run_of(config, toy, tmp_path))
    assert isinstance(ended, Finished)
    assert ended.step == 12
    train(config, toy, tmp_path / "undisturbed")
    assert_same_run(tmp_path / "undisturbed", tmp_path / "0000")


def test_a_process_that_is_terminated_saves_its_trial_first(toy: Path, tmp_path: Path) -> None:
    config = tiny(training__max_steps=400, training__eval_every=400, training__decay_steps=[399], training__log_every=1)
    (tmp_path / "config.yaml").write_text(configs.dump(config))
    command = [sys.executable, "-m", "tests.helpers.faulty_training"]
    command += [str(tmp_path / "config.yaml"), str(toy), str(tmp_path / "trials")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "trials" / "0000" / "metrics.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < 3:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 128 + signal.SIGTERM, errors
    step = checkpoint.load(tmp_path / "trials" / "0000" / "checkpoints" / "last.pt")["step"]
    assert 3 <= step < 400  # there is no checkpoint by itself before 400
    lines = timeless(tmp_path / "trials" / "0000")
    assert lines[-1]["step"] == step  # no step is lost


def rank_of_two(rank: int, port: int, config: Config, toy: Path, output: Path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    train(config, toy, output, resume=True)
    dist.destroy_process_group()


def train_on_two(config: Config, toy: Path, output: Path) -> None:
    port = free_port()
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=rank_of_two, args=(rank, port, config, toy, output)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
    assert [process.exitcode for process in ranks] == [0, 0]


def test_workers_join_and_leave_between_checkpoints(toy: Path, tmp_path: Path) -> None:
    """Two, one, two: the batch over all workers and the learning rate of a step are those of the config."""
    options: dict[str, Any] = {"training__eval_every": 2, "training__log_every": 1, "training__decay_steps": [3]}
    one, two = (tiny(**options, resources__num_workers=number) for number in (1, 2))
    run = tmp_path / "run"
    train_on_two(configs.apply(two, {"training.max_steps": 2}), toy, run)
    train(configs.apply(one, {"training.max_steps": 4}), toy, run, resume=True)
    train_on_two(two, toy, run)
    train(one, toy, tmp_path / "one")

    def rates(folder: Path) -> list[tuple[int, float]]:
        lines = [line for line in timeless(folder) if "train/loss" in line]
        return [(line["step"], line["train/learning_rate"]) for line in lines]

    assert rates(run) == rates(tmp_path / "one")
    assert [step for step, _ in rates(run)] == [1, 2, 3, 4, 5, 6]
    split, images = open_data(toy).split("train", one.data), lambda batches: [i for b in batches for i in b.indices]
    alone = train_loader(split, one)
    ranks = [train_loader(split, one, rank, 2) for rank in (0, 1)]
    for _ in range(6):  # every step sees the same images
        assert sorted(images([next(alone)])) == sorted(images([next(rank) for rank in ranks]))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(28, "No space left on device"), Halt),
        (OSError(30, "Read-only file system"), Halt),
        (StorageLost("gone"), Halt),
        (Taken("an earlier attempt still writes here"), Displaced),
        (FileNotFoundError(2, "No such file"), Failed),
        (SystemExit(3), Failed),
        (ValueError("the loss\n is nan"), Failed),
        (OutOfMemory("too many images"), TooLarge),
    ],
)
def test_what_is_a_trial_s_own_failure_and_what_is_not(error: BaseException, kind: type[Ended], tmp_path: Path) -> None:
    found = outcome_of(error, tmp_path)
    assert type(found) is kind
    assert not isinstance(found, Finished)
    assert "\n" not in found.reason


def fails(config: Config, data: Path, output: Path, **options: Any) -> dict[str, Any]:
    raise RuntimeError("photo \udcff cannot be read")  # a name that is no UTF-8


def test_a_trial_says_how_it_ended_whatever_its_storage_says(toy: Path, tmp_path: Path) -> None:
    """Tune waits for it. As that of a mount that broke down, the name of this folder cannot even be looked up."""
    function = "tests.launch.trials.test_faults:fails"
    assert isinstance(outcome(run_of(tiny(), toy, tmp_path / "there", function)), Failed)
    assert r"photo \udcff cannot be read" in (tmp_path / "there" / "0000" / "error.txt").read_text()
    ended = outcome(run_of(tiny(), Path("/" + 300 * "x"), tmp_path / "away", function))
    assert isinstance(ended, Halt)
    assert "the data are not there any more" in ended.reason


def reads_features(config: Config, data: Path, output: Path, **options: Any) -> dict[str, Any]:
    return vars(read_header(Path(config.training.features or "")))


def test_damaged_features_are_no_trial_s_failure(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "features.json").write_text('{"format": ')
    config = from_features(tiny(), str(tmp_path / "features"))
    ended = outcome(run_of(config, toy, tmp_path / "trials", "tests.launch.trials.test_faults:reads_features"))
    assert isinstance(ended, Halt)
    assert ended.reason.startswith(f"{tmp_path / 'features' / 'features.json'} · cannot be read")


def test_a_failure_on_a_disk_that_cannot_be_written_is_the_disk_s(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from pathlib import Path
from launch.trials.outcomes import outcome_of
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
print(outcome_of(RuntimeError("written badly"), Path(sys.argv[1])))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    file = tmp_path / "error.txt"
    reason = f"OSError: [Errno 27] File too large: '{file}' (RuntimeError: written badly)"
    assert done.stdout == f"{Halt(reason)}\n", done


def test_a_search_whose_storage_is_lost_ends_and_keeps_its_trials(tmp_path: Path) -> None:
    tune = Fake(make_plan(trials=3), tmp_path)
    first, _ = tune.ask()
    lost = messages.final_result({}, Halt("OSError: [Errno 28] No space left on device"))
    tune.search.on_trial_complete(first, lost)
    assert isinstance(tune.search.error, Halted)
    assert str(tune.search.error) == "trial 0000: OSError: [Errno 28] No space left on device; --resume goes on"
    with pytest.raises(Halted):
        searches.Starts(tune.search).on_step_begin(1, [])
    assert not tune.entry(first).ended


def test_a_trial_is_given_up_where_it_dies_again_and_again_at_one_place(tmp_path: Path) -> None:
    tune = Fake(make_plan(trials=2), tmp_path)
    name, _ = tune.ask()
    for step in (10, 20, 30, 40):  # it gets on
        tune.report(name, step, 0.1)
        tune.search.on_trial_complete(name, None, error=True)
        name, again = tune.ask()
        assert again["trial"] == "0000"
    for _ in range(searches.MAX_DEATHS - 1):
        tune.search.on_trial_complete(name, messages.final_result({}, Died("LoaderDied: no")))
        name, again = tune.ask()
        assert again["trial"] == "0000"
    tune.search.on_trial_complete(name, messages.final_result({}, Displaced("FencedError: wait")))  # does not count
    name, again = tune.ask()
    tune.search.on_trial_complete(name, messages.final_result({}, Died("LoaderDied: no")))
    assert (tune.entry(name).state, tune.entry(name).reason) == ("failed", "LoaderDied: no")
    assert tune.entry(name).attempts == 5 + searches.MAX_DEATHS


def test_a_report_that_was_lost_is_told_again(toy: Path, tmp_path: Path) -> None:
    """Where a process ends between its checkpoint and the row of the ledger."""
    first = run_of(tiny(), toy, tmp_path)
    assert first.next()["step"] == 3
    first.stop()
    again = run_of(tiny(), toy, tmp_path)
    assert again.next()["step"] == 3
    ended = outcome(again)
    assert isinstance(ended, Finished)
    assert ended.step == 6


def test_a_report_that_is_told_again_is_no_progress(tmp_path: Path) -> None:
    tune = Fake(make_plan(trials=2), tmp_path)
    name, _ = tune.ask()
    for _ in range(searches.MAX_DEATHS):
        tune.report(name, 10, 0.1)
        tune.search.on_trial_complete(name, None, error=True)
        name, _ = tune.ask()
    tune.report(name, 10, 0.1)
    tune.search.on_trial_complete(name, None, error=True)
    assert tune.entry(name).state == "failed"
    assert list(tune.entry(name).reports) == [10]


def test_a_trial_that_gets_to_another_checkpoint_before_it_dies_is_not_given_up(tmp_path: Path) -> None:
    """On machines that are taken away again and again, each time after less than an evaluation."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    tune = Fake(make_plan(trials=2), tmp_path)
    tune.search = searches.Search(
        tune.plan, tune.ledger, checkpoint=lambda trial: Workspace().last_checkpoint(tmp_path)
    )
    name, _ = tune.ask()
    for step in range(4 * searches.MAX_DEATHS):
        if step % searches.MAX_DEATHS == 0:
            checkpoint.save(folder / checkpoint.LAST, {"step": step})
        tune.search.on_trial_complete(name, None, error=True)
        assert not tune.entry(name).ended
        name, _ = tune.ask()
    tune.search.on_trial_complete(name, None, error=True)
    assert tune.entry(name).state == "failed"


def test_as_many_trials_run_as_the_cluster_has_places_for_as_nodes_come_and_go(tmp_path: Path) -> None:
    places = 2
    tune = Fake(make_plan(trials=5), tmp_path)
    tune.search = searches.Search(tune.plan, tune.ledger, places=lambda: places)
    first, second = tune.ask()[0], tune.ask()[0]
    assert tune.ask()[1] is None
    places = 3
    third, suggestion = tune.ask()
    assert suggestion["trial"] == "0002"
    places = 0  # all are gone; what runs comes back
    tune.finish(first)
    assert tune.ask()[1] is None
    tune.finish(second)
    tune.finish(third)
    last = [tune.ask(), tune.ask()]  # one always waits, for the cluster to grow
    assert (last[0][1]["trial"], last[1][1]) == ("0003", None)
    places = 5
    fifth, _ = tune.ask()
    assert tune.ask()[1] is None  # a running one may have to be handed out again
    for name in (last[0][0], fifth):
        tune.finish(name)
    assert tune.ask()[1] == "FINISHED"
