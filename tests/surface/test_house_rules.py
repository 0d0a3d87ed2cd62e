"""The rules of the house, read off the syntax trees of `src`; each rule is also shown a breach that it must find."""

import ast
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import mithridate
from mithridate.core.codes import CODES

SRC = Path(mithridate.__file__).parent
CATALOGUE = "core/codes.py"
CODE = re.compile(r"MTH-\d{4}")
ERRORS = ("Misuse", "BadArtefact", "WorkError")

MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 90
MAX_ARGUMENTS = 8
MIN_INFORMATIVE = 0.75

LONG_MODULES = {CATALOGUE: "one table, read by looking up a key"}

BROAD = {
    ("core/boundary.py", "_sealed"): "decoders raise anything on hostile bytes; it becomes one typed error",
    ("core/pool.py", "_serve"): "a job's failure crosses a process boundary and is raised again on the other side",
    ("core/registry.py", "load"): "a plugin is a stranger's code; its failure is reported with the plugin's name",
    ("core/registry.py", "blaming"): "the same, while it runs",
}
"""Where `except Exception` is allowed, and why."""

CALLED = {
    (
        "training/network.py",
        "_global_seed",
        "torch.manual_seed",
    ): "inside fork_rng: layers draw from no other generator",
}
"""Where a banned call is allowed, and why."""

BANNED_MODULES = ("pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle")
BANNED_CALLS = ("eval", "exec", "compile", "print", "hasattr", "__import__", "input", "breakpoint", "globals")
BANNED_METHODS = ("torch.load", "np.load", "numpy.load", "yaml.load", "os.system", "os.popen", "torch.manual_seed")
BANNED_METHODS += ("torch.seed", "np.random.seed", "numpy.random.seed", "random.seed", "torch.set_default_dtype")


@dataclass
class Module:
    """A source file by its path below `src/mithridate`."""

    name: str
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)


MODULES = [Module(path.relative_to(SRC).as_posix(), path.read_text("utf-8")) for path in sorted(SRC.rglob("*.py"))]
Rule = Callable[[Module], Iterator[str]]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def dotted(node: ast.AST) -> str:
    """Return the name of a call's function as it is written, or an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{inner}.{node.attr}" if (inner := dotted(node.value)) else ""
    return ""


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    return ((dotted(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call))


def owners(module: Module) -> dict[int, str]:
    """Return the innermost function around each node, by the node's identity."""
    return {id(node): function.name for function in functions(module.tree) for node in ast.walk(function)}


