"""The functions of `import genrank`: what the commands do, as calls."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import genrank
from conftest import TINY
from genrank.errors import ConfigError, InputError, SchemaError

SETTINGS = [value for flag, value in itertools.pairwise(TINY) if flag == "--set"] + ["training.epochs=1"]


def test_every_public_name_is_there_and_none_imports_torch_before_it_is_used() -> None:
    assert all(getattr(genrank, name) is not None for name in genrank.__all__)
    assert set(genrank.__all__) == {*genrank._HOMES, "__version__"}
    code = "import sys, genrank; genrank.Client, genrank.LogSchema; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        _ = genrank.trane


def test_the_whole_way_in_python_is_that_of_the_commands(feed: Path, run: Path, tmp_path: Path) -> None:
    told: list[str] = []
    data = genrank.prepare(feed / "exposures", schema=feed / "schema.toml", out=tmp_path / "data", report=told.append)
    assert isinstance(data, genrank.PreparedData)
    assert told
    made = genrank.train(data, recipe="genrank-small", settings=SETTINGS, out=tmp_path / "run")
    assert made.config == genrank.Run.open(run).config
    assert made.data == data.folder.resolve()
    assert not made.retrieves
    ours, theirs = (load_file(next((folder / "bundle").glob("*/model.safetensors"))) for folder in (made.folder, run))
    assert all((ours[name] == theirs[name]).all() for name in theirs)

    report = genrank.evaluate(made)
    assert 0 < report.tasks["click"]["auc"] < 1
    ranker = genrank.load(made)
    assert isinstance(ranker, genrank.GenRanker)
    items = data.items.ids.to_pylist()[1:4]
    user = data.users.ids.to_pylist()[1]
    assert {each.item for each in ranker.rank(user, items).places} == set(items)
    assert genrank.train(data, out=made.folder, resume=True) == made


def test_a_retriever_is_judged_and_loaded_as_one(grank: Path) -> None:
    assert genrank.Run.open(grank).retrieves
    assert isinstance(genrank.load(grank), genrank.GenRetriever)
    assert "recall" in str(genrank.evaluate(grank, part="valid"))


def test_calls_that_make_no_sense_say_so_in_one_line_and_leave_nothing(feed: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wrong = [
        (lambda: genrank.prepare(feed / "exposures", out=out), ConfigError, "give one of the two"),
        (lambda: genrank.prepare(feed / "exposures", schema=feed / "schema.toml"), ConfigError, "give one of both"),
        (
            lambda: genrank.prepare(feed / "exposures", schema=feed / "schema.toml", extend=out),
            InputError,
            "no prepared",
        ),
        (lambda: genrank.prepare(["a", "b"], source="movielens", out=out), ConfigError, "found 2 paths"),
        (lambda: genrank.prepare(feed / "exposures", schema="no.toml", out=out), SchemaError, "no.toml"),
        (lambda: genrank.train(data, recipe="genrank-smal", out=out), ConfigError, "did you mean 'genrank-small'"),
        (lambda: genrank.train(data, settings=["model.widht=8"], out=out), ConfigError, "did you mean 'width'"),
        (lambda: genrank.train(tmp_path / "nothing", out=out), InputError, "nothing"),
        (lambda: genrank.evaluate(tmp_path / "nothing"), InputError, "nothing"),
        (lambda: genrank.load(tmp_path / "nothing"), InputError, "nothing"),
    ]
    for call, error, said in wrong:
        with pytest.raises(error, match=said) as raised:
            call()
        assert "\n" not in str(raised.value)
        assert not out.exists()


def test_a_run_that_goes_on_takes_no_other_settings(data: Path, run: Path) -> None:
    with pytest.raises(ConfigError, match="start a new run"):
        genrank.train(data, out=run, resume=True, settings=["model.width=8"])
