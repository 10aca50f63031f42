"""What README, ARCHITECTURE and the pages of docs/ point at is there; what they say of commands is in `test_readme.py`,
`test_from_tfod.py` and `test_cloud_docs.py`, and `make docs` builds them."""

import re
import runpy
from pathlib import Path
from unicodedata import category

import pytest

import resight
from resight.dialect import all_keys

ROOT = Path(resight.__file__).parents[2]
PAGES = {path.relative_to(ROOT).as_posix(): path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]}
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def anchors(page):
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8")), re.MULTILINE)
    kept = ("".join(c for c in title.lower() if c in " -_" or category(c)[0] in "LN") for title in titles)
    return [title.strip().replace(" ", "-") for title in kept]


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name):
    page = PAGES[name]
    for target in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_every_module_that_a_page_names_exists():
    """`tfod/parts.py` is in the package, `training/test_train.py` among the tests, `io/` a package."""
    missing = []
    for name, page in PAGES.items():
        code = "\n".join(CODE.findall(page.read_text(encoding="utf-8")))
        paths = re.findall(r"(?<![\w/.-])((?:[\w-]+/)+(?:[\w-]+\.py\b)?)", code)
        for path in paths:
            packages = name == "ARCHITECTURE.md" or path.endswith(".py")
            if packages and not any((ROOT / place / path).exists() for place in ("", "tests", "src/resight")):
                missing.append(f"{name}: {path}")
    assert missing == []


def test_what_a_page_points_at_in_a_module_is_there():
    """`fpn/faster_rcnn.py::select` in ARCHITECTURE, `resight.fpn.pretrained.write_published` elsewhere."""
    code = "\n".join(found for page in PAGES.values() for found in CODE.findall(page.read_text(encoding="utf-8")))
    pointed = re.findall(r"([\w/]+\.py)::(\w+)", code)
    pointed += [
        (path.replace(".", "/") + ".py", name) for path, name in re.findall(r"(resight(?:\.\w+)+)\.(\w+)\(", code)
    ]
    assert len(pointed) > 5
    for path, name in pointed:
        (module,) = (file for place in ("", "src", "src/resight") if (file := ROOT / place / path).exists())
        assert re.search(rf"(def|class) {name}\b", module.read_text(encoding="utf-8")), (path, name)


def test_the_generated_references_are_complete():
    site = runpy.run_path(str(ROOT / "docs" / "conf.py"))
    sections = re.split(r"^## (.+)$", "\n".join(site["configuration"]()), flags=re.MULTILINE)[1:]
    keys = [
        f"{section}.{key}"
        for section, table in zip(sections[::2], sections[1::2], strict=True)
        for key in re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]* \| \S", table, re.MULTILINE)
    ]
    assert sorted(keys) == sorted(set(all_keys()) - {"model.tfod"})
    documented = "\n".join([*site["functions"](), *site["classes"](), *site["results"]()])
    assert set(re.findall(r":: resight\.(\w+)$", documented, re.MULTILINE)) == set(resight.__all__)
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert re.findall(r"<!-- generated: (\w+) -->", page) == ["functions", "classes", "results"]


def test_every_section_that_code_cites_exists():
    page = PAGES["docs/tfod-semantics.md"].read_text(encoding="utf-8")
    numbers = re.findall(r"^## (\d+)\. ", page, re.MULTILINE)
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    files = [path.read_text(encoding="utf-8") for place in ("src", "tests") for path in (ROOT / place).rglob("*.py")]
    cited = [number for text in files for number in re.findall(r"tfod-semantics\.md, section (\d+)", text)]
    cited += re.findall(r"\(sections? (\d+)", page)
    assert len(cited) > 5 and set(cited) <= set(numbers)


def test_every_section_on_tfod_names_what_holds_it():
    sections = re.split(r"^## ", PAGES["docs/tfod-semantics.md"].read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    for section in sections:
        held = re.search(r"^(?:Code: .*?; tests|Tests):\s(.*)", section, re.MULTILINE | re.DOTALL)
        assert held and "`tests/" in held[1] and ".py`" in held[1], section[:40]
