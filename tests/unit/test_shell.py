"""Scripts: what their commands would be called with, and what only a shell could say."""

import pytest

from lbctl_rules.shell import Here, Script, ShellCommand, Trouble, program_at


def read(text: str) -> list[ShellCommand | Trouble]:
    script = Script(text)
    found: list[ShellCommand | Trouble] = []
    while (line := script.take()) is not None:
        found += script.commands(line)
    return [*found, *script.unclosed()]


def commands(text: str) -> list[ShellCommand]:
    return [each for each in read(text) if isinstance(each, ShellCommand)]


def words(text: str) -> list[list[str]]:
    return [list(command.words) for command in commands(text)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a 'b c' \"d e\" f\\ g", [["a", "b c", "d e", "f g"]]),
        ("a; b && c || d | e & f", [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]]),
        ("a b # c", [["a", "b"]]),
        ("a \\\n  b", [["a", "b"]]),
        ("a 'b\nc' d", [["a", "b\nc", "d"]]),
        ("X=1\na $X ${X}2 '$X' \"$X\"", [["a", "1", "12", "$X", "1"]]),
        ('X="b c"\na $X "$X"', [["a", "b", "c", "b c"]]),
        ("export X=1\nX=2 Y=$X\na $Y", [["a", "2"]]),
        ("$ a b", [["a", "b"]]),
    ],
)
def test_words(text: str, wanted: list[list[str]]) -> None:
    assert words(text) == wanted


@pytest.mark.parametrize("text", ["a $X", "a $(date)", "a `date`", "X=$(date)\na $X", "a $1"])
def test_what_the_text_does_not_say_is_missing(text: str) -> None:
    assert commands(text)[-1].missing is not None


def test_what_stands_inside_of_a_construct() -> None:
    found = commands("for x in 1 2; do\n a\ndone\nif true; then b; fi\nf() {\n c\n}\nd\n")
    inside = {command.words[0]: command.inside for command in found}
    assert inside == {"a": ("for", 1), "true": ("if", 4), "b": ("if", 4), "c": ("function", 5), "d": None}


def test_a_value_set_inside_of_a_construct_is_not_known() -> None:
    assert commands("X=1\nif a; then X=2; fi\nb $X")[-1].missing == "$X"


def test_what_was_not_closed_is_said() -> None:
    troubles = [each for each in read("while a; do\nb\n") if isinstance(each, Trouble)]
    assert troubles[-1].message == "`while` without its end"
    [trouble] = read("a 'b")
    assert isinstance(trouble, Trouble)
    assert trouble.lost


@pytest.mark.parametrize(
    ("line", "here"),
    [
        ("a <<EOF", Here("EOF", quoted=False, indented=False)),
        ("a - <<'EOF'", Here("EOF", quoted=True, indented=False)),
        ('a <<-"E"', Here("E", quoted=True, indented=True)),
        ("a << EOF > b", Here("EOF", quoted=False, indented=False)),
        ("cat <<EOF | a", Here("EOF", quoted=False, indented=False)),
        ("a <<<EOF", None),
    ],
)
def test_documents(line: str, here: Here | None) -> None:
    [command] = commands(line)
    assert (command.words[0], command.here) == ("a", here)


def test_a_document_has_its_variables_replaced() -> None:
    script = Script("X=1\nb")
    line = script.take()
    assert line is not None
    assert list(script.commands(line)) == []
    open_, closed = (Here("E", quoted=quoted, indented=False) for quoted in (False, True))
    assert script.replaced(r"$X ${X}2 \$X $Y", open_) == "1 12 $X $Y"
    assert script.replaced("$X", closed) == "$X"


def test_what_another_command_writes() -> None:
    assert [command.piped for command in commands("a | b || c; d")] == [False, True, False, False]


def test_variables_cannot_make_a_text_without_end() -> None:
    script = Script(f"X={'x' * 60_000}")
    line = script.take()
    assert line is not None
    assert list(script.commands(line)) == []
    for _ in range(1_000):
        [last] = script.commands("a $X")
        assert isinstance(last, ShellCommand)
    assert last.missing == "$X"


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("nft a", 0),
        ("sudo -n /usr/sbin/nft a", 2),
        ("ip netns exec x nft a", 4),
        ("env A=1 nft", 2),
        ("b nft", None),
    ],
)
def test_where_a_program_is_called(text: str, at: int | None) -> None:
    assert program_at(text.split(), lambda name: name == "nft") == at
