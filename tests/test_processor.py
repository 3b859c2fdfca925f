"""The name of a processor, and the warning about different ones."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mifsim.processor import processor, report_processors

X86 = """processor\t: 0
model name\t: Some CPU @ 2 GHz
flags\t\t: fpu sse2 fma avx2

processor\t: 1
model name\t: Another CPU
flags\t\t: fpu sse2 fma avx2 avx512f
"""
ARM = """processor\t: 0
Features\t: fp asimd sve
"""


@pytest.mark.parametrize(("text", "ends"), [(X86, "Some CPU @ 2 GHz +avx2 +fma"), (ARM, " +asimd +sve")])
def test_a_processor_is_named_with_the_instructions_of_its_first_cpu(tmp_path: Path, text: str, ends: str) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert processor(file).endswith(ends)


def test_where_there_is_no_list_of_cpus_the_system_names_the_processor(tmp_path: Path) -> None:
    assert processor(tmp_path / "missing")


def test_different_processors_of_session_hosts_are_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mifsim")
    report_processors(["A +avx2", "A +avx2"])
    assert not caplog.records
    report_processors(["A +avx2", "B", "A +avx2"])
    assert "(A +avx2: 2; B: 1)" in caplog.text
