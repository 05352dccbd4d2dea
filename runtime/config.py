"""Configuration: one frozen value, read once at start and handed down.

Sources, later ones win: the defaults here, one YAML file, `QWENSERVE_…` environment variables (sections joined
with two underscores: `QWENSERVE_HTTP__PORT=8080`), overrides from the command line (`--set http.port=8080`).
An unknown key or a bad value stops start-up with a ConfigError that names the key, where it came from and,
for a typing mistake, the nearest known key.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from qwenserve.runtime.sampling_ranges import RANGES
from qwenserve.runtime.secret import Secret
from qwenserve.runtime.yaml_text import YamlError, read_yaml

ENV_PREFIX = "QWENSERVE_"

# Read before any configuration exists: by the command line (a chat's key, the default file, where running processes
# are noted) and by scripts/setup.
RESERVED_VARIABLES = frozenset(
    {
        "QWENSERVE_API_KEY",
        "QWENSERVE_CONFIG",
        "QWENSERVE_MPI_CONFIG",  # what the process that starts the ranks of a worker tells them
        "QWENSERVE_MPI_JOB",
        "QWENSERVE_PYTHON",
        "QWENSERVE_STATE_DIR",
        "QWENSERVE_VENV",
    }
)


class ConfigError(Exception):
    """The configuration cannot be used. The text names the key, its source and the remedy."""


class Section(BaseModel):
    """A part of the configuration: frozen, and without keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


S = TypeVar("S", bound=Section)


class SamplingDefaults(Section):
    """Sampling defaults; unset ones come from the model's generation_config.json."""

    temperature: float | None = Field(default=None, description="0 is greedy.", **RANGES["temperature"].limits())
    top_p: float | None = Field(default=None, description="Nucleus mass; 1 is off.", **RANGES["top_p"].limits())
    top_k: int | None = Field(default=None, description="0 is off.", **RANGES["top_k"].limits())
    min_p: float | None = Field(default=None, description="0 is off.", **RANGES["min_p"].limits())
    presence_penalty: float | None = Field(default=None, description="0 is off.", **RANGES["presence_penalty"].limits())
    repetition_penalty: float | None = Field(
        default=None, description="1 is off.", **RANGES["repetition_penalty"].limits()
    )


