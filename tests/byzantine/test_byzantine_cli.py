"""`mithridate byzantine` as a user types it: what is wrong is said before torch is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mithridate.byzantine.cluster import ClusterConfig, build_cluster, dump, load_cluster
from mithridate.byzantine.making import pin
from mithridate.cli.main import main
from mithridate.core.errors import Misuse

LOCAL = "byzantine local --dry-run"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


BAD = {
    f"{LOCAL} --rule multi-bulyan --f 2": (
        "MTH-0952",
        "multi-bulyan needs 4f + 3 = 11 rows for f = 2, and 8 of 10 workers are waited for",
    ),
    f"{LOCAL} --servers 4 --f-servers 1": ("MTH-0953", "4 servers cannot bear f = 1 liars: 3f + 2 = 5 are needed"),
    f"{LOCAL} --f 4 --rule median": ("MTH-0954", "10 workers cannot bear f = 4 liars: 3f + 1 = 13 are needed"),
    f"{LOCAL} --f 2 --quorum 9 --rule median": ("MTH-0951", "must be in [1, n - f] = [1, 8], got 9"),
    f"{LOCAL} --servers -1": ("MTH-0951", "between 1 and 500 nodes can be started here, got -1 + 10"),
    f"{LOCAL} --rule clip-noise --f 1": ("MTH-0952", "clip-noise bears no liar"),
    f"{LOCAL} --workers 0": ("MTH-0950", "needs at least one worker"),
    f"{LOCAL} --byzantine-workers 11 --attack nan": ("MTH-0951", "--byzantine-workers must be in [0, 10]"),
    f"{LOCAL} --byzantine-workers 2": ("MTH-0962", "no attack says what they do"),
    f"{LOCAL} --byzantine-workers 2 --attack alei": ("MTH-0101", "did you mean 'alie'?"),
    f"{LOCAL} --rule multi-krumm": ("MTH-0101", "did you mean 'multi-krum'?"),
    f"{LOCAL} --protocol smsw": ("MTH-0121", "protocol"),
    f"{LOCAL} --steps 0": ("MTH-0121", "--steps: must be at least 1, got 0"),
    f"{LOCAL} --data nowhere/": ("MTH-0122", "there is no such folder"),
    f"{LOCAL} --model lenett": ("MTH-0401", "lenet"),
    f"{LOCAL} --protocol p2p --agreement mda --f 2": ("MTH-0955", "mda needs 6f + 1 = 13 peers for f = 2, got 10"),
    f"{LOCAL} --protocol p2p --rule median": ("MTH-0950", "peers agree on averages and have no rule"),
    f"{LOCAL} --variant vanilla --rule median": ("MTH-0950", "the baseline vanilla has the mean, and rule is median"),
    "byzantine local --gate accuracy>0.9 --dry-run": ("MTH-0733", "there is no metric 'accuracy'"),
    "byzantine run nowhere.yaml --node 0": ("MTH-0120", "does not exist"),
    "byzantine keys nowhere.yaml": ("MTH-0120", "`mithridate byzantine init`"),
}


def test_bad_input_is_one_error_before_torch_is_imported(here: Path) -> None:
    """One process is asked everything; each answer is exit code 2, one message, and no torch."""
    code = f"""
import sys
from mithridate.cli.main import main
for words in {tuple(BAD)!r}:
    sys.stderr.write("@@" + words + "\\n")
    assert main(words.split()) == 2, words
    assert "torch" not in sys.modules, words
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    answers = done.stderr.split("@@")[1:]
    for answer, (code_, words) in zip(answers, BAD.values(), strict=True):
        assert answer.count("error[MTH-") == 1, answer
        assert f"error[{code_}]" in answer, answer
        assert words in answer, answer


def test_the_command_of_the_issue_is_understood_and_says_what_it_declares(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--servers 4 --workers 10 --byzantine-workers 2 --attack alie --rule multi-bulyan --dry-run"
    assert main(["byzantine", "local", *words.split()]) == 0
    captured = capsys.readouterr()
    assert "2 of 10 workers are Byzantine and f = 1 is declared, the most that multi-bulyan bears" in captured.err
    (here / "cluster.yaml").write_text(captured.out, encoding="utf-8")
    cluster = load_cluster(here / "cluster.yaml")
    assert (cluster.f("worker"), cluster.quorum("worker")) == (1, 9)
    assert (cluster.f("server"), cluster.quorum("server")) == (0, 4)
    assert cluster.byzantine("worker") == (12, 13)
    assert dump(cluster) == captured.out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--byzantine-workers 2 --attack alie:z=-1.5", "MTH-0110"),
        ("--rule multi-krum:m=99", "MTH-0540"),
        ("--rule multi-krum:q=3", "MTH-0123"),
        ("--byzantine-workers 1 --attack silent:at=3", "MTH-0123"),
    ],
)
def test_a_dry_run_checks_the_options_of_methods(
    here: Path, capsys: pytest.CaptureFixture[str], words: str, code: str
) -> None:
    assert main([*LOCAL.split(), *words.split()]) == 2
    captured = capsys.readouterr()
    assert f"error[{code}]" in captured.err
    assert captured.out == ""


