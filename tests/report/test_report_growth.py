"""Readers of a study whose pool has grown: Study, the report, later runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from growth_tools import PARTS, POOL, Answering, Writing, grow, rows_of

import zopo_fast as zf
from zopo_fast.report import facts, growth
from zopo_fast.report.page import report_html

HOSTILE = "Do it in way number 3. </script><script>alert(1)</script><b>Format 1!</b>"


def hostile(parents: list[zf.Parent], n: int) -> list[str]:
    return [f"{HOSTILE} {parent.prompt}" for parent in parents][:n]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, zf.Result]:
    path = tmp_path_factory.mktemp("grown") / "study.sqlite3"
    writers = [zf.PartEditor(PARTS), zf.FunctionWriter(hostile, "<i>hostile</i>")]
    return path, grow(path, writers=writers, writer=Writing(), budget=24)


def test_a_study_reads_the_prompts_that_entered(grown: tuple[Path, zf.Result]) -> None:
    path, result = grown
    with zf.Study.open(path) as study:
        assert study.grown == result.grown
        assert study.given == len(POOL)
        assert study.prompts == (*POOL.prompts, *(one.prompt for one in result.grown))
        assert study.winner is not None
        assert (study.winner.index, study.winner.prompt) == (result.best_index, result.best_prompt)
        assert {row.index: row.score for row in study.ranked} == {t.index: t.score for t in result.trials}
        assert study.embeddings is not None
        assert np.array_equal(study.embeddings, rows_of(study.prompts))
        posterior = study.posterior()
        assert posterior is not None
        assert len(posterior.mean) == len(study.prompts)
        assert study.answers(result.best_index)[0].answer is not None
        used = study.usages
        assert used["growth"].calls > 0
        assert used["search"].calls + used["growth"].calls == result.usage.calls
        assert study.grown_at(0) is None
        assert study.grown_at(len(POOL)) == result.grown[0]


def test_rounds_and_writers_add_up(grown: tuple[Path, zf.Result]) -> None:
    with zf.Study.open(grown[0]) as study:
        rounds, writers = growth.round_rows(study), growth.writer_rows(study)
        assert [row.number for row in rounds] == list(range(1, len(rounds) + 1))
        for rows in (rounds, writers):
            assert sum(row.entered for row in rows) == len(study.grown)
            assert sum(row.calls for row in rows) == study.usages["growth"].calls
        assert sum(row.written for row in rounds) == sum(row.written for row in writers)
        assert all(row.written == row.rejected + row.screened + row.entered for row in rounds)
        assert sum(row.won for row in rounds) == sum(row.won for row in writers) > 0
        rows = {row[1]: row for row in facts.prompt_rows(study, 4000)}
        one = study.grown[0]
        assert rows[one.index][-1] == list(one.parents)
        assert rows[0][-1] is None
        assert len({len(row) for row in rows.values()}) == 1


def test_the_page_shows_how_the_pool_grew_and_escapes_every_text(grown: tuple[Path, zf.Result]) -> None:
    path, result = grown
    with zf.Study.open(path) as study:
        page = report_html([study])
    section = page.split('<section id="growth">')[1].split("</section>")[0]
    assert f"The pool began with {len(POOL)} prompts" in section
    scored = [one for one in result.grown if one.index in result.prompts_scored()]
    assert scored
    for one in scored:
        family = section.split(f'<details id="grown-{one.index}">')[1].split("</details>")[0]
        assert ", ".join(map(str, one.parents)) in family
    assert "&lt;i&gt;hostile&lt;/i&gt;" in section
    assert "<i>hostile" not in page
    assert "<script>alert" not in page
    assert re.search(r'href="#grown-\d+"', section) or all(p < len(POOL) for o in scored for p in o.parents)


def test_the_page_of_a_fixed_pool_has_no_such_section(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    grow(path, grow=False, writers=(), budget=6)
    with zf.Study.open(path) as study:
        assert (study.grown, study.given) == ([], len(POOL))
        page = report_html([study])
    assert 'id="growth"' not in page
    assert '<th scope="col">from</th>' not in page


def test_a_later_run_learns_from_prompts_that_entered(grown: tuple[Path, zf.Result]) -> None:
    path, result = grown
    best = result.best_prompt
    assert result.best_index >= len(POOL)
    found: list[Any] = []
    zf.optimize_sync(
        lambda prompt: found.append(prompt) or 0.5,
        [*POOL.prompts[:4], best],
        config=zf.RunConfig(budget=2, initial=1, heldout=False, grow=False),
        embeddings=rows_of([*POOL.prompts[:4], best]),
        prior=[path],
    )
    assert found[0] == best


def test_result_json_names_what_grew(grown: tuple[Path, zf.Result]) -> None:
    values = json.loads(json.dumps(grown[1].to_dict()))
    first = grown[1].grown[0]
    assert values["grown"][0] == {
        "index": first.index, "writer": first.writer, "parents": list(first.parents), "round": first.round
    }  # fmt: skip


def test_a_stopped_study_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    first = grow(path, Answering(), writer=Writing(), limits=zf.Limits(calls=30))
    with zf.Study.open(path) as study:
        assert len(study.prompts) == len(POOL) + len(first.grown)
        report_html([study])