def _listed(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class ModelConfig(Section):
    """The model that this deployment serves."""

    reference: str = Field(
        default="models/qwen3-tiny",
        description="A Hugging Face directory, a GGUF file, or a hub id such as Qwen/Qwen3-0.6B.",
    )
    name: str = Field(
        default="",
        description="Name in requests and answers. Empty: the reference as given, of an absolute path its last part.",
    )
    aliases: tuple[str, ...] = Field(
        default=(), description="Further names that requests may use. The last part of a reference is always one."
    )
    max_model_len: int = Field(default=0, ge=0, description="Context window in tokens. 0: the model's own.")
    weights: Literal["bf16", "f16", "q8_0", "f32", "random"] = Field(
        default="bf16",
        description="Number format when a Hugging Face directory is converted for the embedded engine; random: made-up "
        "weights, whose answers are noise.",
    )
    enable_thinking: bool = Field(default=True, description="Whether requests that say nothing about it think.")
    thinking_defaults: SamplingDefaults = Field(
        default_factory=SamplingDefaults, description="Sampling defaults of answers that think."
    )
    non_thinking_defaults: SamplingDefaults = Field(
        # Qwen's published recommendation for answers without thinking; generation_config.json has only the
        # values for thinking.
        default_factory=lambda: SamplingDefaults.model_validate({"temperature": 0.7, "top_p": 0.8}),
        description="Sampling defaults of answers that do not think.",
    )


class TemplateConfig(Section):
    """How conversations become prompts."""

    special_tokens_in_content: Literal["plain", "allow"] = Field(
        default="plain",
        description="Added tokens such as <|im_start|> or <think> that system, user and tool texts spell: plain text, "
        "or (allow) those very tokens, with which a text can write turns of its own.",
    )
    prefix_stable: bool = Field(
        default=False,
        description="Keep the thoughts of earlier answers in prompts, where the template drops them: each turn then "
        "begins with the last one, and workers find it cached. Requests can say otherwise.",
    )


class HttpConfig(Section):
    """The OpenAI-compatible HTTP shim."""

    enabled: bool = Field(default=True, description="Serve HTTP beside gRPC in every router.")
    host: str = Field(default="127.0.0.1", description="Address to listen on; loopback unless told otherwise.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    allowed_origins: tuple[str, ...] = Field(
        default=(),
        description="Origins of web pages that may use this service, such as https://example.com; * for all.",
    )
    max_body_bytes: int = Field(default=8 * 1024 * 1024, ge=1024, description="Largest request body, in bytes.")
    body_timeout_s: float = Field(default=30.0, gt=0, description="Longest time to receive a request body.")
    keepalive_timeout_s: float = Field(default=75.0, gt=0, description="How long an idle connection is kept.")
    max_connections: int = Field(
        default=8192,
        ge=1,
        description="Most connections at a time, and never more than three quarters of the process's file descriptors; "
        "others get 429.",
    )
    keepalive_s: float = Field(
        default=15.0, gt=0, description="Time between comments in a stream, so that nobody takes a silent one for dead."
    )
    write_buffer_bytes: int = Field(
        default=1024 * 1024, ge=4096, description="Unread answer bytes kept for one client before its request is ended."
    )


class GrpcConfig(Section):
    """gRPC settings of all tiers. Both sides of a channel use the same limits."""

    max_message_bytes: int = Field(default=64 * 1024 * 1024, ge=65536, description="Largest gRPC message, in bytes.")
    keepalive_time_s: float = Field(default=30.0, gt=0, description="Time between keepalive pings.")
    keepalive_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="How long a ping may stay unanswered. Long: a process busy with a long prompt must not be cut off.",
    )
    max_connections: int = Field(
        default=4096,
        ge=1,
        description="Most connections that a gRPC port takes, and at most a quarter of the files that the process may "
        "have open. Those beyond are closed.",
    )
    idle_timeout_s: float = Field(
        default=300.0,
        gt=0,
        description="How long a server keeps a connection without a call. Clients connect again by themselves.",
    )
    write_buffer_bytes: int = Field(
        default=1024 * 1024, ge=4096, description="Unread answer bytes kept for one call before it is ended."
    )
    write_timeout_s: float = Field(
        default=60.0, gt=0, description="How long a client may read nothing of what waits for it."
    )


