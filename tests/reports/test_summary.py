"""What the terminal says at the end of a run."""

import io
import json

from rich.console import Console

from reports.summary import print_summary
from tests.reports.runs import CHOSEN, write_calibration


def said(run, **tuning):
    known = json.loads((run / "run.json").read_text())
    known["tuning"] |= tuning
    (run / "run.json").write_text(json.dumps(known))
    out = io.StringIO()
    print_summary(run, Console(file=out, width=200))
    return " ".join(out.getvalue().split())


def test_a_calibration_says_what_was_chosen_guaranteed_and_confirmed(tmp_path):
    run = write_calibration(tmp_path / "run")
    text = said(run, guarantee="It is guaranteed.", confirmed_sessions=1234)
    assert "kind = ssim-hash, t_ssim = 0.85, t_hash = 0.05, n_b = 12, l_sp = 3, ssim = global" in text
    assert "It is guaranteed." in text
    assert "Confirmed: all 1,234 live sessions matched the replay" in text
    assert f"Configuration: {run / 'filter.toml'}" in text


def test_parameters_of_any_kind_are_printed(tmp_path):
    chosen = {"kind": "example-quota", "queries": 80, "scope": "client", "view": {"size": [8, 8], "colour": "grey"}}
    text = said(write_calibration(tmp_path / "run"), chosen=chosen, guarantee="So.")
    assert "kind = example-quota, queries = 80, scope = client, view = size 8×8, colour grey So." in text
    assert "confirmed" not in text


def test_a_calibration_without_a_choice_says_why(tmp_path):
    text = said(write_calibration(tmp_path / "run", certified=False), why_none="there were too few sessions")
    assert "No configuration was chosen: there were too few sessions" in text
    assert "confirmed" not in text
    assert "filter.toml" not in text


def test_how_much_of_the_reference_was_found_is_said_where_there_is_one(tmp_path):
    run = write_calibration(tmp_path / "run")
    assert "hypervolume" not in said(run, guarantee="So.")
    text = said(run, guarantee="So.", hypervolume_share=0.991, trials_to_98_percent=5, chosen=CHOSEN.to_dict())
    assert "The search found 99.1% of the reference hypervolume in 6 trials (98% after 5)" in text
