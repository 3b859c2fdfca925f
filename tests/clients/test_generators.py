"""Generators: a trained one is cached and gives images like its own, and a file is used as it is or refused by name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from pydantic import ValidationError

from mifsim.clients.attackers import latent
from mifsim.clients.attackers.brep import BREP
from mifsim.clients.attackers.gan import Generator, shifted
from mifsim.clients.attackers.generators import generator_file, trained_generator
from mifsim.clients.attackers.genetic import Genetic
from mifsim.clients.attackers.latent import fit_latent
from mifsim.clients.attackers.nes import NES
from mifsim.errors import StudyError
from mifsim.testing.worlds import StrictPool, converse, small_world
from tests.clients.test_latent import blobs, stack
from tests.victims.onnx_models import node, save_graph

GREY, COLOUR, SIZE = (12, 10), (9, 8, 3), 4


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(latent, "_fitted", {})
    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path))
    return tmp_path / "generators"


@pytest.mark.usefixtures("cache")
def test_a_trained_generator_gives_images_like_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STEPS": 250, "RATE": 4e-3, "DIVERGENCE": 1.0}.items():  # a short training
        monkeypatch.setattr(Generator, name, value)
    images = stack(blobs(GREY, 80))
    made = trained_generator(images, SIZE, 7)
    z = np.random.default_rng(0).standard_normal((200, SIZE))
    samples = made.decode(z)
    assert samples.shape == (200, *GREY, 1)
    assert samples.min() >= 0
    assert samples.max() <= 1
    # Means agree, and the images differ from one another: the generator has not collapsed to one image.
    mean, spread = images.mean(axis=0), images.var(axis=0).mean()
    assert ((samples[..., 0].mean(axis=0) - mean) ** 2).mean() < 0.3 * spread
    assert samples.var(axis=0).mean() > 0.2 * spread
    np.testing.assert_array_equal(made.decode(z)[150:151], made.decode(z[150:151]))


def test_a_generator_is_cached_by_content_and_trained_again_to_the_bit(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Generator, "STEPS", 3)
    pool = blobs(COLOUR, 40)
    space = fit_latent(pool, COLOUR, "gan", 3)
    z = space.sample(np.random.default_rng(0), 5)
    images = space.decode(z)
    assert (space.size, z.shape, images.shape) == (3, (5, 3), (5, *COLOUR))
    assert fit_latent(pool, COLOUR, "gan", 3) is space
    with pytest.raises(ValueError, match="no encoder"):
        space.encode(stack(pool))

    (file,) = cache.glob("*.npz")
    fit = Generator.fit
    monkeypatch.setattr(Generator, "fit", lambda *given: pytest.fail("trained again"))
    monkeypatch.setattr(latent, "_fitted", {})
    np.testing.assert_array_equal(fit_latent(blobs(COLOUR, 40), COLOUR, "gan", 3).decode(z), images)
    file.write_bytes(file.read_bytes()[:1000])
    monkeypatch.setattr(Generator, "fit", fit)
    monkeypatch.setattr(latent, "_fitted", {})
    np.random.seed(3)  # noqa: NPY002 - the global generator must have no effect
    np.testing.assert_array_equal(fit_latent(pool, COLOUR, "gan", 3).decode(z), images)


@pytest.mark.usefixtures("cache")
def test_identical_images_are_an_error() -> None:
    same = StrictPool(np.full((40, *COLOUR), 0.5, np.float32), np.zeros(40, np.int64))
    with pytest.raises(ValueError, match="all identical"):
        fit_latent(same, COLOUR, "gan", 3)


def test_larger_images_are_trained_for_more_steps() -> None:
    assert Generator.steps((28, 28)) == Generator.steps((32, 32, 3)) == Generator.STEPS
    assert Generator.steps((64, 64, 3)) == Generator.LARGE_STEPS > Generator.STEPS


def test_images_are_shifted_and_filled_with_black() -> None:
    image = np.arange(1, 13, dtype=np.float32).reshape(1, 3, 4, 1)
    (moved,) = np.asarray(shifted(image, np.int32([[1, -2]])))[..., 0]
    np.testing.assert_array_equal(moved, [[0, 0, 0, 0], [3, 4, 0, 0], [7, 8, 0, 0]])


def weights(shape: tuple[int, ...]) -> Any:
    return (np.random.default_rng(1).normal(size=(SIZE, int(np.prod(shape)))) / 2).astype(np.float32)


def write(path: Path, takes: tuple[Any, ...], shape: tuple[int, ...], activation: str = "Sigmoid", **more: Any) -> Path:
    """Write a linear generator with an activation, whose images have the given shape."""
    nodes = [node("Flatten", "z", "flat"), node("Gemm", "flat w", "x"), node(activation, "x", "y")]
    nodes.append(node("Reshape", "y shape", "images"))
    constants = {"w": weights(shape), "shape": np.array([-1, *shape], np.int64)}
    return save_graph(path, nodes, constants, {"z": takes}, {"images": (takes[0], *shape)}, **more)


@pytest.mark.parametrize(
    ("takes", "shape", "data"),
    [
        (("n", SIZE), GREY, GREY),
        (("n", SIZE), (*GREY, 1), GREY),
        (("n", SIZE, 1, 1), (1, *GREY), GREY),
        ((5, SIZE), COLOUR, COLOUR),
        (("n", SIZE, 1, 1), (3, 9, 8), COLOUR),
    ],
    ids=str,
)
@pytest.mark.parametrize("activation", ["Sigmoid", "Tanh"])
def test_a_file_gives_the_images_of_its_closed_form_in_0_to_1(
    tmp_path: Path, takes: tuple[Any, ...], shape: tuple[int, ...], data: tuple[int, ...], activation: str
) -> None:
    path = write(tmp_path / "g.onnx", takes, shape, activation)
    space = fit_latent(StrictPool.random(data, 2, each=6), data, "gan", 99, generator=path)
    assert space.size == SIZE
    z = np.random.default_rng(2).standard_normal((70, SIZE))
    x = z @ weights(shape).astype(np.float64)
    expected = (1 / (1 + np.exp(-x)) if activation == "Sigmoid" else (np.tanh(x) + 1) / 2).reshape(-1, *shape)
    if shape[0] == 3:
        expected = expected.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(space.decode(z), expected.reshape(-1, *data), atol=1e-5)
    np.testing.assert_array_equal(space.decode(z)[40:41], space.decode(z[40:41]))


def two_inputs(path: Path) -> None:
    constants = {"w": weights(GREY), "shape": np.array([-1, *GREY], np.int64)}
    nodes = [node("Add", "z label", "both"), node("Gemm", "both w", "x"), node("Sigmoid", "x", "y"),
             node("Reshape", "y shape", "images")]  # fmt: skip
    takes = {"z": ("n", SIZE), "label": ("n", SIZE)}
    save_graph(path, nodes, constants, takes, {"images": ("n", *GREY)})


def noisy(path: Path) -> None:
    nodes = [node("RandomNormalLike", "z", "noise"), node("Gemm", "noise w", "x"), node("Sigmoid", "x", "y"),
             node("Reshape", "y shape", "images")]  # fmt: skip
    constants = {"w": weights(GREY), "shape": np.array([-1, *GREY], np.int64)}
    save_graph(path, nodes, constants, {"z": ("n", SIZE)}, {"images": ("n", *GREY)})


def of_its_batch(path: Path) -> None:
    """Subtract the mean of the batch, as a normalisation in training mode does."""
    nodes = [node("ReduceMean", "z", "mean", axes=[0]), node("Sub", "z mean", "centred")]
    nodes += [node("Gemm", "centred w", "x"), node("Sigmoid", "x", "y"), node("Reshape", "y shape", "images")]
    constants = {"w": weights(GREY), "shape": np.array([-1, *GREY], np.int64)}
    save_graph(path, nodes, constants, {"z": ("n", SIZE)}, {"images": ("n", *GREY)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (two_inputs, r"has 2 inputs, 'z', 'label' \(accepted: one input of float32, of shape \(n, size\)"),
        (lambda path: write(path, ("n", "d"), GREY), r"with d coordinates \(accepted: a fixed number from 1 to 4096"),
        (lambda path: write(path, ("n", SIZE, 1), GREY), r"is tensor\(float\) of shape \(n, 4, 1\) \(accepted"),
        (lambda path: write(path, ("n", SIZE), (10, 12)), r"gives float32 of shape \(32, 10, 12\) .*\(n, 12, 10, 1\)"),
        (lambda path: write(path, ("n", SIZE), GREY, "Exp"), r"gives values from .* \(accepted: 0 to 1, or -1 to 1\)"),
        (lambda path: write(path, ("n", SIZE), GREY, "IsNaN"), "cannot load it"),
        (noisy, "gives another image for the same point"),
        (of_its_batch, "gives another image for the same point"),
        (lambda path: path.write_bytes(b"not ONNX"), "ONNX Runtime cannot load it"),
        (lambda path: path.mkdir(), "not a regular file"),
        (lambda path: None, "No such file"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_generator_of_the_datas_images_is_refused_by_name(
    tmp_path: Path, make: Any, message: str
) -> None:
    path = tmp_path / "g.onnx"
    make(path)
    with pytest.raises(StudyError, match=f"generator = {path}: .*{message}"):
        generator_file(path, GREY)


def test_a_file_of_one_image_is_refused(tmp_path: Path) -> None:
    nodes = [node("Flatten", "z", "flat"), node("Gemm", "flat w", "x"), node("Reshape", "x shape", "images")]
    constants = {"w": np.zeros((SIZE, 120), np.float32), "shape": np.array([-1, *GREY], np.int64)}
    path = save_graph(tmp_path / "g.onnx", nodes, constants, {"z": ("n", SIZE)}, {"images": ("n", *GREY)})
    with pytest.raises(StudyError, match="the same image for 64 points"):
        generator_file(path, GREY)


def test_a_file_of_another_type_of_input_is_refused(tmp_path: Path) -> None:
    nodes = [node("Cast", "z", "cast", to=TensorProto.FLOAT), node("Gemm", "cast w", "x"), node("Sigmoid", "x", "y"),
             node("Reshape", "y shape", "images")]  # fmt: skip
    constants = {"w": weights(GREY), "shape": np.array([-1, *GREY], np.int64)}
    takes = {"z": ("n", SIZE)}
    path = save_graph(tmp_path / "g.onnx", nodes, constants, takes, {"images": ("n", *GREY)}, TensorProto.DOUBLE)
    with pytest.raises(StudyError, match=r"is tensor\(double\) of shape"):
        generator_file(path, GREY)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "g.onnx", ("n", SIZE), GREY)
    first = generator_file(path, GREY)
    assert generator_file(path, GREY) is first
    write(path, ("n", SIZE), GREY, "Tanh")
    assert generator_file(path, GREY).content != first.content
    assert first.content == hashlib.sha256(write(path, ("n", SIZE), GREY).read_bytes() + b"\0").hexdigest()[:16]


@pytest.mark.parametrize("client", [NES, BREP, Genetic], ids=lambda kind: kind.__name__)
def test_attacks_search_the_space_of_a_file(tmp_path: Path, client: Any) -> None:
    path = write(tmp_path / "g.onnx", ("n", SIZE), (28, 28))
    attack = client(space="gan", generator=path)
    world = small_world((28, 28), 10, 1)
    attack.prepare(world.pool, world.shape)
    sent = converse(attack, world, np.random.default_rng(0), queries=20).queries
    x = weights((28, 28)).astype(np.float64)
    for query in sent:  # every image is one of the generator: its logits are in the row space of the weights
        logits = np.log(query.image.astype(np.float64) / (1 - query.image)).ravel()
        found, *_ = np.linalg.lstsq(x.T, logits, rcond=None)
        np.testing.assert_allclose(found @ x, logits, atol=1e-3)
    with pytest.raises(StudyError, match="generator = "):
        attack.prepare(world.pool, (28, 29))


def test_a_generator_needs_its_space_and_an_onnx_file(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r'has no effect with space = "pca" \(accepted: gan\)'):
        BREP(space="pca", generator=tmp_path / "g.onnx")
    with pytest.raises(ValidationError, match=r"not an \.onnx file"):
        BREP(space="gan", generator=tmp_path / "g.pt")
