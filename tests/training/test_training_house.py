"""The loop stays small and never asks the device a question."""

import ast
from pathlib import Path

import pytest
import torch
import training_kit as kit
from test_training_determinism import WARP
from torch.utils._python_dispatch import TorchDispatchMode

import mithridate.training
from mithridate.core.codes import CODES
from mithridate.training.loop import begin, steps

ROOM = Path(mithridate.training.__file__).parent
HOT = ("loop.py", "gradient.py", "draw.py", "update.py", "view.py", "workers.py", "rows.py", "ratio.py")
QUESTIONS = {"item", "cpu", "tolist", "numpy", "nonzero", "synchronize"}


def test_the_loop_has_at_most_120_lines() -> None:
    assert len((ROOM / "loop.py").read_text().splitlines()) <= 120


def questions(source: str) -> list[str]:
    """Calls that wait for the device: `.item()` and its like, and float(), int(), bool() of more than a literal."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr in QUESTIONS:
                found.append(node.func.attr)
            if isinstance(node.func, ast.Name) and node.func.id in ("float", "int", "bool"):
                found += [node.func.id for argument in node.args if not isinstance(argument, ast.Constant)]
    return found


@pytest.mark.parametrize("name", HOT)
def test_the_hot_files_ask_no_question(name: str) -> None:
    source = (ROOM / name).read_text()
    # schedules turn a Python number into a bool: needs_rows is a property of the configuration
    assert questions(source) == []


def test_the_search_for_questions_finds_them() -> None:
    assert questions("a.item(); b.cpu(); float(c); int(3)") == ["item", "cpu", "float"]


class Questions(TorchDispatchMode):
    """Counts the operations that move a value from the device to Python."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        if func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal):
            self.asked.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("model", ["mlp-w16", "resnet18-w4"])
def test_an_epoch_asks_no_question(model: str) -> None:
    plan = kit.plan_of(kit.toy(64), model, epochs=2, views=(WARP,))
    run = steps(plan, 0, begin(plan, 0))
    next(run)
    with Questions() as questions_asked:
        next(run)
    assert questions_asked.calls > 100
    assert questions_asked.asked == []


def test_every_code_of_the_room_is_explained() -> None:
    used = set()
    for room in ("training", "aggregation", "defenses"):
        for path in (ROOM.parent / room).glob("*.py"):
            tree = ast.parse(path.read_text())
            used |= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and str(n.value).startswith("MTH-")}
    assert len(used) >= 10
    assert used <= set(CODES)
