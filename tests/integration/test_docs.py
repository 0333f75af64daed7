"""What the documents say of the code is true, where that is cheap to check."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import orjson
import pytest

from broker.cli import main as command_line
from broker.config import CLIENT_TOKEN, PREFIX, Settings
from broker.disconnect import Disconnect
from broker.entry import SKIP_REASONS
from broker.metrics import catalog
from broker.ring.records import GAP_REASONS
from broker.supervisor.api.routes import ROUTES
from broker.worker.handshake import MESSAGES, Refusal
from broker.worker.requests import Requests
from broker.worker.starting import OVERFLOWS
from loadtest.__main__ import SCENARIOS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
PROTOCOL = (ROOT / "PROTOCOL.md").read_text()
DOCUMENTS = {
    "README.md": README,
    "ARCHITECTURE.md": ARCHITECTURE,
    "PROTOCOL.md": PROTOCOL,
}

each_document = pytest.mark.parametrize("text", DOCUMENTS.values(), ids=DOCUMENTS)


def table(text: str, first_header: str) -> list[list[str]]:
    """The cells of the only table whose first header is so, without back quotes."""
    found = re.findall(
        rf"^\| {re.escape(first_header)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)",
        text,
        re.MULTILINE,
    )
    assert len(found) == 1, f"{len(found)} tables begin with {first_header}"
    rows = [line.strip("| \n").split("|") for line in found[0].splitlines()]
    return [[cell.strip().strip("`") for cell in row] for row in rows]


def tables_in(heading: str) -> list[str]:
    """The first cells of all tables of a section of PROTOCOL.md, without headers."""
    section = PROTOCOL.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|.*$(?!\n\|-)", section, re.MULTILINE)


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def names_in_code() -> list[tuple[str, str]]:
    """File and dotted name of everything that ARCHITECTURE.md points at."""
    return re.findall(r"`([a-z_/]+\.py)(?::([\w.]+))?`", ARCHITECTURE)


def defines(body: list[ast.stmt], dotted: str) -> bool:
    """Whether a function, class, method or constant of that name is in *body*."""
    name, _, rest = dotted.partition(".")
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name == name:
                return not rest or defines(node.body, rest)
        elif name in assigned(node):
            return not rest
    return False


def assigned(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


# --- PROTOCOL.md ------------------------------------------------------------------


def test_close_code_table_is_the_code() -> None:
    """Code, name, whether to come back and meaning of every close are as in code."""
    rows = [
        [str(reason.code), reason.label, "yes" if reason.retry else "no", reason.text]
        for reason in Disconnect
    ]
    assert table(PROTOCOL, "Code") == rows


def test_refusal_table_is_the_code() -> None:
    """Every reason to refuse a request is listed with the status that it gets."""
    rows = {code: status for status, code, _why in table(PROTOCOL, "Status")}
    assert rows.pop("bad_upgrade") == "400, 426"
    reasons = MESSAGES.keys() - {"bad_upgrade"}
    assert rows == {reason: str(Refusal(reason).status) for reason in reasons}


@pytest.mark.parametrize(
    ("heading", "code"),
    [
        ("Gap, reset, skipped", GAP_REASONS),
        ("Sockets that do not keep up", tuple(OVERFLOWS)),
        ("Resume", catalog.RESUMES.labels["result"]),
    ],
)
def test_words_of_the_protocol_are_those_of_the_code(
    heading: str, code: tuple[str, ...]
) -> None:
    """A table that lists the values of a field lists all of them."""
    assert sorted(tables_in(heading)) == sorted(code)


def test_error_codes_are_those_of_the_code() -> None:
    """Every code that an answer to a client frame can have is explained."""
    codes = [code for code, *_ in table(PROTOCOL, "`code`")]
    assert sorted(codes) == sorted(catalog.CLIENT_ERRORS.labels["code"])


def test_routes_of_the_server_api_are_those_of_the_code() -> None:
    """Every route is there with its method, and with the right that it takes."""
    rows = [tuple(row) for row in table(PROTOCOL, "Method")]
    assert [(method, path.strip("`")) for method, path, _what in rows] == [
        (route.method, route.path) for route in ROUTES
    ]


def test_skip_reasons_are_those_of_the_code() -> None:
    """A publisher finds every reason for which an entry is skipped."""
    publishing = tables_in("Publishing")
    assert [word for word in publishing if word in SKIP_REASONS] == list(SKIP_REASONS)


def test_json_examples_are_json() -> None:
    """What is shown as a frame or an answer can be parsed, each on one line."""
    blocks = code_blocks(PROTOCOL, "json")
    frames = [orjson.loads(line) for line in blocks]
    assert len(frames) > 15
    known = {"event", "cmd", "error", "events", "count"}
    assert [frame for frame in frames if not known & frame.keys()] == []


def test_examples_of_commands_are_known() -> None:
    """Each that the broker answers is shown, and one of an application."""
    handled = set(re.findall(r'"(\w+)": self\._handle_', source_of(Requests)))
    frames = [orjson.loads(line) for line in code_blocks(PROTOCOL, "json")]
    shown = {frame["cmd"] for frame in frames if "cmd" in frame}
    assert handled - {"auth"} | {"user_input"} == shown


def test_refusals_of_commands_are_those_of_the_code() -> None:
    """Every answer to a command that was not stored is explained."""
    codes = {code for code, _why in table(PROTOCOL, "Refusal")}
    results = set(catalog.COMMANDS.labels["result"])
    assert codes == results - {"stored"} | {"forbidden"}


def source_of(cls: type) -> str:
    return (ROOT / f"{cls.__module__.replace('.', '/')}.py").read_text()


# --- README.md --------------------------------------------------------------------


def test_settings_table_has_the_defaults() -> None:
    """Each default that is shown, read as a setting, is the default."""
    defaults = Settings.model_validate({})
    rows = {name: shown for name, shown, _why in table(README, "Setting")}
    assert rows.pop("BROKER_WORKERS") == "cores - 1"
    names = {name: name.removeprefix(PREFIX).lower() for name in rows}
    given = {names[name]: shown for name, shown in rows.items()}
    read = Settings.model_validate(given)
    assert {n: getattr(read, n) for n in given} == {
        n: getattr(defaults, n) for n in given
    }


@each_document
def test_settings_that_are_named_exist(text: str) -> None:
    """No document names a setting that the broker would refuse."""
    named = set(re.findall(r"\bBROKER_[A-Z_]+\b", text))
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    known.add(CLIENT_TOKEN)
    assert named
    assert named - known == set()


def test_commands_of_the_command_line_exist() -> None:
    """Each `broker ...` in the README is a command."""
    named = set(re.findall(r"(?:bin/|`)broker ([a-z]+)", README))
    assert isinstance(command_line, click.Group)
    assert named
    assert named <= command_line.commands.keys()


def test_targets_of_make_exist() -> None:
    """Each `make ...` in the README is a target."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = set(re.findall(r"^ *(?:BROKER_\S+ )?make (\w+)", README, re.MULTILINE))
    assert named == {"run", "test"}
    assert named <= set(targets)


