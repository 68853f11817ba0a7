"""How many workers an elastic run may have, and how a process ends when its cluster's head is lost: without Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest

from speaq import config as configs
from speaq.config import Config, ConfigError
from tests.helpers.shared import ROOT

pytest.importorskip("ray")

from launch.trials import elastic

HEAD = """
import socket, sys, threading, time
from launch.cluster import head
head.LOOK, head.LIMIT = 0.05, 0.5
server = socket.create_server(("127.0.0.1", 0))
with head.watched("127.0.0.1:%d" % server.getsockname()[1]):
    time.sleep(1.5)  # longer than the limit: it answers
    print("there", flush=True)
    if sys.argv[1] == "lost":
        server.close()
        time.sleep(60)
print("done", flush=True)
if sys.argv[1] == "left":
    server.close()
    time.sleep(1.5)  # nobody looks any more
"""


def elastic_config(most: int, least: int | None, **training: int | None) -> Config:
    changes = {f"training.{key}": value for key, value in training.items()}
    return configs.apply(Config(), {"resources.num_workers": most, "resources.min_workers": least, **changes})


def test_the_workers_of_an_elastic_run_take_equal_numbers_of_equal_parts() -> None:
    assert elastic.numbers(elastic_config(12, 2, batch_size=24)) == [12, 6, 4, 3, 2]
    assert elastic.numbers(elastic_config(12, None, batch_size=24)) == [12]
    config = elastic_config(4, 1, batch_size=24)
    assert elastic.with_same_parts(config, 4) == config
    for number in elastic.numbers(config)[1:]:
        training = elastic.with_same_parts(config, number).training
        assert (training.batch_size, training.micro_batch_size) == (24, 6)
    given = elastic_config(4, 1, batch_size=24, micro_batch_size=3)
    assert elastic.with_same_parts(given, 2) == given


def test_a_smallest_number_without_effect_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"resources: min_workers 4 has no effect with num_workers 4"):
        elastic_config(4, 4, batch_size=8)
    with pytest.raises(ConfigError, match=r"resources.min_workers"):
        elastic_config(4, 0, batch_size=8)


@pytest.mark.parametrize(("what", "code", "said"), [("lost", 1, "there"), ("left", 0, "there done")])
def test_a_process_ends_with_one_line_when_the_head_is_lost(what: str, code: int, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", HEAD, what], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (code, said.split()), done.stderr
    if what == "lost":
        (line,) = done.stderr.splitlines()
        assert line.startswith("speaq: Ray: the head at 127.0.0.1:")
        assert line.endswith("has not answered for 0.5 s; --resume goes on on another cluster")
    else:
        assert done.stderr == ""
