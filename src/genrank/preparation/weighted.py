"""Weighted multi-valued features in preparation: every value is text followed by its weight.

One column has both until lists are cut, so that the relational steps on values (the first exposure's, the smallest of
several) include the weights. They are checked when they are split.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genrank.errors import LogError
from genrank.preparation.category_columns import texts
from genrank.preparation.engine import Column, import_ibis
from genrank.preparation.value_functions import split, text_of, texts_of
from genrank.preparation.vocabulary import distinct_values
from genrank.schema import Feature

MARK = "\x1f"  # between a value and its weight
UNEQUAL = "\x1d"  # begins the one text of a row whose lists are of different lengths


def weighted_texts(values: Column, weights: Column, feature: Feature) -> Column:
    """Lists of `value MARK weight`. Raises LogError for columns that are not lists."""
    ibis: Any = import_ibis()
    values, weights = _list(values, str(feature.column), feature), _list(weights, str(feature.weights), feature)
    num_values, num_weights = (column.length().fill_null(0) for column in (values, weights))
    names = texts(values, f"feature {feature.name!r}")
    pairs = names.zip(texts_of(weights)).map(lambda pair: pair.f1.fill_null("") + MARK + pair.f2.fill_null(""))
    said = ibis.literal(UNEQUAL) + num_values.cast("string") + " values and " + num_weights.cast("string") + " weights"
    return (num_values == num_weights).ifelse(pairs, ibis.array([said]))


def _list(column: Column, name: str, feature: Feature) -> Column:
    kind = column.type()
    if kind.is_array():
        return column
    if feature.separator is not None and (kind.is_string() or kind.is_numeric()):
        text = text_of(column).nullif("")
        return split(text, feature.separator)
    expected = "lists" if feature.separator is None else f"lists, or text separated by {feature.separator!r}"
    raise LogError(
        f"feature {feature.name!r}: expected {expected} in column {name!r}, found {kind}; set its separator, or name "
        "another column"
    )


def split_weighted(column: pa.Array, feature: Feature) -> tuple[pa.ListArray, pa.ListArray]:
    """(values, float32 weights) of the texts: without nulls and blanks; of a value that comes twice the first stays.

    Raises LogError where a row has other numbers of values and weights, or a weight is no number of 0 or more.
    """
    column = column.cast(pa.list_(pa.string())).fill_null(pa.scalar([], pa.list_(pa.string())))
    flat = column.flatten()
    unequal = flat.filter(pc.starts_with(flat, UNEQUAL))
    where = f"feature {feature.name!r}: column {feature.weights!r}"
    if len(unequal):
        raise LogError(
            f"{where}: expected a weight for every value in {feature.column!r}, found a row with "
            f"{unequal[0].as_py().removeprefix(UNEQUAL)}; give both lists one length"
        )
    parts = pc.split_pattern(flat, MARK, max_splits=1, reverse=True)
    weights = _numbers(pc.list_element(parts, 1), where) if len(flat) else np.zeros(0, np.float32)
    texts = pc.list_element(parts, 0) if len(flat) else flat
    offsets = column.offsets.to_numpy()
    lists, places = distinct_values(pa.ListArray.from_arrays(pa.array(offsets - offsets[0]), texts))
    return lists, pa.ListArray.from_arrays(lists.offsets, pa.array(weights[places], pa.float32()))


def _numbers(texts: pa.Array, where: str) -> NDArray[np.float32]:
    try:
        numbers = np.asarray(texts.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float32)
    except pa.ArrowInvalid:  # a text that is no number
        numbers = np.array([_number(text) for text in texts.to_pylist()], np.float32)
    wrong = np.flatnonzero(~(np.isfinite(numbers) & (numbers >= 0)))
    if len(wrong):
        found = texts[int(wrong[0])].as_py() or "nothing"
        raise LogError(
            f"{where}: expected weights that are numbers of 0 or more, found {found}; leave such values out, or give "
            "them another weight"
        )
    return numbers


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
