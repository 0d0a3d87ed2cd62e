"""The document: what is accepted, what is refused and by which words."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from documents import audit_document, paper_document

import mithridate.report
from mithridate.core.codes import CODES
from mithridate.core.errors import BadArtefact
from mithridate.report.schema import SCHEMA, Report, json_schema, validate


def changed(path: str, value: object) -> dict[str, Any]:
    """A valid document with one value replaced; `path` is dotted, with numbers for positions."""
    document = copy.deepcopy(audit_document())
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = document
    for part in parents:
        place = place[part]
    place[last] = value
    return document


def test_valid_documents_survive_json() -> None:
    for document in (audit_document("pass"), audit_document("inconclusive"), paper_document()):
        report = validate(json.loads(json.dumps(document)))
        assert validate(report) is report
        assert report.model_dump(by_alias=True, mode="json")["cells"] == document["cells"]


BAD = [
    ("cells.2.attack_success_rate", 0.6, "cells[2]: attack_success_rate is 0.6, but 14 of 20 succeeded"),
    ("cells.2.attack_success_rate", None, "null exactly when 0"),
    ("cells.2.attack_success_rate", float("nan"), "cells[2].attack_success_rate"),
    ("cells.0.successes", 21, "21 successes of 20 trials"),
    ("cells.0.successes", -1, "cells[0].successes"),
    ("cells.0.successes", "0", "cells[0].successes"),
    ("cells.0.successes", True, "cells[0].successes"),
    ("cells.0.interval", [0.2, 0.1], "out of order: 0.2 > 0.1"),
    ("cells.0.interval", [0.0, 1.1], "cells[0].interval[1]"),
    ("cells.0.interval", [0.0], "cells[0].interval"),
    ("cells.0.interval_method", "normal", "cells[0].interval_method"),
    ("cells.0.seconds", -1.0, "cells[0].seconds"),
    ("cells.3.diagnostics.0.mean", float("inf"), "cells[3].diagnostics[0].mean"),
    ("cells.3.diagnostics.0.low", 0.9, "low is 0.9 and high is 0.6555"),
    ("cells.3.diagnostics.0.victims", 0, "cells[3].diagnostics[0].victims"),
    ("cells.3.warnings", "loud", "cells[3].warnings"),
    ("verdict.status", "maybe", "verdict.status"),
    ("verdict.exit_code", 0, "status 'fail' has exit code 1, the document says 0"),
    ("verdict.sentence", " ", "verdict.sentence"),
    ("created", "yesterday", "not an ISO 8601 time"),
    ("kind", "scan", "kind"),
    ("comparisons.0.p_value", 1.5, "comparisons[0].p_value"),
    ("alignment.0.low", [0.1], "must be equally many"),
    ("pictures.0.clean", "https://example.org/x.png", "pictures[0].clean: not a data:image/png;base64, URI"),
    ("pictures.0.clean", "data:image/png;base64,AAAA", "the picture is not a PNG file"),
    ("pictures.0.clean", 'data:image/png;base64,iVBORw0KGgo=" onload="x', "base64 of the picture is damaged"),
    ("pictures.0.clean", "data:image/svg+xml;base64,AAAA", "not a data:image/png"),
    ("target_pictures.0.wanted", 3, "target_pictures[0].wanted"),
    ("config", [1], "config"),
    ("surprise", 1, "surprise: Extra inputs are not permitted"),
]


@pytest.mark.parametrize(("path", "value", "words"), BAD)
def test_each_bad_value_is_refused_by_name(path: str, value: object, words: str) -> None:
    with pytest.raises(BadArtefact) as caught:
        validate(changed(path, value))
    assert caught.value.code == "MTH-0801"
    assert words in caught.value.message
    assert caught.value.hint


def test_every_missing_required_field_is_named() -> None:
    required = [name for name, field in Report.model_fields.items() if field.is_required() and name != "schema_"]
    assert {"title", "verdict", "cells", "created", "kind"} == set(required)
    for name in required:
        document = audit_document()
        del document[name]
        with pytest.raises(BadArtefact, match=f"{name}: Field required"):
            validate(document)


def test_many_problems_are_counted_and_the_first_five_listed() -> None:
    document = audit_document()
    document["cells"] = [entry | {"trials": -1} for entry in document["cells"]]  # type: ignore[attr-defined]
    with pytest.raises(BadArtefact, match=r"cells\[4\].trials.*; and 1 more \("):
        validate(document)


@pytest.mark.parametrize("schema", ["mithridate.report/2", None, 1, "\x1b[31m" + "x" * 5000])
def test_other_schemas_are_refused_by_name(schema: object) -> None:
    with pytest.raises(BadArtefact) as caught:
        validate(audit_document(schema=schema))
    assert caught.value.code == "MTH-0802"
    assert SCHEMA in caught.value.message
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("document", [[], "report", None, 3])
def test_what_is_no_object_is_refused(document: object) -> None:
    with pytest.raises(BadArtefact) as caught:
        validate(document)
    assert caught.value.code == "MTH-0802"


def test_a_hostile_key_is_shown_tamed_in_the_error() -> None:
    with pytest.raises(BadArtefact) as caught:
        validate(audit_document(**{"\x1b]0;x\x07" + "k" * 4000: 1}))
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 400


def test_lone_surrogates_become_visible_escapes() -> None:
    report = validate(audit_document(title="caf\udce9", config={"p\udcff": ["\udc80"]}))
    assert report.title == "caf\\udce9"
    assert report.config == {"p\\udcff": ["\\udc80"]}


def test_json_schema_describes_the_document() -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert isinstance(properties, dict)
    assert set(audit_document()) <= set(properties)
    assert properties["schema"]["const"] == SCHEMA


def test_every_code_of_this_room_is_explained() -> None:
    room = Path(mithridate.report.__file__).parent
    raised = {code for file in room.glob("*.py") for code in re.findall(r"\bMTH-\d{4}\b", file.read_text())}
    assert raised == {f"MTH-080{i}" for i in range(1, 5)}
    assert raised <= set(CODES)
