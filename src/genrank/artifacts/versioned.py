"""Versions: folders that are named for the hash of everything in them.

    FOLDER/VERSION/ABOUT.json   describes the version, with the SHA-256 of every other file
    FOLDER/latest               the newest complete version; moves last

VERSION is the beginning of the hash of ABOUT.json's content. So the name of a version verifies all of its content:
an edited, missing or added file is detected.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrank.data.integrity import FolderHashes, hash_folder
from genrank.documents import read_json
from genrank.errors import InputError
from genrank.folders import new_version, read_pointer
from genrank.schema import fingerprint

LENGTH = 16  # letters of a version
SHORTEST = 12  # letters of older versions


@dataclass(frozen=True, kw_only=True)
class VersionedKind:
    """One kind of versioned folder: the name of its JSON file, and the terms of its errors."""

    about: str
    format: int
    noun: str
    error: type[InputError]
    remedy: str

    def write(self, folder: Path, fill: Callable[[Path], dict[str, Any]]) -> Path:
        """Write a version below `folder` and point `latest` at it; if interrupted, the old one stays the latest.

        fill: writes all files but ABOUT.json into the given folder, and returns the content of ABOUT.json without
        `files`. OutputError if the disk is full or another process writes there.
        """
        with new_version(folder) as made:
            values = fill(made.part)
            values["files"] = hash_folder(made.part)
            (made.part / self.about).write_text(json.dumps(values, indent=1), encoding="utf-8")
            made.finish(fingerprint(values)[:LENGTH], is_whole=self.is_whole)
        return made.final

    def read(self, folder: Path) -> tuple[str, dict[str, Any]]:
        """(version, content of ABOUT.json) of one version; an error if it is damaged."""
        where = folder / self.about
        values = read_json(where, error=self.error, remedy=self.remedy)
        if values.get("format") != self.format:
            raise self.error(f"{folder}: not {self.noun} of format {self.format}; {self.remedy}")
        version, named = fingerprint(values), folder.resolve().name
        if len(named) < SHORTEST or not version.startswith(named):
            raise self.error(
                f"{folder}: {self.about} was edited, or its folder renamed: its content is version "
                f"{version[:LENGTH]}, not {named[:200]!r}; {self.remedy}"
            )
        files = values.get("files")
        if not isinstance(files, dict) or not all(isinstance(each, str) for each in files.values()):
            raise self.error(f"{where}: files must be a table of SHA-256 by path; {self.remedy}")
        FolderHashes(files=files, about=self.about, error=self.error, remedy=self.remedy).check(folder)
        return named, values

    def is_whole(self, folder: Path) -> bool:
        """Whether `read` would read it."""
        try:
            self.read(folder)
        except self.error:
            return False
        return True

    def newest(self, folder: Path) -> Path:
        """What `latest` below `folder` points to."""
        return folder / read_pointer(folder / "latest", error=self.error, remedy=self.remedy)
