"""The grammar of model names, and that reading one does not import torch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mithridate.core.codes import CODES
from mithridate.core.errors import Misuse
from mithridate.models.names import Kind, ModelName, built_in, check_name, is_brittle, parse_name


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("resnet18", ModelName(kind=Kind.BUILT_IN, source="resnet18", width=64)),
        ("resnet18-w16", ModelName(kind=Kind.BUILT_IN, source="resnet18", width=16)),
        ("lenet", ModelName(kind=Kind.BUILT_IN, source="lenet")),
        ("mobilenet-v2-w8", ModelName(kind=Kind.BUILT_IN, source="mobilenet_v2", width=8)),
        ("mobilenet_v2", ModelName(kind=Kind.BUILT_IN, source="mobilenet_v2", width=32)),
        ("timm:resnet18.a1_in1k", ModelName(kind=Kind.TIMM, source="resnet18.a1_in1k")),
        ("torchvision:vgg11", ModelName(kind=Kind.TORCHVISION, source="vgg11")),
        ("hf:microsoft/resnet-18", ModelName(kind=Kind.HF, source="microsoft/resnet-18")),
        ("hf:microsoft/resnet-18@v1", ModelName(kind=Kind.HF, source="microsoft/resnet-18", revision="v1")),
        ("my.nets:make", ModelName(kind=Kind.MODULE, source="my.nets", factory="make")),
        ("nets.py:make", ModelName(kind=Kind.FILE, source="nets.py", factory="make")),
        ("/a b/nets.py:Net", ModelName(kind=Kind.FILE, source="/a b/nets.py", factory="Net")),
        (r"C:\nets.py:make", ModelName(kind=Kind.FILE, source=r"C:\nets.py", factory="make")),
    ],
)
def test_names_are_parsed(name, parsed):
    assert parse_name(name) == parsed


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("resnet81", "MTH-0401", "did you mean 'resnet18'?"),
        ("resnet-18", "MTH-0401", "did you mean 'resnet18'?"),
        ("zebra", "MTH-0401", "one of convnet3, convnet64, lenet, mlp"),
        ("", "MTH-0401", "no built-in model ''"),
        ("resnet18-w", "MTH-0401", "did you mean 'resnet18'?"),
        ("resnet18-wide", "MTH-0401", "did you mean 'resnet18'?"),
        ("resnet18-w" + "9" * 5000, "MTH-0401", "no built-in model"),
        ("resnet18-w0", "MTH-0402", r"width must be in \[1, 4096\], got 0"),
        ("resnet18-w4097", "MTH-0402", "got 4097"),
        ("lenet-w16", "MTH-0402", "lenet has one width only"),
        ("nets.py", "MTH-0401", "write FILE.py:factory"),
        ("timm:", "MTH-0401", "timm:resnet18"),
        ("hf:a b", "MTH-0401", "names nothing after 'hf'"),
        ("hf:owner/name@", "MTH-0401", "names nothing after 'hf'"),
        ("nets.py:", "MTH-0401", "'' is not the name of a function"),
        ("nets.py:make()", "MTH-0401", "not the name of a function"),
        ("a b:make", "MTH-0401", "neither a Python file nor a module"),
        ("http://x:y", "MTH-0401", "neither a Python file nor a module"),
    ],
)
def test_malformed_names_are_answered(name, code, says):
    with pytest.raises(Misuse, match=says) as caught:
        parse_name(name)
    assert caught.value.code == code


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(name):
    try:
        parse_name(name)
    except Misuse as error:
        assert error.code in CODES


@given(st.sampled_from(sorted(built_in())), st.integers(1, 4096))
def test_every_legal_width_is_read(name, width):
    if built_in()[name] is not None:
        assert parse_name(f"{name}-w{width}") == ModelName(kind=Kind.BUILT_IN, source=name, width=width)


def test_what_is_missing_is_told_before_torch_is_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.py").write_text("")
    check_name("here.py:make")
    check_name("here:make")
    for name, says in (
        ("gone.py:make", "no file 'gone.py'"),
        ("gone_module.sub:make", "no module 'gone_module'"),
    ):
        with pytest.raises(Misuse, match=says) as caught:
            check_name(name)
        assert caught.value.code == "MTH-0404"
    before = list(sys.path)
    check_name("here:make")
    assert sys.path == before


def test_checking_a_name_executes_and_imports_nothing(tmp_path):
    (tmp_path / "trap.py").write_text("raise SystemExit('executed')")
    code = (
        "import sys; from mithridate.models.names import *\n"
        "for name in ('resnet18-w16', 'trap:make', 'trap.py:make'): check_name(name)\n"
        "built_in(); is_brittle('vgg11'); import mithridate.models\n"
        "assert not {'torch', 'numpy', 'trap'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize("name", ["convnet64", "vgg11-w8", "mobilenet_v2", "timm:vgg16_bn", "torchvision:alexnet"])
def test_brittle_networks(name):
    assert is_brittle(name)


@pytest.mark.parametrize("name", ["resnet18", "resnet9-w8", "lenet", "mlp", "timm:convnext_tiny", "vgg/nets.py:make"])
def test_sturdy_networks(name):
    assert not is_brittle(name)


def test_every_code_of_the_room_is_explained():
    import mithridate.models as room

    source = "".join(path.read_text() for path in sorted(Path(room.__path__[0]).glob("*.py")))
    used = set(re.findall(r"MTH-04\d\d", source))
    assert len(used) >= 11
    assert used == {code for code in CODES if code.startswith("MTH-04")}
