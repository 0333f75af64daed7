"""Settings: what is read, what is refused, and what is never shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from broker.config import Settings, load_settings
from broker.errors import ConfigError

CANARY = "canary-9f2c"


def load(**env: str) -> Settings:
    named = {f"BROKER_{name.upper()}": value for name, value in env.items()}
    return load_settings(named, env_file=None)


def refusal(**env: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**env)
    return str(caught.value)


def test_without_any_setting_the_defaults_are_usable():
    """An empty environment is a valid configuration."""
    settings = load()

    assert settings.port == 8080
    assert settings.ring_bytes == 64 * 1024 * 1024
    assert settings.event_stream == "broker:events:{session}"
    assert settings.redis_url.get_secret_value() == "redis://127.0.0.1:6379/0"
    assert settings.workers >= 1


def test_environment_wins_over_the_env_file(tmp_path: Path):
    """A variable overrides the same line of .env; other lines count."""
    env_file = tmp_path / ".env"
    env_file.write_text("BROKER_PORT=1111\nBROKER_ADMIN_PORT=2222\nOTHER=x\n")
    settings = load_settings({"BROKER_PORT": "3333"}, env_file)

    assert (settings.port, settings.admin_port) == (3333, 2222)


def test_missing_env_file_is_no_error(tmp_path: Path):
    """A .env file need not exist."""
    assert load_settings({}, tmp_path / "none").port == 8080


def test_unreadable_env_file_is_a_config_error(tmp_path: Path):
    """A .env file that is no text is named in the error."""
    env_file = tmp_path / ".env"
    env_file.write_bytes(b"BROKER_PORT=\xff\n")
    with pytest.raises(ConfigError, match=r"\.env cannot be read"):
        load_settings({}, env_file)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("67108864", 67108864),
        ("64MiB", 67108864),
        ("64m", 67108864),
        ("64 Mi", 67108864),
        ("1g", 1 << 30),
        ("2048KiB", 1 << 21),
        ("16777216b", 16777216),
    ],
)
def test_sizes_may_carry_a_unit(text: str, size: int):
    """Sizes are bytes, or a number with KiB, MiB or GiB in short or long form."""
    assert load(ring_bytes=text, max_event_bytes="64k").ring_bytes == size


def test_empty_value_counts_as_not_set():
    """Compose files pass on variables that are empty."""
    assert load(ring_bytes="").ring_bytes == 64 * 1024 * 1024


@pytest.mark.parametrize("text", ["64MB", "1.5m", "-1", "MiB", "64 apples"])
def test_what_is_no_size_is_refused(text: str):
    """A size that cannot be read says what can."""
    assert "KiB, MiB or GiB" in refusal(ring_bytes=text)


def test_unknown_setting_is_refused_with_the_nearest_name():
    """A misspelt setting must not be ignored silently."""
    message = refusal(redis_ur="redis://h", prot="80")

    assert "BROKER_REDIS_UR is not a setting; did you mean BROKER_REDIS_URL?" in message
    assert "BROKER_PROT is not a setting; did you mean BROKER_PORT?" in message


def test_every_bad_setting_is_named_at_once():
    """One start shows all mistakes, each with its value and what is allowed."""
    message = refusal(
        port="99999", auth="jwd", heartbeat_s="inf", workers="0", nope="1"
    )

    assert "BROKER_PORT=99999: must be less than or equal to 65535" in message
    assert "BROKER_AUTH=jwd: must be 'none', 'api_key' or 'jwt'" in message
    assert "BROKER_HEARTBEAT_S=inf: must be a finite number" in message
    assert "BROKER_WORKERS=0: must be greater than or equal to 1" in message
    assert "BROKER_NOPE is not a setting" in message


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"auth": "api_key"}, "BROKER_API_KEYS_FILE"),
        ({"auth": "jwt"}, "exactly one of BROKER_JWT_SECRET"),
        ({"auth": "jwt"}, "set: none"),
        (
            {"auth": "jwt", "jwt_secret": "x" * 32, "jwt_jwks_url": "https://h/k"},
            "set: BROKER_JWT_SECRET, BROKER_JWT_JWKS_URL",
        ),
        ({"jwt_secret": "short"}, "must be at least 32 bytes"),
        ({"command_stream": "broker:events:x"}, "must not begin with"),
        ({"command_stream": "a b"}, "BROKER_COMMAND_STREAM"),
        ({"command_stream": "broker:lifecycle"}, "a key of the broker's own"),
        ({"command_stream": "broker:offsets:x"}, "a key of the broker's own"),
        ({"command_stream": "a}b"}, "hash tag"),
        ({"command_stream": "a{}b"}, "hash tag"),
    ],
    ids=str,
)
def test_what_cannot_work_together_is_refused(env: dict[str, str], says: str):
    """A mode without its keys, or a key that clients could read, stops the start."""
    assert says in refusal(**env)


def test_no_secret_is_shown_and_all_reach_the_children():
    """Tokens, keys and secrets are masked for people and whole for a child process."""
    settings = load(jwt_secret=CANARY * 4, admin_token=CANARY, api_keys=CANARY)

    assert CANARY not in str(settings.shown())
    assert CANARY not in repr(settings)
    assert settings.secrets().count(CANARY) == 2
    assert Settings.from_boot(json.loads(json.dumps(settings.for_boot()))) == settings


def test_a_secret_that_cannot_be_used_is_not_repeated():
    """The complaint about a short secret does not show it."""
    assert "canary" not in refusal(jwt_secret="canary")


def test_variables_that_kubernetes_makes_come_with_the_remedy():
    """A Service called broker injects BROKER_SERVICE_HOST into each pod."""
    assert "enableServiceLinks: false" in refusal(service_host="10.0.0.1")


def test_variables_of_the_tests_are_ignored():
    """BROKER_TEST_* belongs to the tests and never stops a start."""
    assert load(test_server="/bin/true").port == 8080


def test_host_is_loopback_while_everybody_may_read():
    """Without authentication only this machine gets in by default."""
    assert load().host == "127.0.0.1"
    assert load(allow_insecure="true").host == "0.0.0.0"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_hosts_need_no_permission(host: str):
    """Every spelling of this machine is safe."""
    assert load(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com"])
def test_other_hosts_need_allow_insecure(host: str):
    """Opening an unauthenticated port to others takes a deliberate second setting."""
    assert "BROKER_ALLOW_INSECURE=true" in refusal(host=host)
    assert load(host=host, allow_insecure="1").host == host


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("{session}", "in front of"),
        ("broker:events", "exactly once"),
        ("a:{session}:{session}", "exactly once"),
        ("broker:{session}", "beginning of"),
        ("broker:com{session}", "beginning of"),
        ("broker:session:{session}", "beginning of"),
        ("broker:session:x{session}", "are the broker's"),
        ("broker:{{session}}", "braces"),
        ("my events:{session}", "blanks"),
    ],
)
def test_event_stream_that_reaches_other_keys_is_refused(pattern: str, why: str):
    """No session name may turn the pattern into one of the broker's own keys."""
    message = refusal(event_stream=pattern)

    assert message.startswith("BROKER_EVENT_STREAM=")
    assert why in message


