"""A log, read and checked: the kept rows, as typed columns, and the findings."""

import functools
import operator
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from genrank.preparation.engine import READ_ORDER, Column, Engine, Expression
from genrank.preparation.joining import repeated_exposures
from genrank.preparation.logs import Relations, Source, WrongTypeError, check_side_tables, typed_columns
from genrank.preparation.staging import KnownValues, Staging, stage
from genrank.preparation.survey import Findings, drop_reasons, explain_wrong_type, survey
from genrank.preparation.time_checks import Days, days_of, has_placeholders, time_warnings
from genrank.preparation.value_checks import check_values
from genrank.schema import LogSchema

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ReadLog:
    """The rows of a log that are kept. `typed`: its columns by role."""

    relations: Relations
    schema: LogSchema
    kept: Expression
    typed: Mapping[str, Column]
    findings: Findings
    days: Days  # of the kept rows

    def stage(self, engine: Engine, known: KnownValues | None = None) -> Staging:
        """The rows with numbers for ids and categories, ordered last by their place in the log."""
        place = self.kept[READ_ORDER] if READ_ORDER in self.kept.columns else engine.place()
        rows = self.kept.select(**self.typed, row=place)
        num_rows = self.findings.rows - sum(self.findings.dropped.values())
        return stage(engine, self.relations, rows, self.schema, num_rows, known)

    def raw(self) -> Expression:
        """The log's own columns and the typed user, item and time."""
        typed = self.typed
        return self.kept.mutate(genrank_user=typed["user"], genrank_item=typed["item"], genrank_time=typed["time"])


def read_log(engine: Engine, source: Source, report: Report) -> ReadLog:
    """The rows to keep, their typed columns, and the findings."""
    report("reading the log")
    relations = source.read(engine, source.schema)
    schema = relations.schema_of(source.schema)
    exposures, now = relations.exposures, int(time.time())
    try:
        typed = typed_columns(exposures, schema)
        check_side_tables(relations, schema)
    except WrongTypeError as problem:
        raise explain_wrong_type(engine, problem) from None
    days = days_of(engine, exposures, typed["time"])
    reasons = drop_reasons(exposures, typed, schema, now, source.period, placeholders=has_placeholders(days))
    findings = survey(engine, exposures, typed, schema, reasons)
    report(f"read {findings.rows:,} rows")
    if findings.dropped:
        exposures = exposures.filter(~functools.reduce(operator.or_, reasons.values()))
    more = check_values(engine, exposures, schema)
    more += time_warnings(engine, relations.exposures, schema, days, now)
    more += repeated_exposures(engine, exposures, typed, schema, findings.rows)
    return ReadLog(
        relations=relations,
        schema=schema,
        kept=exposures,
        typed=typed,
        findings=replace(findings, warnings=(*findings.warnings, *more)),
        days=days_of(engine, exposures, typed["time"]) if findings.dropped else days,
    )
