"""The command line without a broker: usage, errors, and finding ``broker dev``."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from broker import cli, dev
from broker.config import Settings, load_settings
from broker.dev import DevState
from broker.supervisor.supervisor import Addresses

ADDRESSES = Addresses(
    public_host="127.0.0.1", public_port=8080, admin_host="127.0.0.1", admin_port=9090
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory without .env and state file, and an environment without settings."""
    for name in os.environ:
        if name.startswith("BROKER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(cli.main, arguments, env=env)


def state(pid: int, port: int = 1) -> DevState:
    return DevState(
        pid, f"redis://127.0.0.1:{port}/0", "dev:{session}", "http://127.0.0.1:2"
    )


def test_bad_settings_end_with_status_2_and_no_traceback():
    """An operator reads what is wrong, not where the code noticed it."""
    result = run("serve", BROKER_PORT="http", BROKER_WRKERS="2")

    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "BROKER_PORT=http: must be a valid integer, unable to parse string as an "
        "integer",
        "BROKER_WRKERS is not a setting; did you mean BROKER_WORKERS?",
    ]


def test_publish_without_a_server_is_one_sentence():
    """A Redis that is away is status 1 and says where nobody answered."""
    result = run("publish", "s1", "e", BROKER_REDIS_URL="redis://127.0.0.1:1/0")

    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "127.0.0.1:1" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("publish", "bad name", "e"), "cannot be the name of a session"),
        (("publish", "s1", "e", "{bad"), "DATA is not JSON"),
        (("tail", "../x"), "cannot be the name of a session"),
        (("tail", "s1", "--from", "soon"), "a position is"),
        (("tail", "s1", "--from", "-"), "a position is"),
        (("tail", "s1", "--url", "localhost:1"), "must look like"),
    ],
)
def test_wrong_usage_is_status_2(arguments: tuple[str, ...], why: str):
    """What can be seen to be wrong is refused before anything is sent."""
    result = run(*arguments)

    assert result.exit_code == 2
    assert why in result.stderr


def test_config_can_be_used_as_env_file(home: Path):
    """What is printed reads back as the same settings."""
    result = run("config", BROKER_WORKERS="3")
    (home / "printed").write_text(result.stdout)

    assert result.exit_code == 0
    expected = load_settings({"BROKER_WORKERS": "3"}, None).shown()
    assert load_settings({}, home / "printed").shown() == expected


def test_config_hides_the_password_and_marks_defaults():
    """What is printed may be pasted into a ticket."""
    result = run("config", BROKER_REDIS_URL="redis://:hunter22@h:1/0")
    before = result.stdout.partition("BROKER_REDIS_URL=")[0].splitlines()[-1]

    assert "BROKER_REDIS_URL=redis://h:1/0" in result.stdout
    assert "hunter22" not in result.output
    assert "[default]" not in before
    assert "api_key, or jwt. [default]\nBROKER_AUTH=none" in result.stdout


def test_module_and_command_are_the_same_program():
    """Python -m broker works where the script is not installed."""
    command = [sys.executable, "-m", "broker", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)

    assert done.returncode == 0
    assert done.stdout.startswith("Usage: broker [OPTIONS]")


def test_state_file_is_private_and_found():
    """Another command of the same user finds the running broker."""
    dev.write_state(state(os.getpid()))

    assert dev.read_state() == state(os.getpid())
    assert stat.S_IMODE(dev.state_path().stat().st_mode) == 0o600


def test_state_of_an_ended_process_does_not_count():
    """A broker that was killed leaves a file, but it is not running."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dev.write_state(state(ended.pid))

    assert dev.read_state() is None


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"pid": "x"}'])
def test_damaged_state_file_does_not_count(content: bytes):
    """A file that cannot be read is as good as none."""
    dev.state_path().write_bytes(content)

    assert dev.read_state() is None


def test_planted_link_is_not_followed(home: Path):
    """A link at the place of the state file may lead anywhere."""
    dev.write_state(state(os.getpid()), home / "elsewhere")
    dev.state_path().symlink_to(home / "elsewhere")

    assert dev.read_state() is None


def test_planted_link_is_not_written_through(home: Path):
    """Writing replaces a planted link and leaves its target alone."""
    (home / "target").write_text("mine")
    dev.state_path().symlink_to(home / "target")
    dev.write_state(state(os.getpid()))

    assert (home / "target").read_text() == "mine"
    assert dev.read_state() == state(os.getpid())


def test_state_of_another_broker_is_left_in_place():
    """Of two brokers, the first one to end must not hide the other."""
    dev.write_state(state(os.getppid()))
    dev.remove_state()
    assert dev.state_path().exists()
    dev.write_state(state(os.getpid()))
    dev.remove_state()
    assert not dev.state_path().exists()


def test_running_dev_broker_is_where_commands_go():
    """Without settings, publish and tail mean the broker that runs here."""
    dev.write_state(state(os.getpid()))
    result = run("publish", "s1", "e")

    assert cli._where_to_connect() == "http://127.0.0.1:2"
    assert "127.0.0.1:1" in result.stderr


def test_settings_win_over_the_running_dev_broker(monkeypatch: pytest.MonkeyPatch):
    """Whoever names a server means that one."""
    dev.write_state(state(os.getpid(), port=3))
    monkeypatch.setenv("BROKER_PORT", "1234")
    result = run("publish", "s1", "e", BROKER_REDIS_URL="redis://127.0.0.1:1/0")

    assert cli._where_to_connect() == "http://127.0.0.1:1234"
    assert "127.0.0.1:1/" in result.stderr


def settings(**env: str) -> Settings:
    named = {f"BROKER_{name.upper()}": value for name, value in env.items()}
    return load_settings(named, None)


def test_dev_changes_only_what_was_not_set():
    """A developer's defaults never overrule a setting."""
    plain = dev.dev_settings(settings())
    given = dev.dev_settings(settings(workers="5", log_level="debug", drain_s="9"))

    assert (plain.workers, plain.log_level, plain.drain_s) == (2, "warning", 0.5)
    assert (given.workers, given.log_level, given.drain_s) == (5, "debug", 9)


def test_dev_takes_free_ports_where_the_usual_ones_are_taken(
    monkeypatch: pytest.MonkeyPatch,
):
    """A second broker starts beside the first; a port that was asked for stays."""
    monkeypatch.setattr(dev, "_can_listen", lambda host, port: False)

    assert dev.dev_settings(settings()).port == 0
    assert dev.dev_settings(settings()).admin_port == 0
    assert dev.dev_settings(settings(port="7777")).port == 7777


def test_pasted_commands_show_no_password():
    """With credentials in the URL no command line repeats it."""
    commands = dev.pasted_commands(
        settings(redis_url="redis://:pw1234@h:1/0"), ADDRESSES
    )

    assert not any("redis-cli" in command for command in commands)
    assert not any("pw1234" in command for command in commands)


def test_own_command_runs_from_this_directory(home: Path):
    """The shown command works when pasted, wherever the virtual environment is."""
    command = [*shlex.split(dev.own_command()), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)

    assert done.stdout.startswith("broker, version")
