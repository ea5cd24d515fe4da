"""Sessions that documentation shows, executed on a miniature: the code blocks of a page, in order, in one folder.

`genrank` runs in this process, `genrank serve` in one of its own on a free port, curl as it stands. TOML blocks that
begin with a file's name, as in `# my.toml`, are saved under it. Sizes are replaced by small ones.
"""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from genrank.cli import main

BLOCK = re.compile(r"^```(console|python|toml)\n(.*?)^```", re.M | re.S)
SIZES = {
    "--users 1500 --days 14": "--users 60 --days 6 --set num_items=200 --set new_items_per_day=10",
    "range(300)": "range(60)",  # users of the tutorial's log
    "u0001247": "u0000047",
    "i0004": "i0000",
}
SMALL = ("model.width=16", "model.num_heads=2", "model.num_blocks=1", "model.feedforward=16", "model.embedding_dim=8")
SMALL += ("training.epochs=1", "threads=1", "sequence.max_history=32")
SMALL_RETRIEVER = ("model.num_candidates=30", "model.num_hard=8")
IN_PYTHON = 'recipe="genrank-demo"'
NOT_RUN = ("make", "redis-server", "for")


def blocks(page: str, *, section: str | None = None) -> list[tuple[str, str]]:
    """Language and text of a page's code blocks, or of those below one heading of level 2."""
    if section:
        page = page.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    return BLOCK.findall(page)


def commands(block: str) -> Iterator[list[str]]:
    """The commands of a console block as words, without output and comments."""
    lines = iter(block.splitlines())
    for line in lines:
        if not line.startswith("$ "):
            continue
        command = line[2:]
        while True:
            try:
                yield shlex.split(command, comments=True)
                break
            except ValueError:  # a quote that goes on in the next line
                command += "\n" + next(lines)


class Session:
    """A reader who types what a page says, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names = folder, {"__name__": "session"}
        self.url, self.service = "", None
        self.done: list[str] = []  # first words of what was executed

    def __enter__(self) -> Self:
        self.before = Path.cwd()
        os.chdir(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.chdir(self.before)
        self._stop()

    def run(self, found: list[tuple[str, str]]) -> None:
        """Executes blocks; fails with the first that doesn't work."""
        for language, text in found:
            for size, small in SIZES.items():
                text = text.replace(size, small)
            if language == "toml":
                name = re.match(r"# (\S+\.toml)\n", text)
                if name:
                    (self.folder / name[1]).write_text(text, encoding="utf-8")
            elif language == "python":
                text = text.replace(IN_PYTHON, f"{IN_PYTHON}, settings={SMALL!r}")
                exec(compile(self._here(text), "<documentation>", "exec"), self.names)  # noqa: S102
                self.done.append("python")
            else:
                for words in commands(text):
                    self._command(words)

    def _here(self, text: str) -> str:
        """The text with the address of the running service."""
        return re.sub(r"(http://127\.0\.0\.1|localhost):8080", self.url, text) if self.url else text

    def _command(self, words: list[str]) -> None:
        program, *arguments = words
        if program in NOT_RUN:
            return
        self.done.append(" ".join(words[:2]))
        if program == "curl":
            self._curl([self._here(argument) for argument in arguments])
            return
        assert program == "genrank", f"a session of the documentation can't run {program!r}"
        expanded = [
            name
            for argument in arguments
            for name in (sorted(map(str, Path().glob(argument))) if "*" in argument else [argument])
        ]
        if arguments[0] == "serve":
            self._serve(expanded)
            return
        if arguments[0] == "train":
            retriever = any(name in arguments for name in ("grank", "grank-small"))
            expanded += [word for setting in SMALL + SMALL_RETRIEVER * retriever for word in ("--set", setting)]
        if ">" in expanded:
            *expanded, _, name = expanded
            with Path(name).open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
                assert main(expanded) == 0, words
            return
        assert main(expanded) == 0, words

    def _curl(self, arguments: list[str]) -> None:
        answer = subprocess.run(
            ["curl", "--fail-with-body", *arguments], capture_output=True, text=True, check=False, timeout=60
        )
        assert answer.returncode == 0, (arguments, answer.stdout, answer.stderr)
        assert answer.stdout.startswith("{"), answer.stdout

    def _serve(self, arguments: list[str]) -> None:
        self._stop()
        log = self.folder / f"service-{len(self.done)}.log"
        command = [
            sys.executable,
            "-m",
            "genrank",
            *arguments,
            "--port",
            "0",
            "--set",
            "threads=1",
            "--set",
            "deadline=20.0",
        ]
        with log.open("wb") as stderr:
            self.service = subprocess.Popen(command, stderr=stderr)
        until = time.monotonic() + 120
        while time.monotonic() < until and self.service.poll() is None:
            found = re.search(r" on (http://[\d.]+:\d+)", log.read_text(encoding="utf-8"))
            if found:
                self.url = found[1]
                return
            time.sleep(0.05)
        raise AssertionError(f"the service did not start:\n{log.read_text(encoding='utf-8')}")

    def _stop(self) -> None:
        if self.service is not None:
            self.service.terminate()
            self.service.wait(30)
        self.service, self.url = None, ""
