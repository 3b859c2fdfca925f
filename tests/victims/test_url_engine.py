"""The engine of services, against server processes on loopback: answers, faults, limits and refusals."""

import re
import subprocess
import sys
import threading

import numpy as np
import pytest

from mifsim.errors import VictimError
from mifsim.testing.engines import EngineConformance
from mifsim.victims import VictimConfig, prepare_victim
from mifsim.victims.preparing import described
from tests.victims.inference_service import service
from tests.victims.url_victims import CLASSES, COLOUR, GREY, answers, closed_form, config_of, engine_of, noise

PROTOCOLS = ["oip-v2-json", "oip-v2-binary", "tf-serving"]


@pytest.fixture(scope="module")
def steady():
    with service((*GREY, 1), CLASSES) as found:
        yield found


@pytest.fixture(autouse=True)
def no_faults(steady):
    steady.faults()


@pytest.mark.parametrize("protocol", PROTOCOLS)
class TestConformance(EngineConformance):
    @pytest.fixture
    def engine(self, protocol, steady):
        opened = []

        def make():
            opened.append(engine_of(steady, protocol, request_images=5))
            return opened[-1]

        yield make
        for engine in opened:
            engine.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_answers_are_those_of_the_closed_form(steady, protocol):
    with engine_of(steady, protocol) as engine:
        np.testing.assert_allclose(answers(engine, noise(40)), closed_form(noise(40)), rtol=0, atol=1e-7)


@pytest.mark.parametrize("ending", ["", "/"])
def test_the_url_may_end_with_that_of_a_request(steady, ending):
    for protocol, request in (("oip-v2-json", "/infer"), ("tf-serving", ":predict")):
        url = steady.url(protocol) + (request or ending)
        config = VictimConfig(url=url + ending, protocol=protocol)
        with described(config).engine(GREY, CLASSES) as engine:
            np.testing.assert_allclose(answers(engine, noise(2)), closed_form(noise(2)), atol=1e-7)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_colour_images_are_sent_in_the_order_of_axes_that_the_service_states(protocol):
    with service((3, 16, 16), CLASSES) as found, engine_of(found, protocol, COLOUR) as engine:
        expected = closed_form(noise(7, COLOUR).transpose(0, 3, 1, 2))
        np.testing.assert_allclose(answers(engine, noise(7, COLOUR)), expected, atol=1e-7)
        assert engine.facts() == {"url": found.url(protocol), "protocol": protocol, "layout": "channels-first"}


def test_half_precision_and_json_outputs_of_the_binary_extension():
    with service((*GREY,), CLASSES, "--datatype", "FP16", "--json-only") as found:
        with engine_of(found) as engine:
            halves = noise(5).astype(np.float16).astype(np.float32)
            np.testing.assert_allclose(answers(engine, noise(5)), closed_form(halves), atol=1e-7)
        with pytest.raises(VictimError, match=r"takes FP16 \(accepted for oip-v2-json: FP32, FP64"):
            engine_of(found, "oip-v2-json")


def test_a_service_without_the_binary_extension_is_named_with_the_protocol_to_use():
    advice = 'does not list the extension binary_tensor_data: try victim.protocol = "oip-v2-json"'
    with service((*GREY, 1), CLASSES, "--no-binary") as found:
        with pytest.raises(VictimError, match=f"answers HTTP 400: not JSON; the service {re.escape(advice)}$"):
            engine_of(found, "oip-v2-binary")
        with engine_of(found, "oip-v2-json") as engine:
            np.testing.assert_allclose(answers(engine, noise(2)), closed_form(noise(2)), atol=1e-7)


def test_a_failure_of_a_service_with_the_binary_extension_brings_no_advice(steady):
    steady.faults(*[{"status": 400, "text": "wrong size"}])
    with pytest.raises(VictimError, match=r"wrong size$"):
        engine_of(steady, "oip-v2-binary")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_whole_numbers_are_pixels_from_0_to_255(protocol):
    with service((*GREY, 1), CLASSES, "--datatype", "UINT8") as found, engine_of(found, protocol) as engine:
        rounded = np.rint(noise(5) * 255) / 255
        np.testing.assert_allclose(answers(engine, noise(5)), closed_form(rounded), atol=1e-6)


