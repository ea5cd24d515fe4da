from pathlib import Path

import pytest

from exposure_logs import START, Prepared
from genrank.errors import LogError
from genrank.preparation.prepare import prepare
from genrank.preparation.sources.movielens import movielens
from genrank.preparation.sources.public_data import published

FLAGS = "|".join(["0"] * 6 + ["1"] + ["0"] * 11 + ["1"])  # of 19: Crime and Western


def ratings(delimiter: str) -> str:
    return "".join(
        delimiter.join(map(str, (row % 3 + 1, row % 5 + 1, row % 4 + 2, START + row))) + "\n" for row in range(60)
    )


def write_100k(folder: Path) -> None:
    (folder / "u.data").write_text(ratings("\t"))
    movies = [f"{n}|Amélie\x85 (2001)|01-Jan-200{n}||http://x|{FLAGS}\n" for n in range(1, 5)]
    movies.append(f"5|unknown||||{'1' + '|0' * 18}\n")
    (folder / "u.item").write_text("".join(movies), encoding="latin-1")
    (folder / "u.user").write_text("1|24|M|writer|85711\n2|53|F|other|94043\n3|23|M|writer|32067\n")


def write_1m(folder: Path) -> None:
    (folder / "ratings.dat").write_text(ratings("::"))
    movies = "".join(f"{n}::Heat: Part {n} (200{n})::Crime|Western\n" for n in range(1, 6))
    (folder / "movies.dat").write_text(movies, encoding="latin-1")
    (folder / "users.dat").write_text("1::M::24::10::48067\n2::F::53::16::70072\n3::M::23::10::1\n")


def write_csv(folder: Path) -> None:
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + ratings(","))
    movies = "".join(f'{n},"Heat, Part {n} (200{n})",Crime|Western\n' for n in range(1, 5))
    (folder / "movies.csv").write_text("movieId,title,genres\n" + movies + "5,Untitled,(no genres listed)\n")


LAYOUTS = {"100k": write_100k, "1m": write_1m, "csv": write_csv}


@pytest.fixture(scope="module", params=sorted(LAYOUTS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp(request.param)
    LAYOUTS[request.param](folder)
    return Prepared(folder / "out", prepare(published("movielens", folder), out=folder / "out"))


def test_a_rating_of_four_is_a_like(made: Prepared) -> None:
    rows = made.rows()
    assert len(rows) == 60
    by_time = sorted(rows, key=lambda row: row["time"])
    assert [row["task_like"] for row in by_time[:4]] == [0, 0, 1, 1]
    assert [(row["user"], row["item"]) for row in by_time[:2]] == [("1", "1"), ("2", "2")]
    assert {value for value, _, _ in made.vocabulary("rating")} == {"2", "3", "4", "5"}


def test_movies_have_genres_and_years(made: Prepared) -> None:
    assert {value for value, _, _ in made.vocabulary("genres")} == {"Crime", "Western"}
    movies = made.table("items.parquet").to_pylist()
    assert sorted(movies[1]["genres"]) == [1, 2]
    years = [movie["year"] for movie in movies]
    assert years[1] < years[2] < years[4]
    assert years[0] == 0


def test_users_have_attributes_where_the_release_has_them(made: Prepared) -> None:
    names = {feature.name for feature in made.manifest.spec.of("user")}
    if made.manifest.schema.name == "movielens-csv":
        assert names == {"user_id"}
    else:
        assert names == {"user_id", "age", "gender", "occupation"}
        assert made.vocabulary("gender") == [("M", 1, 2), ("F", 2, 1)]


def test_movies_may_be_missing(tmp_path: Path) -> None:
    write_100k(tmp_path)
    (tmp_path / "u.item").unlink()
    manifest = prepare(movielens(tmp_path), out=tmp_path / "out")
    assert [feature.name for feature in manifest.spec.of("item")] == ["item_id"]


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"u\.data, ratings\.dat, ratings\.csv"):
        movielens(tmp_path)


def test_a_damaged_movie_file_names_the_line(tmp_path: Path) -> None:
    write_1m(tmp_path)
    (tmp_path / "movies.dat").write_text("1::Heat (1995)::Crime\nnonsense\n")
    with pytest.raises(LogError, match=r"movies\.dat, line 2"):
        prepare(movielens(tmp_path), out=tmp_path / "out")


@pytest.mark.realdata
def test_movielens_100k_is_split_at_its_quantiles(real_data: Path, tmp_path: Path) -> None:
    manifest = prepare(movielens(real_data / "ml-100k"), out=tmp_path / "out")
    counts = manifest.counts
    assert (counts.users, counts.items, counts.exposures) == (943, 1682, 100_000)
    assert (counts.train.exposures, counts.valid.exposures, counts.test.exposures) == (79_999, 10_001, 10_000)
    test = {
        row["user"] for row in Prepared(tmp_path / "out", manifest).rows() if row["time"] >= manifest.split.test_start
    }
    assert len(test) == 166
    assert manifest.warnings == ()
    assert len(Prepared(tmp_path / "out", manifest).vocabulary("genres")) == 18


@pytest.mark.realdata
def test_movielens_latest_is_read(real_data: Path, tmp_path: Path) -> None:
    counts = prepare(movielens(real_data / "ml-latest-small"), out=tmp_path / "out").counts
    assert (counts.users, counts.items, counts.exposures) == (610, 9742, 100_836)
