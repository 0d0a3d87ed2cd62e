"""Networks from elsewhere: one's own factories, libraries that are there, missing or broken, and a model of the hub."""

import importlib.util
import sys

import pytest
import torch
from torch import nn

from mithridate.core.errors import Misuse
from mithridate.models.spec import ModelSpec

NET = """
from torch import nn

def make(num_classes, channels, size):
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(channels * size * size, num_classes))
"""


def spec(name, *, classes=10, channels=3, size=8):
    return ModelSpec(
        name=name, num_classes=classes, channels=channels, size=size, mean=(0.4,) * channels, std=(0.25,) * channels
    )


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write a file of one's own and return the model name for a factory in it."""
    monkeypatch.chdir(tmp_path)

    def write(source, factory="make"):
        (tmp_path / "nets.py").write_text(source)
        return f"{tmp_path}/nets.py:{factory}"

    return write


def test_a_factory_of_ones_own_is_a_model_like_any_other(own):
    name = own(NET)
    state = torch.random.get_rng_state()
    a, b, c = spec(name).build(1), spec(name).build(1), spec(name).build(2)
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator was used"
    assert torch.equal(a.net[2].weight, b.net[2].weight) and a.net is not b.net
    assert not torch.equal(a.net[2].weight, c.net[2].weight)
    x = torch.rand(5, 3, 8, 8)
    assert torch.equal(a.eval()(x), a.net((x - 0.4) / 0.25))
    assert c.training and all(module.training for module in c.modules())


@pytest.mark.parametrize(
    "source",
    [
        "def make(): return build(10, 3, 8)",
        "def make(num_classes): return build(num_classes, 3, 8)",
        "def make(*, size, channels): return build(10, channels, size)",
        "def make(**kwargs): return build(**kwargs)",
        "def make(depth=3, *rest, num_classes=5, **kwargs): return build(num_classes, **kwargs)",
        "make = lambda size, num_classes=10: build(num_classes, 3, size)",
        "import functools; make = functools.partial(lambda width, size: build(10, 3, size), 7)",
        "class make(nn.Sequential):\n def __init__(self, size, num_classes):\n"
        "  super().__init__(nn.Flatten(), nn.Linear(3 * size * size, num_classes))",
    ],
)
def test_a_factory_is_given_what_it_takes(own, source):
    helper = (
        "from torch import nn\n"
        "def build(num_classes, channels, size):\n"
        " return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, num_classes))\n"
    )
    assert spec(own(helper + source)).build(0)(torch.rand(2, 3, 8, 8)).shape == (2, 10)


def test_modules_are_found_in_the_current_folder_and_in_packages(own, tmp_path):
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "nets.py").write_text(NET)
    before = list(sys.path)
    assert spec("own_package.nets:make").build(0)(torch.rand(2, 3, 8, 8)).shape == (2, 10)
    assert sys.path == before
    with pytest.raises(Misuse, match=r"no module 'own_package\.more'") as caught:
        spec("own_package.more:make").build(0)
    assert caught.value.code == "MTH-0404"


def test_a_file_may_use_its_neighbours_and_dataclasses_and_is_read_again_when_edited(own, tmp_path):
    (tmp_path / "own_neighbour.py").write_text("WIDTH = 6")
    source = (
        "from dataclasses import dataclass\nfrom torch import nn\nfrom own_neighbour import WIDTH\n"
        "@dataclass\nclass Config:\n  width: 'int' = WIDTH\n"
        "def make():\n  width = Config().width\n"
        "  return nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.Linear(width, 10))\n"
    )
    assert spec(own(source)).build(0).net[1].out_features == 6
    assert spec(own(source.replace("= WIDTH", "= WIDTH + 1"))).build(0).net[1].out_features == 7
    assert str(tmp_path) not in sys.path


FAILURES = [
    ("def make(: pass", "make", "MTH-0407", "executing nets.py raised SyntaxError"),
    ("raise OSError('no luck')", "make", "MTH-0407", "raised OSError: no luck at nets.py, line 1"),
    ("import gone_module", "make", "MTH-0407", "ModuleNotFoundError: No module named 'gone_module'"),
    (NET, "maek", "MTH-0406", "did you mean 'make'?"),
    ("x = 1", "make", "MTH-0406", "it defines no function at all"),
    ("make = 3", "make", "MTH-0406", "'make' is a int, not a function"),
    (
        "def make(width): pass",
        "make",
        "MTH-0408",
        "needs an argument 'width'; it is offered num_classes, channels, size",
    ),
    ("def make(size, /): pass", "make", "MTH-0408", "needs an argument 'size'"),
    ("def make(): return 3", "make", "MTH-0408", "returned a int, not a torch.nn.Module"),
    ("def make():\n  return 1 / 0", "make", "MTH-0407", "the factory raised ZeroDivisionError: .* at nets.py, line 2"),
    (
        "from torch import nn\ndef make(): return nn.Flatten()",
        "make",
        "MTH-0409",
        r"a tensor \[2, 192\], expected .*10\]",
    ),
    ("from torch import nn\ndef make(): return nn.Linear(8, 10)", "make", "MTH-0409", r"a tensor \[2, 3, 8, 10\]"),
    ("from torch import nn\ndef make(): return nn.Linear(9, 10)", "make", "MTH-0407", r"images \[2, 3, 8, 8\] in eval"),
]


