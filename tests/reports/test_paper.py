"""`mifsim paper` end to end on a few digits: the page has the values of the tables."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mifsim.data import load_data
from mifsim.defense import FilterConfig
from mifsim.errors import RunError
from mifsim.run.inputs import load_inputs
from mifsim.tables.records import read_checked
from reports.paper import figures_beyond
from reports.paper.load import Results
from reports.paper.page import write_page
from reports.paper.schemas import PAPER_SCHEMAS
from tuning.paper import attacks, sweep
from tuning.paper.plan import Plan, Protocol, Variant, configs, plan_for
from tuning.paper.reproduction import Given, reproduce
from tuning.paper.similarity_variants import MultiVariantRecorder, SimilarityVariant, VariantRecording, apply_variant
from tuning.paper.users import sessions, user_rows
from tuning.replay import replay

TINY = Plan(
    half="MNIST",
    data={"set": "mnist-5k", "images_per_class": 40},
    victim={"epochs": 2},
    trials=4,
    budget=25,
    noises=(0.002,),
    live_noise=0.002,
    variants=(Variant(0.0), Variant(0.002), Variant(0.002, transport="uint8")),
    sweep_budget=20,
    protocols=(Protocol("distinct", 1), Protocol("distinct", 5), Protocol("re-uploads", 6, None, 0.5)),
    user_trials=4,
    workload_sessions=24,
    workload_length=(4, 8),
    small=True,
)
STRICT = FilterConfig(t_ssim=0.9, t_hash=0.01, n_b=5, l_sp=9, ssim="uniform")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    STRICT.save(folder / "filter.toml")
    reproduce([TINY], folder, Given(folder / "filter.toml", "in-process"), PAPER_SCHEMAS)
    write_page(folder)
    return folder


def table(out: Path, name: str) -> pd.DataFrame:
    return read_checked(out / "parquet" / f"paper_{name}.parquet", PAPER_SCHEMAS[f"paper_{name}"]).to_pandas()


def cells(page: str, lead: str, second: str) -> list[str]:
    """Return the cells of the first Markdown row with second cell `second`, from the row with first cell `lead` on."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    first = next(number for number, row in enumerate(rows) if row[0] == lead)
    return next(row for row in rows[first:] if row[1:2] == [second])[2:]


def test_all_tables_exist_and_have_rows(out: Path) -> None:
    names = [name for name in PAPER_SCHEMAS if name.startswith("paper_")]
    assert {path.stem for path in (out / "parquet").glob("*.parquet")} == set(names)
    assert all(len(table(out, name.removeprefix("paper_"))) for name in names)


def test_the_page_has_every_table_and_figure_of_its_half(out: Path) -> None:
    page = (out / "README.md").read_text()
    for item in ("Table 1", "Table 2", "Table 4", "Table 6", "Figure 5", "Figure 6"):
        assert re.search(rf"^\| {item} \| \*\*", page, re.MULTILINE), item
    links = re.findall(r"\]\(((?:figures|csv)/[^)]+)\)", page)
    assert len({link for link in links if link.startswith("figures/")}) == 9
    for link in links:
        assert (out / link).stat().st_size > 100, link
    assert all((out / link).read_bytes()[:4] == b"\x89PNG" for link in links if link.endswith(".png"))


def test_the_page_has_the_rows_of_the_paper(out: Path) -> None:
    page = (out / "README.md").read_text()
    lead = page.index("## Table 2")
    assert cells(page[lead:], "**configuration 3**", "paper")[:3] == ["68", "308", "52"]


def test_the_maxima_on_the_page_are_those_of_the_table(out: Path) -> None:
    attack_table = table(out, "attacks")
    page = (out / "README.md").read_text()
    for config, lead in (("config_3", "**configuration 3**"), ("calibrated", "**calibrated**")):
        expected = []
        for label in range(10):
            selected = attack_table[
                (attack_table["config"] == config) & (attack_table["label"] == label) & (attack_table["trial"] < 3)
            ]
            assert len(selected) == 3
            blocks = selected["queries_to_block"]
            expected.append("never" if blocks.isna().any() else f"{int(blocks.max()):,}")
        assert cells(page[page.index("## Table 2") :], lead, "noise 0.002") == expected


