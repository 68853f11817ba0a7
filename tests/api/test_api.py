"""What `from speaq import …` gives: light until it is used, paths as text, results that show themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import networkx
import numpy as np
import pytest
from PIL import Image

import speaq
from speaq.config import Config, ConfigError
from speaq.table import Table, needed
from tests.helpers.shared import ROOT
from tests.helpers.tiny import TINY, tiny

NAMES = ["Predictor", "evaluate", "load_config", "load_data", "load_run", "load_study", "train"]
STUDY = ROOT / "tests" / "earlier" / "study"
SHORT = {"training.max_steps": 4, "training.decay_steps": [3], "training.eval_every": 2, "training.log_every": 1}


def printed(code: str, **environment: str) -> str:
    """By a new Python of this checkout."""
    own = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    words, env = [sys.executable, "-c", code], {**own, **environment}
    return subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT, env=env).stdout.strip()


def test_importing_it_loads_nothing_heavy_and_lists_what_there_is() -> None:
    code = "import sys, speaq; print(sorted({'torch', 'ray', 'numpy', 'matplotlib', 'pydantic'} & set(sys.modules)))"
    assert printed(code) == "[]"
    assert {*NAMES, "__version__"} <= {*dir(speaq)}
    assert {*NAMES, "__version__"} == {*speaq.__all__}
    for name in speaq.__all__:
        assert getattr(speaq, name)
    with pytest.raises(AttributeError, match="no attribute 'predictor'"):
        speaq.predictor  # noqa: B018
    assert speaq.__version__.count(".") == 2


def test_threads_wait_quietly_from_python_too_unless_the_user_says_otherwise() -> None:
    code = "from speaq.prediction.predictor import Predictor; import os; print(os.environ['OMP_WAIT_POLICY'])"
    assert printed(code) == "PASSIVE"
    assert printed(code, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"


def test_a_study_is_loaded_without_ray_optuna_and_torch() -> None:
    code = (
        f"import sys, speaq; study = speaq.load_study({str(STUDY)!r}); print(repr(study), study._repr_html_()[:3]); "
        "print(sorted({'ray', 'optuna', 'torch', 'numpy', 'launch'} & set(sys.modules)))"
    )
    assert printed(code).splitlines()[-1] == "[]"


def test_the_trials_of_a_study_are_a_table_whose_names_stay_text() -> None:
    study = speaq.load_study(str(STUDY))
    assert study.trials.column("trial") == ["0000", "0001", "0002", "0003"]
    assert study.trials[-1]["trial"] == "0003"
    pandas = pytest.importorskip("pandas")
    frame = study.trials.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["trial"].tolist() == ["0000", "0001", "0002", "0003"]
    assert tuple(frame.columns) == study.trials.columns
    assert study.best is not None
    assert study.best["trial"] == "0000"
    assert [row["trial"] for row in study.front] == ["0000", "0001", "0002", "0003"]  # none is better
    assert repr(study) == f"LoadedStudy({STUDY}: 4 of 4 trials finished, best F@50 0.0000 · trial 0000 (published))"
    assert "<td>0002</td>" in study._repr_html_()
    assert study.figure()._repr_png_().startswith(b"\x89PNG")
    assert study.run().folder == STUDY / "trials" / "0000"
    assert study.run("0002").config.training.max_steps == 120


def test_what_is_no_study_or_no_run_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'is a search; load_study\(".*"\)\.run\(\) is its best trial'):
        speaq.load_run(STUDY)
    with pytest.raises(ConfigError, match=r'is a run; load_run\(".*"\) opens it'):
        speaq.load_study(ROOT / "tests" / "earlier" / "run")
    with pytest.raises(ConfigError, match="no such folder"):
        speaq.load_study(tmp_path / "no")
    with pytest.raises(ConfigError, match=r"is no run \(it has no config\.yaml\)"):
        speaq.load_run(tmp_path)
    with pytest.raises(ConfigError, match=r"has no trial '3' \(nearest: '0003'\)"):
        speaq.load_study(STUDY).run("3")


@pytest.mark.parametrize("given", ["s3://bucket/STUDY", "gs://bucket/a/b", Path("s3://bucket/STUDY")])
def test_a_url_is_refused_with_what_takes_it(given: str | Path) -> None:
    for load in (speaq.load_study, speaq.load_run):
        with pytest.raises(ConfigError, match=r"^(s3|gs)://bucket/.*: is no folder of this machine; copy it here, or"):
            load(given)


def test_a_file_url_is_a_folder() -> None:
    assert len(speaq.load_study(f"file://{STUDY}").trials) == 4


def test_a_config_is_loaded_with_changes(tmp_path: Path) -> None:
    assert speaq.load_config() == Config()
    numbers = {"training.max_steps": np.int64(7), "data.train_sides": np.array([64]), "training.init_from": Path("x")}
    for given in (None, ROOT / "configs" / "speaq_vg.yaml"):
        found = speaq.load_config(given, {**numbers, "training.learning_rate": np.float64(1e-3)})
        assert found.training.max_steps == 7
        assert found.training.learning_rate == 1e-3
        assert found.data.train_sides == (64,)
        assert Path(found.training.init_from or "").name == "x"
        with pytest.raises(ConfigError, match=r"^changes: model\.hidden_dim: \{8\} is no number, text"):
            speaq.load_config(given, {"model.hidden_dim": {8}})
        with pytest.raises(ConfigError, match=r"^changes: 3: a key is text"):
            speaq.load_config(given, {3: 4})  # type: ignore[dict-item]
    file = tmp_path / "config.yaml"
    file.write_text("training:\n  max_steps: 9\n  decay_steps: [8]\n")
    config = speaq.load_config(str(file), {"training.learning_rate": 1e-05, "data.train_sides": [64, 96]})
    assert repr(config) == str(config)
    changed = "training.max_steps=9, training.learning_rate=1e-05, training.decay_steps=[8]"
    assert repr(config) == f"Config(data.train_sides=[64, 96], {changed})"
    with pytest.raises(ConfigError, match=r"training\.max_step: no such key"):
        speaq.load_config(file, {"training.max_step": 1})


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("api") / "run"
    trained = speaq.train(speaq.load_config(None, {**TINY, **SHORT}), str(toy), str(folder))
    assert (trained.folder, trained.status, trained.step) == (folder, "finished", 4)
    return str(folder)


def test_a_run_tells_what_it_came_to(run: str, toy: Path) -> None:
    loaded = speaq.load_run(run)
    assert loaded.data == toy
    assert loaded.metrics.keys() >= {"R@20", "mR@100"}
    assert repr(loaded).startswith(f"LoadedRun({run}: finished at step 4, best ")
    assert "<td>R@20</td>" in loaded._repr_html_()
    assert [row["step"] for row in loaded.history if "val/R@20" in row] == [2, 4]
    assert loaded.figure()._repr_png_().startswith(b"\x89PNG")
    assert repr(loaded.predictor()).endswith(f"best.pt: step {loaded.best_step}, 10 classes, 16 predicates, cpu)")


def test_a_run_that_has_no_result_yet_tells_its_last_evaluation(run: str, tmp_path: Path) -> None:
    for name in ("config.yaml", "metrics.jsonl"):
        (tmp_path / name).write_text((Path(run) / name).read_text())
    loaded = speaq.load_run(tmp_path)
    assert (loaded.status, loaded.step, loaded.best_step, loaded.data) == ("unfinished", 4, 4, None)
    assert loaded.metrics == {
        name[4:]: value
        for name, value in speaq.load_run(run).history[-1].items()
        if name.startswith("val/") and name != "val/seconds"
    }
    assert loaded.protocol == "sgdet published"


def test_evaluating_gives_what_the_run_noted(run: str, toy: Path, tmp_path: Path) -> None:
    loaded = speaq.load_run(run)
    result = speaq.evaluate(run, data=str(toy), predictions=str(tmp_path / "val.h5"))
    assert result.metrics["R@20"] == loaded.metrics["R@20"]
    assert (tmp_path / "val.h5").exists()
    assert repr(result).startswith("RunResult(val, 6 images, sgdet published: R@20 ")
    assert len(result.predicates) == 16
    assert "<td>images</td><td>6</td>" in result._repr_html_()
    assert loaded.evaluate("test").found.split == "test"
    assert speaq.evaluate(loaded, changes={"inference.nms_threshold": 0.3}).metrics


def test_several_workers_are_for_the_command(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"resources\.num_workers 2: .* use the command `speaq train`"):
        speaq.train(tiny(resources__num_workers=2), toy, tmp_path / "run")


def test_a_data_set_says_what_it_is(toy: Path) -> None:
    assert repr(speaq.load_data(str(toy))) == f"VisualGenome({toy}: 58 images with boxes, 10 classes, 16 predicates)"


@pytest.fixture(scope="module")
def predictor(run: str) -> speaq.Predictor:
    return speaq.Predictor.load(run)


def test_pictures_of_every_kind_are_predicted(predictor: speaq.Predictor, toy: Path) -> None:
    photo = sorted((toy / "VG_100K").glob("*.jpg"))[0]
    with Image.open(photo) as image:
        pixels = np.asarray(image.convert("RGB"))
    opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    wanted = predictor.predict(str(photo)).triplets
    for source in (photo, pixels, Image.fromarray(pixels), np.concatenate((pixels, opaque), axis=2)):
        assert predictor.predict(source).triplets == wanted
    assert predictor.predict(pixels[..., 0]).triplets == predictor.predict(Image.fromarray(pixels[..., 0])).triplets


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "NoneType is none of a path, a Pillow image and a NumPy array"),
        ([[0, 1]], "list is none of"),
        (np.zeros((3, 9, 9)), r"an array is \[height, width\] or \[height, width, 3\], not \[3, 9, 9\]"),
        (np.full((9, 9, 3), "a"), "pixels are numbers"),
        ("", "cannot be read"),
        ("no.jpg", "no such file"),
    ],
)
def test_what_is_no_picture_is_a_value_error(predictor: speaq.Predictor, source: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        predictor.predict(source)


def test_one_picture_is_no_list_of_them(predictor: speaq.Predictor) -> None:
    for one in ("a.jpg", Path("a.jpg"), Image.new("RGB", (9, 9)), np.zeros((9, 9, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"pictures: a list of them, not one .*; predict\(\) takes one"):
            list(predictor.predict_all(one))
    with pytest.raises(ValueError, match="batch_size: at least 1, not -1"):
        list(predictor.predict_all(["a.jpg"], batch_size=-1))
    with pytest.raises(ValueError, match="top: at least 0, not -1"):
        predictor.predict(np.zeros((9, 9, 3), np.uint8), top=-1)
    batch = np.zeros((2, 9, 9, 3), np.uint8)
    assert len(list(predictor.predict_all(batch))) == 2
    assert list(predictor.predict_all([])) == []


def test_a_prediction_is_printed_short_and_given_to_others(
    predictor: speaq.Predictor, toy: Path, tmp_path: Path
) -> None:
    photo = sorted((toy / "VG_100K").glob("*.jpg"))[0]
    found = predictor.predict(photo, top=7)
    assert repr(found).startswith(f"ImagePrediction({photo}: ")
    assert repr(found).endswith(f" things, {len(found.triplets)} triplets)")
    graph = found.to_networkx()
    assert isinstance(graph, networkx.MultiDiGraph)
    assert (len(graph), graph.number_of_edges()) == (len(found.things), len(found.triplets))
    assert {data["predicate"] for _, _, data in graph.edges(data=True)} == {t.predicate for t in found.triplets}
    assert found.table().column("score") == [t.score for t in found.triplets]
    if "pandas" in sys.modules:
        assert len(found.to_pandas()) == len(found.triplets)
    assert found._repr_png_().startswith(b"\x89PNG")
    assert found.picture(threshold=0.0).size == tuple((found.figure().get_size_inches() * 150).astype(int))
    found.save(str(tmp_path / "a.png"))
    with Image.open(tmp_path / "a.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved.convert("RGB")), np.asarray(found.picture()))


def test_what_is_not_installed_is_said_in_one_line() -> None:
    with pytest.raises(ImportError, match=r"^to_x\(\) needs no_such_library, which is not installed: pip install no_"):
        needed("no_such_library", "to_x()")


def test_a_table_shows_names_of_others_as_they_are() -> None:
    table = Table(({"a": "<b>\x1b[31m", "b": 0.123456}, {"a": "0000", "c": None}))
    assert table.columns == ("a", "b", "c")
    assert "&lt;b&gt;\\x1b[31m" in table._repr_html_()
    assert repr(table).splitlines() == [
        "a            b       c",
        "<b>\\x1b[31m  0.1235  -",
        "0000         -       -",
        "Table of 2 rows, 3 columns",
    ]
    assert len(table[1:]) == 1
    assert repr(Table(())) == "Table of 0 rows"
    assert "… 70 more rows" in Table(tuple({"n": n} for n in range(100)))._repr_html_()
    with pytest.raises(KeyError, match="there are a, b, c"):
        table.column("d")
