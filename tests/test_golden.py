"""Every public golden case, and that the runner fails where numbers differ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.golden.__main__ import main
from tests.golden.case import Case, Check
from tests.golden.runner import describe, excess, read_index, run_case
from tests.helpers.shared import GOLDEN, SHARED, needs

OURS = read_index(GOLDEN)


def _others() -> list[Case]:
    """Of shared/golden, where it is, those that are not in `GOLDEN`."""
    known, folder = {case.name for case in OURS}, SHARED / "golden"
    return [case for case in read_index(folder) if case.name not in known] if folder.exists() else []


@pytest.mark.parametrize("case", [*OURS, *_others()], ids=lambda case: case.name)
def test_golden_case(case) -> None:
    outcome = run_case(case)
    assert outcome.ok, describe(outcome)


@needs("golden")
def test_the_cases_here_are_those_of_the_whole_set() -> None:
    whole = {case.name: case for case in read_index(SHARED / "golden")}
    for case in OURS:
        other = whole[case.name]
        assert (case.group, case.config, case.notes) == (other.group, other.config, other.notes)
        if case.file.suffix == ".json":
            assert case.content == other.content
            continue
        assert case.arrays.keys() == other.arrays.keys()
        for name, array in case.arrays.items():
            assert (array.dtype, array.shape, array.tobytes()) == (
                (theirs := other.arrays[name]).dtype,
                theirs.shape,
                theirs.tobytes(),
            )


def _altered_copy(name: str, directory: Path, array: str, change) -> None:
    entry = next(e for e in json.loads((GOLDEN / "index.json").read_text())["cases"] if e["name"] == name)
    with np.load(GOLDEN / entry["file"], allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays[array] = change(arrays[array])
    np.savez(directory / entry["file"], **arrays)
    (directory / "index.json").write_text(json.dumps({"format": 1, "set": "altered", "cases": [entry]}))


@pytest.mark.parametrize(
    ("name", "array", "change"),
    [
        ("g4_sgdet", "out.mR@50", lambda a: a + 1e-6),
        ("g4_sgdet", "out.matches", lambda a: a[:-1]),
        ("g4_sgdet", "in.pred_boxes", lambda a: a + 40),
        ("g5_small", "out.final_boxes", lambda a: a + 0.05),
        ("g5_small", "out.rel_pair_idxs", lambda a: a[::-1]),
        ("g5_small", "out.pred_rel_scores", lambda a: np.full_like(a, np.nan)),
    ],
)
def test_altered_numbers_fail(tmp_path: Path, capsys, name: str, array: str, change) -> None:
    _altered_copy(name, tmp_path, array, lambda a: a)
    assert main([str(tmp_path)]) == 0
    capsys.readouterr()
    _altered_copy(name, tmp_path, array, change)
    assert main([str(tmp_path)]) == 1
    case, closing = capsys.readouterr().out.splitlines()
    assert "FAIL" in case
    assert closing == "0 passed, 1 failed"


def test_missing_file_fails_that_case_only(tmp_path: Path, capsys) -> None:
    _altered_copy("g5_small", tmp_path, "out.scores", lambda a: a)
    index = json.loads((tmp_path / "index.json").read_text())
    index["cases"].append({"name": "gone", "group": "G5", "file": "gone.npz", "config": {}})
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert main([str(tmp_path), "--verbose"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "gone.npz" in lines[-2]
    assert lines[-1] == "1 passed, 1 failed"
    assert any("final_boxes" in line for line in lines)


def _index(directory: Path, group: str) -> str:
    case = {"name": "new", "group": group, "file": "new.npz", "config": {}}
    (directory / "index.json").write_text(json.dumps({"cases": [case]}))
    return str(directory)


def test_group_without_module_fails(tmp_path: Path, capsys) -> None:
    assert main([_index(tmp_path, "G99")]) == 1
    assert "not implemented" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ("[]", "cases"),
        ('{"cases": []}', "cases"),
        ('{"cases": [{"name": "a", "group": "G1"}]}', "case 0: file"),
        ('{"cases": [3]}', "case 0"),
    ],
)
def test_unreadable_directory_is_one_line_and_code_2(tmp_path: Path, capsys, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "index.json").write_text(text)
    assert main([str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_unknown_group_is_refused(tmp_path: Path, capsys) -> None:
    assert main([_index(tmp_path, "G1"), "--group", "G7"]) == 2
    assert "G7" in capsys.readouterr().err


def test_errors_count_in_units_of_the_tolerance() -> None:
    assert excess(Check("a", 0.5, 2.0)) == 0.25
    assert excess(Check("a", 0.0)) == 0.0
    assert excess(Check("a", 1e-30)) == float("inf")
    assert not Check("a", float("nan"), 1.0).ok
    assert excess(Check("a", float("nan"), 1.0)) == float("inf")
