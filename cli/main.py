"""The `qwenserve` command."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from qwenserve.cli.errors import CommandError
from qwenserve.cli.options import add_setting_options, count
from qwenserve.runtime.client_tls import add_tls_options
from qwenserve.runtime.config import ConfigError
from qwenserve.runtime.flags import FlagParser
from qwenserve.runtime.release import release

# Names that other programs have for the same commands.
_SPELLINGS = {"serve": "up", "run": "chat"}
# In the order in which they run; cli/drill/faults.py has what they do.
DRILL_NAMES = (
    "kill-worker", "stop-worker", "kill-rank", "slow-worker", "kill-router", "kill-tokenizer", "stop-tokenizer",
    "redis-down", "redis-slow", "redis-full", "redis-flush", "redis-lies", "slow-reader", "overload", "rolling-restart",
    "disconnects", "bad-bytes",
)  # fmt: skip
# Commands that are one process each, in the foreground.
TIERS = ("worker", "router", "tokenizer", "shim")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. 2 says that the command line or the configuration is wrong."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _with_own_parser(argv) if argv[:1] and argv[0] in _OWN_PARSERS else _run(make_parser().parse_args(argv))
    except (CommandError, ConfigError) as error:
        print(f"qwenserve: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. Nothing more may be written, at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


# Commands with command lines of their own: a tier takes the flags of the process that it becomes.
_OWN_PARSERS = frozenset({"bench", "engine", *TIERS})


def _with_own_parser(argv: Sequence[str]) -> int:
    command, *rest = argv
    if command == "bench":
        from qwenserve.bench.command import main as bench

        return bench(rest)
    if command == "engine":
        from qwenserve.cli.engine_command import main as engine

        return engine(rest)
    from qwenserve.cli.tier import run_tier_process

    return run_tier_process(command, rest)


def _run(arguments: argparse.Namespace) -> int:
    # Imported when used: `qwenserve ps` must not wait for gRPC and numpy.
    command: str = _SPELLINGS.get(arguments.command, arguments.command)
    if command == "up":
        from qwenserve.cli.up import run_up as run
    elif command == "ps":
        from qwenserve.cli.ps import run_ps as run
    elif command == "logs":
        from qwenserve.cli.logs import run_logs as run
    elif command == "stop":
        from qwenserve.cli.stop import run_stop as run
    elif command == "restart":
        from qwenserve.cli.restart import run_restart as run
    elif command == "top":
        from qwenserve.cli.top.command import run_top as run
    elif command == "report":
        from qwenserve.cli.report.command import run_report as run
    elif command == "drill":
        from qwenserve.cli.drill.command import run_drill as run
    elif command == "chat":
        from qwenserve.cli.chat.command import run_chat as run
    elif command == "pack":
        from qwenserve.cli.package import run_pack as run
    elif command == "probe":
        from qwenserve.cli.probe import run_probe as run
    elif command == "keys":
        from qwenserve.cli.keys import run_keys as run
    elif command == "certs":
        from qwenserve.cli.certs import run_certs as run
    elif arguments.config_command == "explain":
        from qwenserve.cli.config_command import run_explain as run
    else:
        from qwenserve.cli.config_command import run_template as run
    return int(run(arguments))


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line."""
    parser = FlagParser(prog="qwenserve", description="Serves models of the Qwen3 family.")
    parser.add_argument("--version", action="version", version=f"qwenserve {release()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser(
        "up", aliases=["serve"], help="start a deployment", description="Starts all tiers on this machine."
    )
    _add_up(up)
    ps = commands.add_parser("ps", help="show what runs")
    ps.add_argument("-p", "--processes", action="store_true", help="also show every process")
    ps.add_argument("--cluster", action="store_true", help="show every process that the store knows, on all machines")
    add_setting_options(ps)
    _add_logs(commands.add_parser("logs", help="show logs"))
    _add_report(commands.add_parser("report", help="put together what a bug report needs, without secrets or prompts"))
    _add_top(commands.add_parser("top", help="show load, speed and errors, live"))
    stop = commands.add_parser("stop", help="drain and stop a deployment")
    stop.add_argument("name", nargs="?", help="the deployment; may be left out if there is only one")
    stop.add_argument("--force", action="store_true", help="do not wait for answers under way")
    restart = commands.add_parser("restart", help="restart every process in turn, losing nothing")
    restart.add_argument("name", nargs="?", help="the deployment; may be left out if there is only one")
    _add_chat(commands.add_parser("chat", aliases=["run"], help="chat in the terminal", description=_CHAT))
    _add_drill(commands.add_parser("drill", help="do harm to a running deployment, and see what clients see"))
    pack = commands.add_parser("pack", help="put a configuration and its model into one archive")
    pack.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the archive, such as my.tar")
    pack.add_argument("--with-model", action="store_true", help="include the model's files")
    add_setting_options(pack)
    for tier in TIERS:
        commands.add_parser(tier, help=f"one {tier} process in the foreground, for service managers and containers")
    probe = commands.add_parser("probe", help="ask a process whether it serves: exit code 0 or 1")
    probe.add_argument(
        "address",
        metavar="HOST:PORT|TIER",
        help="its gRPC address, or with --http its HTTP address; or worker, router, tokenizer, shim: the one with the "
        "configuration of this command, TLS included",
    )
    probe.add_argument("--http", action="store_true", help="ask a router's /readyz instead of gRPC's health service")
    add_tls_options(probe)
    add_setting_options(probe)
    _add_keys(commands.add_parser("keys", help="keys with limits: add, list, revoke"))
    certs = commands.add_parser("certs", help="make a private authority and certificates for a test cluster")
    certs.add_argument("folder", metavar="DIR", help="where to; an authority that is there already is used")
    certs.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name or address of its machines",
    )
    certs.add_argument(
        "--client",
        action="append",
        default=[],
        metavar="NAME",
        help="also a certificate that a client shows, NAME.pem and NAME.key (for tls.client_ca_file)",
    )
    certs.add_argument("--days", type=count(1), default=365, metavar="N", help="how long certificates hold (365)")
    commands.add_parser("engine", help="what a model is and who loads it; quantize, build, check")
    commands.add_parser("bench", help="measure servers and engines")
    config = commands.add_parser("config", help="show settings")
    actions = config.add_subparsers(dest="config_command", required=True, metavar="ACTION")
    explain = actions.add_parser("explain", help="effective values, and where each came from")
    explain.add_argument("--changed", action="store_true", help="leave out defaults")
    add_setting_options(explain)
    actions.add_parser("template", help="an annotated configuration file with all defaults")
    return parser


