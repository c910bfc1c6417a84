"""Each mistake on the command line is reported in one sentence, with what is accepted."""

import json

import pytest

from support.network import run_lbctl

#: Words → the message, and how the hint begins.
MISTAKES = {
    "foo": ('there is no command "foo"', "the commands are: demo, init, import, check,"),
    "staus": ('there is no command "staus"', 'did you mean "status"?'),
    # Words of other programs.
    "undrain web/a": ('there is no command "undrain"', 'did you mean "activate"?'),
    "undo": ('there is no command "undo"', 'did you mean "rollback"?'),
    "help": ('there is no command "help"', 'did you mean "--help"?'),
    "apply --dry-run": ("apply has no option --dry-run", "lbctl plan shows what apply would change"),
    "agent foo": ('agent has no command "foo"', "the commands are: pause, resume"),
    "--verbos": ("there is no option --verbos", "the options are: --version,"),
    "status --verbos": ("status has no option --verbos", "the options are: --config, --owner, --watch,"),
    "plan --drver nft": ("plan has no option --drver", "did you mean --driver?"),
    "status --out json": ("status has no option --out", "did you mean --output?"),
    "reload": ('there is no command "reload"', 'did you mean "apply"?'),
    "--config a.toml plan": ("there is no option --config", "options follow the command, e.g. lbctl "),
    "plan -c a.toml": ("plan has no option -c", "-f FILE or --config FILE names the intent file"),
    "rollback 3": ('unexpected argument "3"', "lbctl rollback --to NUMBER returns"),
    "remove web": ('unexpected argument "web"', "it removes all services; to remove one, delete it"),
    "weight web/a -1": ("a negative number is not accepted", "usage: lbctl weight"),
    "plan -x": ("plan has no option -x", "the options are: --config, --against,"),
    "plan -o": ("-o needs a value", "Write the plan to a file for lbctl apply FILE."),
    "plan --output": ("--output needs a value", "one of text, json"),
    "plan --output yaml": (
        "--output takes one of text, json",
        "usage: lbctl plan [OPTIONS] [FILE], e.g. lbctl plan",
    ),
    "apply --yes=3": ("--yes takes no value", "Do not prompt for confirmation."),
    "apply --trial 5x": ('--trial: "5x" is not a time such as 30s, 5m or 1h', None),
    "import - --max-size 5x": ('--max-size: "5x" is not a size such as 64M or 1G', None),
    "drain": (
        "SERVICE/ENDPOINT is missing",
        "usage: lbctl drain [OPTIONS] SERVICE/ENDPOINT..., e.g. lbctl drain web/8003 --wait 5m",
    ),
    "migrate": ("--to is missing", "usage: lbctl migrate [OPTIONS], e.g. lbctl migrate --to nftables"),
    "weight web/a x": (
        "WEIGHT takes a whole number",
        "usage: lbctl weight [OPTIONS] SERVICE/ENDPOINT [WEIGHT], e.g.",
    ),
    "demo --connections 0": (
        "--connections takes a whole number from 1 to 1000000",
        "usage: lbctl demo [OPTIONS]",
    ),
    "status a --brief=": ("--brief takes no value", None),
    "apply a.toml b.toml": (
        'unexpected argument "b.toml"',
        "usage: lbctl apply [OPTIONS] [FILE], e.g. lbctl apply --trial 60s; the files of a directory",
    ),
    "compare live live": ('"live" names no store', "live:STORE, e.g. live:nftables;"),
    "explain 80/tcp --client 10.9.1": ('client "10.9.1" is not an address', "e.g. 198.51.100.7"),
    "import": (
        "name a file of rules, - for standard input, or a store with --from",
        "e.g. lbctl import --from",
    ),
    "plan --config a.toml -f b.toml": (
        "--config is given twice",
        "give it once; the files of a directory are merged",
    ),
    "agent --owner a --owner a": ("--owner is given twice", "give it once"),
    "drain web/1 --wait 1s --wait 2s": ("--wait is given twice", "give it once"),
    "apply --force": ("apply has no option --force", "--yes skips the prompt"),
    "history 1 2": ('unexpected argument "2"', "usage: lbctl history [OPTIONS] [NUMBER]"),
    "render --network x": ('--network: "x" is not a network', "e.g. 10.0.0.0/24"),
}


@pytest.mark.parametrize("words", MISTAKES)
def test_each_mistake_has_a_message_and_what_is_accepted(words: str) -> None:
    message, hint = MISTAKES[words]
    shown = run_lbctl(*words.split())
    assert (shown.code, shown.out) == (2, "")
    first, *others = shown.err.splitlines()
    assert first == f"lbctl: {message}"
    assert not hint or (len(others) == 1 and others[0].startswith(f"    hint: {hint}"))


def test_a_mistake_is_a_document_for_programs() -> None:
    shown = run_lbctl("plan", "--output", "json", "--foo")
    error = json.loads(shown.out)["error"]
    assert (shown.code, error["exit"], error["code"]) == (2, 2, "usage")
    assert error["message"] == "plan has no option --foo"
    assert error["hint"].startswith("the options are: --config, ")


def test_words_of_any_kind_are_shown_inert() -> None:
    assert "\x1b" not in run_lbctl("status", "--\x1b[31m").err
    assert "\x1b" not in run_lbctl("\x1b[31m").err


def test_what_is_no_text_of_rules_and_no_file_is_named() -> None:
    found = run_lbctl("import", "-", stdin='schema = 1\n[[service]]\nname = "a"\nlisten = "80/tcp"\n')
    assert (found.code, found.out) == (2, "")
    assert "standard input is an intent file already" in found.err
    assert "lbctl render prints the rules of an intent file" in found.err
    # There is no line of a file that does not exist, nor of a command line.
    assert run_lbctl("check", "no.toml").err.startswith("no.toml: no such file\n")
    found = run_lbctl("init", "--listen", "80", "--to", "8001")
    assert found.err.startswith('lbctl: service "web": listener "80" has no protocol\n')
    errors = run_lbctl("check", "no.toml", "--output", "json").json["errors"]
    assert [(each["file"], each["line"]) for each in errors] == [("no.toml", None)]
