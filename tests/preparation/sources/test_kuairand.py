from pathlib import Path

import pytest

from exposure_logs import START, Prepared, messages
from genrank.errors import LogError
from genrank.preparation.prepare import prepare
from genrank.preparation.sources.kuairand import kuairand

LOG = "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,long_view,play_time_ms,duration_ms,tab,is_rand"
KCORE = (
    *("user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_follow", "long_view"),
    *("play_time_ms", "duration_ms", "label"),
)


def log_lines(rows: range) -> str:
    lines = [
        f"{n % 3},{n % 5},20220408,{n % 24 * 100},{(START + n) * 1000 + 7},{n % 2},{int(n % 7 == 0)},0,"
        f"{int(n % 3 == 0)},{n * 1000},{5000},{n % 2},0"
        for n in rows
    ]
    return LOG + "\n" + "".join(line + "\n" for line in lines)


def write(folder: Path, *, side_tables: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log_standard_4_08_to_4_21_pure.csv").write_text(log_lines(range(40)))
    (folder / "log_random_4_22_to_5_08_pure.csv").write_text(log_lines(range(40, 60)))
    if side_tables:
        (folder / "video_features_basic_pure.csv").write_text(
            "video_id,author_id,video_type,upload_type,video_duration,music_id,music_type,tag\n"
            '0,70,NORMAL,Kmovie,1000.0,9,9.0,"39,8"\n1,71,NORMAL,Kmovie,2000.0,9,9.0,8\n9,72,AD,Web,3000.0,8,4.0,\n'
        )
        (folder / "user_features_pure.csv").write_text(
            "user_id,user_active_degree,is_video_author,follow_user_num_range,onehot_feat0\n"
            '0,full_active,1,"(10,50]",0\n1,high_active,0,0,1\n'
        )
    return folder


def prepared(folder: Path) -> Prepared:
    out = folder.parent / "out"
    return Prepared(out, prepare(kuairand(folder), out=out))


def test_feedback_columns_become_tasks_and_constant_ones_are_left_out(tmp_path: Path) -> None:
    manifest = prepared(write(tmp_path / "k")).manifest
    assert [task.name for task in manifest.spec.tasks] == ["click", "long_view", "like", "play_time"]
    assert "task 'follow' is left out: training has one class only" in messages(manifest)


def test_the_random_log_is_read_with_the_standard_one_in_seconds(tmp_path: Path) -> None:
    rows = sorted(prepared(write(tmp_path / "k" / "data").parent).rows(), key=lambda row: row["time"])
    assert [row["time"] for row in rows] == [START + n for n in range(60)]
    assert [row["task_play_time"] for row in rows[:3]] == [0.0, 1.0, 2.0]


def test_side_tables_give_authors_tags_and_durations(tmp_path: Path) -> None:
    made = prepared(write(tmp_path / "k"))
    assert made.vocabulary("tag") == [("8", 1, 2), ("39", 2, 1)]
    assert made.vocabulary("author_id") == [("70", 1, 1), ("71", 2, 1)]
    assert made.vocabulary("user_active_degree") == [("full_active", 1, 1), ("high_active", 2, 1)]
    items = {row["id"]: row for row in made.table("items.parquet").to_pylist()}
    assert items["0"]["tag"] == [2, 1]
    assert items["4"]["video_duration"] == 0
    assert items["9"]["first_time"] is None


def test_without_side_tables_the_logs_own_duration_is_a_feature_of_the_video(tmp_path: Path) -> None:
    made = prepared(write(tmp_path / "k", side_tables=False))
    assert [feature.name for feature in made.manifest.spec.of("item")] == ["item_id", "video_duration"]
    assert made.table("items.parquet")["video_duration"].to_pylist()[1:] == [1] * 5


@pytest.mark.parametrize("side_tables", [True, False])
def test_play_times_are_grouped_by_the_videos_duration(tmp_path: Path, side_tables: bool) -> None:
    spec = prepared(write(tmp_path / "k", side_tables=side_tables)).manifest.spec
    play, length = spec.tasks[-1], next(feature for feature in spec.of("item") if feature.name == "video_duration")
    assert (play.name, play.group) == ("play_time", "video_duration")
    assert len(play.group_quantiles) == length.size


def test_hours_are_whole(tmp_path: Path) -> None:
    hours = {value for value, _, _ in prepared(write(tmp_path / "k")).vocabulary("hour")}
    assert hours == {str(hour) for hour in range(24)}


def test_the_k_core_file_has_likes_as_labels(tmp_path: Path) -> None:
    rows = [(n % 3, n % 5, 0, 0, (START + n) * 1000, n % 2, 0, 0, 900, 0, int(n % 4 > 0)) for n in range(60)]
    text = "\t".join(KCORE) + "\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows)
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "kcore.tsv").write_text(text)
    manifest = prepared(tmp_path / "k").manifest
    assert [task.name for task in manifest.spec.tasks] == ["click", "like", "play_time"]
    assert manifest.counts.train.positives["like"] == 36


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="log_standard"):
        kuairand(tmp_path)


@pytest.mark.realdata
def test_the_k_core_subset_is_read(real_data: Path, tmp_path: Path) -> None:
    manifest = prepare(kuairand(real_data / "kuairand-27k-subset"), out=tmp_path / "out")
    assert manifest.source["rows"] == 41_828
    assert manifest.counts.users == 664
    assert manifest.counts.items == 9359
    assert manifest.counts.exposures + manifest.dropped["duplicate"] == 41_828


@pytest.mark.realdata
def test_the_published_side_tables_join_a_log(real_data: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "k", side_tables=False)
    for path in (real_data / "kuairand-pure-features").glob("*.csv"):
        (folder / path.name).symlink_to(path)
    made = prepared(folder)
    assert made.manifest.counts.items == 7583
    assert made.manifest.counts.users == 27_285
    assert len(made.manifest.spec.of("user")) == 27


@pytest.mark.parametrize("old", [10, 40, 3000])
def test_logs_one_after_the_other_lose_no_row_in_silence(tmp_path: Path, old: int) -> None:
    folder = write(tmp_path / "k", side_tables=False)
    log = folder / "log_standard_4_08_to_4_21_pure.csv"
    newer = "".join(f"{line},{more}\n" for line, more in zip(log_lines(range(50)).splitlines(), "v" * 51, strict=True))
    log.write_text(log_lines(range(old)) + newer)
    with pytest.raises(LogError, match=rf"pure\.csv, line {old + 2}: expected 13 values.*found 14.*column names"):
        prepared(folder)


def test_a_line_before_the_column_names_is_not_passed_over(tmp_path: Path) -> None:
    folder = write(tmp_path / "k", side_tables=False)
    log = folder / "log_random_4_22_to_5_08_pure.csv"
    log.write_text("# exported 2026-11-27\n" + log.read_text())
    with pytest.raises(LogError, match=r"expected the columns of|line 2"):
        prepared(folder)


def test_a_word_in_a_column_of_numbers_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "k", side_tables=False)
    log = folder / "log_standard_4_08_to_4_21_pure.csv"
    log.write_text(log_lines(range(40_000)) + "1,1,20220408,0,soon,1,0,0,1,1000,5000,1,0\n")
    with pytest.raises(LogError, match=r"line 40002: expected a number in column 'time_ms', found 'soon'"):
        prepared(folder)
