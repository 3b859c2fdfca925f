"""Sessions that need more different images than there are: refused with the numbers, or allowed by a key."""

import math

import numpy as np
import pytest

from mifsim.clients import World, client_class, names
from mifsim.clients.users.length import Length
from mifsim.data import DataConfig, load_data
from mifsim.errors import StudyError
from mifsim.run import simulate as simulation
from mifsim.run.pools import check_pools, pool_facts
from mifsim.study import Study, shipped_studies
from mifsim.study.splitting import SPLITS, split_images
from tests.data.small_sources import write_image
from tests.small import small_study
from tuning.paper.attacks import main_study
from tuning.paper.calibration import calibration_study
from tuning.paper.plan import plan_for
from tuning.study_check import check_calibration, check_images

DATA = load_data(DataConfig(set="mnist-5k", images_per_class=40))
"""12 images of each class for users: 120 in all, 4 of a class in each split."""


def users(**keys):
    return small_study(attacks=[], users=[{"user": "independent", "sessions": 3, **keys}])


def needs(kind, **keys):
    return [(need.images, need.one_class) for need in client_class(kind)(**keys).image_needs()]


class CountingPool:
    """A pool that counts the different images that are read from it."""

    def __init__(self, count):
        self.labels = np.arange(count) % 4
        self.read = set()

    def __len__(self):
        return len(self.labels)

    def image(self, index):
        self.read.add(int(index))
        return np.full((16, 16), 0.5, np.float32)


def images_of_a_session(client, seed, count):
    pool = CountingPool(count)
    generator = client.run(World((16, 16), 4, pool), np.random.default_rng(seed))
    for query in generator:
        assert query.image.shape == (16, 16)
    return len(pool.read)


class TestNeeds:
    def test_lengths_have_a_greatest_value_or_one_that_a_draw_in_a_thousand_exceeds(self):
        assert Length(50).most == 50
        assert Length.model_validate({"min": 20, "max": 40}).most == 40
        geometric = Length.model_validate({"mean": 50})
        assert (1 - 1 / 50) ** geometric.most <= 0.001 < (1 - 1 / 50) ** (geometric.most - 1)
        assert Length.model_validate({"mean": 1}).most == 1

    @pytest.mark.parametrize("given", [7, {"min": 2, "max": 6}, {"mean": 30}, {"mean": 1}])
    def test_the_variance_is_that_of_the_draws(self, given):
        length, rng = Length.model_validate(given), np.random.default_rng(0)
        drawn = np.array([length.draw(rng) for _ in range(20_000)])
        assert length.variance == pytest.approx(drawn.var(), rel=0.05)
        assert length.least <= drawn.min()

    @pytest.mark.parametrize("given", [3, {"min": 2, "max": 6}, {"mean": 30}])
    def test_few_sums_need_more_draws(self, given):
        length, rng = Length.model_validate(given), np.random.default_rng(1)
        draws = np.array([[length.draw(rng) for _ in range(200)] for _ in range(1000)])
        needed = 1 + (np.cumsum(draws, axis=1) < 200).sum(axis=1)
        assert (needed > length.draws_for(200)).mean() <= 0.008  # 0.001 by the normal approximation
        assert length.draws_for(200) <= needed.mean() * 1.5 + 10

    def test_each_kind(self):
        length = {"length": {"min": 20, "max": 40}}
        assert needs("independent", **length) == [(40, False)]
        assert needs("borders", **length) == [(40, False)]
        assert needs("one-class", **length) == [(40, True)]
        assert needs("bursts", shots=4, **length) == [(10, False)]
        assert needs("kiosk", shots=3, **length) == [(14, False)]
        assert needs("video", scene=100, **length) == [(1, False)]
        assert needs("augmentation", **length) == [(math.ceil(40 / 11), False)]
        assert needs("log") == []

    @pytest.mark.parametrize(
        ("kind", "keys"),
        [(kind, {}) for kind in names("user") if kind not in ("log", "long-sessions")]
        + [
            ("retries", {"probability": 0.5}),
            ("re-uploads", {"probability": 0.7}),
            ("bursts", {"shots": {"mean": 5}}),
            ("mixture", {"turn": {"mean": 20}, "of": [{"user": "independent"}, {"user": "bursts", "weight": 3}]}),
        ],
    )
    def test_few_sessions_need_more_images(self, kind, keys):
        client = client_class(kind)(length=60, **keys)
        stated = sum(need.images for need in client.image_needs())
        read = [images_of_a_session(client, seed, 4000) for seed in range(60)]
        assert max(read) <= stated + 1  # one more can be read ahead
        assert stated <= max(2 * max(read), 25 * len(client.image_needs()))


