"""Which processes a deployment consists of, and how they are started."""

import os
import socket

import pytest
import yaml

from qwenserve.cli.errors import CommandError
from qwenserve.cli.options import setting_texts
from qwenserve.cli.plan import Addresses, Counts, DeploymentPlan, Tier, make_plan
from qwenserve.cli.ports import Endpoint, claim, free_endpoints, listening_process
from qwenserve.cli.restarts import RestartPolicy
from qwenserve.runtime.config import Config, load_config


def plan_of(counts: Counts, **fields: object) -> DeploymentPlan:
    addresses = Addresses(
        http=Endpoint("0.0.0.0", 8000),
        grpc=Endpoint("0.0.0.0", 50051),
        workers=[Endpoint("127.0.0.1", 6000 + n) for n in range(counts.workers)],
        tokenizers=[Endpoint("127.0.0.1", 7000 + n) for n in range(counts.tokenizers)],
    )
    given = {"name": "x", "path": "/x", "config_file": None, "overrides": {}, "config": Config(), **fields}
    return make_plan(counts=counts, addresses=addresses, **given)  # type: ignore[arg-type]


def settings_of(arguments: tuple[str, ...]) -> dict[str, object]:
    """What a process reads from its command line, later ones winning."""
    given = [arguments[at + 1] for at, argument in enumerate(arguments) if argument == "--set"]
    return {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in given)}


def test_routers_can_be_started_without_workers():
    """Nobody is named to them: they ask the store."""
    plan = plan_of(Counts(workers=0, routers=1))

    assert [p.name for p in plan.processes] == ["router-0"]
    assert settings_of(plan.of_tier("router")[0].arguments)["router.workers"] == []


def test_routers_know_workers_and_tokenizers():
    """Every router gets all addresses; workers and tokenizers their own."""
    plan = plan_of(Counts(workers=2, routers=1, tokenizers=1))

    assert [p.name for p in plan.processes] == ["worker-0", "worker-1", "tokenizer-0", "router-0"]
    router = settings_of(plan.of_tier("router")[0].arguments)
    assert router["router.workers"] == ["127.0.0.1:6000", "127.0.0.1:6001"]
    assert router["router.tokenizers"] == ["127.0.0.1:7000"]
    assert [settings_of(p.arguments)["worker.port"] for p in plan.of_tier("worker")] == [6000, 6001]
    assert [settings_of(p.arguments)["worker.name"] for p in plan.of_tier("worker")] == ["worker-0", "worker-1"]


def test_every_process_has_a_port_of_its_own_for_metrics():
    """The configured one is the first; without one no process is given any."""
    config = load_config(environment={}, overrides={"metrics.port": 9464}).config
    plan = plan_of(Counts(workers=2, routers=2, tokenizers=1), config=config)

    assert [settings_of(process.arguments)["metrics.port"] for process in plan.processes] == [*range(9464, 9469)]
    assert all("metrics.port" not in settings_of(process.arguments) for process in plan_of(Counts()).processes)


@pytest.mark.parametrize("count", [1, 2])
def test_routers_and_tokenizers_share_their_ports_and_workers_do_not(count: int):
    """A rolling restart starts the next one beside the old; a worker's model would be in memory twice."""
    plan = plan_of(Counts(count, count, count))

    sharing: tuple[tuple[Tier, bool], ...] = (("router", True), ("tokenizer", True), ("worker", False))
    for tier, shared in sharing:
        assert [("--share-ports" in p.arguments, p.shared) for p in plan.of_tier(tier)] == [(shared, shared)] * count


def test_workers_do_not_spin():
    """The embedded engine's threads yield the processor while they wait."""
    assert plan_of(Counts()).of_tier("worker")[0].environment["OMP_WAIT_POLICY"] == "passive"


def test_addresses_for_callers_are_reachable():
    """Listening everywhere is no address that one can call."""
    plan = plan_of(Counts())

    assert (plan.http, plan.grpc) == ("127.0.0.1:8000", "127.0.0.1:50051")
    assert settings_of(plan.of_tier("router")[0].arguments)["http.host"] == "0.0.0.0"