def test_event_stream_with_a_suffix_is_accepted():
    """Other prefixes and suffixes are the user's choice."""
    pattern = "app:{session}:out"
    assert load(event_stream=pattern).event_stream == pattern


@pytest.mark.parametrize(
    "url",
    [
        f"http://:{CANARY}@h",
        f"redis://:{CANARY}/x@h:1",
        f"redis://:{CANARY}@h:99999",
        f"redis://:{CANARY}@h/notanumber",
        f"unix://:{CANARY}@",
    ],
)
def test_bad_redis_url_is_refused_without_showing_it(url: str):
    """The URL may hold a password, so an error about it repeats nothing of it."""
    message = refusal(redis_url=url)

    assert message.startswith("BROKER_REDIS_URL: ")
    assert CANARY not in message


def test_password_is_in_no_printable_form():
    """Only the boot line and the value itself carry the password."""
    url = f"redis://user:{CANARY}%21@h:1/2"
    settings = load(redis_url=url)
    forms = [repr(settings), str(settings), str(settings.shown())]

    assert all(CANARY not in form for form in forms)
    assert settings.redis_address == "redis://h:1/2"
    assert settings.secrets() == (f"{CANARY}!", f"{CANARY}%21")
    assert settings.for_boot()["redis_url"] == url


def test_the_password_of_sentinels_is_a_secret_too():
    """It stands in the query of the URL."""
    url = f"redis+sentinel://h/main?sentinel_password={CANARY}"
    settings = load_settings({"BROKER_REDIS_URL": url})

    assert CANARY in settings.secrets()
    assert CANARY not in str(settings.shown())