@pytest.mark.parametrize(("source", "factory", "code", "says"), FAILURES)
def test_failures_of_a_factory_are_one_clear_sentence(own, source, factory, code, says):
    name = own(source, factory)
    state = torch.random.get_rng_state()
    with pytest.raises(Misuse, match=says) as caught:
        spec(name).build(0)
    assert caught.value.code == code
    assert repr(name) in caught.value.message
    assert "\n" not in str(caught.value)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_file_that_fails_leaves_no_module_behind(own):
    modules = set(sys.modules)
    with pytest.raises(Misuse, match="raised OSError"):
        spec(own("raise OSError('half way')")).build(0)
    assert set(sys.modules) == modules


def test_answers_are_checked_in_training_mode_too_and_buffers_are_left_alone(own):
    source = (
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "  def __init__(self, bad=True):\n"
        "    super().__init__(); self.bad = bad; self.norm = nn.BatchNorm2d(3); self.head = nn.Linear(192, 10)\n"
        "  def forward(self, x):\n"
        "    z = self.head(self.norm(x).flatten(1))\n"
        "    return (z, z) if self.training and self.bad else z\n"
        "def bad(): return Net()\n"
        "def good(): return Net(bad=False)\n"
    )
    with pytest.raises(Misuse, match="in training mode returned a tuple, expected a tensor"):
        spec(own(source, "bad")).build(0)
    model = spec(own(source, "good")).build(0)
    assert model.net.norm.num_batches_tracked == 0
    assert torch.equal(model.net.norm.running_var, torch.ones(3))


def test_a_factory_that_returns_one_network_twice_is_refused(own):
    name = own(NET + "\nnet = make(10, 3, 8)\ndef again(): return net", "again")
    spec(name).build(0)
    with pytest.raises(Misuse, match="returned the same Sequential as before") as caught:
        spec(name).build(1)
    assert caught.value.code == "MTH-0408"


def test_interrupts_and_exits_are_not_translated(own):
    with pytest.raises(KeyboardInterrupt):
        spec(own("raise KeyboardInterrupt")).build(0)


def test_missing_file_is_told(tmp_path):
    with pytest.raises(Misuse, match="no file") as caught:
        spec(f"{tmp_path}/gone.py:make")
    assert caught.value.code == "MTH-0404"


@pytest.mark.parametrize(
    ("name", "install"),
    [
        ("timm:resnet18", "pip install 'mithridate[models]'"),
        ("hf:microsoft/resnet-18", "pip install 'mithridate[models]'"),
        ("torchvision:resnet18", "pip install torchvision"),
    ],
)
def test_missing_libraries_name_what_to_install(name, install, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Misuse, match="which is not installed") as caught:
        spec(name)
    assert caught.value.code == "MTH-0403" and caught.value.hint == install


@pytest.mark.parametrize(
    "error", ["RuntimeError('operator torchvision::nms does not exist')", "ImportError('libfoo.so')"]
)
def test_a_library_that_does_not_import_is_told(tmp_path, monkeypatch, error):
    (tmp_path / "timm.py").write_text(f"raise {error}")
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Misuse, match=r"timm, which is installed but does not import: (operator|libfoo)") as caught:
        spec("timm:resnet18").build(0)
    assert caught.value.code == "MTH-0403"


def _imports(package):
    try:
        __import__(package)
    except (ImportError, RuntimeError):
        pytest.skip(f"{package} does not import here")


def test_networks_of_timm():
    _imports("timm")
    for name, channels in (("timm:resnet10t", 3), ("timm:vit_tiny_patch16_224", 1)):
        model = spec(name, channels=channels, size=32).build(0)
        assert model(torch.rand(2, channels, 32, 32)).shape == (2, 10)
        again = spec(name, channels=channels, size=32).build(0)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(Misuse, match="did you mean 'resnet18"):
        spec("timm:resnet81").build(0)


def test_networks_of_torchvision():
    _imports("torchvision")
    for name, channels in (("torchvision:resnet18", 3), ("torchvision:googlenet", 1), ("torchvision:vit_b_32", 3)):
        model = spec(name, channels=channels, size=64).build(0)
        assert model(torch.rand(2, channels, 64, 64)).shape == (2, 10)
    with pytest.raises(Misuse, match="did you mean 'resnet18'"):
        spec("torchvision:resnet81").build(0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_networks_of_the_hub(tmp_path):
    _imports("transformers")
    import transformers

    config = transformers.ResNetConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5
    )
    published = transformers.ResNetForImageClassification(config)
    published.save_pretrained(tmp_path / "model")
    model = spec(f"hf:{tmp_path}/model", channels=1, size=32).build(0)
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 10)
    ours = dict(model.net.net.named_parameters())
    for key, value in published.named_parameters():
        assert torch.equal(ours[key], value) == (ours[key].shape == value.shape), "published weights, fresh head"
    other = spec(f"hf:{tmp_path}/model", channels=1, size=32).build(1)
    heads = [
        value for key, value in other.net.net.named_parameters() if key.startswith("classifier") and value.dim() > 1
    ]
    assert heads and not any(torch.equal(ours["classifier.1.weight"], value) for value in heads)
    with pytest.raises(Misuse, match="loading it from the hub raised") as caught:
        spec(f"hf:{tmp_path}/gone").build(0)
    assert caught.value.code == "MTH-0407"


def test_foreign_networks_take_images_of_their_own_size():
    from mithridate.models._libraries import Adapted

    seen = []

    class Net(nn.Module):
        def forward(self, x):
            seen.append(x)
            return type("Answer", (), {"logits": x.flatten(1)[:, :4]})()

    x = torch.rand(2, 1, 8, 8)
    assert Adapted(Net(), repeat=3, size=16)(x).shape == (2, 4)
    assert seen[0].shape == (2, 3, 16, 16) and torch.equal(seen[0][:, 0], seen[0][:, 2])
    assert Adapted(Net())(x).shape == (2, 4) and seen[1] is x