@pytest.mark.parametrize("value", ["/a path: with #marks", "[x]", "1e5", "no", "你好", True, 3, ["a", "b"]])
def test_overrides_arrive_unchanged(value: object):
    """What is handed to a process is read there as the same value, whatever YAML would make of the text."""
    plan = plan_of(Counts(), overrides=setting_texts({"model.name": value}))

    assert all(settings_of(process.arguments)["model.name"] == value for process in plan.processes)


def test_processes_accept_their_settings():
    """Every setting that is handed out exists."""
    for process in plan_of(Counts(1, 2, 1), overrides=setting_texts({"model.reference": "/m"})).processes:
        load_config(environment={}, overrides=settings_of(process.arguments))


def test_secrets_are_on_no_command_line():
    """Keys travel in the environment: everybody can see the arguments of a process."""
    plan = plan_of(Counts(), overrides={"auth.keys": "[topsecret]", "http.port": "1"})

    assert plan.secrets == {"QWENSERVE_AUTH__KEYS": "[topsecret]"}
    assert "topsecret" not in str([process.arguments for process in plan.processes])
    assert load_config(environment=plan.secrets).config.auth.keys == ("topsecret",)


def test_plan_survives_the_disk():
    """What a background process reads is what was planned."""
    plan = plan_of(Counts(2, 2, 1))

    assert DeploymentPlan.model_validate_json(plan.model_dump_json()) == plan


def test_taken_port_names_the_setting_and_the_remedy():
    """The message says which setting to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CommandError, match=rf"http\.port: cannot listen on 127\.0\.0\.1:{port}.*--set http\.port="):
            claim(Endpoint("127.0.0.1", port), "http.port")


def test_a_taken_port_says_whose_it_is():
    """A program that is none of ours is named with its process."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listener = listening_process(taken.getsockname()[1])
        assert listener is not None
        assert listener.pid == os.getpid()
        with pytest.raises(CommandError, match=f"it is process {os.getpid()} "):
            claim(Endpoint("127.0.0.1", taken.getsockname()[1]), "http.port")
    assert listening_process(1) is None


def test_port_shared_by_others_counts_as_taken():
    """A port that another deployment's routers share must not be joined by accident."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(CommandError):
            claim(Endpoint("127.0.0.1", other.getsockname()[1]), "router.port")


def test_free_ports_differ():
    """Port 0 becomes a real one, and no two are the same."""
    endpoints = [*free_endpoints("127.0.0.1", 20), claim(Endpoint("127.0.0.1", 0), "http.port")]

    assert len({endpoint.port for endpoint in endpoints}) == 21
    assert 0 not in {endpoint.port for endpoint in endpoints}


def test_restarts_slow_down_and_never_end():
    """Pauses double up to a limit, and stay there: what died often may still come back."""
    policy = RestartPolicy(first_s=1, longest_s=3)

    assert [policy.next_delay(0.0) for _ in range(100)] == [1, 2, 3] + [3] * 97


def test_pauses_begin_anew_after_service():
    """A process that served for a while starts afresh."""
    policy = RestartPolicy(first_s=1, longest_s=8, settled_s=5)

    assert [policy.next_delay(served) for served in (0, 4.9, 5, 0)] == [1, 2, 1, 2]


def test_what_has_served_is_back_sooner():
    """Answers may be waiting for it; one that never came so far would only fail again."""
    policy = RestartPolicy(first_s=1, longest_s=8, longest_served_s=3, settled_s=5)

    assert [policy.next_delay(served) for served in (1, 1, 1, 1, 0, 0)] == [1, 2, 3, 3, 8, 8]


def test_being_asked_to_end_is_no_death():
    """An operator's SIGTERM makes no pause longer, and one after service needs no pause at all."""
    policy = RestartPolicy(first_s=1, longest_s=8, settled_s=5)

    assert [policy.next_delay(60, asked=True), *(policy.next_delay(0, asked=True) for _ in range(9))] == [0] + [1] * 9
    assert policy.next_delay(0) == 1
