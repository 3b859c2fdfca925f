"""The studies of a finished comparison: each is the one of its ``run.json``, and follows from the comparison's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mifsim.defense import DetectorConfig, load_config
from mifsim.errors import RunError
from mifsim.plugins import plugin_facts
from mifsim.run.folder import read_facts
from mifsim.study import Study
from tuning.bench import CALIBRATIONS, CLOSED_LOOP
from tuning.bench_studies import calibration_study, closed_loop_studies


@dataclass(frozen=True)
class Parts:
    """The checked studies and configurations of a comparison.

    Attributes
    ----------
    run : Path
        The run folder.
    study : Study
        The comparison's study.
    facts : mapping
        Content of ``run.json``.
    configs : dict of str to DetectorConfig or None
        The compared configurations by name, those of the calibrations first; None: none was certified.
    calibrations : dict of str to Study
        The study of each calibration, by the detector's name.
    closed_loop : dict of bool to Study
        The studies of closed-loop attackers, by whether they know the detector.
    """

    run: Path
    study: Study
    facts: Mapping[str, Any]
    configs: dict[str, DetectorConfig | None]
    calibrations: dict[str, Study]
    closed_loop: dict[bool, Study]

    @property
    def classes(self) -> int:
        """Number of classes of the data."""
        return len(self.facts["data"]["classes"])

    def calibration(self, detector: str) -> Path:
        """Return the run folder of the calibration of a detector."""
        return self.run / CALIBRATIONS / detector

    def simulation(self, knows: bool) -> Path:
        """Return the run folder of the closed-loop attackers; `knows`: whether they know the detector."""
        return self.run / CLOSED_LOOP / ("knowing" if knows else "matrix")


def checked_parts(run: Path) -> Parts:
    """Return the studies of a comparison after checking each of them.

    The study of each part must have the fingerprint, the name and the seed that the part's ``run.json`` states. It must
    be the study that the library makes of the comparison's study for this part, so that its seed follows from the
    comparison's.

    Raises
    ------
    RunError
        If a part is missing, or its study is another one.
    StudyError
        If a study cannot be read.
    """
    facts = read_facts(run)
    _check_plugins(run, facts)
    study = _checked_study(run)
    configs: dict[str, DetectorConfig | None] = {}
    calibrations = {}
    for detector in study.bench.detectors:
        folder = run / CALIBRATIONS / detector.name
        found = calibrations[detector.name] = _checked_study(folder)
        _check_derived(folder, found, calibration_study(study, detector), fitted=False)
        file = folder / "filter.toml"
        configs[detector.name] = load_config(file) if file.is_file() else None
        _check_chosen(folder, configs[detector.name])
    configs |= {item.name: item.config for item in study.filters}
    present = {name: config for name, config in configs.items() if config is not None}
    parts = Parts(run, study, facts, configs, calibrations, {})
    for knows, derived in closed_loop_studies(study, present):
        folder = parts.simulation(knows)
        parts.closed_loop[knows] = _checked_study(folder)
        _check_derived(folder, parts.closed_loop[knows], derived, fitted=True)
    return parts


def _checked_study(run: Path) -> Study:
    facts, path = read_facts(run), run / "study.toml"
    study = Study.load(path)
    stated = {"study": study.name, "seed": study.seed, "study_fingerprint": study.fingerprint}
    for key, value in stated.items():
        if facts.get(key) != value:
            raise RunError(
                f"{run / 'run.json'}: {key} = {facts.get(key)!r}: {path} has {value!r}: the study was changed "
                f"after the run, or a version of mifsim with other keys wrote it (accepted: {key} = {value!r})"
            )
    return study


def _check_derived(folder: Path, found: Study, derived: Study, *, fitted: bool) -> None:
    """Raise an error if a part's study is not the one that follows from the comparison's study.

    Parameters
    ----------
    folder : Path
        The run folder of the part.
    found, derived : Study
    fitted : bool
        Whether the derived study names the fits of its detectors, as one does whose detectors are calibrated.
    """
    plain, expected = found.to_toml(), derived.to_toml()
    if not fitted:
        plain["tuning"], expected["tuning"] = _without_fits(plain["tuning"]), _without_fits(expected["tuning"])
    for key in ("hosts", "model_replicas", "grow_seconds", "sessions_per_host"):  # these only distribute the work
        plain["server"].pop(key, None)
        expected["server"].pop(key, None)
    different = [key for key in expected.keys() | plain.keys() if plain.get(key) != expected.get(key)]
    if different:
        keys = ", ".join(sorted(different))
        raise RunError(
            f"{folder / 'study.toml'}: {keys}: not the value that follows from the study of the comparison (accepted: "
            "the study that mifsim bench made for this part)"
        )


def _without_fits(plain: Any) -> Any:
    """Return a study's ``[tuning]`` section, or a table in it, without the digests of fits."""
    if isinstance(plain, dict):
        return {key: _without_fits(value) for key, value in plain.items() if key != "fit"}
    return [_without_fits(item) for item in plain] if isinstance(plain, list) else plain


def _check_chosen(folder: Path, config: DetectorConfig | None) -> None:
    """Raise an error if a calibration's ``filter.toml`` is not the configuration that its ``run.json`` states."""
    recorded = (read_facts(folder).get("tuning") or {}).get("chosen")
    found = None if config is None else config.to_dict()
    if recorded != found:
        raise RunError(
            f"{folder / 'filter.toml'}: {'missing' if found is None else 'filter'}: run.json states tuning.chosen = "
            f"{recorded!r} (accepted: a file with this configuration)"
        )


def _check_plugins(run: Path, facts: Mapping[str, Any]) -> None:
    given = {plugin["file"]: plugin["digest"] for plugin in plugin_facts()}
    for plugin in facts.get("plugins", []):
        if given.get(plugin["file"]) != plugin["digest"]:
            shown = given.get(plugin["file"], "not given")
            raise RunError(
                f"{run / 'run.json'}: plugins: {plugin['file']}: {shown} (accepted: --plugin {plugin['file']} with "
                f"digest {plugin['digest']})"
            )