def _add_keys(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="keys_command", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="make a key and print it, once")
    revoke = actions.add_parser("revoke", help="take a key away")
    for action in (add, revoke):
        action.add_argument("name", metavar="NAME", help="who it is for; logs, metrics and the usage log have it")
    for action in (add, revoke, actions.add_parser("list", help="show names and limits")):
        action.add_argument("--file", metavar="FILE", help="the file of keys (default: auth.keys_file)")
        action.add_argument("--config", type=Path, help="configuration file (YAML)")
    add.add_argument("--rpm", type=count(1), metavar="N", help="requests a minute")
    add.add_argument("--tpm", type=count(1), metavar="N", help="tokens of prompts and answers a minute")
    add.add_argument("--concurrency", type=count(1), metavar="N", help="requests at a time")
    add.add_argument("--max-tokens", type=count(1), metavar="N", help="longest answer")
    add.add_argument("--priority", type=int, metavar="N", help="highest priority; higher is sooner")
    add.add_argument(
        "--cache", choices=("off", "read", "write", "readwrite"), help="what its requests do with kept answers"
    )
    add.add_argument(
        "--similar", action=argparse.BooleanOptionalAction, help="whether they take answers to similar prompts"
    )
    add.add_argument("--expires", metavar="WHEN", help="days, such as 90d, or a date, such as 2030-12-31")


