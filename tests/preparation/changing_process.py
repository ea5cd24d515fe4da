"""Prepares, extends or expires a folder, for a test that kills it: WHAT LOG FOLDER."""

import sys
from pathlib import Path

from genrank.preparation.extending import expire, extend
from genrank.preparation.prepare import prepare
from genrank.preparation.sources.files import files
from growing_logs import OPTIONS, SCHEMA, START

DAYS = START // 86_400

if __name__ == "__main__":
    what, log, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    source = files([log], schema=SCHEMA, folder=log.parent)
    sys.stdout.write("begins\n")
    sys.stdout.flush()
    if what == "prepare" and not folder.exists():
        prepare(files([log.parent / "log.parquet"], schema=SCHEMA, folder=log.parent), out=folder, options=OPTIONS)
    elif what == "extend" and not (folder / "timelines" / "day=2019-04-18").exists():
        extend(source, folder, options=OPTIONS)
    elif what == "expire":
        expire(folder, before=DAYS + 1)
