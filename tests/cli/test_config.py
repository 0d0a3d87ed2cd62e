"""The configuration of an audit: what is filled in, what is refused, and how the refusal reads."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mithridate.audit.config import AuditConfig, Override, demo, json_schema, load_config, resolve, to_yaml
from mithridate.audit.names import ATTACKS
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.core.methods import instantiate
from mithridate.data.names import SOURCES
from mithridate.training.contracts_index import CONTRACT_NAMES

HARD_WORDS = ["1e5", "0x1f", "0o7", "null", "~", "yes", "1_0", ".inf", "+1", " ", "- a", "a: b", "#", "\u2028", "\x85"]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "audit.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(tmp_path: Path, text: str) -> Misuse:
    with pytest.raises(Misuse) as caught:
        load_config(written(tmp_path, text))
    return caught.value


def test_an_empty_file_is_an_audit_of_the_digits(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, ""))
    assert (config.data.source, config.model, config.recipe) == ("digits", "mlp", "digits-mlp40")
    assert (config.budget, config.epsilon, config.epsilon_px) == (0.06, "0.5", 0.5)
    assert config.scenarios.num_targets == 8


def test_other_data_get_the_defaults_of_the_paper(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "data: {source: cifar10}"))
    assert (config.model, config.recipe, config.budget, config.epsilon) == ("resnet18", "paper-wb40", 0.01, "16/255")
    assert config.epsilon_px == pytest.approx(16 / 255, abs=0)


def test_what_is_given_wins_over_the_defaults(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "data: {source: cifar10}\nmodel: lenet\nbudget: 1\n"))
    assert (config.model, config.budget, config.recipe) == ("lenet", 1.0, "paper-wb40")
    assert [load_config(written(tmp_path, f"budget: {text}")).budget for text in ("1%", "0.01", "'0.01'")] == [0.01] * 3
    assert load_config(written(tmp_path, "recipe_options: {lr: 1e-3, augment: false}")).recipe_options.lr == 0.001


def test_controls_are_always_there_first_and_once(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "attacks: [noise, none]\ndefenses: [friendly-noise]"))
    assert [method.name for method in config.attacks] == ["none", "noise"]
    assert [method.name for method in config.defenses] == ["none", "friendly-noise"]
    assert config.num_cells == 8 * 2 * 2


def test_a_list_of_scenarios_may_be_taken_whole(tmp_path: Path) -> None:
    text = "data: {source: cifar10}\nscenarios: {source: witches-brew-10, count: null}"
    assert load_config(written(tmp_path, text)).scenarios.num_targets == 10
    assert "null takes all" in refused(tmp_path, "scenarios: {source: random, count: null}").message


@pytest.mark.parametrize(
    ("words", "budget", "epsilon"),
    [
        ("scenarios: {source: witches-brew-10}", 0.01, "16/255"),
        ("scenarios: {source: toxic-c10-scratch}", 0.01, "8/255"),
        ("scenarios: {source: toxic-c10-transfer}", 0.0005, "8/255"),
        ("scenarios: {source: 'toxic-c10-transfer:3'}", 0.0005, "8/255"),
        ("scenarios: {source: toxic-c10-transfer}\nepsilon: 16/255\nbudget: 0.01", 0.01, "16/255"),
    ],
)
def test_a_published_list_brings_its_budget_and_epsilon(
    tmp_path: Path, words: str, budget: float, epsilon: str
) -> None:
    config = load_config(written(tmp_path, f"data: {{source: cifar10}}\n{words}"))
    assert (config.budget, config.epsilon) == (budget, epsilon)


def test_the_published_budget_is_a_part_of_the_whole_data_set_only(tmp_path: Path) -> None:
    text = "data: {source: cifar10, per_class: 250}\nscenarios: {source: toxic-c10-transfer}"
    config = load_config(written(tmp_path, text))
    assert (config.budget, config.epsilon) == (0.01, "8/255")  # 25 of 2,500, as published


KEY = "2000000000"


@pytest.mark.parametrize("source", [f"witches-brew-10:{KEY}", f"witches-brew-10/{KEY}", "random:3", "random/3"])
def test_a_single_scenario_is_one_target(tmp_path: Path, source: str) -> None:
    """The name of a scenario in a report, with its slash, may be given back."""
    for extra in ("", ", count: 1", ", count: null"):
        config = load_config(written(tmp_path, f"scenarios: {{source: '{source}'{extra}}}"))
        assert config.scenarios.source == source.replace("/", ":")
        assert (config.scenarios.num_targets, config.num_cells) == (1, 2 * 1 + 1)
        assert load_config(written(tmp_path, to_yaml(config))) == config
    assert (
        "is one scenario, and count is 8" in refused(tmp_path, f"scenarios: {{source: '{source}', count: 8}}").message
    )


@pytest.mark.parametrize("verb", ["audit", "check", "craft"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            f"--scenarios witches-brew-10:{KEY} --targets 3",
            "'witches-brew-10:2000000000' is one scenario, and count is 3",
        ),
        ("--scenarios witches-brew-10 --targets 11", "'witches-brew-10' has 10 scenarios, and count is 11"),
        ("--scenarios random:x", "a key of 'random' is a number from 0, got 'x'"),
        ("--scenarios random --targets 0", "must be at least 1, got 0"),
    ],
)
def test_impossible_numbers_of_targets_are_refused_before_the_work(run: Any, verb: str, words: str, said: str) -> None:
    outcome = run(verb, *words.split())
    assert outcome.code == 2
    assert said in outcome.err
    assert "hint: set count (--targets) to 1" in outcome.err or "one scenario" not in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bugdet: 0.1", ["line 1", "unknown key 'bugdet'", "did you mean 'budget'?"]),
        ("seed: 3\ndata:\n  sorce: digits\n", ["line 3", "data.sorce", "did you mean 'source'?"]),
        ("data:\n  source: digts", ["line 2", "'digts'", "did you mean 'digits'?"]),
        ("model: resnet19", ["line 1", "'resnet19'", "did you mean 'resnet"]),
        ("recipe: paper-wb4", ["line 1", "did you mean 'paper-wb40'?"]),
        ("attacks:\n  - noise\n  - noize", ["line 3", "'noize'", "did you mean 'noise'?"]),
        ("defenses: [freindly-noise]", ["did you mean 'friendly-noise'?"]),
        ("scenarios: {source: witches-brew}", ["did you mean 'witches-brew-10'?"]),
        ("scenarios: {source: 'witches-brew-10:2000000001'}", ["'2000000001'", "did you mean"]),
        ("budget: 0", ["line 1, budget", "(0, 1]", "got 0"]),
        ("budget: 1.5", ["(0, 1]", "got 1.5"]),
        ("budget: -0.1", ["(0, 1]", "got -0.1"]),
        ("budget: .nan", ["budget", "finite"]),
        ("budget: 200%", ["(0, 1]", "got 200%"]),
        ("budget: a lot", ["(0, 1]", "got a lot"]),
        ("budget: [1]", ["must be a number", "[1]"]),
        ("budget: true", ["must be a number, got True"]),
        ("epsilon: 16", ["epsilon", "[0, 1] units", "16/255"]),
        ("epsilon: -0.1", ["epsilon", "-0.1"]),
        ("epsilon: .inf", ["epsilon", "inf"]),
        ("epsilon: 1e999999999", ["epsilon"]),
        ("epsilon: a lot", ["epsilon", "'a lot'"]),
        ("epsilon: [1]", ["epsilon", "16/255"]),
        ("victims: 0", ["victims", "at least 1", "got 0"]),
        ("victims: 1.5", ["whole number", "1.5"]),
        ("victims: '2'", ["whole number", "remove the quotes"]),
        ("recipe_options: {lr: 0}", ["greater than 0"]),
        ("precision: fp16", ["'fp32' or 'bf16'", "'fp16'"]),
        ("device: gpu", ["device", "'gpu'"]),
        ("jobs: 0", ["'auto'", "got 0"]),
        ("jobs: all", ["'auto'", "'all'"]),
        ("gate: asr<<0.1", ["gate", "asr<<0.1"]),
        ("gate: asd<0.1", ["gate", "'asd'"]),
        ("data: digits", ["must be a mapping", "'digits'"]),
        ("attacks: noise", ["must be a list", "'noise'"]),
        ("attacks: [noise, noise]", ["'noise' is listed twice"]),
        ("attacks: [{name: none, options: {steps: 3}}]", ["'none' has no options", "'steps'"]),
        ("attacks: ['noise:steps']", ["NAME:option=value"]),
        ("attacks: [{nam: noise}]", ["unknown key 'nam'", "did you mean 'name'?"]),
        ("- a\n- b", ["mapping of keys to values", "list"]),
        ("just text", ["mapping of keys to values", "str"]),
    ],
)
def test_a_bad_value_is_named_with_its_line_and_what_is_allowed(tmp_path: Path, text: str, words: list[str]) -> None:
    error = refused(tmp_path, text)
    said = f"{error.message} {error.hint}"
    for word in words:
        assert word in said, said
    assert "pydantic" not in said


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    error = refused(tmp_path, "budget: 2\nepsilon: 8\nseeed: 1\nvictims: x\n")
    assert error.code == "MTH-0121"
    assert "4 problems" in error.message
    for line, word in enumerate(("budget", "epsilon", "seeed", "victims"), start=1):
        assert f"line {line}, {word}" in error.message


def test_a_single_problem_keeps_the_code_of_its_check(tmp_path: Path) -> None:
    assert refused(tmp_path, "epsilon: 16").code == "MTH-0103"
    assert refused(tmp_path, "model: nosuchnet").code == "MTH-0401"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("budget: 0.1\nbudget: 0.2\n", "line 2"),
        ("data: &a {source: digits}\nsurrogate: *a\n", "line 2"),
        ("a: [1, 2\n", "line 2"),
        ("a: !!python/object/apply:os.system [true]\n", "line 1"),
        ("[" * 2000 + "]" * 2000, ""),
        ("\t- x", "line 1"),
    ],
)
def test_hostile_yaml_is_a_bad_artefact_and_names_the_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadArtefact) as caught:
        load_config(written(tmp_path, text))
    assert words in caught.value.message
    assert "audit.yaml" in caught.value.message


def test_files_that_are_no_text_or_too_long_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.yaml"
    path.write_bytes(b"model: \xff\xfe")
    with pytest.raises(BadArtefact, match="not UTF-8 text"):
        load_config(path)
    path.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(BadArtefact, match="at most 1,048,576"):
        load_config(path)
    with pytest.raises(Misuse, match="is a folder"):
        load_config(tmp_path)
    with pytest.raises(Misuse, match="does not exist"):
        load_config(tmp_path / "none.yaml")


def test_the_command_line_wins_and_is_named_when_wrong(tmp_path: Path) -> None:
    path = written(tmp_path, "budget: 0.5\nscenarios: {count: 3}\n")
    flags = [
        Override(option="--targets", path=("scenarios", "count"), value=5),
        Override(option="--attack", path=("attacks",), value=["noise"]),
    ]
    config = resolve(path, flags)
    assert (config.budget, config.scenarios.count, config.scenarios.source) == (0.5, 5, "random")
    with pytest.raises(Misuse, match=r"--budget: must be in"):
        resolve(path, [Override(option="--budget", path=("budget",), value=3.0)])
    with pytest.raises(Misuse, match=r"--data: unknown data set 'digts'"):
        resolve(None, [Override(option="--data", path=("data", "source"), value="digts")])
    with pytest.raises(Misuse, match=r"--attack: there is no attack 'x'"):
        resolve(None, [Override(option="--attack", path=("attacks",), value=["noise", "x"])])


def test_a_flag_for_another_data_set_takes_that_sets_defaults(tmp_path: Path) -> None:
    flag = Override(option="--data", path=("data", "source"), value="cifar10")
    assert resolve(None, [flag]).recipe == "paper-wb40"


def test_options_of_a_method_in_one_word() -> None:
    value = ["noise:a=2,b=0.5,c=true,d=null,e=x y"]
    config = resolve(None, [Override(option="--attack", path=("attacks",), value=value)])  # type: ignore[arg-type]
    assert config.attacks[1].options == {"a": 2, "b": 0.5, "c": True, "d": None, "e": "x y"}


def test_a_preset_is_replaced_by_its_options_and_what_is_given_beside_it_wins(tmp_path: Path) -> None:
    value = ["friendly-noise:preset=reference,steps=7"]
    flag = resolve(None, [Override(option="--defense", path=("defenses",), value=value)])  # type: ignore[arg-type]
    wanted = {"mu": "8/255", "steps": 7, "penalty_weight": 1.0, "scale_lambda": False, "begin_epoch": 0}
    assert flag.defenses[1].options == wanted
    written(tmp_path, "defenses: [{name: friendly-noise, options: {steps: 7, preset: reference}}]")
    assert load_config(tmp_path / "audit.yaml") == flag == load_config(written(tmp_path, to_yaml(flag)))
    assert "preset" not in to_yaml(flag)


@pytest.mark.parametrize(
    ("preset", "words"),
    [("papr", "there is no preset of friendly-noise 'papr'"), ("3", "'3'"), ("null", "'None'"), ("[paper]", "paper")],
)
def test_an_unknown_preset_is_refused_before_the_work(tmp_path: Path, preset: str, words: str) -> None:
    error = refused(tmp_path, f"defenses: [{{name: friendly-noise, options: {{preset: {preset}}}}}]")
    assert error.code == "MTH-0101"
    assert words in error.message
    assert "did you mean 'paper'?" in error.hint or "allowed: paper, reference" in error.hint


def test_a_method_without_presets_has_no_such_option(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "attacks: ['noise:preset=paper']"))
    with pytest.raises(Misuse, match="noise has no option 'preset'"):
        instantiate(ATTACKS.load("noise"), "noise", config.attacks[1].options)
    assert "has no options" in refused(tmp_path, "attacks: ['none:preset=paper']").message


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "data": st.fixed_dictionaries(
                {"source": st.sampled_from(sorted(SOURCES))}, optional={"per_class": st.integers(1, 10**6)}
            ),
            "recipe": st.sampled_from(CONTRACT_NAMES),
            "budget": st.floats(0, 1, exclude_min=True),
            "epsilon": st.one_of(st.floats(1e-6, 1), st.integers(1, 255).map("{}/255".format)),
            "victims": st.integers(1, 1000),
            "seed": st.integers(0, 2**63 - 1),
            "precision": st.sampled_from(["fp32", "bf16"]),
            "jobs": st.one_of(st.just("auto"), st.integers(1, 256)),
            "gate": st.sampled_from([None, "asr<0.1", "clean_accuracy>=0.9"]),
            "alignment": st.booleans(),
            "scenarios": st.fixed_dictionaries({"count": st.integers(1, 1000)}),
            "attacks": st.dictionaries(
                st.sampled_from("xyz"),
                st.one_of(st.none(), st.booleans(), st.floats(-9, 9), st.text(max_size=5), st.sampled_from(HARD_WORDS)),
            ).map(lambda options: [{"name": "noise", "options": options}]),
        },
    )
)
def test_a_resolved_configuration_runs_again_to_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("again") / "config.yaml"
    config = AuditConfig.model_validate({"attacks": ["noise"], **values})
    path.write_text(to_yaml(config), encoding="utf-8")
    again = load_config(path)
    assert again == config
    assert to_yaml(again) == to_yaml(config)


def test_a_resolved_configuration_names_every_field() -> None:
    plain = yaml.safe_load(to_yaml(AuditConfig.model_validate({"attacks": ["noise"]})))
    assert set(plain) == set(AuditConfig.model_fields)
    assert plain["attacks"] == [{"name": "none", "options": {}}, {"name": "noise", "options": {}}]


def test_the_schema_explains_every_key() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(AuditConfig.model_fields)
    sections = [schema, *schema["$defs"].values()]
    unexplained = [
        key for part in sections for key, value in part.get("properties", {}).items() if "description" not in value
    ]
    assert not unexplained
    assert schema["additionalProperties"] is False


def test_the_demo_is_offline_and_has_an_attack_and_a_defense() -> None:
    config = demo()
    assert config.data.source == "digits"
    assert config.scenarios.num_targets >= 8
    assert [method.name for method in config.attacks] == ["none", "noise", "witches-brew"]
    assert [method.name for method in config.defenses] == ["none", "friendly-noise"]


def test_a_data_set_may_be_a_folder_a_file_or_a_hub_id(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images.npz").touch()
    for source in (tmp_path / "images", tmp_path / "images.npz", "hf:owner/name", "hf:owner/name@1a2b"):
        assert load_config(written(tmp_path, f"data: {{source: '{source}'}}\nattacks: [noise]")).data.source == str(
            source
        )
    for source, words in (("./nowhere", "no such folder"), ("hf:name", "no hub id"), ("hf:/x", "no hub id")):
        assert words in refused(tmp_path, f"data: {{source: '{source}'}}\nattacks: [noise]").message


def test_a_method_is_built_from_its_options() -> None:
    attack = ATTACKS.load("noise")
    with pytest.raises(Misuse, match="noise has no option 'stesp'"):
        instantiate(attack, "noise", {"stesp": 3})
    assert isinstance(instantiate(attack, "noise", {}), attack)


def test_the_names_of_data_sets_are_those_that_load() -> None:
    from mithridate.data.sources import source_names

    assert set(SOURCES) == set(source_names())