class TestRefusal:
    def test_a_session_longer_than_its_pool_is_refused_with_the_numbers(self):
        check_pools(users(length=120), DATA)
        with pytest.raises(StudyError) as caught:
            check_pools(users(length={"min": 3, "max": 121}), DATA)
        message = str(caught.value)
        assert (
            "small: users.0: a session of 'independent' can need 121 different images, but mnist-5k has 120" in message
        )
        assert "repeat_images = true" in message

    def test_one_class_is_compared_with_the_smallest_class(self):
        check_pools(users(user="one-class", length=12), DATA)
        with pytest.raises(StudyError, match="13 different images of one class, but mnist-5k has 12 of '0' for users"):
            check_pools(users(user="one-class", length=13), DATA)

    def test_each_split_of_a_calibration_has_a_third(self):
        parts = split_images(DATA.subset("users").labels, 5)
        assert [len(part) for part in parts] == [40] * len(SPLITS)
        check_pools(users(length=40), DATA, separate=True)
        with pytest.raises(StudyError, match=r"each of the 3 splits has 40 of its own \(120 images for users; tuning"):
            check_pools(users(length=41), DATA, separate=True)
        with pytest.raises(StudyError, match=r"each of the 3 splits has 4 of '0' of its own"):
            check_pools(users(user="one-class", length=5), DATA, separate=True)

    def test_users_who_send_several_shots_need_fewer_images(self):
        check_pools(users(user="bursts", shots=6, length=700), DATA)
        with pytest.raises(StudyError, match="'bursts' can need 121 different images"):
            check_pools(users(user="bursts", shots=6, length=721), DATA)

    def test_a_mixture_is_refused_for_the_part_that_lacks_most(self):
        of = [{"user": "independent"}, {"user": "one-class"}]
        with pytest.raises(StudyError, match=r"'mixture' can need \d\d different images of one class"):
            check_pools(users(user="mixture", of=of, length=60), DATA)

    def test_a_key_allows_repeated_images_and_run_json_says_so(self):
        study = users(user="one-class", length=20, repeat_images=True)
        check_pools(study, DATA)
        assert pool_facts(study, DATA) == {"one-class": {"needed": 20, "available": 12, "one_class": True}}
        assert pool_facts(users(user="one-class", length=12), DATA) == {}

    def test_the_study_is_refused_before_a_model_is_trained_or_a_folder_made(self, tmp_path, monkeypatch):
        monkeypatch.setattr("mifsim.run.inputs.prepare_victim", lambda *_: pytest.fail("a model was prepared"))
        with pytest.raises(StudyError, match="can need 500 different images"):
            simulation.simulate(users(length=500), tmp_path / "run", backend="in-process")
        assert not (tmp_path / "run").exists()

    def test_twelve_pictures_a_class_are_too_few_for_twenty_to_forty_of_one_class(self, tmp_path):
        for seed, name in ((0, "falling"), (50, "level"), (100, "rising")):
            (tmp_path / name).mkdir()
            for number in range(12):
                write_image(tmp_path / name / f"{number}.png", seed + number, (16, 16))
        study = users(user="one-class", sessions=20, length={"min": 20, "max": 40})
        table = {**study.to_toml(), "data": {"set": "folder", "folder": str(tmp_path)}}
        with pytest.raises(StudyError, match=r"can need 40 different images of one class, but folder .* has 4 of"):
            simulation.simulate(Study.parse(table), tmp_path / "run", backend="in-process")


@pytest.mark.parametrize("name", shipped_studies())
def test_the_shipped_studies_have_enough_images_or_say_that_they_repeat_them(name):
    study = Study.load(name)
    if not study.users:
        return  # its data may have to be downloaded
    if study.data.set == "folder":
        return  # the user brings them
    if study.data.set == "faces":
        return  # rendering 8,000 faces takes minutes; the test below computes the pools from their numbers
    check_pools(study, load_data(study.data))
    if study.bench.detectors or name.startswith("calibrate"):
        check_calibration(study)
        check_images(study)


@pytest.mark.parametrize("small", [True, False])
def test_the_studies_of_the_papers_reproduction_have_enough_images_or_say_that_they_repeat_them(small):
    plan = plan_for("mnist-5k", None, small=small)
    check_pools(main_study(plan), load_data(main_study(plan).data))
    check_calibration(calibration_study(plan))
    check_images(calibration_study(plan))


def test_bench_faces_has_enough_images_or_says_that_it_repeats_them():
    study = Study.load("bench-faces")
    in_split = round(0.3 * study.data.images_per_class) // 3
    for population in study.users:
        for need in population.client.image_needs():
            enough = need.images <= (in_split if need.one_class else 4 * in_split)
            assert enough or population.repeat_images, population.name
