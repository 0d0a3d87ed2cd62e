"""Methods are found by their files and described from their text; nothing is imported until it is asked for."""

import sys
import warnings
from pathlib import Path

import pytest

from mithridate.core.errors import Misuse
from mithridate.core.registry import Entry, Registry, closest

WITCHES = '''"""Witches' Brew: match the gradient of the target. More text that is left out.

    B = 1 - cos(g_target, g_poison)

Paper    Geiping, Fowl, Huang, Czaja, Taylor, Moeller, Goldstein (ICLR 2021),
         arXiv 2009.02276, Algorithm 1.
Cost     much.
"""
raise_if_imported = {}["imported"]
METHOD = None
'''
NOISE = '"""Random noise of the size of the attack."""\n\n\nclass Noise:\n    pass\n\n\nMETHOD = Noise\n'


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose import fails, with two methods, a private file, and a public file that is no method."""
    room = tmp_path / "poisonroom"
    room.mkdir()
    (room / "__init__.py").write_text("")
    (room / "witches_brew.py").write_text(WITCHES)
    (room / "noise.py").write_text(NOISE)
    (room / "_base.py").write_text("METHOD = None\n")
    (room / "names.py").write_text("HELP = 'METHOD = 3'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Registry("poisonroom", "attack", "mithridate.test_attacks")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("poisonroom", "stranger", "broken")]:
        del sys.modules[name]


def add_plugin(folder: Path, distribution: str, *points: str) -> None:
    info = folder / f"{distribution}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("\n".join(["[mithridate.test_attacks]", *points, ""]))


def test_names_come_from_files_without_importing_them(package):
    assert package.names() == ("noise", "witches-brew")
    assert not [name for name in sys.modules if name.startswith("poisonroom")]


def test_descriptions_come_from_the_docstring(package):
    assert package.describe("witches-brew") == Entry(
        "witches-brew",
        "Witches' Brew: match the gradient of the target.",
        "Geiping, Fowl, Huang, Czaja, Taylor, Moeller, Goldstein (ICLR 2021), arXiv 2009.02276, Algorithm 1.",
    )
    assert package.describe("noise") == Entry("noise", "Random noise of the size of the attack.", "")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("KEY = 'word'", "word"),
        ("KEY = {'a': {'b': [1, -2.5, True, None]}}", {"a": {"b": [1, -2.5, True, None]}}),
        ("KEY: dict[str, int] = {'a': 1}", {"a": 1}),
        ("KEY: int", None),
        ("KEY = print('run')", None),
        ("KEY = {[]: 1}", None),
        ("OTHER = 1", None),
    ],
)
def test_constants_are_literals_that_are_read_and_not_run(package, tmp_path, line, found):
    (tmp_path / "poisonroom" / "noise.py").write_text(f"{NOISE}{line}\n")
    assert package.constant("noise", "KEY") == found
    assert not [name for name in sys.modules if name.startswith("poisonroom")]


def test_loading_imports_one_module(package):
    assert package.load("noise").__name__ == "Noise"
    assert "poisonroom.witches_brew" not in sys.modules


def test_an_unknown_name_gets_the_closest_match(package):
    for ask in (package.load, package.describe):
        with pytest.raises(Misuse) as caught:
            ask("wiches_brew")
        assert caught.value.code == "MTH-0101"
        assert caught.value.message == "there is no attack 'wiches_brew'"
        assert caught.value.hint == "did you mean 'witches-brew'?"
    with pytest.raises(Misuse) as caught:
        package.load("zzz")
    assert caught.value.hint == "allowed: noise, witches-brew"


def test_plugins_are_listed_and_loaded_by_name(package, tmp_path):
    (tmp_path / "stranger.py").write_text(
        '"""A stranger\'s attack. Beware."""\n\n\nclass Odd:\n    pass\n\n\nMETHOD = Odd\n'
    )
    add_plugin(tmp_path, "strange-attacks", "odd = stranger:Odd", "odder = stranger")
    assert package.names() == ("noise", "odd", "odder", "witches-brew")
    assert package.describe("odd") == Entry("odd", "A stranger's attack.", "plugin of strange-attacks 1.2")
    assert "stranger" not in sys.modules
    assert package.load("odd") is package.load("odder")


@pytest.mark.parametrize(
    ("text", "value", "words"),
    [
        (None, "broken:Odd", "ModuleNotFoundError"),
        ("import not_installed_anywhere\n", "broken:Odd", "not_installed_anywhere"),
        ("raise SystemError('boom')\n", "broken:Odd", "SystemError: boom"),
        ("Odd = 3\n", "broken:Odd", "is int and no class"),
        ("Odd = 3\n", "broken:Missing", "Missing"),
    ],
)
def test_a_broken_plugin_is_an_error_that_names_it(package, tmp_path, text, value, words):
    if text is not None:
        (tmp_path / "broken.py").write_text(text)
    add_plugin(tmp_path, "broken-attacks", f"odd = {value}")
    with pytest.raises(Misuse) as caught:
        package.load("odd")
    assert caught.value.code == "MTH-0102"
    assert "broken-attacks" in caught.value.message
    assert words in caught.value.message


def test_a_broken_plugin_is_a_warning_in_a_listing(package, tmp_path):
    add_plugin(tmp_path, "broken-attacks", "odd = broken.inner:Odd")
    with pytest.warns(RuntimeWarning, match="broken-attacks"):
        entries = package.entries()
    assert [entry.name for entry in entries] == ["noise", "witches-brew"]


def test_a_plugin_cannot_take_a_name(package, tmp_path):
    (tmp_path / "stranger.py").write_text("class Noise:\n    pass\n")
    add_plugin(tmp_path, "thief", "noise = stranger:Noise")
    with pytest.warns(RuntimeWarning, match="'noise' of the plugin stranger:Noise is ignored"):
        package.names()
    assert package.load("noise").__module__ == "poisonroom.noise"


@pytest.mark.parametrize("room", ["attacks", "defenses", "papers", "models"])
def test_our_own_methods_have_a_sentence_and_a_source(room):
    registry = Registry(f"mithridate.{room}", room)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entries = registry.entries()
    assert entries, f"{room} has no methods: this test shows nothing"
    assert [entry.name for entry in entries if not entry.summary.endswith(".")] == []


@pytest.mark.parametrize(
    ("name", "allowed", "expected"),
    [
        ("witches_brew", ["witches-brew", "noise"], "witches-brew"),
        ("Noise", ["witches-brew", "noise"], "noise"),
        ("xyz", ["witches-brew", "noise"], None),
        ("x", [], None),
    ],
)
def test_closest(name, allowed, expected):
    assert closest(name, allowed) == expected
