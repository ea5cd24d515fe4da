"""README and the documentation: what they show can be done, what they name exists.

Sessions are executed from the first block to the last: `doc_sessions.py`.
"""

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from packaging.requirements import Requirement

import genrank
from doc_sessions import Session, blocks, commands
from genrank.cli.command_line import program, with_optional_values
from genrank.cli.new_config import DEFAULT
from genrank.config import override
from genrank.recipes import recipe
from genrank.schema import LogSchema

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROSE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "src").rglob("*.py"))]
NEEDS_CURL = pytest.mark.skipif(not shutil.which("curl"), reason="a session of the documentation needs curl")
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])


def test_what_is_said_to_be_installed_can_be() -> None:
    found = 0
    for path in PROSE:
        for argument in re.findall(r"pip install '([^']+)'", path.read_text(encoding="utf-8").replace("\\\\[", "[")):
            found += 1
            folder = re.fullmatch(r"\.\[(\w+)\]", argument)
            extras = {folder[1]} if folder else Requirement(argument.replace("{extra}", "all")).extras
            assert "@" not in argument, f"{path}: pip takes no local folder in {argument!r}; write '.[all]'"
            assert extras <= EXTRAS, f"{path}: {argument}"
    assert found > 5


def test_the_tests_that_security_rests_on_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) > 5
    assert not [name for name in named if not (ROOT / name).is_file()]
    assert "](SECURITY.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(page("README.md").splitlines()) <= 150
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_line_that_decides_what_a_candidate_sees_is_where_readme_says() -> None:
    readme, source = page("README.md"), page("src/genrank/data/request_index.py")
    function, line = "_fill_known", "end = np.searchsorted("
    assert f"`{line}…)` in `RequestIndex.{function}`" in readme
    (body,) = re.findall(rf"    def {function}\(.*?(?=\n    def |\n\n\n)", source, re.S)
    assert body.count(line) == 1
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for test in re.findall(r"`(test_\w+)`", readme):
        assert f"def {test}(" in tests


def test_readme_names_the_file_and_the_symbol_behind_a_new_task_and_behind_parity() -> None:
    pointers = {
        "src/genrank/schema.py": "class Task:",
        "tests/inference/test_ranking_engine.py": "test_a_stream_of_requests_and_events_scores_as_evaluation_does",
    }
    readme = page("README.md")
    for path, symbol in pointers.items():
        (paragraph,) = [each for each in re.split(r"\n\n|\n- ", readme) if f"]({path})" in each]
        assert f"`{symbol.removeprefix('class ').removesuffix(':')}`" in paragraph
        assert symbol in page(path)


def test_the_rooms_that_readme_lists_are_those_that_there_are() -> None:
    listed = set(re.findall(r"^      (\w+)/", page("README.md"), re.M))
    assert listed == {path.parent.name for path in (ROOT / "src" / "genrank").glob("*/__init__.py")}


def test_commands_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", page("Makefile"), re.M))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        assert set(re.findall(r"^\$ make ([a-z-]+)", path.read_text(encoding="utf-8"), re.M)) <= targets, path


OTHERS = {"curl", "make", "redis-server", "for", "bash", "python", ".venv/bin/pip"}  # programs that pages call


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_and_settings_that_a_page_shows_exist(path: Path) -> None:
    """Sessions are executed whole below; here no page is left out, and nothing takes time."""
    shown = [words for language, text in blocks(page(str(path))) if language == "console" for words in commands(text)]
    for words in (each for line in shown for each in _one_by_one(line)):
        if Path(words[0]).name == "genrank":
            end = words.index(">") if ">" in words else len(words)
            options = options_of(words[1:end])
            if words[1] == "train":
                override(recipe(options["recipe"] or DEFAULT), options["settings"] or [])
        else:
            assert words[0] in OTHERS, words
            assert words[0] != "python" or words[1].startswith("-") or (ROOT / words[1]).is_file(), words