def banned_imports(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name.partition(".")[0] in BANNED_MODULES:
                yield f"line {node.lineno} imports {name}"
            if name == "__future__":
                yield f"line {node.lineno} imports from __future__"


def banned_calls(module: Module) -> Iterator[str]:
    owner = owners(module)
    for name, node in calls(module.tree):
        banned = name in BANNED_CALLS or name in BANNED_METHODS
        if banned and (module.name, owner.get(id(node), ""), name) not in CALLED:
            yield f"line {node.lineno} calls {name}"


def broad_excepts(module: Module) -> Iterator[str]:
    """Bare and broad handlers, unless they clean up and raise again what they caught."""
    owner = owners(module)
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        broad = node.type is None or any(dotted(kind) in ("Exception", "BaseException") for kind in caught if kind)
        again = node.type is not None and isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
        place = owner.get(id(node), "the module")
        if broad and not again and (module.name, place) not in BROAD:
            yield f"line {node.lineno} of {place} catches everything"


def module_size(module: Module) -> Iterator[str]:
    lines = len(module.text.splitlines())
    if lines > MAX_MODULE_LINES and module.name not in LONG_MODULES:
        yield f"has {lines} lines, at most {MAX_MODULE_LINES}"


def function_size(module: Module) -> Iterator[str]:
    for function in functions(module.tree):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body and body[-1].end_lineno else 0
        if lines > MAX_FUNCTION_LINES:
            yield f"{function.name} has {lines} lines, at most {MAX_FUNCTION_LINES}"


def function_arguments(module: Module) -> Iterator[str]:
    for function in functions(module.tree):
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        count = len([item for item in named if item.arg not in ("self", "cls")])
        if count > MAX_ARGUMENTS:
            yield f"{function.name} has {count} arguments, at most {MAX_ARGUMENTS}"


def machine_paths(module: Module) -> Iterator[str]:
    for number, line in enumerate(module.text.splitlines(), start=1):
        if found := re.search(r"(?<![\w.$}])/(home|root|work|Users|mnt|scratch)/\w+", line):
            yield f"line {number} names a place of one machine: {found[0]}"


def unknown_codes(module: Module) -> Iterator[str]:
    if module.name != CATALOGUE:
        for code, line in codes_in(module):
            if code not in CODES:
                yield f"line {line} uses {code}, which is not in the catalogue"


def codeless_errors(module: Module) -> Iterator[str]:
    for name, node in calls(module.tree):
        if name.rpartition(".")[2] in ERRORS:
            first = node.args[0] if node.args else None
            if first is None or (isinstance(first, ast.Constant) and not CODE.fullmatch(str(first.value))):
                yield f"line {node.lineno} makes a {name} without a code"


def codes_in(module: Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
            yield node.value, node.lineno


RULES: dict[Rule, tuple[str, str]] = {
    banned_imports: ("from joblib import dump", "import joblibs"),
    banned_calls: ("def f(m):\n    return torch.load(m)", "def f(m):\n    return m.eval()"),
    broad_excepts: (
        "def f():\n    try:\n        g()\n    except (OSError, Exception):\n        pass",
        "def f():\n    try:\n        g()\n    except BaseException:\n        h()\n        raise",
    ),
    module_size: ("x = 1\n" * 451, "x = 1\n" * 450),
    function_size: ("def f():\n" + "    g()\n" * 91, "def f():\n" + "    g()\n" * 90),
    function_arguments: ("def f(a, b, c, d, e, f, g, *, h, i): ...", "def f(self, a, b, c, d, e, f, g, *, h): ..."),
    machine_paths: ("x = '/home/me/data'", "x = 'https://example.org/home/me'"),
    unknown_codes: ("x = 'MTH-9999'", "x = 'MTH-0200'"),
    codeless_errors: ("raise errors.Misuse('something is wrong')", "raise Misuse(error.code, 'wrong')"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule):
    breaches = [f"{module.name}: {breach}" for module in MODULES for breach in rule(module)]
    assert breaches == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_finds_a_breach_and_lets_its_neighbour_pass(rule):
    breach, neighbour = RULES[rule]
    assert len(list(rule(Module("planted.py", breach)))) == 1
    assert list(rule(Module("planted.py", neighbour))) == []


def test_there_is_something_to_read():
    assert len(MODULES) > 60
    assert sum(len(list(functions(module.tree))) for module in MODULES) > 400


def test_every_exception_to_a_rule_is_still_needed():
    present = {(module.name, function.name) for module in MODULES for function in functions(module.tree)}
    assert set(BROAD) <= present
    by_name = {module.name: module for module in MODULES}
    unused = []
    for name, function_name in BROAD:
        function = next(item for item in functions(by_name[name].tree) if item.name == function_name)
        handlers = [node for node in ast.walk(function) if isinstance(node, ast.ExceptHandler)]
        if not any(dotted(node.type) in ("Exception", "BaseException") for node in handlers if node.type):
            unused.append((name, function_name))
    assert unused == []
    for name, function_name, call in CALLED:
        function = next(item for item in functions(by_name[name].tree) if item.name == function_name)
        assert call in [found for found, _ in calls(function)]
    assert all(len(by_name[name].text.splitlines()) > MAX_MODULE_LINES for name in LONG_MODULES)


def test_every_code_of_the_catalogue_is_used():
    used = {code for module in MODULES if module.name != CATALOGUE for code, _ in codes_in(module)}
    assert sorted(set(CODES) - used) == []


def test_the_catalogue_is_well_formed_and_without_repetition():
    module = next(module for module in MODULES if module.name == CATALOGUE)
    keys = [code for code, _ in codes_in(module)]
    assert len(keys) == len(set(keys)) == len(CODES)
    assert [code for code in CODES if not CODE.fullmatch(code)] == []
    for code, page in CODES.items():
        assert page.title, code
        assert not page.title.endswith("."), code
        assert page.cause.endswith("."), code
        assert page.remedy.endswith("."), code


def is_informative(message: ast.expr) -> bool:
    """Tell whether a message can hold a value of the run: anything but a text that is fixed."""
    if isinstance(message, ast.JoinedStr):
        return any(isinstance(part, ast.FormattedValue) for part in message.values)
    return not isinstance(message, ast.Constant)


def test_messages_hold_values():
    messages = [
        (module.name, node.args[1])
        for module in MODULES
        for name, node in calls(module.tree)
        if name.rpartition(".")[2] in ERRORS and len(node.args) > 1
    ]
    fixed = [f"{name}:{message.lineno}" for name, message in messages if not is_informative(message)]
    assert len(messages) > 100
    assert len(fixed) / len(messages) <= 1 - MIN_INFORMATIVE, fixed


def test_a_fixed_message_is_told_from_one_with_a_value():
    def message(text: str) -> ast.expr:
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call)
        return call.args[1]

    assert not is_informative(message("Misuse('MTH-0200', 'wrong')"))
    assert not is_informative(message("Misuse('MTH-0200', f'wrong')"))
    assert is_informative(message("Misuse('MTH-0200', f'wrong {value}')"))


def class_definitions() -> list[tuple[str, ast.ClassDef]]:
    return [(m.name, node) for m in MODULES for node in ast.walk(m.tree) if isinstance(node, ast.ClassDef)]


def is_open(node: ast.ClassDef) -> bool:
    """Tell whether a class says that it is to be subclassed: it is called abstract or private, or has an open kind."""
    bases = {dotted(base).rpartition(".")[2] for base in node.bases}
    abstract = any(dotted(mark).endswith("abstractmethod") for f in functions(node) for mark in f.decorator_list)
    return node.name.startswith(("Abstract", "_")) or abstract or bool(bases & {"ABC", "Protocol", "Exception"})


OPEN = {
    "Checked": "adds the check of fields to any dataclass",
    "MithridateError": "the base of all errors",
    "Misuse": "an error",
}


def test_a_class_is_abstract_or_final():
    classes = class_definitions()
    inherited = {dotted(base).rpartition(".")[2] for _, node in classes for base in node.bases}
    closed = [
        f"{name}: {node.name} is concrete and has subclasses"
        for name, node in classes
        if node.name in inherited and not is_open(node) and node.name not in OPEN
    ]
    assert closed == []
    assert len(classes) > 60