def test_what_has_no_effect_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LOCAL.split(), "--attack", "nan", "--protocol", "p2p", "--servers", "3"]) == 0
    shown = capsys.readouterr().err
    assert "nan attacks nothing, as no worker is Byzantine" in shown
    assert "--servers 3 has no effect" in shown


def test_init_keys_and_the_certificates_that_do_not_match(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["byzantine", "init"]) == 0
    before = Path("cluster.yaml").read_text(encoding="utf-8")
    assert main(["byzantine", "run", "cluster.yaml", "--node", "0"]) == 2
    assert "error[MTH-0958]" in capsys.readouterr().err
    assert main(["byzantine", "keys", "cluster.yaml", "--json"]) == 0
    prints = json.loads(capsys.readouterr().out)["fingerprints"]
    text = Path("cluster.yaml").read_text(encoding="utf-8")
    cluster = load_cluster(Path("cluster.yaml"))
    assert {str(node.id): node.fingerprint for node in cluster.nodes} == prints
    assert [line.partition(", fingerprint")[0] for line in text.splitlines()] == [
        line if "fingerprint" not in after else line.partition("}")[0]
        for line, after in zip(before.splitlines(), text.splitlines(), strict=True)
    ]
    assert main(["byzantine", "run", "cluster.yaml", "--node", "99"]) == 2
    assert "error[MTH-0957]: the cluster has no node 99" in capsys.readouterr().err
    wrong = prints["3"][:-1] + ("0" if prints["3"][-1] != "0" else "1")
    Path("cluster.yaml").write_text(text.replace(prints["3"], wrong), encoding="utf-8")
    assert main(["byzantine", "run", "cluster.yaml", "--node", "0"]) == 2
    shown = capsys.readouterr().err
    assert shown.count("error[") == 1
    assert "error[MTH-0921]" in shown
    assert "node-3.pem" in shown


def test_fingerprints_are_pinned_whatever_the_layout() -> None:
    text = (
        "nodes:\n  - id: 0  # first\n    role: peer\n    address: a:1 # here\n  - {id: 1, role: peer, address: 'b:2'}\n"
    )
    pinned = pin(text, {0: "aa", 1: "bb"})
    assert "    address: a:1 # here\n    fingerprint: aa\n" in pinned
    assert "{id: 1, role: peer, address: 'b:2', fingerprint: bb}" in pinned
    assert pin(pinned, {0: "cc", 1: "dd"}) == pinned.replace("aa", "cc").replace("bb", "dd")


def cluster(**values: object) -> ClusterConfig:
    nodes = [{"id": 0, "role": "server", "address": "127.0.0.1:1"}]
    nodes += [{"id": n, "role": "worker", "address": f"127.0.0.1:{n + 1}"} for n in range(1, 6)]
    return build_cluster({"protocol": "ssmw", "nodes": nodes, **values}, {})


def test_two_nodes_do_not_share_a_place_and_roles_follow_the_protocol() -> None:
    twice = [{"id": n, "role": "peer", "address": "127.0.0.1:5"} for n in range(2)]
    with pytest.raises(Misuse, match=r"two nodes have the address 127\.0\.0\.1:5"):
        cluster(protocol="p2p", nodes=twice)
    with pytest.raises(Misuse, match="node 0 is a server, and p2p has peer nodes only"):
        cluster(protocol="p2p")
    with pytest.raises(Misuse, match="nodes listen on loopback unless told otherwise"):
        far = {"id": 1, "role": "worker", "address": "10.0.0.1:5"}
        cluster(nodes=[{"id": 0, "role": "server", "address": "127.0.0.1:5"}, far])


def test_all_problems_of_a_file_are_named_at_once_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("protocol: ssmw\nnodes:\n  - {id: 0, role: boss, address: x}\nsteps: 3\n", encoding="utf-8")
    with pytest.raises(Misuse) as found:
        load_cluster(path)
    assert "line 3, nodes[0].role" in found.value.message
    assert "line 3, nodes[0].address" in found.value.message
    assert "line 4, steps: unknown key 'steps'" in found.value.message
