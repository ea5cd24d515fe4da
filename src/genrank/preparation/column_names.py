"""Names by which logs call their columns, for `genrank schema`'s guesses."""

import re
from collections.abc import Iterable, Sequence

from genrank.preparation.column_facts import ColumnFacts

USER = (
    "user_id", "userid", "user", "uid", "usr", "member_id", "customer_id", "visitor_id", "visitorid", "account_id",
    "viewer_id", "reader_id", "client_id", "profile_id", "member", "customer", "visitor", "viewer", "reader", "u",
    "device_id", "cookie_id",
)  # fmt: skip
ITEM = (
    "item_id", "itemid", "item", "iid", "video_id", "videoid", "movie_id", "movieid", "article_id", "article",
    "news_id", "product_id", "product", "sku", "asin", "photo_id", "post_id", "note_id", "feed_id", "feedid",
    "doc_id", "document_id", "song_id", "track_id", "book_id", "isbn", "ad_id", "creative_id", "listing_id",
    "job_id", "offer_id", "business_id", "poi_id", "content_id", "book", "movie", "video", "track", "song", "i",
    "vid", "pid", "aid",
)  # fmt: skip
SHOWN = (
    "inview", "impressions", "shown", "shown_items", "items", "slate", "candidates", "exposed",
    "article_ids_inview",
)  # fmt: skip
PAST = frozenset({"history", "hist", "past", "previous"})
PAST_OF = frozenset({"item", "items", "article", "articles", "news", "video", "videos", "id", "ids", "user", "list"})
TIME = (
    "timestamp", "time", "ts", "datetime", "date_time", "event_time", "shown_at", "impression_time",
    "exposure_time", "time_ms", "timestamp_ms", "time_stamp", "event_timestamp", "created_at", "server_time",
    "local_time", "occurred_at", "logged_at", "t", "date", "day",
)  # fmt: skip
REQUEST = (
    "request_id", "requestid", "request", "req_id", "req", "page_view_id", "page_view", "pageview_id", "pv_id",
    "impression_id", "imp_id", "slate_id", "list_id", "query_id", "search_id", "trace_id", "session_id", "session",
)  # fmt: skip
POSITION = (
    "position", "pos", "slot", "rank", "place", "slot_id", "item_position", "display_position", "index",
)  # fmt: skip
TARGET = ("is_target", "target_row")
WEIGHT = ("weight", "sample_weight", "importance_weight", "w")
LABEL = ("label", "target", "y", "clicked", "is_positive")
RATING = ("rating", "stars", "score", "grade", "overall")
ACTIONS = frozenset(
    {
        "click", "clk", "clicks", "clicked", "like", "likes", "liked", "follow", "followed", "follows", "share",
        "shared", "shares", "forward", "forwarded", "comment", "commented", "comments", "buy", "bought", "purchase",
        "purchased", "purchases", "order", "ordered", "cart", "addtocart", "save", "saved", "favorite", "favourite",
        "favorited", "fav", "collect", "collected", "bookmark", "bookmarked", "install", "installed", "convert",
        "converted", "conversion", "view", "viewed", "complete", "completed", "finish", "finished", "skip", "skipped",
        "hate", "dislike", "disliked", "subscribe", "subscribed", "reply", "replied", "retweet", "repost", "hide",
        "hidden", "block", "report", "reported", "download", "downloaded", "open", "opened", "read", "watched",
        "play", "played", "valid", "effective", "interested", "enter", "entered", "tap", "tapped",
    }
)  # fmt: skip
EXPOSURES = ("impression", "impressions", "exposure", "show", "shown", "display", "pv", "view", "page_view")
WATCHING = frozenset(
    {
        "dwell", "watch", "watched", "watching", "play", "playing", "stay", "view", "viewing", "read", "reading",
        "listen", "listening", "spent",
    }
)  # fmt: skip
LASTING = frozenset(
    {
        "time", "ms", "sec", "secs", "second", "seconds", "s", "duration", "millis", "milliseconds", "dwell",
        "length",
    }
)  # fmt: skip
SCORED = frozenset(
    {
        "p", "prob", "probability", "pred", "prediction", "predicted", "score", "ctr", "cvr", "pctr", "pcvr", "logit",
        "propensity",
    }
)  # fmt: skip


def words(name: str) -> list[str]:
    """The words of a name in any spelling: isClick, is_click and IS-CLICK are is, click."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return [word for word in re.split(r"[\W_]+", spaced.lower()) if word]


def of_the_past(name: str) -> bool:
    """Whether a list of that name is one of earlier items, as click_history is, and price_history isn't."""
    found = set(words(name))
    return bool(found & PAST) and found <= PAST | PAST_OF | ACTIONS


def named(columns: Iterable[ColumnFacts], names: Sequence[str]) -> ColumnFacts | None:
    """The column whose name comes first among `names`; None if no column has one."""
    spelt = {"_".join(words(column.name)): column for column in reversed(list(columns))}
    return next((spelt[name] for name in names if name in spelt), None)


def identifier(name: str, taken: set[str]) -> str:
    """A name for a task or feature: letters, digits and underscores, unlike those in `taken`, to which it is added."""
    plain = "_".join(words(name)) or "column"
    plain = plain if plain.isidentifier() else f"column_{plain}"
    plain = plain if plain.isidentifier() else "column"
    fresh = f"{plain}_column" if plain in ("item_id", "user_id") else plain
    while fresh in taken:
        fresh += "_"
    taken.add(fresh)
    return fresh