def test_false_detections_on_the_page_are_those_of_the_table(out: Path) -> None:
    users = table(out, "users")
    selected = users[(users["ssim"] == "global") & (users["dynamic_range"] == 1) & (users["config"] == "config_1")]
    for images, name in ((1, "one image per session (as written)"), (5, "5 images, all distinct")):
        counts = selected[(selected["protocol"] == "distinct") & (selected["images"] == images)]
        expected = 30 * counts["blocked"].sum() / counts["trials"].sum()
        row = next(line for line in (out / "README.md").read_text().splitlines() if line.startswith(f"| {name} |"))
        assert float(row.split("|")[2]) == pytest.approx(expected, abs=0.05)


def test_the_csv_files_have_the_same_numbers(out: Path) -> None:
    written = pd.read_csv(out / "csv" / "iterations-mnist.csv", dtype={"label": str})
    attack_table = table(out, "attacks")
    for _, row in written.iterrows():
        selected = attack_table[
            (attack_table["config"] == row["config"]) & (attack_table["label"] == int(row["label"]))
        ]
        assert (row["trials"], row["blocked"]) == (len(selected), selected["queries_to_block"].notna().sum())


def test_live_sessions_match_their_replay(out: Path) -> None:
    attack_table = table(out, "attacks")
    live = attack_table[attack_table["live"]]
    assert len(live) == 4 * 10 * 3  # configurations, labels, trials
    assert live["queries_to_block"].fillna(0).tolist() == live["live_queries_to_block"].fillna(0).tolist()


def test_a_live_session_that_differs_from_its_replay_is_an_error(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacks, "_live_blocks", lambda run: {("noise 0.002/0/0", "config_3"): 1})
    study = attacks.main_study(TINY)
    data = load_data(study.data)
    victim = load_inputs(study)[2]
    traces = attacks.record_main(TINY, data, victim, "in-process")
    with pytest.raises(RunError, match=r"differ from their replay: noise 0\.002/0/0 with config_3: live 1, replay"):
        attacks.attack_rows(TINY, traces, configs("MNIST"), out)


