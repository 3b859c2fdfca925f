"""A recorder records exactly the values that a filter compares, to the last bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mifsim.defense import FilterConfig, QueryFilter, Verdict, simple_hash, ssim
from mifsim.defense.kinds import columns_of, covers, recorder_of, specs_for
from mifsim.defense.ssim_hash.recorder import SsimHashRecorder
from tests.defense.conftest import NOISE
from tests.defense.ssim_hash.reference import FORMS, ReferenceFilter


def test_a_row_lists_the_newest_image_first(pool):
    recorder = SsimHashRecorder(3, FORMS, hash_size=4)
    assert np.isnan(recorder.last_hash)
    assert all(len(row) == 0 for row in recorder.last_similarities.values())
    for n, image in enumerate(pool[:7]):
        assert recorder.check(image) is Verdict.SAFE
        assert recorder.last_hash == simple_hash(image, 4)
        for form in FORMS:
            row = recorder.last_similarities[form]
            assert row.dtype == np.float32
            assert row.tolist() == [ssim(image, pool[n - lag], form) for lag in range(1, min(n, 3) + 1)]
    assert (recorder.count, recorder.blocked) == (0, False)
    assert repr(recorder) == "<SsimHashRecorder: 3 of 3 images, forms global, uniform, gaussian>"


def test_recorded_rows_do_not_change_later(pool):
    recorder = SsimHashRecorder(4)
    rows = []
    for image in pool[:6]:
        recorder.check(image)
        rows.append(recorder.last_similarities["global"])
    copies = [row.copy() for row in rows]
    for image in pool[6:]:
        recorder.check(image)
    assert all(np.array_equal(row, copy) for row, copy in zip(rows, copies, strict=True))


def test_the_lag_of_a_repeat_is_that_of_the_newest_equal_image_in_the_buffer(pool):
    recorder = SsimHashRecorder(3, repeats=True)
    order = [0, 1, 0, 0, 2, 3, 4, 0, 4, 1]
    lags = []
    for n, index in enumerate(order):
        recorder.check(pool[index])
        lags.append(recorder.last_repeat_lag)
        assert recorder.row()["repeat_lag"] == lags[-1]
        expected = [lag for lag in range(1, min(n, 3) + 1) if np.array_equal(pool[order[n - lag]], pool[index])]
        assert lags[-1] == (expected[0] if expected else 0)
    assert lags == [0, 0, 2, 1, 0, 0, 0, 0, 2, 0]


def test_repeats_are_recorded_if_a_configuration_needs_them(pool):
    plain = FilterConfig(0.9, 0.1, 3, 2, leak=0.1)
    apart = FilterConfig(0.9, 0.1, 5, 2, repeats=4)
    assert plain.recording() == {"n_b": 3, "forms": ("global",), "hash_size": 8}
    assert apart.recording() == {"n_b": 5, "forms": ("global",), "hash_size": 8, "repeats": True}
    (both,) = specs_for([plain, apart])
    assert both == specs_for([replace(apart, repeats=1)])[0]
    assert covers(both, plain.recording_spec())
    assert covers(both, apart.recording_spec())
    assert not covers(replace(plain, n_b=8).recording_spec(), apart.recording_spec())
    assert dict(columns_of(both)) == {"hash": ("float64", 0), "ssim_global": ("float32", 5), "repeat_lag": ("int64", 0)}
    assert set(columns_of(plain.recording_spec())) == {"hash", "ssim_global"}
    for spec in (both, plain.recording_spec()):
        recorder = recorder_of(spec)
        recorder.check(pool[0])
        assert set(recorder.row()) == set(columns_of(spec))


@given(
    stream=st.lists(st.integers(0, 3 * len(NOISE) - 1), min_size=2, max_size=25),
    form=st.sampled_from(FORMS),
    rule=st.sampled_from(["per_match", "per_query"]),
    n_b=st.integers(1, 6),
    l_sp=st.integers(1, 10),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_every_verdict_follows_exactly_from_the_recorded_rows(pool, stream, form, rule, n_b, l_sp, data):
    """This includes thresholds that equal a recorded value, or that are the next float64 above or below it."""
    recorder = SsimHashRecorder(6, FORMS)
    hashes, similarities = [], {}
    for n, index in enumerate(stream):
        recorder.check(pool[index])
        hashes.append(recorder.last_hash)
        for lag, value in enumerate(recorder.last_similarities[form], 1):
            similarities[n, n - lag] = float(value)
    gaps = [abs(hashes[i] - hashes[j]) for i, j in similarities]
    nudge = data.draw(st.sampled_from([-1.0, 0.0, 1.0]))
    t_ssim = data.draw(st.sampled_from(sorted(similarities.values())))
    t_hash = max(data.draw(st.sampled_from(sorted(gaps))), 1e-9)
    if nudge:
        t_ssim, t_hash = float(np.nextafter(t_ssim, nudge)), float(np.nextafter(t_hash, max(nudge, 0)))
    config = FilterConfig(t_ssim, t_hash, n_b, l_sp, ssim=form, count_rule=rule)

    replayed = ReferenceFilter(config, lambda i, j: similarities[i, j], lambda i: hashes[i])
    detector = QueryFilter(config)
    for n, index in enumerate(stream):
        assert detector.check(pool[index]).name == replayed.check(n)
        assert detector.count == replayed.count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_b_max": 0}, "n_b_max = 0"),
        ({"n_b_max": 3, "forms": ()}, "forms"),
        ({"n_b_max": 3, "forms": ("local",)}, "global, uniform, gaussian"),
        ({"n_b_max": 3, "forms": ("global", "global")}, "without duplicates"),
        ({"n_b_max": 3, "hash_size": 0}, "hash_size = 0"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SsimHashRecorder(**arguments)