class RouterConfig(Section):
    """The router tier."""

    host: str = Field(default="127.0.0.1", description="Address of the public gRPC API.")
    port: int = Field(default=50051, ge=0, le=65535, description="Port of the public gRPC API; 0 takes a free one.")
    workers: tuple[str, ...] = Field(
        default=(),
        description="Addresses of the workers. Empty: those that the store knows; without store.url 127.0.0.1:50061. "
        "`qwenserve up` fills this in.",
    )
    tokenizers: tuple[str, ...] = Field(
        default=(), description="Addresses of the tokenizer tier. Empty: tokenize inside the router."
    )
    policy: Literal["prefix", "least_loaded", "power_of_two", "round_robin", "session_affinity"] = Field(
        default="prefix",
        description="How a worker is chosen: cached prefix and load, load alone, the less loaded of two drawn ones, in "
        "turn, or a session's own worker.",
    )
    prefix_index_blocks: int = Field(
        default=500_000,
        ge=1000,
        description="Of so many KV blocks a router remembers which worker has them cached, all workers together; "
        "beyond, the oldest are forgotten. A block takes about 100 bytes.",
    )
    strict: bool = Field(default=False, description="Refuse request fields that are unknown or cannot be applied.")
    strict_tools: bool = Field(
        default=False,
        description="Bind the calls of all functions to their schemas, not only of those with strict: true.",
    )
    separate_reasoning: bool = Field(
        default=True, description="Thought text in its own field; false leaves it in the content as <think>…</think>."
    )
    default_max_tokens: int = Field(
        default=0, ge=0, description="Limit for chats that send none. 0: what the context window leaves."
    )
    max_open_requests: int = Field(
        default=8192, ge=1, description="Most requests under way; more are refused with QUEUE_FULL."
    )
    request_timeout_s: float = Field(default=3600.0, gt=0, description="Longest time for one answer.")
    thinking_budget: int = Field(
        default=-1, ge=-1, description="Most tokens of thinking where a request does not say. 0: none; -1: no limit."
    )
    thinking_closing: str = Field(
        default="\n\nConsidering the limited time by the user, I have to give the solution based on the thinking "
        "directly now.",
        description="What ends a thought whose budget is spent, before the closing tag; Qwen's own words.",
    )
    reasoning_efforts: dict[str, int] = Field(
        default={"none": 0, "minimal": 256, "low": 1024, "medium": 8192, "high": -1, "xhigh": -1, "max": -1},
        description="What the values of reasoning_effort mean in tokens of thinking; -1: no limit.",
    )
    continuation_wait_s: float = Field(
        default=30.0, ge=0, description="How long an answer whose worker was lost waits for one that goes on with it."
    )
    worker_wait_s: float = Field(
        default=30.0,
        ge=0,
        description="How long new requests wait for a worker to come back when the last one is lost; later ones are "
        "refused at once. Also the most that they wait while a router that has just started connects.",
    )
    continuation_legs: int = Field(
        default=32, ge=0, description="How often one answer goes on with another worker at most. 0: a loss is an error."
    )
    continuation_prefill_tokens: int = Field(
        default=65_536,
        ge=1,
        description="Tokens of broken answers that are computed again at a time; the others wait for their turn.",
    )
    stall_timeout_s: float = Field(
        default=20.0,
        gt=0,
        description="A worker that has work and makes no engine step for this long, or says nothing, is given up; "
        "a tokenizer process that answers nothing for a quarter of it. Longer than any single step.",
    )
    token_cache_bytes: int = Field(
        32 * 1024 * 1024, ge=0, description="Memory for token ids of text seen before (repeated prompts)."
    )


class ShimConfig(Section):
    """The HTTP faces in a process of their own, `qwenserve shim`. It listens where `http` says."""

    routers: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        default=("127.0.0.1:50051",), description="Addresses of the gRPC API of routers, as a list or with commas."
    )
    ca_file: str = Field(
        default="",
        description="Certificates to trust for TLS to the routers, which need tls.cert_file then. Empty: plain text.",
    )
    cert_file: str = Field(default="", description="Certificate chain to show to routers with tls.client_ca_file.")
    key_file: str = Field(default="", description="Its key, without a password. Empty: in shim.cert_file.")
    router_wait_s: float = Field(
        default=5.0, ge=0, description="How long a request waits for a router where none is ready."
    )


class MpiConfig(Section):
    """A worker whose engine computes in several processes, started by MPI."""

    ranks: int = Field(default=1, ge=1, le=4096, description="Processes that compute together. 1: no MPI.")
    hostfile: str = Field(
        default="", description="Machines to start them on, this one first. Empty: all of them on this one."
    )
    launcher: str = Field(
        default="",
        description="The mpirun to use. Empty: that of this installation, or of the path; none: the ranks were started "
        "already, by srun.",
    )
    arguments: tuple[str, ...] = Field(default=(), description="Further arguments for mpirun.")
    start_timeout_s: float = Field(
        default=600.0, gt=0, description="Longest time until all ranks have loaded the model."
    )
    silence_timeout_s: float = Field(
        default=3.0, gt=0, description="A rank that says nothing for this long makes the worker NOT_SERVING."
    )
    loss_timeout_s: float = Field(
        default=8.0, gt=0, description="A rank that says nothing for this long is given up, and the worker ends."
    )


