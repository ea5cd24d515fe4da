"""A study that can't be done says so in one line, before anything is trained."""

from pathlib import Path

import pytest

from exposure_logs import log, prepare_log
from genrank.cli import main
from miniatures import TINY


def refused(capsys: pytest.CaptureFixture[str], out: Path, *arguments: object) -> str:
    capsys.readouterr()
    assert main(["study", *(str(argument) for argument in arguments), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.strip()]
    assert captured.out == ""
    assert len(lines) == 1, captured.err
    assert not out.exists()
    return lines[0]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A log with neither content embeddings nor window statistics, prepared."""
    return prepare_log(tmp_path, log()).folder


def test_data_without_what_the_study_needs(bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert "--set statistics.enabled=true" in refused(capsys, out, "features", bare)
    assert 'kind "embedding"' in refused(capsys, out, "cold-start", bare)
    assert "[columns] known_at" in refused(capsys, out, "leakage", bare)
    assert main(["train", str(bare), "--recipe", "genrank-small", "--out", str(out), "--set", "leak=training"]) == 2
    assert "leak=training, and its actions have no times" in capsys.readouterr().err
    assert main(["train", str(bare), "--recipe", "grank-small", "--out", str(out), "--set", "leak=both"]) == 2
    assert "leak=both is for rankers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tabel1"], "did you mean 'table1'?"),
        (["table1", "--only", "genrnk"], "did you mean 'genrank'?"),
        (["table1", "--set", "model.widht=8"], "did you mean 'width'?"),
        (["table1", "--set", "model.width=9"], "num_heads"),
        (["table1", "--grid", "1e-3"], "PATH=VALUE,VALUE"),
        (["table1", "--grid", "training.rate=1,2"], "unknown key 'rate'"),
        (["table1", "--size", "huge"], "choices: small, full, paper"),
        (["overall", "--size", "tiny"], "small"),
        (["table1", "--seeds", "0"], "at least 1"),
        (["table1", "--minutes", "-1"], "minutes"),
        (["modules", "--size", "paper"], "choose small or full"),
    ],
)
def test_what_makes_no_sense(
    arguments: list[str], said: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = arguments
    assert said in refused(capsys, tmp_path / "out", name, world, *rest)


def test_a_folder_that_is_no_prepared_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "genrank prepare" in refused(capsys, tmp_path / "out", "table1", tmp_path / "nothing")


def test_a_setting_of_one_kind_of_ranker_is_for_that_kind(world: Path) -> None:
    from genrank.data.manifest import Manifest
    from genrank.errors import ConfigError
    from genrank.studies.bases import Bases

    bases = Bases(manifest=Manifest.load(world), settings=TINY)
    assert bases.recipe("genrank").model.num_blocks == 1
    assert bases.recipe("mlp").model.mlp == (8,)
    with pytest.raises(ConfigError, match="unknown key 'blocks'"):
        Bases(manifest=Manifest.load(world), settings=("model.blocks=1",)).recipe("mlp")