def test_a_fixed_batch_size_is_kept():
    with service((*GREY, 1), CLASSES, "--fixed-batch", "4") as found, engine_of(found) as engine:
        np.testing.assert_allclose(answers(engine, noise(9)), closed_form(noise(9)), atol=1e-7)


def test_several_outputs_are_named():
    with service((*GREY, 1), CLASSES, "--second-output") as found:
        for protocol in PROTOCOLS:
            with pytest.raises(VictimError, match=r"has 2 outputs, 'probabilities', 'label'; .*victim\.output_name = "):
                engine_of(found, protocol)
            with pytest.raises(VictimError, match="no output 'scores'"):
                engine_of(found, protocol, output_name="scores")
            with engine_of(found, protocol, output_name="probabilities") as engine:
                np.testing.assert_allclose(answers(engine, noise(5)), closed_form(noise(5)), atol=1e-7)


def test_a_compatible_service_without_metadata_gets_channels_last_unless_the_study_says_otherwise():
    with service((*GREY, 1), CLASSES, "--without-metadata") as found:
        with engine_of(found, "tf-serving") as engine:
            np.testing.assert_allclose(answers(engine, noise(5)), closed_form(noise(5)), atol=1e-7)
        with pytest.raises(VictimError, match=r"answers HTTP 400: shape \(32, 168\)"):
            engine_of(found, "tf-serving", layout="flat")


FAULTS = [
    {"status": 503},
    {"status": 429, "headers": {"Retry-After": "0"}},
    {"close": True},
    {"cut": True},
    {"broken": True},
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: next(iter(fault)))
def test_a_request_that_fails_is_repeated_with_the_same_result(steady, protocol, fault):
    with engine_of(steady, protocol, request_images=8, concurrency=1) as engine:
        steady.faults(fault, fault, {})
        np.testing.assert_allclose(answers(engine, noise(20)), closed_form(noise(20)), atol=1e-7)
        assert steady.counts()["requests"] == 3 + 2  # three requests, the first of which was repeated twice


def test_a_request_that_takes_too_long_is_repeated(steady):
    with engine_of(steady, timeout_seconds=1) as engine:
        steady.faults({"delay": 2.0}, {})
        np.testing.assert_allclose(answers(engine, noise(3)), closed_form(noise(3)), atol=1e-7)
        assert steady.counts()["requests"] >= 2


def test_after_all_repetitions_the_message_says_what_happened(steady):
    for fault, timeout, message in (
        ({"status": 503, "text": "still\nloading"}, 20, "answers HTTP 503: still loading, after 2 attempts"),
        ({"close": True}, 20, "the connection was lost before the answer was complete, after 2 attempts"),
        ({"cut": True}, 20, "the connection was lost before the answer was complete, after 2 attempts"),
        ({"delay": 2.0}, 0.5, r"no answer within 0\.5 s, after 2 attempts"),
    ):
        engine = engine_of(steady, retries=1, timeout_seconds=20)
        engine._client._timeout = timeout
        with engine:
            steady.faults(fault, fault)
            with pytest.raises(VictimError, match=rf"^victim\.url = {re.escape(steady.url('o'))}: {message}$"):
                answers(engine, noise(1))


def test_wrong_requests_and_answers_are_not_repeated(steady):
    with engine_of(steady) as engine:
        for fault, message in (
            ({"status": 400, "text": "no"}, "answers HTTP 400: no$"),
            ({"status": 403}, "victim.token_env"),
            ({"status": 302, "headers": {"Location": "http://example.org/"}}, "redirections are not followed"),
            ({"short": True}, r"answers 2 of 3 images, in an array of shape \(2, 3\)"),
        ):
            steady.faults(fault)
            with pytest.raises(VictimError, match=message):
                answers(engine, noise(3))
            assert steady.counts()["requests"] == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_answers_that_stay_damaged_are_named(steady, protocol):
    with engine_of(steady, protocol) as engine:
        steady.faults(*[{"broken": True}] * 3)
        with pytest.raises(VictimError, match=r"its answer (is not complete JSON|has \d+ numbers|states a length)"):
            answers(engine, noise(3))


