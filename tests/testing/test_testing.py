"""Conformance suites pass sound objects; an object with one fault fails exactly the tests of that fault."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

import mifsim.testing

# pytester restores sys.modules after each inner run. With this import, all runs use the same classes, so that they can
# be pickled.
from tests.testing.broken import clients, data_sets, engines, evasions  # noqa: F401

pytest_plugins = ["pytester"]

FIXTURES = {
    "AttackerConformance": "client",
    "UserConformance": "client",
    "EvasionConformance": "evasion",
    "DataSetConformance": "data",
    "EngineConformance": "engine",
}
"""The fixture that each suite needs."""
MODULES = {
    "AttackerConformance": "clients",
    "UserConformance": "clients",
    "EvasionConformance": "evasions",
    "DataSetConformance": "data_sets",
    "EngineConformance": "engines",
}
"""The module of `tests.testing.broken` with the objects for each suite."""
SOUND = {
    "AttackerConformance": "Walk",
    "UserConformance": "Shuffled",
    "EvasionConformance": "Dimmed",
    "DataSetConformance": "sound_data",
    "EngineConformance": "Linear",
}
BROKEN: dict[str, dict[str, set[str]]] = {
    "AttackerConformance": {
        "ImageOutOfRange": {
            "sends_images_of_the_world",
            "accepts_withheld_confidences",
            "guesses_are_images_and_gradients_are_of_its_target",
        },
        "DoublePrecision": {"sends_images_of_the_world", "accepts_withheld_confidences"},
        "GlobalRandomState": {
            "same_seed_same_stream_and_no_other_randomness",
            "leaves_the_global_generators_alone",
            "sessions_run_at_the_same_time_as_they_run_alone",
            "ignores_confidences_if_it_needs_only_the_label",
            "its_queries_do_not_depend_on_whether_its_reconstruction_is_used",
        },
        "SeedsPython": {"leaves_the_global_generators_alone"},
        "SharedState": {
            "same_seed_same_stream_and_no_other_randomness",
            "sessions_run_at_the_same_time_as_they_run_alone",
            "ignores_confidences_if_it_needs_only_the_label",
            "its_queries_do_not_depend_on_whether_its_reconstruction_is_used",
        },
        "ChangesSentImages": {"what_was_sent_is_not_changed_afterwards"},
        "RetainsPools": {"closing_it_releases_threads_and_images"},
        "ContinuesWhenRefused": {"a_refusal_ends_it_unless_it_is_closed_loop", "returns_its_reconstruction"},
        "DependsOnTheUse": {"its_queries_do_not_depend_on_whether_its_reconstruction_is_used"},
        "ReadsConfidences": {"ignores_confidences_if_it_needs_only_the_label"},
        "FailsOnWithheldConfidences": {"accepts_withheld_confidences"},
        "UndeclaredWhiteBox": {
            "guesses_are_images_and_gradients_are_of_its_target",
            "is_white_box_exactly_if_it_requests_gradients",
        },
        "WhiteBoxWithoutGradients": {"is_white_box_exactly_if_it_requests_gradients"},
        "ReturnsNothing": {"returns_its_reconstruction"},
        "AcceptsNoTarget": {"without_a_target_it_is_an_error"},
        "UndocumentedField": {"every_field_is_documented"},
        "DefaultNotInJson": {"fields_survive_json_toml_and_pickle"},
        "DescribedInASentence": {"states_what_the_server_sees"},
        "StepWithoutEffect": {"a_changed_field_has_an_effect"},
        "ExpectsTooFewQueries": {"expects_no_fewer_queries_than_it_makes"},
    },
    "UserConformance": {
        "Walk": {"is_a_user", "sends_no_guess_and_requests_no_gradient", "returns_nothing"},
        "ReturnsAnImage": {"returns_nothing"},
        "SendsGuesses": {"sends_no_guess_and_requests_no_gradient"},
        "SendsBlack": {"sends_images_of_the_pool", "another_seed_another_stream"},
        "OpensSessions": {"opens_no_session_unless_it_is_closed_loop"},
        "UsesAccounts": {"opens_no_session_unless_it_is_closed_loop"},
        "ExpectsTooManyQueries": {"expects_as_many_queries_as_it_makes"},
    },
    "EvasionConformance": {
        "Brightened": {"sends_images_of_the_world"},
        "SharesTheGenerator": {"the_attack_draws_what_it_draws_alone", "returns_what_the_attack_returns"},
        "DropsTheReconstruction": {
            "returns_what_the_attack_returns",
            "a_refusal_ends_it_unless_it_is_closed_loop",
        },
        "DropsTheGuess": {"continues_and_passes_on_the_guess"},
        "UndeclaredRotation": {"a_refusal_ends_it_unless_it_is_closed_loop"},
        "UndeclaredAccounts": {"a_refusal_ends_it_unless_it_is_closed_loop"},
        "CostsMoreThanDeclared": {"costs_as_many_queries_as_stated"},
        "LeavesTheAttackRunning": {"closes_the_attack_when_it_is_closed", "closing_it_releases_threads_and_images"},
        "MainIsNotAField": {"every_field_is_documented"},
    },
    "DataSetConformance": {
        "pixel_values_up_to_255": {"images_are_valid"},
        "no_note": {"describes_itself"},
        "one_explicit_channel": {"images_have_a_height_a_width_and_one_or_three_channels"},
        "batches_in_another_order": {"one_image_is_the_same_as_among_several"},
        "writable_images": {"writing_to_an_image_does_not_change_the_pool"},
        "overlapping_subsets": {"subsets_share_no_image"},
        "subset_without_a_class": {"every_image_has_a_label_and_every_class_an_image"},
        "wrong_shape": {
            "images_are_valid",
            "one_image_is_the_same_as_among_several",
            "an_empty_selection_is_an_empty_array",
        },
        "new_fingerprint_at_each_load": {"loading_again_gives_the_same"},
    },
    "EngineConformance": {
        "DoublePrecision": {"confidences_are_float32_of_one_row_per_image_and_add_up_to_1"},
        "SumsToTwo": {"confidences_are_float32_of_one_row_per_image_and_add_up_to_1"},
        "ShortOfOneRow": {
            "confidences_are_float32_of_one_row_per_image_and_add_up_to_1",
            "an_image_alone_gets_the_answer_that_it_gets_among_others",
            "different_images_get_different_answers",
            "gradients_are_returned_exactly_if_the_engine_gives_them",
        },
        "MixesRows": {"an_image_alone_gets_the_answer_that_it_gets_among_others"},
        "Random": {
            "an_image_alone_gets_the_answer_that_it_gets_among_others",
            "the_same_batch_gets_the_same_answers_exactly_if_the_engine_is_deterministic",
        },
        "Constant": {"different_images_get_different_answers"},
        "ReusesItsBuffer": {
            "answers_stay_and_images_are_not_changed",
            "an_image_alone_gets_the_answer_that_it_gets_among_others",
        },
        "ChangesImages": {
            "answers_stay_and_images_are_not_changed",
            "an_image_alone_gets_the_answer_that_it_gets_among_others",
            "the_same_batch_gets_the_same_answers_exactly_if_the_engine_is_deterministic",
        },
        "AcceptsAnyShape": {"images_of_another_shape_are_refused"},
        "ForgetsGradients": {"gradients_are_returned_exactly_if_the_engine_gives_them"},
        "AcceptsAnyClass": {"classes_that_do_not_exist_are_refused"},
        "NoAnswerForNoImages": {"no_images_give_no_answers"},
        "FactsOfArrays": {"its_facts_are_plain_data"},
        "ClosesOnce": {"it_can_be_closed_twice"},
    },
}
"""For each suite and broken object, the tests that it fails; it passes or skips all others."""
FAILING_MANY = [
    ("AttackerConformance", "WrongShape", "sends_images_of_the_world"),
    ("AttackerConformance", "NeedsMoreThanDeclared", "sends_images_of_the_world"),
    ("DataSetConformance", "missing_subset", "has_the_four_subsets"),
    ("DataSetConformance", "new_pixels_at_each_read", "reading_twice_gives_the_same"),
]
"""Objects that fail many tests: (suite, object, the test of its fault)."""


def outcomes(pytester: pytest.Pytester, suite: str, name: str) -> dict[str, set[str]]:
    """Run a suite on an object of `tests.testing.broken`; return the names of the tests by outcome."""
    pytester.makepyfile(f"""
        import pytest
        from mifsim.testing import {suite}
        from tests.testing.broken import CHANGES, {MODULES[suite]} as broken

        class TestIt({suite}):
            @pytest.fixture
            def {FIXTURES[suite]}(self):
                return broken.{name}{"" if suite == "EngineConformance" else "()"}

            @pytest.fixture
            def changes(self):
                return CHANGES.get("{name}", {{}})

            @pytest.fixture
            def again(self):
                return broken.{name}()
    """)
    recorded = pytester.inline_run("-p", "no:cacheprovider", "-p", "no:benchmark", "-q", no_reraise_ctrlc=True)
    reports = zip(("passed", "skipped", "failed"), recorded.listoutcomes(), strict=True)
    return {
        outcome: {report.location[2].removeprefix("TestIt.test_").partition("[")[0] for report in found}
        for outcome, found in reports
    }


@pytest.mark.parametrize("suite", FIXTURES)
def test_sound_objects_pass(pytester: pytest.Pytester, suite: str) -> None:
    found = outcomes(pytester, suite, SOUND[suite])
    assert found["failed"] == found["skipped"] == set()
    assert len(found["passed"]) >= 10


@pytest.mark.parametrize(("suite", "name"), [(suite, name) for suite, objects in BROKEN.items() for name in objects])
def test_an_object_with_one_fault_fails_exactly_the_tests_of_that_fault(
    pytester: pytest.Pytester, suite: str, name: str
) -> None:
    assert outcomes(pytester, suite, name)["failed"] == BROKEN[suite][name]


@pytest.mark.parametrize(("suite", "name", "test"), FAILING_MANY)
def test_an_object_that_fails_many_tests_fails_the_test_of_its_fault(
    pytester: pytest.Pytester, suite: str, name: str, test: str
) -> None:
    assert test in outcomes(pytester, suite, name)["failed"]


def test_every_test_of_the_suites_fails_for_some_object() -> None:
    failed = {suite: set().union(*BROKEN[suite].values()) for suite in FIXTURES}
    for suite, _, test in FAILING_MANY:
        failed[suite].add(test)
    never = {
        f"{suite}.{name}"
        for suite in FIXTURES
        for name in dir(getattr(mifsim.testing, suite))
        if name.startswith("test_") and not any(name.removeprefix("test_") in names for names in failed.values())
    }
    assert sorted(never) == []


def test_a_suite_without_its_fixture_reports_what_to_supply(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from mifsim.testing import AttackerConformance

        class TestIt(AttackerConformance):
            pass
    """)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-q", "-k", "documented")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*NotImplementedError: override the fixture `client`: return the client under test")