class WorkerConfig(Section):
    """The worker tier."""

    name: str = Field(default="worker-0", description="Unique name.")
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=50061, ge=0, le=65535, description="Port; 0 takes a free one.")
    advertise: str = Field(
        default="",
        description="Host or HOST:PORT by which routers reach it, told through the store. Empty: worker.host, or this "
        "machine's name where that means all addresses.",
    )
    engine: str = Field(default="llamacpp", description="Which engine computes.")
    max_running: int = Field(default=8, ge=1, le=1024, description="Most requests computed at a time.")
    max_queued: int = Field(default=256, ge=0, description="Most requests waiting; more are refused with QUEUE_FULL.")
    stall_timeout_s: float = Field(
        default=20.0,
        gt=0,
        description="An engine that has work and makes no step for this long makes the worker NOT_SERVING.",
    )
    max_queued_tokens: int = Field(
        default=2**21, ge=0, description="Most prompt tokens of waiting requests together; 0: any number."
    )
    request_buffer_bytes: int = Field(
        default=4 << 20,
        ge=4096,
        description="Unread answer bytes kept of a request for a router that reads slowly; beyond, it alone is ended.",
    )
    session_buffer_bytes: int = Field(
        default=64 << 20,
        ge=4096,
        description="The same over all requests of one router; beyond, those with most unread bytes are ended.",
    )
    mpi: MpiConfig = Field(default_factory=MpiConfig, description="Ranks of MPI.")
    # What the file has below `worker.ENGINE`. Each engine has a model of its own settings, which only processes that
    # know the engines can check; the others pass them on unread.
    engine_settings: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict, description="Settings of engines.")


