"""Right and wrong uses of the public names for test_typing.py, which runs mypy --strict on this file.

`# error: CODE` marks a line where mypy has to report that error; it must report nothing anywhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import numpy as np

import zopo_fast as zf

embeddings = np.zeros((30, 4), dtype=np.float32)


# ---- right uses


def search() -> tuple[int, float]:
    opt = zf.Zopo(embeddings, zf.ZopoConfig(budget=10, initial=[1, 2], seed=3, search="gradient"))
    while not opt.done:
        i = opt.ask()
        assert_type(i, int)
        opt.tell(i, 0.5, noise=0.1, final=False)
        opt.tell(i, 0.5)
    assert_type(opt.ask(4), list[int])
    assert_type(opt.pending, list[int])
    opt.discard(opt.pending[0])
    again = zf.Zopo.from_state(embeddings, opt.state_dict())
    assert_type(again, zf.Zopo)
    official = zf.ZopoConfig.official(budget=20, lr=0.01)
    batch = zf.ZopoBatch([embeddings], official)
    batch.tell(batch.ask(), [0.5])
    return opt.best


def model() -> float:
    kernel = zf.NTK.random(4, width=8, depth=2, seed=0, initialization="normal")
    assert_type(kernel, zf.NTK)
    gp = zf.GaussianProcess(kernel, noise=1e-2, device="cpu")
    gp.append(embeddings, kernel.gram(embeddings)[0])
    posterior = gp.posterior(embeddings)
    assert_type(posterior, zf.Posterior)
    print(posterior.mean, posterior.variance, posterior.gradient, posterior.gradient_uncertainty)
    zf.Zopo(embeddings, kernel=[zf.InfiniteNTK(depth=2), zf.InfiniteNTK(3, parametrization="ntk")])
    zf.set_num_threads(2)
    assert_type(zf.cuda_available(), bool)
    return gp.log_marginal_likelihood()


def on_device(array: zf.CudaArray) -> zf.CudaArray:
    assert_type(array.device, str)
    return zf.to_device(embeddings, "cuda:0")


async def run(path: Path) -> zf.Result:
    task = zf.Task.load(path, examples=4)
    assert_type(task, zf.Task)
    rows = ({"input": f"{i}", "output": ["x", 3, None]} for i in range(30))
    assert_type(zf.Task.from_records(rows, name="rows", examples=None, metric="f1"), zf.Task)
    zf.Task.from_records({"input": ["a"], "output": [True]}, examples=1, template="{prompt} {input}")
    zf.Task.load(path, encoding="cp1252", input_field="{premise} {hypothesis}")
    assert_type(zf.Example("a", ("b",), (("context", "c"),)).columns, tuple[tuple[str, str], ...])
    pool = zf.Pool.from_texts(["Answer yes or no.", "Say yes or no."])
    limits = zf.Limits(calls=100, cost=1.5)
    config = zf.RunConfig(budget=10, limits=limits, prices=zf.Prices(prompt=1.0, completion=2.0))
    client = zf.OpenAIClient(zf.ClientConfig("model"))
    cache = zf.AnswerCache(path)
    async with client:
        result = await zf.optimize(task, pool, client, config, cache=cache, on_trial=report)
    assert_type(result, zf.Result)
    assert_type(result.best_prompt, str)
    assert_type(result.usage, zf.Usage)
    assert_type(zf.optimize_sync(task, pool, client, config), zf.Result)
    return result


def report(trial: zf.Trial) -> None:
    print(trial.prompt, trial.score, trial.usage.calls)


def errors() -> None:
    try:
        zf.Zopo(embeddings).ask()
    except zf.NothingToAsk:
        pass
    except (zf.ArrayError, zf.LimitReachedError) as error:
        assert_type(error, zf.ArrayError | zf.LimitReachedError)
    except zf.TaskError as error:
        assert_type(error.line, int | None)
    except zf.ZopoError as error:
        raise ValueError(str(error)) from error


# ---- wrong uses

zf.Zopo("nonsense", 3, colour=1)  # error: call-arg # error: arg-type
zf.Zopo(embeddings, zf.ZopoConfig(budget="many"))  # error: arg-type
zf.Zopo(embeddings, kernel="rbf")  # error: arg-type
zf.Zopo(embeddings).ask("one")  # error: call-overload
zf.Zopo(embeddings).tell(1)  # error: call-arg
print(zf.Zopo(embeddings).best.score)  # error: attr-defined
zf.ZopoConfig(search="downhill")  # error: arg-type
zf.NTK.random("4")  # error: arg-type
zf.InfiniteNTK(parametrization="mean field")  # error: arg-type
zf.GaussianProcess(zf.InfiniteNTK())  # error: arg-type
zf.GaussianProcess(zf.NTK.random(4)).posterior()  # error: call-arg
zf.Pool.from_texts(3)  # error: arg-type
zf.Task.load("a.jsonl", examples="all")  # error: arg-type
zf.Task.from_records(3)  # error: arg-type
zf.Task.from_records([{"input": "a", "output": "b"}], encoding="utf-8")  # error: call-arg
zf.RunConfig(limits=3)  # error: arg-type
zf.Limits(call=3)  # error: call-arg
zf.AnswerCache(max_bytes="1 GB")  # error: arg-type
zf.optimize_sync("task", zf.Pool.from_texts([]), None)  # error: arg-type
zf.LimitReachedError("no call is left")  # error: call-arg
print(zf.nonsense)  # error: attr-defined
