"""What is taken of a body, what is refused, and in which words."""

import json
from typing import Any

import msgspec
import pytest

from genrank.errors import RequestError
from genrank.server import openapi
from genrank.server.body_reading import BodyLimits, BodyReader, BodyTooLarge, MalformedBody
from genrank.server.docs_page import page
from genrank.server.wire import MAX_FEATURE_BYTES, EventsBody, ItemsBody, RankBody

LIMITS = BodyLimits(size=4 * 2**20, rows=2000, values=64)
ALL = openapi.RANKING + openapi.HEALTH + openapi.RETRIEVAL


def ranked(**changes: Any) -> Any:
    body = json.dumps({"user": "u", "candidates": ["i"], **changes}).encode()
    return BodyReader(RankBody, LIMITS).decode(body).query()


def test_a_request_is_what_was_sent() -> None:
    own = {"item": 7, "context": {"age": 1.5, "topics": {"rock": 1}, "new": True}}
    request = ranked(user=12, candidates=["a", own], context={"device": "phone", "age": None})
    assert (request.user, request.candidates) == ("12", ("a", "7"))
    assert request.context == {
        "device": "phone", "age": [None, 1.5], "topics": [None, {"rock": 1}], "new": [None, True],
    }  # fmt: skip
    assert ranked(context={"age": [1, 2.5], "topics": [["a"], []]}).context["topics"] == [["a"], []]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"user": ""}, "user: Expected str of length >= 1"),
        ({"user": True}, "user: Expected int | str, got bool"),
        ({"user": 2**63}, "user: Expected int <="),
        ({"user": "u" * 257}, "user: Expected str of length <= 256"),
        ({"candidates": []}, "candidates: Expected array of length >= 1"),
        ({"candidates": ["a", {"item": "b", "context": {"x": [[1]]}}]}, "candidates.1.context"),
        ({"candidates": ["a", {"context": {}}]}, "candidates.1.item: is missing"),
        ({"context": {"x": {"y": {"z": 1}}}}, "context: Expected"),
        ({"context": {"x": 2**63}}, "context: Expected int <="),
        ({"context": {"x": "t" * 4097}}, "context: Expected str of length <= 4096"),
        ({"context": {"x": [1] * MAX_FEATURE_BYTES}}, f"at most {MAX_FEATURE_BYTES} are taken"),
        ({"context": {"n" * 257: 1}}, "context: Expected str of length <= 256"),
        ({"time": 2**40}, "time: Expected int <="),
        ({"colour": 1}, "colour: there is no such field"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(MalformedBody) as problem:
        ranked(**changes)
    assert str(problem.value).startswith(said) or said in str(problem.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"user":' * 50_000,
        b'{"user": "\\ud800", "candidates": ["i"]}',
    ],
)
def test_what_is_no_json_of_that_kind_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError):
        BodyReader(RankBody, LIMITS).decode(body)


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"1e999", b"1" + b"0" * 5000, b'"\xff"', b"[" * 9_000])
def test_a_value_that_is_no_value_is_malformed(value: bytes) -> None:
    reader = BodyReader(EventsBody, LIMITS)
    with pytest.raises(MalformedBody):
        reader.decode(b'{"events":[{"user":"u","item":"i","time":1,"context":{"a":%s}}]}' % value).taken()


def test_a_callers_text_is_echoed_in_part() -> None:
    for body in (b'{"%s": 1}' % (b"x" * 100_000), b'{"user": "u", "candidates": [{"%s": 1}]}' % (b"\xc3\xa9" * 10_000)):
        with pytest.raises(MalformedBody) as problem:
            BodyReader(RankBody, LIMITS).decode(body)
        assert len(str(problem.value)) < 300


@pytest.mark.parametrize("mark", ["{}", "[]", '"a"'])
def test_more_structure_than_the_rows_can_need_is_refused_before_it_is_parsed(mark: str) -> None:
    many = ",".join([mark] * 140_000).encode()
    with pytest.raises(RequestError, match="at most"):
        BodyReader(RankBody, LIMITS).decode(b'{"user":"u","candidates":[%s]}' % many)


def test_a_large_body_is_refused_by_its_size() -> None:
    with pytest.raises(BodyTooLarge, match="send less at once"):
        LIMITS.check_size(LIMITS.size + 1)


def test_features_of_the_candidates_own_do_not_multiply() -> None:
    candidates = [{"item": str(n), "context": {f"f{n}": 1}} for n in range(129)]
    with pytest.raises(RequestError, match="129 different features, at most 128"):
        ranked(candidates=candidates)


def test_items_and_events_are_as_sent_and_named_by_their_place() -> None:
    items = (
        BodyReader(ItemsBody, LIMITS).decode(b'{"items":[{"item":1,"features":{"e":[1.5,2]}},{"item":"b"}]}').taken()
    )
    assert [(item.id, item.features) for item in items] == [("1", {"e": [1.5, 2]}), ("b", {})]
    wrong = b'{"items":[{"item":"a"},{"item":"b","features":{"e":[[1]]}}]}'
    with pytest.raises(MalformedBody, match=r"items\.1\.features"):
        BodyReader(ItemsBody, LIMITS).decode(wrong).taken()


def test_the_page_is_whole_in_itself() -> None:
    document = openapi.document(ALL)
    html = page(document)
    assert "http://" not in html and "https://" not in html and "//cdn" not in html  # noqa: PT018
    assert "<script" not in html and "<link" not in html and "<img" not in html  # noqa: PT018
    for each in ALL:
        assert f"{each.method.upper()} {each.path}" in html
    for name, schema in document["components"]["schemas"].items():
        assert f'id="{name}"' in html
        assert all(field in html for field in schema.get("properties", {}))


@pytest.mark.parametrize("each", [each for each in ALL if each.body is not None], ids=lambda each: each.name)
def test_the_pages_examples_are_taken(each: openapi.Operation) -> None:
    assert each.body is not None
    BodyReader(each.body, LIMITS).decode(msgspec.json.encode(each.example))
