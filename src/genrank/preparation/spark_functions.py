"""Value functions on Spark: Spark's SQL if its results are the same, else DuckDB's macro on Arrow batches."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from genrank.preparation.value_functions import FUNCTIONS, on_batch

# Name → arguments and body. Times go as text: a time in pandas' nanoseconds ends in 2262.
IN_SPARK = {
    "moment_text": ("x TIMESTAMP_NTZ", "CAST(x AS STRING)"),
    "zoned_text": ("x TIMESTAMP", "CAST(x AS STRING) || '+00'"),
    "floor_division": (
        "x BIGINT, divisor BIGINT",
        "CASE WHEN x % divisor < 0 THEN x div divisor - 1 ELSE x div divisor END",
    ),
    "split": ("x STRING, separator STRING", "split(x, concat('\\\\Q', separator, '\\\\E'), -1)"),
}
TYPES = {"array<string>": "array<string>", "string": "string", "float64": "double", "float32": "float"}
TYPES |= {"int64": "bigint", "int32": "int", "boolean": "boolean"}
NEVER = ("microseconds",)  # spark_files reads nanoseconds as microseconds


def define_functions(session: Any) -> None:
    """Defines every value function in the session."""
    from pyspark.sql.functions import pandas_udf

    for name, function in FUNCTIONS.items():
        if name in IN_SPARK:
            arguments, body = IN_SPARK[name]
            result = TYPES[function.result]
            session.sql(
                f"CREATE OR REPLACE TEMPORARY FUNCTION {function.sql_name}({arguments}) RETURNS {result} RETURN {body}"
            )
        elif name not in NEVER:
            udf = pandas_udf(_on_series(name, len(function.constants)), TYPES[function.result])
            session.udf.register(function.sql_name, udf)


def _on_series(name: str, num_constants: int) -> Callable[..., Any]:
    """The function of pandas' Series, as Spark hands them over: constants are columns, too."""
    import pandas as pd

    def run(x: Any, *constants: Any) -> Any:
        column = pa.Array.from_pandas(x)
        if pa.types.is_null(column.type):
            column = column.cast(pa.string())
        given = tuple(each.iloc[0].item() if hasattr(each.iloc[0], "item") else each.iloc[0] for each in constants)
        result = on_batch(name, column, given)
        if pa.types.is_list(result.type):
            return pd.Series(result.to_pylist(), dtype=object)
        return pd.Series(result, dtype=pd.ArrowDtype(result.type))

    def one(x: pd.Series) -> pd.Series:
        return run(x)

    def two(x: pd.Series, first: pd.Series) -> pd.Series:
        return run(x, first)

    def three(x: pd.Series, first: pd.Series, second: pd.Series) -> pd.Series:
        return run(x, first, second)

    return (one, two, three)[num_constants]
