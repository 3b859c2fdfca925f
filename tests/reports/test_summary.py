"""The summary that is printed at the end of a run."""

import io
import json

from rich.console import Console

from reports.summary import print_summary
from tests.reports.runs import CHOSEN, write_calibration


def printed_summary(run, **tuning):
    """Return the printed summary of a run after changes to its calibration result."""
    known = json.loads((run / "run.json").read_text())
    known["tuning"] |= tuning
    (run / "run.json").write_text(json.dumps(known))
    out = io.StringIO()
    print_summary(run, Console(file=out, width=200))
    return " ".join(out.getvalue().split())


def test_the_summary_has_the_choice_guarantee_and_confirmation_of_a_calibration(tmp_path):
    run = write_calibration(tmp_path / "run")
    text = printed_summary(run, guarantee="It is guaranteed.", confirmed_sessions=1234)
    assert "kind = ssim-hash, t_ssim = 0.85, t_hash = 0.05, n_b = 12, l_sp = 3, ssim = global" in text
    assert "It is guaranteed." in text
    assert "Confirmed: all 1,234 live sessions matched the replay" in text
    assert f"Configuration: {run / 'filter.toml'}" in text


def test_parameters_of_any_kind_are_printed(tmp_path):
    chosen = {"kind": "example-quota", "queries": 80, "scope": "client", "view": {"size": [8, 8], "colour": "grey"}}
    text = printed_summary(write_calibration(tmp_path / "run"), chosen=chosen, guarantee="So.")
    assert "kind = example-quota, queries = 80, scope = client, view = size 8×8, colour grey So." in text
    assert "confirmed" not in text


def test_the_summary_of_a_calibration_without_a_choice_has_the_reason(tmp_path):
    text = printed_summary(write_calibration(tmp_path / "run", certified=False), why_none="there were too few sessions")
    assert "No configuration was chosen: there were too few sessions" in text
    assert "confirmed" not in text
    assert "filter.toml" not in text


def test_the_share_of_the_reference_hypervolume_is_printed_if_known(tmp_path):
    run = write_calibration(tmp_path / "run")
    assert "hypervolume" not in printed_summary(run, guarantee="So.")
    text = printed_summary(
        run, guarantee="So.", hypervolume_share=0.991, trials_to_98_percent=5, chosen=CHOSEN.to_dict()
    )
    assert "The search found 99.1% of the reference hypervolume in 6 trials (98% after 5)" in text