def options_of(words: list[str]) -> dict[str, Any]:
    """The options of a command that isn't run. An error where the command or a flag is unknown, or one is missing."""
    group = program()
    outer = group.make_context("genrank", with_optional_values(words))
    name, command, rest = group.resolve_command(outer, [*outer._protected_args, *outer.args])
    return command.make_context(name, rest, parent=outer).params


def _one_by_one(words: list[str]) -> list[list[str]]:
    """The commands of a line that && joins."""
    joined: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            joined.append([])
        else:
            joined[-1].append(word)
    return joined


def test_whole_schemas_of_the_documentation_are_read(tmp_path: Path) -> None:
    found = 0
    for name in ("README.md", "docs/logs.md", "docs/tutorial.md"):
        for language, text in blocks(page(name)):
            if language == "toml" and "[columns]" in text and "\nname" in f"\n{text}".split("[columns]")[0]:
                (tmp_path / "schema.toml").write_text(text, encoding="utf-8")
                LogSchema.from_toml(tmp_path / "schema.toml")
                found += 1
    assert found == 3


def test_the_reference_has_every_public_name() -> None:
    listed = set(re.findall(r"^::: genrank\.(\w+)", page("docs/reference.md"), re.M))
    assert listed - {"errors"} == set(genrank.__all__) - {"__version__", "GenRankError"}


@pytest.mark.slow
def test_readmes_session(tmp_path: Path) -> None:
    with Session(tmp_path) as session:
        session.run(blocks(page("README.md"), section="A session"))
        _own_log(tmp_path)
        session.run(blocks(page("README.md"), section="Your own logs"))
    assert session.done.count("genrank train") == 2
    assert "python" in session.done
    assert (tmp_path / "runs" / "first" / "report.html").exists()


@pytest.mark.slow
@NEEDS_CURL
def test_the_tutorial(tmp_path: Path) -> None:
    with Session(tmp_path) as session:
        session.run(blocks(page("docs/tutorial.md")))
    assert {"genrank serve", "curl -s"} <= set(session.done)
    assert LogSchema.from_toml(tmp_path / "proposed.toml").columns == LogSchema.from_toml(tmp_path / "my.toml").columns
    assert session.done.count("python") == 3


@pytest.mark.slow
@NEEDS_CURL
def test_sessions_with_a_trained_demo(data: Path, tmp_path: Path) -> None:
    """The pages on retrieval and on serving begin after `make demo`, whose folder the small feed stands for."""
    (tmp_path / "demo").mkdir()
    shutil.copytree(data, tmp_path / "demo" / "data")
    with Session(tmp_path) as session:
        session.run([("console", "$ genrank train demo/data --recipe genrank-small --out demo/run")])
        shutil.copytree("demo/run", "runs/first")
        shutil.copytree("demo/data", "data")
        session.run(blocks(page("docs/serving.md"), section="From Python"))
        pq.write_table(pa.table({"user": ["u0000007"] * 2, "item": ["i0000012", "i0000030"]}), "candidates.parquet")
        session.run(blocks(page("docs/scoring.md")))
        session.run(blocks(page("docs/retrieval.md"), section="A session"))
        session.run(blocks(page("docs/retrieval.md"), section="Over HTTP"))
        session.run(blocks(page("docs/serving.md"), section="A session with curl"))
    assert session.done.count("genrank retrieve") == 2
    assert session.done.count("curl -s") == 5
    assert session.done.count("python") == 3
    assert len(pq.read_table(tmp_path / "scores.parquet")) == 2


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _own_log(folder: Path) -> None:
    """A log with the columns that README's schema names, from the session's feed."""
    feed = ds.dataset(folder / "feed" / "exposures").to_table()
    names = ["user_id", "item_id", "timestamp", "request_id", "click", "dwell_ms"]
    log = feed.select(names).rename_columns(["uid", "article", "shown_at", "page_view", "clicked", "dwell_ms"])
    author = pc.utf8_slice_codeunits(log["article"].cast(pa.string()), -1)
    (folder / "logs").mkdir()
    pq.write_table(log.append_column("author_id", author), folder / "logs" / "day.parquet")
