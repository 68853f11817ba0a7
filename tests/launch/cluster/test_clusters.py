"""The files of launch/files/clusters: valid as their readers see them, closed to the outside; Slurm's is run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from speaq import config as configs
from speaq.training.environment import versions
from tests.helpers.shared import ROOT
from tests.helpers.submissions import FOLDER, comments, submissions
from tests.helpers.tiny import assignments

TOGETHER = "nodes"  # starts nodes, see conftest

ray = pytest.importorskip("ray")
launcher = pytest.importorskip("ray.autoscaler._private.util")
runtime_env = pytest.importorskip("ray.runtime_env")
jsonschema = pytest.importorskip("jsonschema")

FILES = sorted(FOLDER.iterdir())
LAUNCHER = [FOLDER / "ray_aws.yaml", FOLDER / "ray_on_premise.yaml"]
KUBERNETES = [FOLDER / "kuberay_cluster.yaml", FOLDER / "kuberay_job.yaml"]
FAKE_SLURM = ROOT / "tests" / "clusters" / "slurm"


def name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_says_what_it_is_and_how_it_is_used(path: Path) -> None:
    assert len(comments(path)) > 4
    used = [line for line in comments(path) if f"launch/files/clusters/{path.name}" in line]
    assert used, "no command with the file in it"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_listens_to_the_outside_without_a_token(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    starts = re.findall(r"ray start --head.*|--head --port.*", text)
    assert all("--dashboard-host=127.0.0.1" in start for start in starts)
    if starts or "RayCluster" in text or "RayJob" in text:
        assert "RAY_AUTH_MODE=token" in text or "authOptions: {mode: token}" in text
    assert ("0.0.0.0" in text) == (path.name == "kuberay_job.yaml")  # its submitter is another pod


@pytest.mark.parametrize("path", LAUNCHER, ids=name)
def test_the_cluster_launcher_takes_its_files(path: Path) -> None:
    content = configs.read_yaml(path)
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(content, schema)
    launcher.validate_config(launcher.prepare_config(content))
    for commands in (content["head_start_ray_commands"], content["worker_start_ray_commands"]):
        assert subprocess.run(["bash", "-n"], input="\n".join(commands), text=True, check=False).returncode == 0
    wrong = content | {"head_start_commands": []}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


def manifests(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", KUBERNETES, ids=name)
def test_kubernetes_takes_its_files(path: Path) -> None:
    schema = json.loads((ROOT / "tests" / "clusters" / "kuberay.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    main, policy = manifests(path)
    for manifest in (main, policy):
        validator.validate(manifest)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(main | {"spec": main["spec"] | {"headGroupSpecs": {}}})
    cluster = main["spec"].get("rayClusterSpec", main["spec"])
    assert cluster["rayVersion"] == versions()["ray"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in [group["template"]["spec"] for group in groups]:
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert container["resources"]["requests"] == container["resources"]["limits"]
    labels = policy["spec"]["podSelector"]["matchLabels"]
    if main["kind"] == "RayJob":
        templates = [group["template"] for group in groups] + [main["spec"]["submitterPodTemplate"]]
        assert all(template["metadata"]["labels"] == labels for template in templates)
    else:
        assert labels == {"ray.io/cluster": main["metadata"]["name"]}


def test_the_job_file_is_one_that_ray_takes() -> None:
    content = configs.read_yaml(FOLDER / "job.yaml")
    assert runtime_env.RuntimeEnv(**content).env_vars() == content["env_vars"]
    entries = [words[words.index("--") + 1 :] for words in submissions()]
    assert [entry[3] for entry in entries] == ["doctor", "train", "tune", "tune", "reproduce"]
    for words in submissions():
        assert words[words.index("--runtime-env") + 1] == "launch/files/clusters/job.yaml"
        for word in words:
            if word.startswith(("configs/", "search_spaces/")):
                assert (ROOT / word).is_file()


def test_what_travels_is_small_and_has_no_data() -> None:
    ignored = (ROOT / ".rayignore").read_text().split()
    assert {".git", ".venv", "/data", "/runs", "*.pt", "*.h5", "*.jpg"} <= set(ignored)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sum((ROOT / file).stat().st_size for file in listed.split("\0") if file) < 20 * 2**20  # uploads end at 100


def test_the_image_is_built_from_files_that_are_there() -> None:
    text = (FOLDER / "Containerfile").read_text()
    copied = [word for line in text.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert {"requirements.lock", "pyproject.toml", "speaq", "launch", "configs", "search_spaces"} <= set(copied)
    assert all((ROOT / file).exists() for file in copied)
    pinned = re.findall(r"uv==[\d.]+", text)
    assert pinned == re.findall(r"uv==[\d.]+", (ROOT / "Makefile").read_text())


@pytest.mark.parametrize(
    ("there", "given", "called"),
    [
        (None, "tune --output OUT --trials 3", "tune --output OUT --trials 3"),
        ("study.yaml", "tune --output OUT --trials 3", "tune --resume OUT"),
        ("config.yaml", "train --data D --output OUT", "train --data D --output OUT --resume"),
        ("config.yaml", "reproduce --output OUT", "reproduce --output OUT"),
    ],
)
def test_a_job_that_is_started_again_goes_on(tmp_path: Path, there: str | None, given: str, called: str) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\nshift 2; echo "$@"\n')  # shows what it is called with
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "OUT").mkdir()
    if there is not None:
        (tmp_path / "OUT" / there).touch()
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    line = [str(FOLDER / "again.sh"), *given.split()]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == called


def slurm(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script as Slurm runs it on two nodes, both of which are this machine."""
    binaries = Path(sys.executable).parent
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHONPATH", "SLURM_"))}
    kept |= {"PATH": f"{FAKE_SLURM}:{binaries}:{kept['PATH']}", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    kept |= {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_SUBMIT_DIR": str(tmp_path)}
    script = [str(FOLDER / "slurm.sh"), *arguments]
    return subprocess.run(
        script, env=kept | environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=1500
    )


def test_the_slurm_script_is_bash_that_slurm_reads() -> None:
    script = FOLDER / "slurm.sh"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    text = script.read_text()
    options = re.findall(r"^#SBATCH (--[a-z-]+)", text, flags=re.MULTILINE)
    assert {"--nodes", "--ntasks-per-node", "--gpus-per-node", "--signal", "--requeue"} <= set(options)
    assert text.index("#SBATCH") < text.index("set -euo pipefail")  # Slurm stops to read at the first command


@pytest.mark.cluster
def test_the_slurm_script_starts_a_cluster_and_ends_with_the_outcome(toy: Path, tmp_path: Path) -> None:
    assert slurm(tmp_path).returncode == 2  # no command
    run = tmp_path / "run"
    config = tmp_path / "config.yaml"
    config.write_text("", encoding="utf-8")
    words = ["train", "--config", str(config), "--data", str(toy), "--output", str(run)]
    words += assignments(resources__num_workers=2, training__max_steps=3, training__decay_steps=[2])
    words += ["--set", "resources.cpus_per_worker=0.5"]
    done = slurm(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((run / "result.json").read_text())["cost"]["workers"] == 2
    assert not Path(f"/tmp/ray-{os.getpid()}").exists()