def test_a_service_that_restarts_answers_again():
    with service((*GREY, 1), CLASSES) as found, engine_of(found) as engine:
        found.stop()
        restart = threading.Timer(0.5, found.start)
        restart.start()
        np.testing.assert_allclose(answers(engine, noise(3)), closed_form(noise(3)), atol=1e-7)
        restart.join()


def test_a_service_that_is_down_or_has_no_such_model_is_named():
    with service((*GREY, 1), CLASSES) as found:
        wrong = found.url("oip-v2-json").replace("digits", "letters")
        with pytest.raises(VictimError, match=r"letters: has no model of this name \(HTTP 404\)"):
            described(VictimConfig(url=wrong, protocol="oip-v2-json")).engine(GREY, CLASSES)
        with pytest.raises(VictimError, match=r"takes images of shape \(12, 14, 1\); the data's images have"):
            engine_of(found, shape=COLOUR)
        with pytest.raises(VictimError, match=r"\(32, 3\) for 32 images; the data has 10 classes"):
            engine_of(found, classes=10)
    with pytest.raises(VictimError, match=r"no answer: Connection refused, and victim.retries = 0"):
        engine_of(found, retries=0)


def test_no_more_requests_are_sent_at_a_time_than_allowed():
    with service((*GREY, 1), CLASSES, "--delay", "0.05") as found:
        for most in (1, 3):
            with engine_of(found, request_images=2, concurrency=most) as engine:
                found.faults()
                np.testing.assert_allclose(answers(engine, noise(16)), closed_form(noise(16)), atol=1e-7)
                assert found.counts() == {"requests": 8, "answered": 8, "images": 16, "most_at_a_time": most}


def test_a_service_is_identified_by_its_answers(grey, steady):
    first, again = (prepare_victim(grey, config_of(steady)) for _ in range(2))
    assert first.fingerprint == again.fingerprint
    assert first.facts["identified_by"] == "its name and its answers to 32 images"
    assert first.deterministic
    assert first.facts["test_images"] == len(grey.subset("users"))
    users = grey.subset("users")
    labels = closed_form(users.images(np.arange(len(users)))).argmax(axis=1)
    assert first.test_accuracy == np.mean(labels == users.labels)
    with service((*GREY, 1), CLASSES, "--seed", "1") as other:
        before = prepare_victim(grey, config_of(other)).fingerprint
        other.stop()
        other.arguments = (*other.arguments, "--seed", "2")
        other.start()
        assert prepare_victim(grey, config_of(other)).fingerprint != before  # the same address, another model


def test_a_service_that_is_not_deterministic_is_detected_and_identified_by_its_labels(grey):
    with service((*GREY, 1), CLASSES, "--noise", "1e-4") as found:
        victim, again = (prepare_victim(grey, config_of(found)) for _ in range(2))
    assert not victim.deterministic
    assert 0 < victim.facts["largest_difference"] < 1e-2
    assert "its labels of 32 images" in victim.facts["identified_by"]
    assert victim.fingerprint == again.fingerprint


def test_the_engine_needs_no_tensorflow(steady):
    program = (
        "import sys\n"
        "from mifsim.victims import VictimConfig\n"
        "from mifsim.victims.preparing import described\n"
        "config = VictimConfig(url=sys.argv[1], protocol='oip-v2-binary')\n"
        "with described(config).engine((12, 14), 3, 8) as engine:\n"
        "    print(type(engine).__name__, 'tensorflow' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, steady.url("oip-v2-binary")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("UrlEngine False\n", "")