class TokenizerConfig(Section):
    """The tokenizer tier."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=50071, ge=0, le=65535, description="Port; 0 takes a free one.")
    threads: int = Field(default=2, ge=1, description="Threads for long texts.")


class AuthConfig(Section):
    """API keys, for HTTP and gRPC alike. No keys: everybody may call."""

    keys: tuple[Secret, ...] = Field(default=(), description="Accepted bearer keys.")
    key_file: str = Field(default="", description="File with one key per line; # starts a comment.")
    keys_file: str = Field(
        default="",
        description="File of keys with limits, which holds digests and no keys; `qwenserve keys` writes it. Read again "
        "when it changes.",
    )
    without_store: Literal["count", "refuse"] = Field(
        default="count",
        description="What keys' limits do while the store does not answer: each router counts by itself, or refuses.",
    )
    usage_log: str = Field(
        default="", description="File to which a line of JSON is added for every answer of a key. Empty: none."
    )


class TlsConfig(Section):
    """Certificates, in PEM files that are read again when they change."""

    cert_file: str = Field(
        default="", description="Certificate chain of the public ports, HTTP and gRPC. Empty: plain text."
    )
    key_file: str = Field(default="", description="Its key, without a password.")
    client_ca_file: str = Field(
        default="",
        description="Clients of the public ports must show a certificate of this authority. Empty: they need none.",
    )
    min_version: Literal["1.2", "1.3"] = Field(
        default="1.2",
        description="Least TLS version, over HTTP and gRPC, for those who listen and those who dial.",
    )
    cluster_ca_file: str = Field(
        default="",
        description="Routers, workers and tokenizers show each other certificates of this authority, and believe no "
        "others. Empty: plain text between them.",
    )
    cluster_cert_file: str = Field(default="", description="Certificate chain for that. Empty: tls.cert_file.")
    cluster_key_file: str = Field(default="", description="Its key. Empty: tls.key_file.")
    cluster_name: str = Field(
        default="",
        description="Name that certificates of workers and tokenizers must be for. Empty: the host in their address.",
    )


class ClusterConfig(Section):
    """What the processes of one deployment know of each other."""

    token: Secret = Field(
        default=Secret(),
        description="Shared by routers, workers and tokenizers; the latter two answer nobody without it. Better in the "
        "environment (QWENSERVE_CLUSTER__TOKEN) than in a file. `qwenserve up` makes one.",
    )


class StoreConfig(Section):
    """What processes share: leases of workers, answers to repeated prompts. Lost, it makes nothing fail."""

    url: Secret = Field(
        default=Secret(),
        description="Redis or Valkey: redis://host:6379, redis+sentinel://…/service, redis+cluster://…, rediss:// for "
        "TLS, unix:///socket. Empty: kept in each process for itself.",
    )
    username: str = Field(default="", description="User at the store. Empty: the URL's, or the default user.")
    password: Secret = Field(default=Secret(), description="Password at the store. Empty: the URL's, or none.")
    password_file: str = Field(
        default="", description="File that holds the password, read at every new connection: it may change."
    )
    ca_file: str = Field(default="", description="Certificates to trust for TLS. Empty: the system's.")
    cert_file: str = Field(default="", description="Certificate chain to show, where the store asks for one over TLS.")
    key_file: str = Field(default="", description="Its key, without a password. Empty: in store.cert_file.")
    prefix: str = Field(
        default="qwenserve",
        pattern=r"^[A-Za-z0-9_.\-]{1,64}$",
        description="Begins every key, so that deployments can share a store.",
    )
    timeout_s: float = Field(
        default=0.05, gt=0, le=5, description="Longest time that anything waits for the store; it then goes on without."
    )
    connections: int = Field(default=16, ge=1, le=1024, description="Most connections of one process.")
    lease_s: float = Field(
        default=10.0, ge=0.5, le=3600, description="How long a process counts as there after its last word."
    )
    memory_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=0,
        description="Most bytes of values kept in a process, where there is no URL; with `up --store`, in its server.",
    )
    encryption_key: Secret = Field(
        default=Secret(),
        description="32 bytes in hexadecimal or base64: values are encrypted with it, and others are not believed.",
    )


class SimilarConfig(Section):
    """Kept answers to similar prompts: the nearest earlier one by embedding that asks the same by plain rules."""

    mode: Literal["off", "on"] = Field(
        default="off", description="Whether requests that read kept answers and say nothing else take these too."
    )
    embedder: Literal["none", "local", "http"] = Field(
        default="none",
        description="Where embeddings come from: a small model in the router (the extra `similar`), or a server. none: "
        "requests that ask for similar prompts are refused.",
    )
    url: str = Field(default="", description="The server's /v1/embeddings, for http.")
    model: str = Field(default="", description="Name of the server's model, for http. Empty: the server's only one.")
    api_key: Secret = Field(default=Secret(), description="The server's bearer key, for http. Empty: none.")
    timeout_s: float = Field(default=0.5, gt=0, le=30, description="Longest time that anything waits for an embedding.")
    threshold: float = Field(
        default=0.8, gt=0, le=1, description="How near an earlier prompt must be: the cosine of the two embeddings."
    )
    turns: Literal["single", "any"] = Field(
        default="single",
        description="Only prompts of one question, or also the last message of a conversation that is else the same.",
    )
    entries: int = Field(
        default=1024, ge=1, le=100_000, description="Most prompts kept for one system prompt, tools and sampling."
    )


class CacheConfig(Section):
    """Answers to repeated prompts, kept in the store. Only what would come out the same again: temperature 0, or a seed
    in the request."""

    mode: Literal["off", "read", "write", "readwrite"] = Field(
        default="off", description="What requests that say nothing about it do with kept answers."
    )
    max_age_s: float = Field(default=3600.0, gt=0, description="How long an answer is kept, and the oldest one given.")
    max_answer_bytes: int = Field(
        default=256 * 1024,
        ge=1024,
        description="Largest answer kept, in bytes: up to 4 for a token, 250 with log-probabilities.",
    )
    similar: SimilarConfig = Field(default_factory=SimilarConfig, description="Answers to similar prompts.")


class MetricsConfig(Section):
    """Prometheus metrics of any tier on a port of their own. A router also has them on its HTTP port."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Port for GET /metrics; `qwenserve up` gives each of its processes the next one. 0: none.",
    )
    tls: bool = Field(
        default=False,
        description="Over TLS: with the certificate of the public ports, or where there is none with the cluster's; "
        "whoever asks must show one where callers of that must.",
    )


