"""The audit page: it shows what a run contains, names what is missing, and quotes no more of a standard than it may."""

import hashlib
import re
import subprocess

import pytest
from scipy.stats import binomtest

from mifsim.cli import main
from mifsim.errors import RunError
from mifsim.tables.digests import digests
from mifsim.tables.storage import folder
from reports.audit import render_audit, write_audit
from reports.audit.attacking import not_stopped
from reports.audit.evidence import evidence_of
from reports.audit.expiry import expiry_notes, expiry_rows
from reports.audit.honest import certified_rows, covered, measured_rows, not_covered
from reports.audit.points import points
from reports.bench import bench_table
from tests.reports.bench_runs import write_comparison
from tests.reports.runs import CHOSEN, write_calibration, write_simulation

WORKLOAD = {
    "name": "bursts",
    "false_positive_limit": 0.01,
    "sessions": 299,
    "blocked": 0,
    "distinct_images": 80,
    "longest_session": 30,
}
CERTIFICATE = {
    "guarantee": {"text": "as stated", "confidence": 0.95, "workloads": [WORKLOAD]},
    "data": {"name": "tiny", "shape": [28, 28], "transport": "uint8", "response": "top-3"},
    "victim": {"model": "lenet5", "fingerprint": "abc"},
}


@pytest.fixture
def calibration(tmp_path):
    """A calibration with a complete certificate for one workload."""
    run = write_calibration(tmp_path / "run")
    CHOSEN.save(run / "filter.toml", CERTIFICATE)
    return run


def text_of(page):
    """Return the visible text of a page on one line."""
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)).split())


def test_a_calibration_is_shown_with_its_numbers_and_their_limits(calibration):
    found = evidence_of(calibration)
    assert found.detector == "calibrated"
    assert certified_rows(found) == [("bursts", "1%", "299", "0", "80", "30 queries")]
    interval = binomtest(1, 20).proportion_ci(0.95, "exact")
    assert measured_rows(found) == [("bursts", "yes", "20", "1", "5.00%", f"{interval.low:.2%} to {interval.high:.1%}")]
    assert next(covered(found)) == (
        "With 95% confidence, the detector blocks at most 1% of the sessions of each of 1 honest workload: bursts."
    )
    limits = " ".join(not_covered(found))
    for phrase in ("at most 30", "80 different images", "28×28", "uint8", "top-3", "up to 5%", "is no guarantee"):
        assert phrase in limits, phrase


def test_both_sides_of_the_guarantee_are_equally_large(calibration):
    page = render_audit(calibration)
    guaranteed, rest = page.split("<h3>Guaranteed</h3>")[1].split("<h3>Not guaranteed</h3>")
    assert guaranteed.count("<li>") == len(list(covered(evidence_of(calibration))))
    assert rest.split("</ul>")[0].count("<li>") == len(list(not_covered(evidence_of(calibration))))
    assert page.count('class="card side"') == page.count('class="card side not"')


def test_a_run_without_a_certificate_guarantees_nothing(tmp_path):
    run = write_simulation(tmp_path / "run")
    found = evidence_of(run)
    assert found.detector == "paper 3"  # the only one: "no filter" is none
    assert list(covered(found)) == ["Nothing: the run has no certified configuration of this detector."]
    assert list(expiry_rows(found)) == []
    assert "without a certificate" in text_of(render_audit(run))
    assert any("mifsim tune" in line for line in points(found)[0].missing)


def test_attacks_that_were_not_stopped_are_named(tmp_path):
    """Of four attackers, "paper 3" blocks two, and "calibrated" all, whose leakage is then below the baseline."""
    lost = not_stopped(evidence_of(write_simulation(tmp_path / "lost")))
    assert list(lost["attack"]) == ["mi-face"]
    assert int(lost.iloc[0]["blocked"]) == 2
    won = evidence_of(write_simulation(tmp_path / "won", filters=("calibrated", "no filter")))
    assert len(not_stopped(won)) == 0
    assert "2 of 4" in text_of(render_audit(tmp_path / "lost"))
    assert "This says nothing about other attacks" in text_of(render_audit(tmp_path / "won"))


def test_attacks_without_evasions_are_no_evidence_of_adaptive_attacks(calibration):
    adaptive = points(evidence_of(calibration))[2]
    assert adaptive.number == "11.6.4"
    assert adaptive.shown == ()
    assert any("none of the run's attacks has one" in line for line in adaptive.missing)


