"""The pages: links, files, tests and options that they name are there, and commands are run by CI or marked."""

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
SITE = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *SITE]
TODAY = [page for page in PAGES if page.name != "CHANGELOG.md"]
"""Pages that speak of the code as it is; the changelog names what was."""

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
every_page_of_today = pytest.mark.parametrize("page", TODAY, ids=lambda page: page.name)


def blocks(text: str, *kinds: str) -> list[str]:
    """The code blocks of a page, or those that begin with one of these: `sh`, say, which `sh not-run` is not."""
    found = re.findall(r"^```([^\n]*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [block for kind, block in found if not kinds or kind in kinds]


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


def test_the_readme_is_short_and_leads_to_the_site_s_parts() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120
    assert {"docs/index.md", "docs/tutorial.md", "docs/reference/cite.md"} <= set(re.findall(r"\]\(([^)#\s]+)", text))
    parts = {f"docs/index.md#{anchor}" for anchor in ("how-to", "explanation", "reference")}
    assert parts <= set(re.findall(r"\]\(([^)\s]+)\)", text))


def test_the_first_page_leads_to_every_page() -> None:
    """As links, for those who read it on a forge; that its tables of contents have them all is Sphinx's affair."""
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [page.name for page in SITE if f"]({page.relative_to(ROOT / 'docs')})" not in text] == ["index.md"]


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


def run_by_ci() -> tuple[list[Path], set[str]]:
    """The pages whose commands CI runs as they stand there, and the lines of its own script."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    pages = re.findall(r"docs/[\w/-]+\.md", " ".join(re.findall(r"\.ci/page ([^|\n]*)", script.replace("\\\n", " "))))
    return [ROOT / page for page in pages], set(map(str.strip, script.splitlines()))


@pytest.mark.parametrize("page", [PAGES[0], *SITE], ids=lambda page: page.name)
def test_commands_are_run_by_ci_or_marked(page: Path) -> None:
    """A block is marked by `not-run` after its language. What is in angle brackets can't be run as it stands."""
    text = page.read_text(encoding="utf-8")
    assert blocks(text, "", "bash", "shell", "console") == []
    literal, lines = run_by_ci()
    assert all(path.is_file() for path in literal)
    if page in literal:
        assert not any(re.search(r"<[a-z][^>\n]*>", block) for block in blocks(text, "sh"))
        return
    lines |= {line for path in literal for line in commands_of(path)}
    assert [line for line in commands_of(page) if line not in lines] == []


def commands_of(page: Path) -> list[str]:
    """The lines of a page's commands that are not marked, without comments."""
    lines = "".join(blocks(page.read_text(encoding="utf-8"), "sh")).splitlines()
    return [line for line in (re.sub(r"(^|\s+)# .*", "", line).strip() for line in lines) if line]


def test_a_page_of_python_is_run_by_its_test() -> None:
    """`how-to/python.md` by `tests/test_api.py`, others that CI runs by `.ci/page`."""
    with_python = {page for page in SITE if blocks(page.read_text(encoding="utf-8"), "python")}
    assert with_python <= {ROOT / "docs" / "how-to" / "python.md", *run_by_ci()[0]}