def test_a_second_run_reads_all_results_from_the_cache(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the sessions ran again")

    monkeypatch.setattr(sweep, "record_sessions", refuse)
    monkeypatch.setattr(attacks, "simulate", refuse)
    reproduce([TINY], tmp_path, Given(out / "filter.toml", "in-process"), PAPER_SCHEMAS)
    for name in ("attacks", "sweep", "users", "heat", "curves", "pictures"):
        pd.testing.assert_frame_equal(table(tmp_path, name), table(out, name))


def test_configurations_detect_in_the_same_order_throughout_the_sweep(out: Path) -> None:
    wide = table(out, "sweep").pivot_table(
        index=["noise", "transport", "ssim", "dynamic_range", "hash_size", "count_rule", "label"],
        columns="config", values="blocked", aggfunc="sum", observed=True,
    )  # fmt: skip
    assert (wide["config_3"] >= wide["config_1"]).all()
    assert (wide["config_1"] >= wide["config_2"]).all()


@pytest.mark.parametrize(("images", "blocked"), [(3, False), (4, True)])
def test_the_fourth_copy_of_an_image_is_flagged_by_every_configuration(images: int, blocked: bool) -> None:
    """The copies match 0, 1, 2 and 3 buffered images, and 1 + 2 < 4 <= 1 + 2 + 3."""
    recorder = MultiVariantRecorder(10)
    image = np.random.default_rng(0).random((28, 28), np.float32)
    for _ in range(images):
        recorder.check(image)
    traces = VariantRecording.of([recorder]).traces(SimilarityVariant(), is_attack=False, budget=1)
    for config in configs("MNIST").values():
        assert bool(replay(traces, apply_variant(config, SimilarityVariant(), "per_match")).blocked_at[0]) is blocked


def test_one_image_against_an_empty_buffer_is_never_flagged() -> None:
    plan = replace(TINY, protocols=(Protocol("distinct", 1),))
    rows = user_rows(plan, load_data(attacks.main_study(plan).data), STRICT)
    assert len(rows) == 10 * (3 * 3 + 1)
    assert {row["blocked"] for row in rows} == {0}


@pytest.mark.parametrize(
    "protocol",
    [Protocol("distinct", 7), Protocol("carried over", 12), Protocol("drawn again", 9, 3)],
)
def test_protocols_draw_the_images_that_they_describe(protocol: Protocol) -> None:
    data = load_data(attacks.main_study(TINY).data)
    pool = data.subset("users")
    known = {pool.image(i).tobytes(): int(pool.labels[i]) for i in range(len(pool))}
    for number, images in enumerate(sessions(TINY, data, protocol, 2)):
        drawn = [image.tobytes() for image in images]
        label = number // 2
        assert known[drawn[-1]] == label
        match protocol.name:
            case "distinct":
                assert len(set(drawn)) == 7
                assert {known[image] for image in drawn} == {label}
            case "carried over":
                assert [known[image] for image in drawn] == [(label - 11 + position) % 10 for position in range(12)]
            case _:
                assert len(drawn) == 9
                assert len(set(drawn)) <= 3


def test_variants_with_the_same_transport_are_grouped() -> None:
    variants = [Variant(0.1), Variant(0.1, transport="uint8"), Variant(0.2), Variant(0.3), Variant(0.4)]
    groups = sweep._groups(TINY, variants, 10)
    assert groups == [[Variant(0.1), Variant(0.2)], [Variant(0.3), Variant(0.4)], [Variant(0.1, transport="uint8")]]
    assert [len(group) for group in sweep._groups(TINY, variants, 4)] == [4, 1]


def test_plans_of_both_halves() -> None:
    digits, faces = plan_for("mnist-5k", None), plan_for("faces", None, trials=50)
    assert (digits.half, digits.trials, faces.half, faces.trials) == ("MNIST", 30, "CelebA", 50)
    assert faces.data["images_per_class"] == 800
    names = [variant.name for variant in digits.variants]
    assert len(set(names)) == len(names), "variants with equal names would share their seeds"


def test_the_plan_of_celeba_takes_what_there_is_of_a_class_and_shows_no_photograph() -> None:
    plan, small = (plan_for("celeba", Path("faces"), small=small) for small in (False, True))
    assert (plan.data["at_most_per_class"], small.data["at_most_per_class"]) == (800, 200)
    assert "images_per_class" not in {*plan.data, *small.data}
    assert (plan.victim, plan_for("faces", None).victim) == ({"model": "cnn-bn"}, {})
    assert small.victim == {"model": "cnn-bn", "epochs": 40}
    assert not plan.shows_private
    assert plan_for("faces", None).shows_private


def test_no_training_image_is_in_the_tables_if_the_plan_forbids_it(out: Path, tmp_path: Path) -> None:
    study = attacks.main_study(TINY)
    data, victim = load_data(study.data), load_inputs(study)[2]
    run = attacks.run_live(TINY, victim, data, STRICT, "in-process")
    assert {row["row"] for row in attacks.picture_rows(TINY, data, run)} - {"private"} == {
        row["row"] for row in attacks.picture_rows(replace(TINY, shows_private=False), data, run)
    }
    results = Results(out)
    results.__dict__["pictures"] = results.pictures[results.pictures["row"] != "private"]
    figure = figures_beyond.pictures(results, "MNIST", tmp_path)
    assert (tmp_path / figure).read_bytes() != (out / figure).read_bytes()


def test_the_accuracy_of_both_models_is_beside_every_leakage_score(out: Path) -> None:
    """Beside the table with the confidence of the reconstructions, and beside their pictures."""
    page = (out / "README.md").read_text()
    sentences = re.findall(r"Accuracy on unseen images: victim ([\d.]+)% of (\d+) images \(95% interval .*?\), "
                           r"evaluator ([\d.]+)% of", page)  # fmt: skip
    assert len(sentences) == 2
    victim = load_inputs(attacks.main_study(TINY))[2]
    assert {(float(share), int(images)) for share, images, _ in sentences} == {
        (round(100 * victim.test_accuracy, 2), victim.facts["test_images"])
    }