class TracingConfig(Section):
    """Traces of requests over OpenTelemetry's OTLP/gRPC, sent by routers; needs the extra `otel`."""

    endpoint: str = Field(
        default="",
        pattern=r"^(https?://[^/\s]+)?$",
        description="Receiver, such as http://127.0.0.1:4317; https:// for TLS. Empty: no traces.",
    )
    share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of requests that are traced, of those whose caller's traceparent does not decide it.",
    )
    service_name: str = Field(default="qwenserve-router", description="Name of this service in traces.")
    delay_s: float = Field(default=5.0, gt=0, le=60, description="How long spans wait to be sent together.")


class LogConfig(Section):
    """Logs on standard error: one event a line. Prompt text is never logged."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level shown.")
    format: Literal["json", "text"] = Field(default="json", description="json for machines, text for people.")
    file: str = Field(default="", description="Write to this file instead of standard output and error. Empty: do not.")
    max_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=0,
        description="Size at which log.file becomes FILE.1, in place of an older one, and begins anew. 0: it grows.",
    )


class Config(Section):
    """Everything."""

    model: ModelConfig = Field(default_factory=ModelConfig, description="The model.")
    template: TemplateConfig = Field(default_factory=TemplateConfig, description="Prompts.")
    http: HttpConfig = Field(default_factory=HttpConfig, description="HTTP shim.")
    grpc: GrpcConfig = Field(default_factory=GrpcConfig, description="gRPC in all tiers.")
    router: RouterConfig = Field(default_factory=RouterConfig, description="Router tier.")
    shim: ShimConfig = Field(default_factory=ShimConfig, description="HTTP in a process of its own.")
    worker: WorkerConfig = Field(default_factory=WorkerConfig, description="Worker tier.")
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig, description="Tokenizer tier.")
    auth: AuthConfig = Field(default_factory=AuthConfig, description="API keys.")
    tls: TlsConfig = Field(default_factory=TlsConfig, description="Certificates.")
    cluster: ClusterConfig = Field(default_factory=ClusterConfig, description="Routers, workers and tokenizers.")
    store: StoreConfig = Field(default_factory=StoreConfig, description="What processes share.")
    cache: CacheConfig = Field(default_factory=CacheConfig, description="Answers to repeated prompts.")
    metrics: MetricsConfig = Field(default_factory=MetricsConfig, description="Metrics of any tier.")
    tracing: TracingConfig = Field(default_factory=TracingConfig, description="Traces of requests.")
    log: LogConfig = Field(default_factory=LogConfig, description="Logs.")
    cache_dir: str = Field(
        default="",
        description="Where converted models are kept. Empty: $XDG_CACHE_HOME/qwenserve or ~/.cache/qwenserve.",
    )
    drain_timeout_s: float = Field(
        default=30.0, ge=0, description="How long running requests may take to finish at shutdown."
    )
    drain_notice_s: float = Field(
        default=0.0,
        ge=0,
        description="How long a process that was told to stop still takes new requests while its readiness says no. "
        "Behind a load balancer: longer than it takes to notice.",
    )
    health_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="A further gRPC port, on loopback, in plain text and never shared: for health checks. 0: none.",
    )
    health_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="How long a process may leave health checks unanswered before `qwenserve up` replaces it.",
    )

    @property
    def cache_path(self) -> Path:
        """Directory for converted models."""
        if self.cache_dir:
            return Path(self.cache_dir).expanduser()
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(base).expanduser() / "qwenserve"

    @property
    def worker_addresses(self) -> tuple[str, ...]:
        """The workers that a router knows before it asks a store."""
        if self.router.workers or self.store.url:
            return self.router.workers
        return (f"127.0.0.1:{WorkerConfig().port}",)

    @property
    def model_name(self) -> str:
        """The name in answers. An absolute path is no name: it tells clients about the machine."""
        if self.model.name:
            return self.model.name
        reference = self.model.reference.rstrip("/").removesuffix(".gguf")
        return reference if reference[:1] not in ("/", "~", ".") else self._last_part

    @property
    def model_names(self) -> tuple[str, ...]:
        """Every name that requests may use; the first one is that in answers."""
        own = (self.model.name,) if self.model.name else (self.model_name, self._last_part)
        return tuple(dict.fromkeys((*own, *self.model.aliases)))

    @property
    def _last_part(self) -> str:
        return self.model.reference.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")


def _secrets(annotation: object) -> frozenset[str]:
    """Returns the keys of all settings of a type."""
    return frozenset(_keys_of_type(Config, annotation, ""))


def _keys_of_type(section: type[BaseModel], annotation: object, prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        if field.annotation == annotation:
            yield prefix + name
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _keys_of_type(field.annotation, annotation, f"{prefix}{name}.")


# Settings whose values are never shown, and those of them that are one text and no list.
SECRET_TEXTS = _secrets(Secret)
SECRETS = SECRET_TEXTS | _secrets(tuple[Secret, ...])


class Setting(NamedTuple):
    """One effective value and where it came from (`default`, `file FILE`, `environment NAME`, `--set`)."""

    key: str
    value: Any
    source: str
    description: str


class LoadedConfig(NamedTuple):
    """The configuration, and the source of every key that is not a default.

    `engines` has the checked settings of the engines that were given to `load_config`, by their names.
    """

    config: Config
    sources: Mapping[str, str]
    engines: Mapping[str, Section] = {}

    def settings(self) -> Iterator[Setting]:
        """Yields every setting with its source, in the order of the classes; engines' behind the worker's."""
        for key, value, description in _walk(self.config, self.engines):
            yield Setting(key, value, self.sources.get(key, "default"), description)


def load_config(
    file: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    engines: Mapping[str, type[Section]] | None = None,
) -> LoadedConfig:
    """Reads and checks the configuration. `overrides` maps dotted keys to values. Raises ConfigError.

    `engines` are the models of all engines' settings. Without them whatever stands below `worker.ENGINE` is
    taken as it is: a tier that runs no engine need not know any.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    defaults = {name: model() for name, model in (engines or {}).items()}
    known = {key for key, _, _ in _walk(Config(), defaults)}

    def put(key: str, value: Any, source: str) -> None:
        if key not in known and (engines is not None or not _of_an_engine(key)):
            raise ConfigError(f"{source}: unknown key {key!r}{_nearest(key, known)}")
        values[key] = value
        sources[key] = source

    if file is not None:
        for key, value in _flatten(_read_yaml(file), known, str(file), engines is None):
            put(key, value, f"file {file}")
    for name, text in sorted(environment.items()):
        if name.startswith(ENV_PREFIX) and name not in RESERVED_VARIABLES:
            key = name[len(ENV_PREFIX) :].lower().replace("__", ".")
            put(key, _value(key, text, name), f"environment {name}")
    for key, value in (overrides or {}).items():
        put(key, _value(key, value, f"--set {key}") if isinstance(value, str) else value, "--set")
    tree = _tree(values)
    worker = tree.get("worker", {})
    given = {name: worker.pop(name) for name in list(worker) if name not in WorkerConfig.model_fields}
    checked: dict[str, Section] = {}
    if engines is None:
        worker["engine_settings"] = given
    else:
        engine = worker.get("engine", WorkerConfig().engine)
        if engine not in engines:
            source = sources.get("worker.engine", "configuration")
            raise ConfigError(f"{source}: worker.engine: must be one of {', '.join(engines)} (got {engine!r})")
        checked = {
            name: _checked(model, given.get(name, {}), f"worker.{name}.", sources) for name, model in engines.items()
        }
        worker["engine_settings"] = {name: settings.model_dump() for name, settings in checked.items()}
    tree["worker"] = worker
    _keep_section_defaults(tree)
    return LoadedConfig(_checked(Config, tree, "", sources), sources, checked)


