# Everything makes its own .venv. `make demo` and `make test` work on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install dev demo test test-slow test-all test-spark coverage check docs clean

install: .venv/.installed
dev: .venv/.installed-dev

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check 'torch>=2.11,<2.14'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[all]'
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: .venv/.installed
	rm -rf demo
	$(BIN)/genrank demo --out demo

# A worker a core, and one thread for each: more threads than cores wait in loops for each other.
test test-slow test-all test-spark coverage: export OMP_NUM_THREADS = 1
# Where it is set, every process of the tests compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

test: .venv/.installed-dev
	$(BIN)/pytest -n auto --dist worksteal

# The tests that take minutes, such as the attacks on a running service.
test-slow: .venv/.installed-dev
	$(BIN)/pytest -n auto --dist worksteal -m slow

# All tests, with all examples of the properties.
test-all: .venv/.installed-dev
	$(BIN)/pytest -n auto --dist worksteal -m '(slow or not slow) and not spark_all' --hypothesis-profile thorough

# Every comparison of Spark with DuckDB: many small jobs, each of seconds. One process, because each has a Spark.
test-spark: .venv/.installed-dev
	$(BIN)/pytest -m spark

# Which lines and branches the fast tests reach: a table, and build/coverage/index.html.
coverage: .venv/.installed-dev
	$(BIN)/pytest -n auto --dist worksteal --cov --cov-report term:skip-covered --cov-report html:build/coverage

check: .venv/.installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

# The documentation as a site, in build/site; a broken link or reference is an error.
docs: .venv/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

clean:
	rm -rf .venv .coverage demo build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