def test_validation_errors_hide_their_input():
    """Even pydantic's own text, should it escape, shows no value."""
    with pytest.raises(ValidationError) as caught:
        Settings.from_boot({"redis_url": f"http://:{CANARY}@h"})
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("ring", "event", "why"),
    [
        ("3MiB", "64KiB", "power of two"),
        ("64MiB", "8MiB", "16 times BROKER_MAX_EVENT_BYTES"),
        ("512KiB", "1KiB", "greater than or equal to 1048576"),
    ],
)
def test_ring_that_cannot_work_is_refused(ring: str, event: str, why: str):
    """The ring is a power of two that holds several of the largest events."""
    assert why in refusal(ring_bytes=ring, max_event_bytes=event)


def test_raised_event_size_needs_a_larger_ring():
    """The default ring is checked against a larger max_event_bytes as well."""
    assert "BROKER_RING_BYTES: must be at least 16" in refusal(max_event_bytes="32MiB")


def test_origins_are_a_comma_separated_list():
    """Origins are compared in lower case; blanks around them do not count."""
    settings = load(origins="https://App.example.com, http://localhost:3000")
    expected = {"https://app.example.com", "http://localhost:3000"}

    assert settings.allowed_origins == expected
    assert load().allowed_origins == frozenset()
    assert load(origins="*").allowed_origins == {"*"}


def test_protocols_are_a_comma_separated_list():
    """All foreign protocols are served unless some or none are named."""
    assert load().served_protocols == {"openhands", "council"}
    assert load(protocols="Council ,").served_protocols == {"council"}
    assert load(protocols="none").served_protocols == frozenset()


def test_unknown_protocols_are_refused():
    """The error names what there is."""
    assert "openhands, council" in refusal(protocols="openhands,mqtt")


@pytest.mark.parametrize("name", ["council_session", "console_session"])
def test_sessions_of_settings_must_be_names(name: str):
    """What no client could read is no session either."""
    assert getattr(load(**{name: "room:1"}), name) == "room:1"
    assert f"BROKER_{name.upper()}" in refusal(**{name: "../etc"})


@pytest.mark.parametrize("origins", ["app.example.com", "https://a.example/path"])
def test_what_is_no_origin_is_refused(origins: str):
    """An origin that can never match would lock everybody out silently."""
    assert "https://app.example.com" in refusal(origins=origins)


def test_settings_survive_the_way_to_a_child():
    """A child works with exactly the parent's settings, sent as JSON."""
    settings = load(port="0", redis_url="redis://:pw@h", heartbeat_s="1.5", origins="*")
    sent = json.loads(json.dumps(settings.for_boot()))

    assert Settings.from_boot(sent) == settings


def test_settings_cannot_be_changed():
    """Settings are a value: nobody changes them under another's feet."""
    with pytest.raises(ValidationError):
        load().port = 1


def test_every_setting_is_described():
    """Each setting says what it does."""
    for name, field in Settings.model_fields.items():
        assert field.description, name
