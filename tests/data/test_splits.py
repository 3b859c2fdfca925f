"""Splits of a data set into subsets, and reductions to fewer images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mifsim.data.assembling import assemble, reduce_classes, split_by_class
from mifsim.data.base import ArrayPool, SubsetPool
from mifsim.errors import DataError

SHARES = {"private": 0.5, "auxiliary": 0.1, "users": 0.3, "evaluator": 0.1}


@given(
    sizes=st.lists(st.integers(10, 60), min_size=1, max_size=5),
    seed=st.integers(0, 2**32 - 1),
    shuffle_seed=st.integers(0, 9),
)
def test_a_split_puts_every_index_into_one_subset_in_its_share(sizes, seed, shuffle_seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.random.default_rng(shuffle_seed).permutation(labels)
    subsets = split_by_class(labels, SHARES, seed)
    assert sorted(np.concatenate(list(subsets.values()))) == list(range(len(labels)))
    for subset, share in SHARES.items():
        for label, size in enumerate(sizes):
            assert abs(np.sum(labels[subsets[subset]] == label) - share * size) <= 1


def test_a_split_depends_on_the_seed():
    labels = np.repeat([0, 1], 50)
    first, same, other = (split_by_class(labels, SHARES, seed)["private"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_class_too_small_to_split_is_refused():
    with pytest.raises(DataError, match="class 1 has 3 images"):
        split_by_class(np.array([0] * 10 + [1] * 3), SHARES, 0)


@given(
    sizes=st.lists(st.integers(80, 200), min_size=1, max_size=4),
    wanted=st.integers(40, 80),
    seed=st.integers(0, 99),
)
def test_a_reduction_keeps_the_given_number_per_class_and_each_subsets_share(sizes, wanted, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    names = tuple(f"c{number}" for number in range(len(sizes)))
    subsets = split_by_class(labels, SHARES, 0)
    kept = reduce_classes(labels, subsets, wanted, seed, names)
    for label, size in enumerate(sizes):
        assert sum(np.sum(labels[indices] == label) for indices in kept.values()) == wanted
        for subset, indices in kept.items():
            before = np.sum(labels[subsets[subset]] == label)
            assert abs(np.sum(labels[indices] == label) - before * wanted / size) <= 1
    for subset, indices in kept.items():
        assert set(indices) <= set(subsets[subset])


def test_a_reduction_to_more_images_than_a_class_has_names_the_class():
    labels = np.repeat([0, 1], [100, 50])
    subsets = split_by_class(labels, SHARES, 0)
    with pytest.raises(DataError, match=r"images_per_class = 60.*'few' has 50"):
        reduce_classes(labels, subsets, 60, 0, ("many", "few"))


def test_a_reduction_that_empties_a_subset_is_refused():
    labels = np.repeat([0, 1], 100)
    subsets = split_by_class(labels, SHARES, 0)
    with pytest.raises(DataError, match=r"images_per_class = 3 leaves the auxiliary subset.*'a'"):
        reduce_classes(labels, subsets, 3, 0, ("a", "b"))


def test_a_subset_pool_has_the_chosen_images_in_the_chosen_order():
    pixels = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2)
    pool = SubsetPool(ArrayPool(pixels, np.array([0, 1, 2, 3, 4])), np.array([3, 1]))
    assert len(pool) == 2
    assert pool.labels.tolist() == [3, 1]
    np.testing.assert_allclose(pool.image(1), np.array([[4, 5], [6, 7]]) / 255, rtol=1e-7)
    np.testing.assert_allclose(pool.images([1, 0])[1], pixels[3] / 255, rtol=1e-7)


def test_the_fingerprint_depends_on_content_split_and_classes():
    labels = np.repeat([0, 1], 20)
    pool = ArrayPool(np.zeros((40, 2, 2), np.uint8), labels)

    def fingerprint(content="x", seed=0, classes=("a", "b")):
        subsets = split_by_class(labels, SHARES, seed)
        return assemble(
            name="n", shape=(2, 2), class_names=classes, pool=pool, subsets=subsets, content=content, note=""
        ).fingerprint

    base = fingerprint()
    assert base == fingerprint()
    assert len({base, fingerprint(content="y"), fingerprint(seed=1), fingerprint(classes=("a", "c"))}) == 4
