"""The public names: all importable, none imported before it is used."""

import subprocess
import sys

import pytest

import mithridate


@pytest.mark.parametrize("name", [name for name in mithridate.__all__ if name != "__version__"])
def test_every_public_name_is_there(name: str) -> None:
    found = getattr(mithridate, name)
    assert found.__doc__
    assert found.__module__.startswith("mithridate.")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="witch"):
        mithridate.witch  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, mithridate; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'pydantic', 'typer')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