def test_only_the_known_words_of_the_standards_are_quoted(calibration):
    found = points(evidence_of(calibration))
    assert [(point.source, point.number) for point in found] == [
        ("OWASP AISVS 1.0", "11.4.2"),
        ("OWASP AISVS 1.0", "11.6.2"),
        ("OWASP AISVS 1.0", "11.6.4"),
        ("MITRE ATLAS", "AML.T0024.001"),
    ]
    quoted = re.findall("“([^”]+)”", " ".join(point.reading for point in found))
    assert quoted == ["at thresholds calibrated to the inversion threat model", "measured and documented"]


def test_what_the_watch_needs_is_missing_until_the_certificate_has_it(calibration):
    assert any("[near_misses]" in line for line in expiry_notes(evidence_of(calibration)))
    assert any("longer than 30 queries" in row[0] for row in expiry_rows(evidence_of(calibration)))
    near = {"candidates": 3, "workloads": [{"name": "bursts", "sessions": [1] * 11}]}
    CHOSEN.save(calibration / "filter.toml", {**CERTIFICATE, "near_misses": near})
    assert not any("[near_misses]" in line for line in expiry_notes(evidence_of(calibration)))
    assert any("whether a watch runs" in line for line in expiry_notes(evidence_of(calibration)))


def test_failed_sessions_and_doubtful_victims_are_missing_evidence(tmp_path):
    victim = {"model": "lenet5", "test_accuracy": 0.1, "chance": 0.1, "beats_chance": "chance", "deterministic": False}
    run = write_simulation(tmp_path / "run", victim=victim)
    missing = " ".join(line for point in points(evidence_of(run)) for line in point.missing)
    assert "is not better than chance" in missing
    assert "not deterministic" in missing


def test_digests_are_those_of_sha256sum(calibration):
    found = {item.name: item for item in digests(calibration)}
    content = (calibration / "study.toml").read_bytes()
    assert found["study.toml"].sha256 == hashlib.sha256(content).hexdigest()
    assert found["study.toml"].size == len(content)
    command = "find sessions -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    printed = subprocess.run(command, shell=True, cwd=calibration, capture_output=True, text=True, check=True).stdout
    assert found["sessions/"].sha256 == printed.split()[0]
    write_audit(calibration)
    assert {item.name: item for item in digests(calibration)} == found  # pages are no evidence


def test_a_run_in_an_object_store_has_the_same_digests(calibration):
    remote = folder("mock://store/audit")
    for path in sorted(calibration.rglob("*")):
        if path.is_file():
            inside = path.relative_to(calibration)
            target = remote
            for part in inside.parts:
                target = target / part
            target.put(path)
    assert digests(remote) == digests(calibration)


def test_a_comparison_needs_the_name_of_a_detector(tmp_path):
    run = write_comparison(tmp_path / "run", more=True)
    with pytest.raises(RunError, match=r"several detectors.*fast, slow"):
        render_audit(run)
    with pytest.raises(RunError, match="--detector paper 1: not in the run"):
        render_audit(run, "paper 1")


def test_a_comparison_shows_the_cells_and_workloads_of_one_detector(tmp_path):
    run = write_comparison(tmp_path / "run", more=True)
    found = evidence_of(run, "slow")
    cells = bench_table(run, "cells")
    expected = cells[(cells["detector"] == "slow") & (cells["scope"] == "session")]
    assert len(found.attacks) == len(expected)
    assert int(found.attacks["stopped"].sum()) == int(expected["stopped"].sum())
    assert set(found.attacks["detector"]) == {"slow"}
    assert {str(split) for split in found.users["split"]} <= {"test", "unseen"}
    knowing = points(found)[2].shown
    assert any("who know the detectors" in line for line in knowing)
    folder_of_slow = run / "calibrations" / "slow"
    folder_of_slow.mkdir()
    (folder_of_slow / "run.json").write_text('{"tuning": {}}')
    CHOSEN.save(folder_of_slow / "filter.toml", CERTIFICATE)
    listed = {item.name: item.sha256 for item in digests(run, evidence_of(run, "slow").certificate_file)}
    content = (folder_of_slow / "filter.toml").read_bytes()
    assert listed["calibrations/slow/filter.toml"] == hashlib.sha256(content).hexdigest()
    assert (write_audit(run, "slow")).name == "audit-slow.html"


def test_the_page_has_no_scripts_and_escapes_names(tmp_path):
    page = render_audit(write_simulation(tmp_path / "run", attack="<script>alert(1)</script>"))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_command_writes_the_page(calibration, capsys):
    main(["report", "--audit", str(calibration)])
    path = calibration / "audit.html"
    assert capsys.readouterr().out.strip() == str(path)
    assert path.read_text(encoding="utf-8") == render_audit(calibration)
    with pytest.raises(SystemExit) as exit_:
        main(["report", str(calibration), "--detector", "calibrated"])
    assert exit_.value.code == 2
    assert "requires --audit" in capsys.readouterr().err
