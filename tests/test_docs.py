"""The pages: their links, the files, tests, commands and options that they name are there."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from exvo.settings import ENTRY_POINTS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TODAY = [page for page in PAGES if page.name != "CHANGELOG.md"]
"""Pages that speak of the code as it is; the changelog names what was."""

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
every_page_of_today = pytest.mark.parametrize("page", TODAY, ids=lambda page: page.name)


def blocks(text: str) -> list[str]:
    """The code blocks of a page."""
    return re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """A page without its code, in which brackets are no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(page: Path) -> set[str]:
    """The addresses of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120
    assert [page.name for page in PAGES[1:] if f"{page.relative_to(ROOT)})" not in text] == []


@every_page_of_today
def test_files_and_modules_are_where_a_page_says(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = "exvo|pipelines|benchmarks|fuzz|tests|notebooks"
    paths = re.findall(rf"(?<![\w/.-])(?:{folders})/[\w/.-]*\.(?:py|csv|html|ipynb)\b", text)
    assert [path for path in paths if not (ROOT / path).is_file()] == []
    modules = re.findall(r"`((?:exvo|pipelines|benchmarks|fuzz)(?:\.\w+)+)`", text)
    assert [module for module in modules if not is_there(module)] == []


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, a name in one, or (`exvo.gate`) a tag or key that the code writes."""
    path = ROOT.joinpath(*name.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module = path.parent / "__init__.py" if path.parent.is_dir() else path.parent.with_suffix(".py")
    if module.is_file() and re.search(rf"\b{path.name}\b", module.read_text(encoding="utf-8")):
        return True
    return any(f'"{name}"' in source.read_text(encoding="utf-8") for source in (ROOT / "exvo").rglob("*.py"))


def functions_of(path: Path) -> set[str]:
    """The test functions of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@every_page_of_today
def test_tests_are_there_that_a_page_names(page: Path) -> None:
    absent = []
    for line in page.read_text(encoding="utf-8").splitlines():
        file, functions = "", set[str]()
        for named, function in re.findall(r"\b(test_\w+\.py)|::(test_\w+)", line):  # `test_a.py::test_b`, `::test_c`
            if named:
                file, path = named, ROOT / "tests" / named
                functions = functions_of(path) if path.is_file() else set()
                absent += [] if path.is_file() else [file]
            elif function not in functions:
                absent.append(f"{file}::{function}")
    assert absent == []


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command of a page's code blocks; a line that ends with a backslash goes on."""
    for block in blocks(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            plain = re.sub(r"<[^>]*>", "X", line.strip())
            if re.match(r"(exvo|python -m exvo|mlflow run) ", plain):
                yield shlex.split(plain.replace("python -m exvo", "exvo"), comments=True)


@every_page
def test_commands_name_entry_points_and_options(page: Path) -> None:
    for words in commands(page):
        if words[0] == "mlflow":
            entry_point = words[words.index("-e") + 1]
            given = [after.partition("=")[0] for word, after in pairwise(words) if word == "-P"]
            assert "--experiment-name" in words, words
        elif words[1].startswith("-"):
            continue
        else:
            entry_point = words[1]
            given = [word.removeprefix("--").partition("=")[0] for word in words[2:] if word.startswith("--")]
        assert entry_point in ENTRY_POINTS, words
        options = {field.name for field in dataclasses.fields(ENTRY_POINTS[entry_point])} | {"help"}
        assert set(given) <= options, words
