"""Bodies, answer lengths and keys of the calls that answer, grade and write, from the command line."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from cli_tools import KEY, Bench, Done, chats, serving, write_lines
from fake_server import FakeServer

from zopo_fast.storage.store import Store

JUDGE_KEY = "sk-judge-0123456789abcdef"
WRITING = "Write only the new instruction"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def reply(messages: Any) -> str:
    """Answer an example, grade an answer, or write a prompt."""
    content = messages[-1]["content"]
    if "Answer to grade:" in content:
        return f"Score: {len(content) % 11}"
    return f"Write in way {len(content)}." if WRITING in content else "yes"


def sent(server: FakeServer) -> dict[str, list[dict[str, Any]]]:
    """Return the chat bodies without messages by purpose."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for request in chats(server):
        content = request.body["messages"][-1]["content"]
        what = "judge" if "Answer to grade:" in content else "answer"
        what = "writer" if WRITING in content else what
        body = {name: value for name, value in request.body.items() if name not in ("messages", "model")}
        if body not in found[what]:
            found[what].append(body)
    return found


CASES: dict[str, tuple[tuple[str, ...], Any, Any, Any]] = {
    "defaults": ((), (0, 64), (0.9, 256), (0, 256)),
    "--max-tokens and --temperature concern answers alone": (
        ("--max-tokens", "8", "--temperature", "0.5"), (0.5, 8), (0.9, 256), (0, 256)
    ),
    "each purpose has its limit": (
        ("--max-tokens", "8", "--judge-max-tokens", "900", "--generate-max-tokens", "700"),
        (0, 8), (0.9, 700), (0, 900),
    ),
    "each purpose has its body": (
        ("--judge-body", '{"temperature": 1}', "--generate-body", '{"temperature": 0.2, "max_tokens": 9}'),
        (0, 64), (0.2, 9), (1, 256),
    ),
    "--body applies to every call": (
        ("--body", '{"temperature": 1}'), (1, 64), (1, 256), (1, 256)
    ),
    "null leaves a key out": (
        ("--body", '{"temperature": null, "max_tokens": "unset"}'), (None, None), (None, None), (None, None)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bodies_of_optimize(bench: Bench, case: str) -> None:
    given, answer, writer, judge = CASES[case]
    done, bodies = run(bench, *given)
    assert done.code == 0, done
    found = {
        what: [(body.get("temperature"), body.get("max_tokens")) for body in each]
        for what, each in bodies.items()
    }
    assert found == {"answer": [answer], "writer": [writer], "judge": [judge]}


def run(bench: Bench, *given: str, **how: Any) -> tuple[Done, dict[str, list[dict[str, Any]]]]:
    """Run `optimize` with a judge and written prompts; return the sent bodies too."""
    with serving(reply) as server:
        arguments = bench.optimize(
            server, "--metric", "judge", "--generate", "3", "--from", "pool.txt", "--how", "paraphrase",
            "--no-comparison", "--no-cache", "--quiet", *given, budget=4,
        )  # fmt: skip
        return bench.run(*arguments, **how), sent(server)


def test_max_completion_tokens_replaces_the_default_of_each_purpose(bench: Bench) -> None:
    given = '{"max_completion_tokens": 900}'
    done, bodies = run(bench, "--body", given, "--judge-max-tokens", "1200")
    assert done.code == 0, done
    limits = {
        what: [(body.get("max_completion_tokens"), "max_tokens" in body) for body in each]
        for what, each in bodies.items()
    }
    assert limits == {"answer": [(900, False)], "writer": [(900, False)], "judge": [(1200, False)]}


def test_a_configuration_file_leaves_keys_out(bench: Bench) -> None:
    (bench.folder / "run.toml").write_text(
        'body = { max_tokens = "unset", temperature = "unset" }\n'
        "judge-body = { max_completion_tokens = 500 }\ngenerate-body = { max_tokens = 99 }\n"
    )
    done, bodies = run(bench, "--config", "run.toml")
    assert done.code == 0, done
    assert bodies == {
        "answer": [{}], "writer": [{"max_tokens": 99}], "judge": [{"max_completion_tokens": 500}]
    }  # fmt: skip


def test_generate_has_options_of_its_own_and_those_of_the_writer(bench: Bench) -> None:
    cases = [
        (("--max-tokens", "8", "--temperature", "0.1"), {"temperature": 0.1, "max_tokens": 8}),
        (("--max-tokens", "8", "--generate-max-tokens", "9"), {"temperature": 0.9, "max_tokens": 9}),
        (("--body", '{"top_p": 1, "seed": 3}', "--generate-body", '{"seed": null}'),
         {"temperature": 0.9, "max_tokens": 256, "top_p": 1}),
    ]  # fmt: skip
    for number, (given, body) in enumerate(cases):
        with serving(reply) as server:
            done = bench.run(
                "generate", "task.jsonl", "-n", "4", "--examples", "5", "--model", "m", "--base-url",
                server.url, "--how", "paraphrase", "--from", "pool.txt", "--out", f"{number}.jsonl", *given,
            )  # fmt: skip
            assert done.code == 0, done
            assert sent(server) == {"writer": [body]}


def test_a_judge_elsewhere_gets_its_own_key_and_body(bench: Bench) -> None:
    with serving(reply) as judge:
        done, bodies = run(
            bench, "--judge-model", "grader", "--judge-base-url", judge.url, "--judge-key-env", "GRADER_KEY",
            "--body", '{"seed": 3, "metadata": {"api_key": "sk-answer-0123456789"}}',
            "--judge-body", '{"top_p": 0.5}', "--out", "out",
            env={"GRADER_KEY": JUDGE_KEY},
        )  # fmt: skip
        assert done.code == 0, done
        assert set(bodies) == {"answer", "writer"}
        assert sent(judge) == {"judge": [{"temperature": 0, "max_tokens": 256, "top_p": 0.5}]}
        assert {r.headers["Authorization"] for r in judge.requests} == {f"Bearer {JUDGE_KEY}"}
    for path in (bench.folder / "out").iterdir():
        content = path.read_bytes()
        assert not any(secret in content for secret in (KEY.encode(), JUDGE_KEY.encode(), b"sk-answer"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--judge-model", "g", "--judge-key-env", "NO_SUCH_KEY"),
         "--judge-key-env: the environment variable NO_SUCH_KEY is not set; set it to the API key"),
        (("--judge-key-env", "HOME"), "--judge-key-env needs --judge-model"),
        # The key itself instead of the name of its variable.
        (("--judge-model", "g", "--judge-key-env", "gsk_0123456789abcdef"),
         "--judge-key-env: the environment variable of that name is not set"),
        (("--judge-body", '{"stream": true}'), "'stream' is not supported"),
        (("--judge-body", "[]"), "not a JSON object"),
        (("--generate-max-tokens", "0"), "--generate-max-tokens"),
    ],
)  # fmt: skip
def test_options_that_cannot_work_are_refused_before_a_call(
    bench: Bench, given: tuple[str, ...], says: str
) -> None:
    done, bodies = run(bench, *given, "--out", "out")
    assert done.code == 2, done
    assert says in done.err
    assert not bodies
    assert "gsk_0" not in done.text
    assert not (bench.folder / "out").exists()


def test_secrets_in_the_bodies_are_given_again_on_resume(bench: Bench) -> None:
    secret = '{"user": {"api_key": "sk-body-0123456789abcdef"}, "seed": null}'
    names = ("--judge-body", "--generate-body")
    given = [part for name in names for part in (name, secret)]
    done, _ = run(bench, *given, "--out", "out", "--limit-calls", "20")
    assert "sk-body" not in done.text
    assert "and --generate-body, --judge-body as before" in done.err.replace(
        "--judge-body, --generate-body", "--generate-body, --judge-body"
    )
    assert b"sk-body" not in (bench.folder / "out" / "study.sqlite3").read_bytes()
    assert bench.run("optimize", "--resume", "out").code == 2
    with serving(reply) as server:
        again = bench.run(
            "optimize", "--resume", "out", *given, "--limit-calls", "900", "--base-url", server.url, "--quiet"
        )
        assert again.code == 0, again
        assert [body["user"]["api_key"] for body in sent(server)["judge"]] == ["sk-body-0123456789abcdef"]
    settings = json.loads((bench.folder / "out" / "result.json").read_text())["settings"]
    assert settings["judge_body"] == settings["generate_body"] == ["seed", "user"]


def test_a_study_keeps_bodies_without_secrets(bench: Bench) -> None:
    done, _ = run(
        bench, "--judge-body", '{"seed": null, "top_p": "unset"}', "--out", "out", "--limit-calls", "20"
    )
    assert "as before" not in done.err
    with serving(reply) as server:
        again = bench.run(
            "optimize", "--resume", "out", "--limit-calls", "900", "--base-url", server.url, "--quiet"
        )
        assert again.code == 0, again


def test_a_study_without_a_judge_of_its_own_resumes_with_the_parameters_of_the_answers(bench: Bench) -> None:
    """Earlier versions let the model grade with the body of the answers; its answers stay comparable."""
    done, _ = run(bench, "--out", "out", "--limit-calls", "25")
    assert "the limit of calls is reached" in done.text
    with Store.open(bench.folder / "out" / "study.sqlite3") as store:
        store.put("run", {**store.get("run"), "judge": None})
    with serving(reply) as server:
        again = bench.run(
            "optimize", "--resume", "out", "--limit-calls", "900", "--base-url", server.url, "--quiet"
        )
        assert again.code == 0, again
        assert [body["max_tokens"] for body in sent(server)["judge"]] == [64]


def test_the_estimate_has_the_longest_answer_of_each_purpose(bench: Bench) -> None:
    def tokens_out(*given: str) -> str:
        done, bodies = run(bench, "--dry-run", *given)
        assert done.code == 0, done
        assert not bodies
        return done.out.partition("tokens in, ")[2].partition(" tokens out")[0]

    # 4 prompts on 5 examples, each answered and graded; at most 4 calls for each prompt to write.
    assert tokens_out() == f"at most {20 * (64 + 256) + 12 * 256}"
    limits = ("--max-tokens", "10", "--judge-max-tokens", "100", "--generate-max-tokens", "1000")
    assert tokens_out(*limits) == f"at most {20 * (10 + 100) + 12 * 1000}"
    assert tokens_out("--body", '{"max_completion_tokens": 7}') == f"at most {20 * 14 + 12 * 7}"
    assert tokens_out("--judge-body", '{"max_tokens": null}') == "no limit of the"


def test_a_cut_grade_names_the_option_that_helps(bench: Bench) -> None:
    def thinks(messages: Any) -> str:
        text = reply(messages)
        return "<think>Let me see" if text.startswith("Score") else text

    with serving(thinks) as server:
        done = bench.run(*bench.optimize(server, "--metric", "judge", "--no-cache", "--quiet"))
    assert "raise max_tokens, --judge-max-tokens on the command line" in done.err


def test_landscape_grades_with_the_options_of_the_judge(bench: Bench) -> None:
    write_lines(bench.folder / "small.jsonl", [{"input": f"question {i}", "output": "yes"} for i in range(2)])
    with serving(reply) as server:
        done = bench.run(
            "landscape", "small.jsonl", "--examples", "2", "--pool", "pool.txt", "--model", "m",
            "--base-url", server.url, "--embedder", "endpoint:e", "--metric", "judge", "--out", "out",
            "--judge-max-tokens", "500", "--max-tokens", "5", "--temperature", "1", "--quiet",
            "--judge-body", '{"temperature": "unset"}',
        )  # fmt: skip
        assert done.code == 0, done
        assert sent(server) == {
            "answer": [{"temperature": 1.0, "max_tokens": 5}], "judge": [{"max_tokens": 500}]
        }  # fmt: skip