def test_the_example_of_the_documentation_runs(pytester: pytest.Pytester) -> None:
    assert mifsim.testing.__doc__ is not None
    _, _, rest = mifsim.testing.__doc__.partition("::\n")
    example = textwrap.dedent(rest.partition("====")[0])
    pytester.makepyfile(my_package="from tests.testing.broken.clients import Walk as MyAttack", test_my_attack=example)
    pytester.syspathinsert()
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-q")
    outcome = result.parseoutcomes()
    assert set(outcome) <= {"passed", "skipped"}
    assert outcome["passed"] >= 40
    assert outcome["skipped"] == 1  # no changes were supplied


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a new process."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_package_itself_does_not_import_pytest() -> None:
    code = """
import sys, mifsim, mifsim.cli, mifsim.clients, mifsim.data, mifsim.run.simulate, mifsim.study
mifsim.clients.names()
print(sorted({"pytest", "hypothesis", "mifsim.testing"} & set(sys.modules)))
"""
    assert run(code).stdout.strip() == "[]"


def test_without_pytest_the_import_error_names_it() -> None:
    result = run("import sys; sys.modules['pytest'] = None; import mifsim.testing")
    assert result.returncode == 1
    assert "ImportError: mifsim.testing needs pytest, which is not installed: pip install pytest" in result.stderr
