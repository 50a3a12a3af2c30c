"""The command `vita serve` and its flags; no heavy import."""

from __future__ import annotations

import typer

from vita.cli import options as o
from vita.cli import serve_options as s
from vita.cli.options import engine_options


def serve(
    model: o.ModelArgument = None,
    host: s.Host = "127.0.0.1",
    port: s.Port = 8000,
    api_key_file: s.ApiKeyFile = None,
    allow_hosts: s.AllowHosts = None,
    allow_origins: s.AllowOrigins = None,
    allow_media_domains: s.AllowMediaDomains = None,
    ssl_certfile: s.SslCertfile = None,
    ssl_keyfile: s.SslKeyfile = None,
    self_signed: s.SelfSigned = False,
    replicas: s.Replicas = 1,
    ray: s.Ray = None,
    engine: s.Engine = "vita",
    engine_args: s.EngineArgs = "",
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    quantize: o.Quantize = None,
    kv_cache: o.KVCacheFormat = "auto",
    memory: o.Memory = None,
    offline: o.Offline = False,
    max_tokens: o.MaxTokens = 1024,
    voice: s.Voice = None,
    log_content: s.LogContent = False,
    verbose: o.Verbose = False,
) -> None:
    """Serve a model over HTTP with OpenAI's API (needs the extra `serve`)."""
    from vita.cli.serve import ServeFlags, run_serve

    options = engine_options(
        device=device, dtype=dtype, quantize=quantize, kv_cache=kv_cache, memory=memory, offline=offline
    )
    flags = ServeFlags(
        model=model, options=options, host=host, port=port, api_key_file=api_key_file,
        allow_hosts=tuple(allow_hosts or ()), allow_origins=tuple(allow_origins or ()),
        allow_media_domains=tuple(allow_media_domains or ()), max_tokens=max_tokens, voice=voice,
        ssl_certfile=ssl_certfile, ssl_keyfile=ssl_keyfile, self_signed=self_signed, log_content=log_content,
        verbose=verbose, replicas=replicas, ray=ray, engine=engine, engine_args=engine_args,
    )  # fmt: skip
    raise typer.Exit(run_serve(flags))