def _of_an_engine(key: str) -> bool:
    section, _, rest = key.partition(".")
    engine, _, name = rest.partition(".")
    return section == "worker" and bool(name) and engine not in WorkerConfig.model_fields


def _tree(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def _checked(model: type[S], tree: Mapping[str, Any], prefix: str, sources: Mapping[str, str]) -> S:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = prefix + ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
        source = sources.get(key, "configuration")
        got = "not shown; digits alone need quotes" if key in SECRETS else f"got {first['input']!r}"
        raise ConfigError(f"{source}: {key}: {first['msg']} ({got})") from None


def _keep_section_defaults(tree: dict[str, Any]) -> None:
    # Setting one key of a section must not drop the section's own other defaults.
    section = tree.get("model", {}).get("non_thinking_defaults")
    if section is not None:
        defaults = ModelConfig().non_thinking_defaults.model_dump(exclude_none=True)
        tree["model"]["non_thinking_defaults"] = {**defaults, **section}


def _read_yaml(file: Path) -> Mapping[str, Any]:
    try:
        loaded = read_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read configuration file {file}: {error.strerror}") from None
    except (YamlError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {file} is no valid YAML: {error}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"configuration file {file}: expected sections with keys, got {type(loaded).__name__}")
    return loaded


def _flatten(
    tree: Mapping[str, Any], known: set[str], file: str, any_engine: bool, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        is_section = any(k.startswith(f"{key}.") for k in known)
        if any_engine and key not in known and _of_an_engine(f"{key}._"):
            is_section = value is None or isinstance(value, dict)
        if is_section and value is None:
            continue  # a section whose keys are all commented out
        if is_section and isinstance(value, dict):
            yield from _flatten(value, known, file, any_engine, f"{key}.")
        elif is_section:
            raise ConfigError(f"file {file}: {key} is a section; expected keys below it, got {value!r}")
        else:
            yield key, value


def _value(key: str, text: str, source: str) -> Any:
    value = _parse(text, source, key)
    # A password may be made of digits, or spell something else that is more than a text to YAML.
    return text if key in SECRET_TEXTS and not isinstance(value, str) else value


def _parse(text: str, source: str, key: str) -> Any:
    # YAML reads numbers, booleans and lists; a plain word stays a string.
    try:
        return read_yaml(text) if text else ""
    except YamlError:
        shown = "the value, which is not shown" if key in SECRETS else f"the value {text!r}"
        raise ConfigError(f"{source}: cannot read {shown}") from None


def _nearest(key: str, known: set[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not close:
        close = [k for k in sorted(known) if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:1]
    return f"; did you mean {close[0]!r}?" if close else "; see `qwenserve config explain` for all keys"


def _walk(section: BaseModel, engines: Mapping[str, Section], prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if name == "engine_settings":
            for engine, settings in engines.items():
                yield from _walk(settings, engines, f"{prefix}{engine}.")
        elif isinstance(value, BaseModel):
            yield from _walk(value, engines, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, field.description or ""


def _plain(value: Any) -> Any:
    return value.reveal() if isinstance(value, Secret) else value


def annotated_yaml(loaded: LoadedConfig) -> str:
    """Returns a YAML file with every key, its value and its meaning as a comment."""
    lines: list[str] = []
    open_sections: list[str] = []
    for setting in loaded.settings():
        *path, name = setting.key.split(".")
        for depth, part in enumerate(path):
            if open_sections[depth : depth + 1] != [part]:
                open_sections = [*open_sections[:depth], part]
                lines.append(f"{'' if depth else chr(10)}{'  ' * depth}{part}:")
        open_sections = open_sections[: len(path)]
        indent = "  " * len(path)
        value = list(map(_plain, setting.value)) if isinstance(setting.value, tuple) else _plain(setting.value)
        text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
        lines.append(f"{indent}# {setting.description}")
        lines.append(f"{indent}{name}: {text}")
    return "\n".join(lines).lstrip("\n") + "\n"
