"""The command `vita batch` and its flags; no heavy import."""

from __future__ import annotations

import typer

from vita.cli import batch_options as b
from vita.cli import options as o
from vita.cli.options import engine_options


def batch(
    source: b.Input,
    out: b.Output,
    question: b.Question = None,
    concurrency: b.Concurrency = 16,
    ordered: b.Ordered = False,
    shard: b.Shard = "1/1",
    retry_failed: b.RetryFailed = False,
    model: o.Model = None,
    base: o.Base = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    quantize: o.Quantize = None,
    kv_cache: o.KVCacheFormat = "auto",
    memory: o.Memory = None,
    offline: o.Offline = False,
    system: o.System = None,
    max_tokens: o.MaxTokens = 1024,
    temperature: o.Temperature = 0.0,
    top_p: o.TopP = 1.0,
    seed: o.Seed = None,
    stop: o.Stop = None,
    verbose: o.Verbose = False,
) -> None:
    """Answer many requests from a file or folder; started again after a kill, it goes on where it was.

    Each input gets exactly one line of OUT, failures included, as soon as it is complete. Answers are the same as one
    by one; sampling needs a seed to be repeatable.
    """
    from vita.cli.batch import BatchFlags, run_batch
    from vita.types import SamplingParams

    options = engine_options(
        device=device, dtype=dtype, quantize=quantize, kv_cache=kv_cache, memory=memory, offline=offline
    )
    params = SamplingParams(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=tuple(stop or ())
    )
    flags = BatchFlags(
        source=source, out=out, question=question, concurrency=concurrency, ordered=ordered, shard=shard,
        retry_failed=retry_failed, model=model, base=base, options=options, system=system, params=params,
        verbose=verbose,
    )  # fmt: skip
    raise typer.Exit(run_batch(flags))
