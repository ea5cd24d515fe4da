"""A column of the engine as ids, categories or numbers, with the text forms of data/categories.py."""

from genrank.data.categories import EXACT
from genrank.errors import LogError
from genrank.preparation import value_functions as values
from genrank.preparation.engine import Column


def identity(column: Column, role: str = "") -> Column:
    """A column as ids or categories: integers and text unchanged, other values as the text of `category`.

    `role` names it in messages. Raises LogError for lists, structs and other types that are no single value.
    """
    kind = column.type()
    if kind.is_integer() or kind.is_string():
        return column
    if kind.is_floating():
        return values.float_text(column)
    if kind.is_decimal():
        text = values.text_of(column)
        return text.re_replace(r"\.?0+$", "") if kind.scale else text
    if kind.is_binary():
        return values.text_of_bytes(column)
    if kind.is_nested() or kind.is_json() or kind.is_interval():
        name = column.get_name()
        raise LogError(
            f"{role or 'column'}: expected one value in each row of {name!r}, such as text or a number, found {kind}; "
            "name a column of plain values, or write one"
        )
    return values.text_of(column)


def texts(column: Column, role: str) -> Column:
    """A column of lists as lists of the texts of `category`."""
    kind = column.type().value_type
    if kind.is_string():
        return column
    if kind.is_floating():
        return values.float_texts(column)
    if kind.is_binary():
        return values.bytes_texts(column)
    if kind.is_nested():
        return column.map(lambda value: identity(value, role))  # which refuses them
    texts = values.texts_of(column)
    return texts.map(lambda text: text.re_replace(r"\.?0+$", "")) if kind.is_decimal() and kind.scale else texts


def intended_numbers(column: Column) -> Column:
    """A column of numbers as float64, as `intended` has them."""
    if not column.type().is_floating():
        return column.cast("float64")
    double = column.cast("float64")
    return ((column - column) == 0).ifelse(values.intended(column), double)  # pandas, in Spark, has null for NaN


def merging(column: Column) -> Column | None:
    """Where whole numbers may have become one another in a float column; None for a column of another type."""
    kind = column.type()
    if not kind.is_floating():
        return None
    return ((column - column) == 0) & (column.abs() >= float(EXACT[str(kind).lstrip("!")]))