def test_load_tests_that_are_named_exist() -> None:
    """Each figure's command is a scenario, and no scenario is left out."""
    assert set(re.findall(r"python -m loadtest (\w+)", README)) == SCENARIOS.keys()


def test_python_examples_compile() -> None:
    """Pasted Python is at least Python."""
    blocks = code_blocks(README, "python")
    assert len(blocks) == 4
    for block in blocks:
        compile(block, "README.md", "exec")


# --- ARCHITECTURE.md --------------------------------------------------------------


def test_names_that_the_architecture_points_at_exist() -> None:
    """A newcomer finds every file and every name where the page says."""
    names = names_in_code()
    assert len(names) > 60
    trees = {
        path: ast.parse((ROOT / "broker" / path).read_text()).body
        for path in {path for path, _name in names}
    }
    lost = [
        (path, name) for path, name in names if name and not defines(trees[path], name)
    ]
    assert lost == []


@each_document
def test_metrics_that_are_named_exist(text: str) -> None:
    """Whoever looks for a metric finds it in a scrape."""
    named = set(re.findall(r"`(broker_[a-z_]+)`", text))
    assert named <= {metric.name for metric in catalog.CATALOG}


# --- All --------------------------------------------------------------------------


@each_document
def test_links_lead_somewhere(text: str) -> None:
    """A link is a file of the repository or a heading of the page."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }
    targets = re.findall(r"\]\(([^)]+)\)", text)
    anchors = {target[1:] for target in targets if target.startswith("#")}
    files = [ROOT / target for target in targets if not target.startswith("#")]
    assert anchors <= slugs
    assert [path.name for path in files if not path.exists()] == []
