"""Algorithm 2: cases worked by hand, and random streams compared with a line-by-line implementation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mifsim.defense import Detector, FilterConfig, NoDefense, QueryFilter, Verdict, simple_hash, ssim
from mifsim.defense.ssim_hash.recorder import SsimHashRecorder
from tests.defense.conftest import NOISE, make_pool
from tests.defense.ssim_hash.filter_samples import A, B, C, flat, make_config, verdicts
from tests.defense.ssim_hash.reference import FORMS, ReferenceFilter, reference_hash, reference_ssim


def test_the_image_that_reaches_the_limit_is_unsafe_and_not_stored():
    detector = QueryFilter(make_config(l_sp=1))
    assert verdicts(detector, [A, B, A]) == ["SAFE", "SAFE", "UNSAFE"]
    assert detector.count == 1
    assert detector.blocked
    assert [image[0, 0] for image in detector.state_dict()["images"]] == [0.0, 0.5]


def test_every_match_counts():
    """The third A matches two images in the buffer: the count is 0, then 1, then 1 + 2."""
    detector = QueryFilter(make_config(l_sp=10))
    counts = [(detector.check(A), detector.count)[1] for _ in range(4)]
    assert counts == [0, 1, 3, 6]


def test_a_query_counts_at_most_once_with_the_per_query_rule():
    detector = QueryFilter(make_config(l_sp=10, count_rule="per_query"))
    counts = [(detector.check(A), detector.count)[1] for _ in range(4)]
    assert counts == [0, 1, 2, 3]


def test_counting_stops_at_the_limit():
    """The third A matches two images, but the first match reaches the limit: the count is 2, not 3."""
    detector = QueryFilter(make_config(l_sp=2))
    assert verdicts(detector, [A, A, A]) == ["SAFE", "SAFE", "UNSAFE"]
    assert detector.count == 2


def test_the_count_stays_when_the_matched_images_leave_the_buffer():
    detector = QueryFilter(make_config(n_b=1, l_sp=2))
    assert verdicts(detector, [A, A, B, C, A, B, C, C]) == ["SAFE"] * 7 + ["UNSAFE"]


def test_the_buffer_is_first_in_first_out():
    detector = QueryFilter(make_config(n_b=2, l_sp=1))
    assert verdicts(detector, [A, B, C, A, B, C]) == ["SAFE"] * 6  # each image leaves the buffer before it returns
    assert verdicts(detector, [B]) == ["UNSAFE"]
    detector = QueryFilter(make_config(n_b=3, l_sp=1))
    assert verdicts(detector, [A, B, C, A]) == ["SAFE"] * 3 + ["UNSAFE"]


def test_a_similar_image_is_enqueued_below_the_limit():
    detector = QueryFilter(make_config(n_b=2, l_sp=3))
    verdicts(detector, [A, B, A])
    assert [image[0, 0] for image in detector.state_dict()["images"]] == [0.5, 0.0]


def test_a_blocked_filter_stays_blocked_for_any_input():
    detector = QueryFilter(make_config(l_sp=1))
    verdicts(detector, [A, A])
    before = detector.state_dict()
    assert verdicts(detector, [C, flat(0.3, (5, 5)), np.full((12, 12), np.nan), None]) == ["UNSAFE"] * 4
    after = detector.state_dict()
    assert after["count"] == before["count"] == 1
    assert np.array_equal(after["images"], before["images"])


def test_the_hash_gap_is_compared_strictly():
    x, y = flat(0.5), flat(0.75)
    assert abs(simple_hash(x) - simple_hash(y)) == 0.25
    for t_hash, outcome in ((0.25, "SAFE"), (np.nextafter(0.25, 1), "UNSAFE")):
        detector = QueryFilter(make_config(t_ssim=-1, t_hash=t_hash, l_sp=1))
        assert verdicts(detector, [x, y]) == ["SAFE", outcome]


@pytest.mark.parametrize("form", FORMS)
def test_the_similarity_is_compared_strictly(form):
    x, y = make_pool((12, 12))[0], make_pool((12, 12))[3]
    value = ssim(y, x, form)
    for t_ssim, outcome in ((value, "SAFE"), (np.nextafter(value, -1), "UNSAFE")):
        detector = QueryFilter(make_config(t_ssim=t_ssim, l_sp=1, ssim=form))
        assert verdicts(detector, [x, y]) == ["SAFE", outcome]


@pytest.mark.parametrize("form", FORMS)
def test_no_similarity_exceeds_1(form):
    x = make_pool((12, 12))[0]
    assert verdicts(QueryFilter(make_config(t_ssim=1, l_sp=1, ssim=form)), [x, x, x]) == ["SAFE"] * 3
    below = np.nextafter(1, 0)
    assert verdicts(QueryFilter(make_config(t_ssim=below, l_sp=1, ssim=form)), [x, x]) == ["SAFE", "UNSAFE"]


def test_a_match_needs_a_similar_image_and_a_similar_hash():
    x = np.zeros((16, 16), dtype=np.float32)
    x[:8] = 1
    assert simple_hash(x) == simple_hash(1 - x)  # but the images are opposites
    assert verdicts(QueryFilter(make_config(t_ssim=0.5, l_sp=1)), [x, 1 - x]) == ["SAFE", "SAFE"]
    bright, darker = flat(0.9), flat(0.7)
    assert ssim(bright, darker) > 0.9  # but their hashes are 0.2 apart
    assert verdicts(QueryFilter(make_config(l_sp=1)), [bright, darker]) == ["SAFE", "SAFE"]


def test_the_filter_uses_the_configured_hash_size():
    """Hashes of two sizes differ only by rounding; at a threshold between the two gaps, the verdicts differ too."""
    x, y = make_pool((12, 12))[0], make_pool((12, 12))[5]
    gaps = {size: abs(simple_hash(x, size) - simple_hash(y, size)) for size in (5, 8)}
    assert gaps[5] != gaps[8]
    for size, gap in gaps.items():
        config = make_config(t_ssim=-1, t_hash=max(gaps.values()), l_sp=1, hash_size=size)
        assert verdicts(QueryFilter(config), [x, y])[1] == ("UNSAFE" if gap < max(gaps.values()) else "SAFE")


def test_uint8_is_divided_by_255_first():
    levels = np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)
    detector = QueryFilter(make_config(t_ssim=np.nextafter(1, 0), t_hash=1e-300, l_sp=1))
    assert verdicts(detector, [levels, levels.astype(np.float32) / np.float32(255)]) == ["SAFE", "UNSAFE"]


def test_later_changes_to_the_clients_array_have_no_effect():
    image = A.copy()
    detector = QueryFilter(make_config(l_sp=1))
    detector.check(image)
    image[:] = 1
    assert verdicts(detector, [C, A]) == ["SAFE", "UNSAFE"]


def test_all_kinds_are_detectors_and_a_filter_shows_its_state():
    detector = QueryFilter(make_config(l_sp=1))
    assert all(isinstance(one, Detector) for one in (detector, SsimHashRecorder(3), NoDefense()))
    assert "open: count 0 of 1, 0 of 10 images, " in repr(detector)
    verdicts(detector, [A, A])
    assert "blocked: count 1 of 1, 1 of 10 images of shape (12, 12), FilterConfig(" in repr(detector)


def test_no_defense_lets_every_image_pass():
    detector = NoDefense()
    assert [detector.check(A) for _ in range(50)] == [Verdict.SAFE] * 50
    assert (detector.count, detector.blocked) == (0, False)


def test_the_papers_configuration_blocks_a_slowly_changing_image():
    """Near-identical queries, as a model-inversion attack sends them, reach L_sp = 4 at the fourth image.

    The counts are 0, 1, 3 and 4, because counting stops at the limit.
    """
    rng = np.random.default_rng(0)
    base = rng.random((28, 28))
    images = [np.clip(base + 1e-5 * step, 0, 1).astype(np.float32) for step in range(5)]
    detector = QueryFilter(FilterConfig(t_ssim=0.999, t_hash=1e-3, n_b=10, l_sp=4))
    assert verdicts(detector, images) == ["SAFE", "SAFE", "SAFE", "UNSAFE", "UNSAFE"]
    assert detector.count == 4


configs = st.builds(
    FilterConfig,
    t_ssim=st.sampled_from([-1.0, 0.3, 0.9, 0.99, 0.999, 0.99999]),
    t_hash=st.sampled_from([1e-4, 1e-3, 3e-2, 1.0]),
    n_b=st.integers(1, 5),
    l_sp=st.integers(1, 8),
    ssim=st.sampled_from(FORMS),
    hash_size=st.sampled_from([4, 8]),
    count_rule=st.sampled_from(["per_match", "per_query"]),
    leak=st.sampled_from([0.0, 0.0, 0.05, 0.25, 0.9]),
    repeats=st.sampled_from([0, 0, 1, 2, 5]),
)
streams = st.lists(st.integers(0, 3 * len(NOISE) - 1), min_size=1, max_size=25)


@given(config=configs, stream=streams)
@settings(max_examples=150, deadline=None)
def test_any_stream_gets_the_verdicts_of_the_reference_filter(pool, config, stream):
    detector = QueryFilter(config)
    similarity = cache(lambda i, j: reference_ssim(pool[i], pool[j], config.ssim))
    hash_ = cache(lambda i: reference_hash(pool[i], config.hash_size))
    reference = ReferenceFilter(config, similarity, hash_, lambda i, j: np.array_equal(pool[i], pool[j]))
    for index in stream:
        expected = reference.check(index)
        assume(reference.margin > 1e-6)  # if rounding decides, both verdicts are right
        assert detector.check(pool[index]).name == expected
        assert (detector.count, detector.repeat_count) == (reference.count, reference.repeats)
        assert detector.blocked == (expected == "UNSAFE")
    assert np.array_equal(detector.state_dict()["images"], np.stack([pool[i] for i in reference.buffer]))


def test_sessions_in_parallel_threads_are_independent(pool):
    config = make_config(t_ssim=0.99, l_sp=40)

    def session(seed):
        order = np.random.default_rng(seed).integers(0, len(pool), 60)
        detector = QueryFilter(config)
        return [(detector.check(pool[i]), detector.count) for i in order]

    with ThreadPoolExecutor(4) as threads:
        in_parallel = list(threads.map(session, range(8)))
    assert in_parallel == [session(seed) for seed in range(8)]
