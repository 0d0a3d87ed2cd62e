"""Taking over what a finished run has in common with a new one, so that a defense or more victims cost only themselves.

Jobs draw their randomness from their own names and the seed, so a job that is in both runs gives the same numbers in
both if everything that it depends on is the same:

    surrogate/K                       data, recipe, model, surrogate, seed, precision, device
    craft/ATTACK/SCENARIO             the same, budget, epsilon, threat model, and the attack's options
    victim/ATTACK/DEFENSE/...         the same, and the defense's options
    victim/none/DEFENSE/SEED          the same, and all targets: a clean victim is asked about every one
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mithridate.audit.assembly import Assembly
from mithridate.audit.config import AuditConfig, Method, load_config
from mithridate.core.artefacts import as_json, disk_errors, sha256_of, write_atomic
from mithridate.core.boundary import read_json
from mithridate.core.environment import versions
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.core.ledger import Ledger
from mithridate.data.packs import PoisonPack

KEPT = "reused.json"
_MAY_DIFFER = {"attacks", "defenses", "controls", "victims", "gate", "jobs"}


@dataclass(frozen=True)
class Reused:
    """A finished run, and which of its jobs give the same numbers in a new one.

    Attributes:
        folder: Where it lies.
        same: Tells whether a job of both runs gives the same numbers in both.
    """

    folder: Path
    same: Callable[[str], bool]

    @classmethod
    def open(cls, folder: Path, config: AuditConfig) -> "Reused":
        """Check a run against the configuration of the new one.

        Raises:
            Misuse: MTH-0722, the run is not finished, differs in more than attacks, defenses, victims and the number of
                targets, or was made with other versions.
            BadArtefact: MTH-0723, a file of the run is not what its manifest says.
        """
        return cls(folder, _same_job(_finished(folder), config))

    def copy(self, assembly: Assembly, ledger: Ledger) -> None:
        """Copy the results, networks and packs that are jobs of the new audit too.

        Args:
            assembly: The new audit.
            ledger: Its ledger, open for appending; what it has already is left as it is.

        Raises:
            BadArtefact: MTH-0723, a pack or a network of the run is not what its ledger says.
        """
        wanted, had = {job.name for job in assembly.jobs()}, ledger.records()
        taken = {
            name: record
            for name, record in Ledger(self.folder / "ledger.jsonl").records().items()
            if name in wanted and name not in had and self.same(name)
        }
        for name, record in taken.items():
            with disk_errors(assembly.folder):
                _copy(name, record, self.folder, assembly.folder)
            ledger.append(name, record)
        if taken:
            kept = {"ledger": sha256_of(self.folder / "ledger.jsonl"), "results": len(taken)}
            write_atomic(assembly.folder / KEPT, as_json(kept))


def taken_over(folder: Path) -> list[list[str]]:
    """Return the row of the report's setting that says what was not run here, or nothing."""
    if not (folder / KEPT).exists():
        return []
    kept = read_json(folder / KEPT)
    return [["taken over", f"{kept['results']} results of a finished run, its ledger's sha256 {kept['ledger'][:16]}"]]


def _finished(other: Path) -> AuditConfig:
    """Return the configuration of a finished run whose files are what its manifest says."""
    path = other / "manifest.json"
    if not path.is_file() or not (other / "config.yaml").is_file():
        raise Misuse(
            "MTH-0722",
            f"{other} is no finished audit: it has no {path.name if not path.is_file() else 'config.yaml'}",
            hint="name the folder of an audit that ended with a report; an interrupted one goes on by its own command",
        )
    manifest = read_json(path)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    for name in ("config.yaml", "ledger.jsonl"):
        if not isinstance(files, dict) or files.get(name) != {"sha256": sha256_of(other / name)}:
            raise BadArtefact(
                "MTH-0723", f"{other / name} is not what {path.name} says", hint="it was changed after the run ended"
            )
    then = manifest.get("versions", {})
    changed = [f"{name} {then.get(name)} (now {now})" for name, now in versions().items() if then.get(name) != now]
    if changed:
        raise Misuse(
            "MTH-0722",
            f"{other} was made with {', '.join(changed)}",
            hint="results of other versions may differ: run the audit without --reuse",
        )
    return load_config(other / "config.yaml")


def _same_job(old: AuditConfig, new: AuditConfig) -> Callable[[str], bool]:
    """Return what tells whether a job of both runs gives the same numbers in both."""
    for name in AuditConfig.model_fields.keys() - _MAY_DIFFER:
        was, wanted = _comparable(old, name), _comparable(new, name)
        if was != wanted:
            raise Misuse(
                "MTH-0722",
                f"the other run has {name} {was!r}, and here it is {wanted!r}",
                hint="runs share results if they differ in attacks, defenses, victims and the number of targets only",
            )
    attacks, defenses = _common(old.attacks, new.attacks), _common(old.defenses, new.defenses)
    one_list = old.scenarios.num_targets == new.scenarios.num_targets
    clean = one_list and (not new.triggered or old.attacks == new.attacks)

    def same(name: str) -> bool:
        match name.split("/"):
            case ["surrogate", _]:
                return True
            case ["craft", attack, _]:
                return attack in attacks
            case ["victim", "none", defense, _]:
                return clean and defense in defenses
            case ["victim", attack, defense, _, _]:
                return attack in attacks and defense in defenses
        return False

    return same


def _comparable(config: AuditConfig, name: str) -> object:
    """Return what two runs must have in common; where the images are kept never changes a number."""
    value = getattr(config, name)
    if name == "data":
        return value.model_dump(exclude={"store"})
    return (value.source, value.threat) if name == "scenarios" else value


def _common(old: tuple[Method, ...], new: tuple[Method, ...]) -> set[str]:
    return {method.name for method in new if method in old}


def _copy(name: str, record: Mapping[str, Any], other: Path, folder: Path) -> None:
    """Copy the file that a job left beside its record."""
    match name.split("/"):
        case ["surrogate", number]:
            file = Path("cells", f"surrogate-{number}.safetensors")
            if not (other / file).is_file():
                raise BadArtefact("MTH-0723", f"{other / file} is not there", hint="run the audit without --reuse")
            shutil.copyfile(other / file, folder / file)
        case ["craft", attack, key]:
            place = Path("packs", attack, key)
            pack = PoisonPack.load(other / place)
            if pack.manifest["content"] != record["content"]:
                raise BadArtefact(
                    "MTH-0723",
                    f"{other / place} is not the pack that the ledger has under {name}",
                    hint="it was changed after the run ended",
                )
            pack.save(folder / place, overwrite=True)
