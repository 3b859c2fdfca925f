"""What a job does: its specification, and the command that the driver runs on the cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli_w
from pydantic import ValidationError

from cluster import submit as submission
from cluster.bundle import pack, pack_plugins
from cluster.job import command_line, inputs_folder, job_storage, load_study, pack_run
from cluster.job_spec import BUNDLE_FILE, JOB_SPEC_FILE, JobSpec, check_program, source_digest
from cluster.submit import Where
from mifsim.cli.command import _parser
from mifsim.errors import ClusterError, StudyError
from mifsim.plugins import load_plugin, loaded_plugins, unload_plugins
from mifsim.run.folder import versions
from mifsim.study import Study
from tests.small import SMALL


def job_spec(**changes: object) -> JobSpec:
    """Return a valid job spec with some fields replaced."""
    fields = {"job": "mifsim-x-1", "command": "tune", "run": "x", "source": source_digest(), "versions": versions()}
    return JobSpec.model_validate({**fields, **changes})


def test_a_job_spec_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = job_spec(storage="/shared", filters=[["strict", "filters/0.toml"]], fetch=True)
    (tmp_path / JOB_SPEC_FILE).write_text(written.model_dump_json())
    assert JobSpec.read(tmp_path) == written


@pytest.mark.parametrize(
    "changes",
    [
        {"job": "../x"}, {"job": "x y"}, {"run": "../../etc"}, {"run": "a/b"}, {"command": "rm"}, {"bundle": "abc"},
        {"filters": [["a", "../../etc/passwd"]]}, {"more": 1}, {"format": 1},
    ],
)  # fmt: skip
def test_a_job_spec_with_unknown_fields_or_paths_outside_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / JOB_SPEC_FILE).write_text(json.dumps({**json.loads(job_spec().model_dump_json()), **changes}))
    with pytest.raises(ClusterError, match=r"job\.json: "):
        JobSpec.read(tmp_path)


def test_another_program_is_refused_and_other_library_versions_are_reported() -> None:
    assert check_program(job_spec(), versions()) == []
    with pytest.raises(ClusterError, match="has another mifsim"):
        check_program(job_spec(source="0" * 16), versions())
    (line,) = check_program(job_spec(), {**versions(), "numpy": "1.0"})
    assert "numpy is 1.0 on the cluster" in line


def test_missing_storage_is_refused_and_a_temporary_folder_is_private(tmp_path: Path) -> None:
    with (
        pytest.raises(ClusterError, match="not a folder on the cluster's head"),
        job_storage(job_spec(storage=str(tmp_path / "x"))),
    ):
        pass
    with job_storage(job_spec(storage=str(tmp_path))) as storage_dir:
        assert storage_dir == tmp_path
    with job_storage(job_spec()) as scratch:
        assert scratch.stat().st_mode & 0o777 == 0o700
        (scratch / "rows").write_text("of private data")
    assert not scratch.exists()
    assert tmp_path.exists()


def test_a_run_at_a_url_has_its_inputs_in_a_temporary_folder_of_the_driver() -> None:
    url = "mock://bucket/mifsim"
    with job_storage(job_spec(storage=url)) as storage_dir, inputs_folder(storage_dir) as inputs:
        assert str(storage_dir / "x") == f"{url}/x"
        inputs.mkdir()  # a temporary folder on this machine
    assert not inputs.parent.exists()
    with job_storage(job_spec(storage="/tmp")) as storage_dir, inputs_folder(storage_dir) as inputs:
        assert inputs == Path("/tmp/inputs")
    for storage in ("shared", "nowhere://x/y"):
        with pytest.raises(ValidationError, match=storage):
            job_spec(storage=storage)


def test_a_packed_run_contains_complete_files_only_and_is_private(tmp_path: Path) -> None:
    import tarfile

    run = tmp_path / "run"
    (run / "queries").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (run / "queries" / "shard-000000.parquet").write_bytes(b"rows")
    (run / "queries" / ".shard-000001.parquet.partial").write_bytes(b"half of the rows")
    pack_run(run, tmp_path / "run.tar.gz")
    with tarfile.open(tmp_path / "run.tar.gz") as tar:
        assert tar.getnames() == ["queries/shard-000000.parquet", "run.json"]
    assert (tmp_path / "run.tar.gz").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_the_driver_runs_the_command_of_the_job_spec(tmp_path: Path) -> None:
    strict = tmp_path / "strict.toml"
    strict.write_text("[filter]\nt_ssim = 0.9\nt_hash = 0.01\nn_b = 2\nl_sp = 3\n")
    study = Study.parse(SMALL)
    packed = pack(study, None, [strict])
    (tmp_path / BUNDLE_FILE).write_bytes(packed.content)
    storage_dir = tmp_path / "storage"
    spec = job_spec(command="matrix", run="mine", bundle=packed.digest, filters=[["strict", "filters/0.toml"]])
    options = _parser().parse_args(command_line(spec, tmp_path, storage_dir, storage_dir / "inputs"))
    assert (str(options.out), options.address) == (str(storage_dir / "mine"), "auto")
    assert Study.load(options.study) == study
    ((name, file),) = options.filters
    assert (name, Path(file).read_bytes()) == ("strict", strict.read_bytes())
    # The run folder records which command an interrupted run belongs to.
    (storage_dir / "mine").mkdir()
    (storage_dir / "mine" / "run.json").write_text(json.dumps({"tuning": {}}))
    arguments = command_line(
        job_spec(command="simulate", run="mine", resume=True), tmp_path, storage_dir, storage_dir / "inputs"
    )
    assert arguments == ["tune", "--resume", str(storage_dir / "mine"), "--address", "auto"]


def test_plugins_are_uploaded_with_a_job_and_again_when_it_is_resumed(plugin: Path, tmp_path: Path) -> None:
    study = {**SMALL, "filters": [{"name": "ten", "kind": "example-quota", "queries": 10}]}
    with pytest.raises(StudyError, match="example-quota"):
        Study.parse(study)
    loaded = load_plugin(plugin)
    packed = pack(Study.parse(study), plugins=[loaded])
    resumed = pack_plugins([loaded])
    storage = tmp_path / "storage"
    for bundle, resume in ((packed, False), (resumed, True)):
        (tmp_path / BUNDLE_FILE).write_bytes(bundle.content)
        (storage / "mine").mkdir(parents=True, exist_ok=True)
        (storage / "mine" / "run.json").write_text("{}")
        (storage / "mine" / "study.toml").write_text(tomli_w.dumps(study))
        spec = job_spec(command="simulate", run="mine", bundle=bundle.digest, plugins=["own.py"], resume=resume)
        spec = JobSpec.model_validate_json(spec.model_dump_json())
        arguments = command_line(spec, tmp_path, storage, storage / "inputs")
        (file,) = _parser().parse_args(arguments).plugins
        assert (file.name, file.read_bytes()) == ("own.py", plugin.read_bytes())
        unload_plugins()
        assert load_study(spec, storage, arguments).filters[0].config.queries == 10
        assert loaded_plugins() == (loaded,)


def test_a_job_spec_names_the_plugins_that_this_process_has_loaded(
    plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[JobSpec] = []
    monkeypatch.setattr(submission, "_send", lambda spec, bundle, *rest: sent.append(spec) or 0)
    where = Where("http://127.0.0.1:8265", storage=tmp_path)
    load_plugin(plugin)
    submission.submit(Study.parse(SMALL), "simulate", where)
    submission.resume(tmp_path / "mine", "simulate", where)
    assert [spec.plugins for spec in sent] == [("own.py",)] * 2
    assert all(spec.bundle for spec in sent)
    unload_plugins()
    submission.resume(tmp_path / "mine", "simulate", where)
    assert (sent[-1].plugins, sent[-1].bundle) == ((), "")


@pytest.mark.parametrize("name", ["../own.py", "a/own.py", "own.sh", "own.py/", ""])
def test_a_job_spec_cannot_name_a_plugin_outside_of_the_bundle(name: str) -> None:
    with pytest.raises(ValidationError, match="plugins"):
        job_spec(plugins=[name])
