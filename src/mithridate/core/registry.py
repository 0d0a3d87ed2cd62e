"""Methods by name, read from the module files of a package without importing them.

A method is one file: `witches_brew.py` in `mithridate.attacks` is the attack `witches-brew`. The file says
`METHOD = WitchesBrew` at its top level; its docstring begins with one sentence and has a line `Paper ...`. Files whose
names begin with an underscore are private, files without `METHOD` are no methods. Other distributions add methods by
entry points.
"""

import ast
import difflib
import importlib
import importlib.util
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from mithridate.core.errors import Misuse, MithridateError


@dataclass(frozen=True)
class Entry:
    """A line of `mithridate list`.

    Args:
        name: What a user writes.
        summary: The first sentence of the module's docstring.
        source: The paper, or the distribution that a plugin comes from.
    """

    name: str
    summary: str
    source: str


def closest(name: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name that `name` is probably a misspelling of, if there is one."""
    plain = {_plain(candidate): candidate for candidate in allowed}
    found = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.6)
    return plain[found[0]] if found else None


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> Misuse:
    """Return the error for a name that does not exist, with the closest one or, failing that, all of them."""
    names = sorted(allowed)
    match = closest(name, names)
    hint = f"did you mean {match!r}?" if match else f"allowed: {', '.join(names) or 'none is installed'}"
    return Misuse("MTH-0101", f"there is no {kind} {name!r}", hint=hint)


class Registry:
    """The methods of one kind.

    Args:
        package: The package whose public module files are the methods, or None if all of them are plugins.
        kind: What a method is called in messages: `attack`.
        group: The entry-point group of plugins, if there is one.
        reserved: Names that plugins cannot take, besides those of the package's own methods.
    """

    def __init__(
        self, package: str | None, kind: str, group: str | None = None, *, reserved: Iterable[str] = ()
    ) -> None:
        self.package = package
        self.kind = kind
        self.group = group
        self.reserved = frozenset(reserved)

    def names(self) -> tuple[str, ...]:
        """Return all names in alphabetical order: our own methods and those of plugins."""
        return tuple(sorted({*self._files, *self._plugins}))

    def describe(self, name: str) -> Entry:
        """Return what the module's docstring says, without importing the module.

        Raises:
            Misuse: MTH-0101 for an unknown name, MTH-0102 for a plugin whose module is not there.
        """
        if name in self._files:
            summary, paper = _read_docstring(self._files[name].read_text(encoding="utf-8"))
            return Entry(name, summary, paper)
        point = self._plugin(name)
        origin = f"plugin of {point.dist.name} {point.dist.version}" if point.dist else "plugin"
        try:
            spec = importlib.util.find_spec(point.module)
        except ImportError as error:
            raise self._broken(point, error) from error
        if spec is None:
            raise self._broken(point, f"there is no module {point.module!r}")
        if spec.origin is None or not spec.origin.endswith(".py"):
            return Entry(name, "", origin)
        summary, paper = _read_docstring(Path(spec.origin).read_text(encoding="utf-8"))
        return Entry(name, summary, f"{paper} ({origin})" if paper else origin)

    def entries(self) -> tuple[Entry, ...]:
        """Return the description of every method; a broken plugin is left out with a warning that names it."""
        found = []
        for name in self.names():
            try:
                found.append(self.describe(name))
            except Misuse as error:
                warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        return tuple(found)

    def constant(self, name: str, key: str) -> object:
        """Return the literal that a method's module assigns to `key` at its top level, None if there is none.

        The module is read, not imported, so that the literal is a number, a text, or lists and mappings of such.

        Raises:
            Misuse: MTH-0101 for an unknown name, MTH-0102 for a plugin whose module is not there.
        """
        if name in self._files:
            return _constant(self._files[name].read_text(encoding="utf-8"), key)
        point = self._plugin(name)
        try:
            spec = importlib.util.find_spec(point.module)
        except ImportError as error:
            raise self._broken(point, error) from error
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            return None
        return _constant(Path(spec.origin).read_text(encoding="utf-8"), key)

    def load(self, name: str) -> type:
        """Import the module of a method and return its class.

        Raises:
            Misuse: MTH-0101 for an unknown name, MTH-0102 for a plugin that cannot be loaded.
        """
        if name in self._files:
            return _method(importlib.import_module(f"{self.package}.{self._files[name].stem}"))
        point = self._plugin(name)
        try:
            found = point.load()
            method = _method(found) if isinstance(found, ModuleType) else found
        except Exception as error:  # a plugin is a stranger's code and may fail in any way
            raise self._broken(point, error) from error
        if not isinstance(method, type):
            raise self._broken(point, f"{point.value} is {type(method).__name__} and no class")
        return method

    @contextmanager
    def blaming(self, name: str) -> Iterator[None]:
        """Run code of a plugin: whatever unforeseen it raises becomes an error that names the plugin.

        Raises:
            Misuse: MTH-0102 with the plugin's error; errors of this library pass.
        """
        try:
            yield
        except (MithridateError, MemoryError):
            raise
        except Exception as error:  # a plugin is a stranger's code and may fail in any way
            raise self._broken(self._plugin(name), error) from error

    @cached_property
    def _files(self) -> dict[str, Path]:
        if self.package is None:
            return {}
        spec = importlib.util.find_spec(self.package)
        folders = spec.submodule_search_locations if spec is not None else None
        paths = (path for folder in folders or () for path in sorted(Path(folder).glob("[!_]*.py")))
        return {path.stem.replace("_", "-"): path for path in paths if _registers(path.read_text(encoding="utf-8"))}

    @cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group) if self.group else ():
            if point.name in self._files or point.name in found or point.name in self.reserved:
                text = f"{self.kind} {point.name!r} of the plugin {point.value} is ignored: the name is taken"
                warnings.warn(text, RuntimeWarning, stacklevel=3)
            else:
                found[point.name] = point
        return found

    def _plugin(self, name: str) -> EntryPoint:
        if name not in self._plugins:
            raise unknown_name(self.kind, name, self.names())
        return self._plugins[name]

    def _broken(self, point: EntryPoint, why: object) -> Misuse:
        words = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else str(why)
        package = f" ({point.dist.name})" if point.dist else ""
        return Misuse(
            "MTH-0102",
            f"the plugin {point.value}{package} of {self.kind} {point.name!r} does not work: {words}",
            hint="repair or uninstall it",
        )


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _method(module: ModuleType) -> type:
    method: type = vars(module)["METHOD"]
    return method


def _constant(text: str, key: str) -> object:
    for statement in ast.parse(text).body:
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if any(isinstance(target, ast.Name) and target.id == key for target in targets):
            with suppress(ValueError, TypeError):  # what is no literal is none of our constants
                return ast.literal_eval(statement.value)
    return None


def _registers(text: str) -> bool:
    statements = (statement for statement in ast.parse(text).body if isinstance(statement, ast.Assign))
    targets = (target for statement in statements for target in statement.targets)
    return any(isinstance(target, ast.Name) and target.id == "METHOD" for target in targets)


def _read_docstring(text: str) -> tuple[str, str]:
    """Return the first sentence of a module's docstring, and its entry `Paper` with the lines that continue it."""
    lines = (ast.get_docstring(ast.parse(text)) or "").splitlines()
    paragraph = " ".join(" ".join(lines[: lines.index("")] if "" in lines else lines).split())
    first, stop, _ = paragraph.partition(". ")
    paper: list[str] = []
    for line in lines:
        if line.startswith("Paper "):
            paper.append(line.removeprefix("Paper"))
        elif paper and line.startswith(" "):
            paper.append(line)
        elif paper:
            break
    return first + stop.strip(), " ".join(" ".join(paper).split())