def _add_up(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="?", metavar="MODEL|FILE", help="a model, a configuration file, or an archive of `pack`"
    )
    parser.add_argument("--name", help="name of the deployment (default: the model's)")
    parser.add_argument(
        "--workers", type=count(0), default=1, metavar="N", help="worker processes (1); 0: those that the store knows"
    )
    parser.add_argument(
        "--routers", type=count(1), default=1, metavar="N", help="router processes; share the ports (1)"
    )
    parser.add_argument(
        "--tokenizers", type=count(0), default=0, metavar="N", help="tokenizer processes (0: in routers)"
    )
    parser.add_argument(
        "--store", action="store_true", help="start a Redis server of its own, for answers and workers to be found in"
    )
    parser.add_argument("--detach", "-d", action="store_true", help="leave it running in the background")
    parser.add_argument("--ask", metavar="TEXT", help="ask one question when all is ready")
    add_setting_options(parser)


def _add_logs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="the deployment; may be left out if there is only one")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until ctrl-C")
    parser.add_argument("-n", "--lines", type=count(0), default=50, metavar="N", help="lines of each process (50)")
    parser.add_argument("--process", metavar="NAME", help="one process only, such as worker-0")


def _add_top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="the deployment; may be left out if there is only one")
    parser.add_argument(
        "--address", nargs="+", metavar="HOST:PORT", help="HTTP addresses of routers anywhere, or their URLs"
    )
    parser.add_argument("--cluster", action="store_true", help="every router that the store knows")
    parser.add_argument("--once", action="store_true", help="print once and end; so does a pipe")
    parser.add_argument("--interval", type=_seconds, default=2.0, metavar="S", help="seconds between two looks (2)")
    add_setting_options(parser)
    add_tls_options(parser)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="the deployment; may be left out if there is only one")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the archive (qwenserve-report-….tar.gz)")
    parser.add_argument("--log", type=Path, nargs="+", default=[], metavar="FILE", help="further logs")
    parser.add_argument(
        "--address", nargs="+", default=[], metavar="HOST:PORT", help="HTTP addresses of further routers"
    )
    add_setting_options(parser)
    add_tls_options(parser)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("must be 0.1 to 3600")
    return seconds


def _duration(text: str) -> float:
    """Returns a number of seconds above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _add_drill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="the deployment; may be left out if there is only one")
    parser.add_argument(
        "--drills", nargs="+", choices=DRILL_NAMES, metavar="DRILL", help=f"all: {', '.join(DRILL_NAMES)}"
    )
    parser.add_argument("--clients", type=count(1), default=8, metavar="N", help="clients that ask meanwhile (8)")
    parser.add_argument("--tokens", type=count(1), default=128, metavar="N", help="length of an answer (128)")
    parser.add_argument("--times", type=count(1), default=3, metavar="N", help="how often a fault is repeated (3)")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="how long a lasting fault lasts (5)")
    parser.add_argument(
        "--every",
        type=_duration,
        metavar="S",
        help="harm a process so often, whether the last one is back or not, instead of --times",
    )
    parser.add_argument(
        "--for", dest="for_s", type=_duration, default=60.0, metavar="S", help="with --every: for how long (60)"
    )
    parser.add_argument("--api-key", metavar="KEY", help="API key; or set QWENSERVE_API_KEY")
    add_tls_options(parser)


_CHAT = "Chats with a running deployment. With --model it starts what it needs, and stops it at the end."


def _add_chat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME|MODEL",
        help="a deployment (may be left out if there is only one), or a model",
    )
    parser.add_argument("--address", metavar="HOST:PORT", help="gRPC address of a router anywhere")
    parser.add_argument("--system", metavar="TEXT", help="system message")
    parser.add_argument("--no-think", action="store_true", help="begin with thinking off")
    parser.add_argument("--thoughts", choices=("show", "hide"), help="default: shown on a terminal, hidden in a pipe")
    parser.add_argument("--stats", action="store_true", help="show tokens and speed after each answer")
    parser.add_argument("--api-key", metavar="KEY", help="API key; or set QWENSERVE_API_KEY")
    add_setting_options(parser)
    add_tls_options(parser)


if __name__ == "__main__":
    sys.exit(main())
