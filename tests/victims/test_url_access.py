"""Services of others: tokens, encryption, and addresses that a study may name."""

import numpy as np
import pytest

from mifsim.addresses import allow_plain_http
from mifsim.errors import VictimError
from mifsim.victims import VictimConfig
from mifsim.victims.preparing import described
from tests.victims.inference_service import service
from tests.victims.url_victims import CLASSES, GREY, answers, closed_form, config_of, engine_of, noise


def test_the_token_comes_from_the_environment_and_is_in_no_text(monkeypatch):
    with service((*GREY, 1), CLASSES, token="secret-7") as found:
        with pytest.raises(VictimError, match=r"answers HTTP 401: no valid token .*victim\.token_env"):
            engine_of(found)
        with pytest.raises(VictimError, match="MIFSIM_VICTIM_TOKEN: the environment variable is not set"):
            engine_of(found, token_env="MIFSIM_VICTIM_TOKEN")
        monkeypatch.setenv("MIFSIM_VICTIM_TOKEN", "secret-7")
        config = config_of(found, token_env="MIFSIM_VICTIM_TOKEN")
        source = described(config)
        assert "secret-7" not in f"{source!r} {config!r} {config.model_dump()}"
        with source.engine(GREY, CLASSES) as engine:
            np.testing.assert_allclose(answers(engine, noise(2)), closed_form(noise(2)), atol=1e-7)
        for name in ("AWS_SECRET_ACCESS_KEY", "mifsim_token"):
            with pytest.raises(ValueError, match="pattern"):
                config_of(found, token_env=name)


def test_unencrypted_requests_to_other_machines_need_the_option(monkeypatch):
    config = VictimConfig(url="http://192.0.2.1/v2/models/digits", protocol="oip-v2-json", retries=0)
    with pytest.raises(VictimError, match=r"cross the network unencrypted .*--plain-http"):
        described(config).engine(GREY, CLASSES)
    asked = []
    monkeypatch.setattr("mifsim.victims.engines.url.HttpClient.get", lambda client, url: asked.append(url))
    allow_plain_http()
    try:
        with pytest.raises(VictimError, match="has no model of this name"):
            described(config).engine(GREY, CLASSES)
    finally:
        allow_plain_http(False)
    assert asked == ["http://192.0.2.1/v2/models/digits"]


@pytest.mark.parametrize(
    "url", ["ftp://host/m", "http:///m", "http://user:word@host/m", "http://host/m?key=1", "http://host:99999/m", "m"]
)
def test_an_address_with_a_secret_or_of_another_scheme_is_refused(url):
    with pytest.raises(ValueError, match="not the address of a model"):
        VictimConfig(url=url, protocol="tf-serving")
