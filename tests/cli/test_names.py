# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""One thing has one name in all commands, and a wrong name is answered with the one meant."""

from __future__ import annotations

import pathlib
import re
import shutil
from collections.abc import Callable, Iterator

import click
import pytest

from moe_mobile.bundle.unfinished import JOURNAL
from moe_mobile.cli import cli
from moe_mobile.cli.group import usage_error
from moe_mobile.cli.types import SIZE, Number, PathType, Whole, cache_size
from moe_mobile.errors import CancelledError, UsageError
from moe_mobile.export import export_bundle
from moe_mobile.virtual_phone import Misbehaviour, PhoneSettings
from tests.bundles import FEW_ROWS
from tests.cli.program import failed, ok, run_cli


def _commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path}{name} ")
        else:
            yield path + name, command


DIGITS = "9" * 5000  # more than int() takes

COMMANDS = dict(_commands(cli))


def _options(command: click.Command) -> list[click.Option]:
    return [one for one in command.params if isinstance(one, click.Option)]


def test_an_option_has_one_long_name_and_one_short_one_everywhere() -> None:
    """`-p` and `-n` are llama-bench's in `bench`, and stand for a text's length elsewhere."""
    shorts: dict[str, set[str]] = {}
    for command in COMMANDS.values():
        for option in _options(command):
            long = [name for name in option.opts if name.startswith("--")]
            assert len(long) == 1 or option.opts == ["-pg"], (command.name, option.opts)
            for short in set(option.opts) - set(long):
                shorts.setdefault(short, set()).update(long)
    several = {short for short, names in shorts.items() if len(names) > 1}
    assert several == {"-p", "-n"}
    spelled = {name: tuple(sorted(o.opts)) for c in COMMANDS.values() for o in _options(c)
               for name in o.opts if name.startswith("--")}  # fmt: skip
    for command in COMMANDS.values():
        for option in _options(command):
            long_name = max(option.opts, key=len)
            assert spelled[long_name] == tuple(sorted(option.opts)) if long_name != "-pg" else True


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("--cache", "info generate bench trace simulate quality tune"),
        ("--out", "bench trace quality tune report"),
        ("--resume", "bench quality tune"),
        ("--file", "generate trace quality tune"),
        ("--device", "verify prepare info generate bench trace simulate quality tune deploy"),
    ],
)
def test_what_is_the_same_is_called_the_same(name: str, commands: str) -> None:
    have = {path for path, one in COMMANDS.items() if any(name in o.opts for o in _options(one))}
    assert have == set(commands.split())


def test_a_flag_and_a_value_do_not_share_a_name() -> None:
    kinds: dict[str, set[bool]] = {}
    for path, command in COMMANDS.items():
        if path != "virtual-phone misbehave":
            for option in _options(command):
                kinds.setdefault(max(option.opts, key=len), set()).add(option.is_flag)
    assert [name for name, found in kinds.items() if len(found) > 1] == []


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("bnech", "bench"),
        ("virtual-phone strat", "start"),
        ("bench b --cahce 50%", "--cache"),
        ("simulate t --capacity 50%", "--cache"),
        ("info b --serial x", "--device"),
        ("report r --output x.html", "--out"),
        ("quality b --text x", "--file"),
        ("tune b --rows x", "--out"),
        ("export a b --quant 8da4", "8da4w"),
        ("info b --pool gobal", "global"),
        ("bench b --residency slot", "slots"),
        ("bench b --format jsnol", "jsonl"),
        ("bench b --routing cache-piror:auto", "cache-prior"),
        ("bench b --eviction lur", "lru"),
        ("bench b --precision ful", "full"),
        ("simulate t --flash ufs31 --expert-bytes 1MiB", "ufs3.1"),
        ("export --random-weights Qwen3-30B-A3 b", "Qwen3-30B-A3B"),
        ("runtime build --target linux-arm", "linux-arm64"),
    ],
)
def test_a_wrong_name_is_answered_with_the_one_meant(
    arguments: str, meant: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "t").touch()
    result = run_cli(*arguments.split(), cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert f"Did you mean '{meant}'?" in result.stderr


def test_a_wrong_state_of_the_cache_is_answered_with_the_one_meant(bundle: pathlib.Path) -> None:
    error = failed(2, "info", bundle, "--initial-cache", "worm")
    assert error["remedy"].startswith("Did you mean 'warm'?")


@pytest.mark.parametrize(
    ("option", "text", "question"),
    [
        ("--cache", "atuo", "'auto'"),
        ("--cache", "25%,2G", "'2GiB'"),
        ("--cache", "512M", "'512MiB'"),
        ("--cache", "2gb", "'2GB'"),
        ("--cache", "0.5", "'50%'"),
        ("-t", "2,atuo", "'auto'"),
        ("--affinity", "bgi", "'big'"),
        ("--cool-to", "of", "'off'"),
        ("--no-warmup", "1", "'--warmup 0'"),
    ],
)
def test_a_mistyped_value_is_answered_with_the_one_meant(
    option: str, text: str, question: str, bundle: pathlib.Path
) -> None:
    error = failed(2, "bench", bundle, option, text)
    assert error["remedy"].startswith(f"Did you mean {question}? "), error
    if option == "--cache" and "," not in text:
        assert failed(2, "info", bundle, option, text)["remedy"] == error["remedy"]


def test_a_mistyped_size_or_share_is_answered_too(tmp_path: pathlib.Path) -> None:
    error = failed(2, "virtual-phone", "start", "--ram", "2G")
    assert error["cause"].endswith("Did you mean '2GiB'?")
    trace = tmp_path / "trace"
    ok("trace", "demo", "-p", "Once upon a time", "-o", trace)
    assert failed(2, "simulate", trace, "--cache", ".5")["remedy"].startswith("Was 50% meant?")


def test_every_size_that_the_engine_takes_is_a_size() -> None:
    for text in ("auto", "50%", "0.5%", "1.5GiB", "2000KB", "2kB", "100000", "1TiB"):
        assert cache_size(text) == text


def test_what_is_like_nothing_is_not_guessed() -> None:
    for arguments in ("qqqq", "bench b --zzzz 1", "export a b --quant q"):
        assert "Did you mean" not in run_cli(*arguments.split()).stderr


@pytest.mark.parametrize(
    ("size", "question"), [("50", "Was 50% meant?"), ("33.3", "Was 33.3% meant?"),
                           ("2048", "Was 2048MiB meant?")]
)  # fmt: skip
@pytest.mark.parametrize("command", ["info", "bench"])
def test_a_size_without_a_unit_is_asked_about(
    command: str, size: str, question: str, bundle: pathlib.Path
) -> None:
    error = failed(2, command, bundle, "--cache", size)
    assert (error["setting"], error["cause"]) == ("--cache", f'invalid size "{size}"')
    assert error["remedy"].startswith(question)


def test_bytes_may_go_without_a_unit(bundle: pathlib.Path) -> None:
    assert "slots" in ok("info", bundle, "--cache", "2000000")


def test_more_experts_than_a_layer_has_may_be_a_share(tmp_path: pathlib.Path) -> None:
    trace = tmp_path / "trace"
    ok("trace", "demo", "-p", "Once upon a time", "-o", trace)
    error = failed(2, "simulate", trace, "--cache", "50")
    assert error["setting"] == "--cache"
    assert error["remedy"].startswith("Was 50% meant?")


def test_a_mistyped_bundle_is_answered_with_the_one_next_to_it(
    bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(bundle, tmp_path / "olmoe-8da4w")
    for command in ("inspect", "verify", "prepare", "info", "bench"):
        error = failed(4, command, tmp_path / "olmo-8da4w")
        assert "there is no such folder" in error["cause"]
        assert error["remedy"].startswith("Did you mean 'olmoe-8da4w'?"), error


@pytest.mark.parametrize("command", ["inspect", "prepare", "generate -p x", "bench", "deploy"])
def test_the_demo_model_has_to_be_exported(command: str, tmp_path: pathlib.Path) -> None:
    name, *options = command.split()
    result = run_cli(name, "demo", *options, cwd=tmp_path)
    assert result.returncode == 4, result.stderr
    assert "`moe-mobile export demo demo` makes it of the demo model" in result.stderr
    (tmp_path / "demos").mkdir()
    (tmp_path / "demos" / "bundle.json").touch()
    result = run_cli(name, "demo", *options, cwd=tmp_path)
    assert "Did you mean 'demos'? Name the folder of a bundle; `moe-mob" in result.stderr


def test_a_mistyped_file_is_answered_with_the_one_next_to_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "phone.jsonl").write_text("{}\n")
    error = failed(6, "report", tmp_path / "phone.json")
    assert error["remedy"].startswith("Did you mean 'phone.jsonl'?")


@pytest.mark.parametrize("name", ["nothere.jsonl", "nothing.json", "nothere.tar.gz"])
def test_a_file_of_the_same_kind_is_not_meant(name: str, tmp_path: pathlib.Path) -> None:
    for other in ("five.jsonl", "phone.jsonl", "five.tar.gz"):
        (tmp_path / other).write_text("{}\n")
    error = failed(6, "report", tmp_path / name)
    assert error["remedy"] == "Check the path"


@pytest.mark.parametrize("option", ["--file", "--messages"])
def test_a_mistyped_prompt_is_answered_with_the_file_next_to_it(
    option: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "prompt.txt").touch()
    error = failed(6, "generate", "b", option, tmp_path / "prompt.tx")
    assert (error["code"], error["file"]) == ("io", str(tmp_path / "prompt.tx"))
    assert error["remedy"].startswith("Did you mean 'prompt.txt'?")


def test_every_number_names_its_option() -> None:
    numbers = (click.types.IntParamType, click.types.FloatParamType, type(SIZE))
    found = 0
    for path, command in COMMANDS.items():
        for option in (one for one in _options(command) if isinstance(one.type, numbers)):
            for name in option.opts:
                with pytest.raises(click.UsageError) as caught:
                    command.make_context(path, [name, "many"])
                error = usage_error(caught.value)
                assert error.setting == max(option.opts, key=len)
                assert "range" not in error.cause
                assert error.setting not in error.cause  # the message begins with it
                found += 1
    assert found > 30


@pytest.mark.parametrize(
    ("arguments", "setting", "cause"),
    [
        ("generate b --threads 0", "--threads", "0 is not in the range 1 to 256"),
        ("generate b -t 1.5", "--threads", "'1.5' is not a whole number"),
        ("generate b --top-p x", "--top-p", "'x' is not a number"),
        ("generate b --chat=3", "--chat", "it does not take a value"),
        ("generate", "BUNDLE", "it is missing"),
        ("bench b --warmup ful", "--warmup", "'ful' is no number, nor full"),
        ("bench b --warmup -1", "--warmup", "-1 is not in the range 0 to 1,000"),
        ("virtual-phone start --ram 4q", "--ram", "invalid size '4q'"),
        ("report r --out /", "--out", "File '/' is a directory"),
        ("bench b -r 5000000000", "--repetitions", "5000000000 is not in the range 1 to 1,000,000"),
        ("bench b -n 5,x", "-n", "'x' is not a whole number"),
        (f"bench b -n {DIGITS}", "-n", "9999"),
        ("bench b -pg 5", "-pg", "two numbers are needed, not '5'"),
        (f"generate b -n {2**32}", "--max-new-tokens", "4294967296 is not in the range"),
        (f"generate b --top-k {2**32}", "--top-k", "4294967296 is not in the range"),
        (
            f"generate b --seed {2**64}",
            "--seed",
            "18446744073709551616 is not in the range 0 to 2^64 - 1",
        ),
        (f"generate b --context {2**32}", "--context", "4294967296 is not in the range"),
        ("generate b --temperature 1e39", "--temperature", "1e+39 is not in the range 0 to 10^38"),
        ("generate b --top-p 1e-300", "--top-p", "1e-300 is not in the range 10^-37 to 1"),
        ("export b o --layers 5000", "--layers", "5000 is not in the range 1 to 4,096"),
        ("export b o --vocab-size 20000000", "--vocab-size", "20000000 is not in the range"),
        ("export b o --quant fp32 --group-size 64", "--group-size", "it is for 8da4w only"),
    ],
)
def test_an_error_begins_with_its_option(arguments: str, setting: str, cause: str) -> None:
    error = failed(2, *arguments.split())
    assert error["setting"] == setting
    assert error["cause"].startswith(cause)


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        (("inspect", ""), "BUNDLE"),
        (("verify", "b", "--packed-dir", ""), "--packed-dir"),
        (("generate", "b", "--settings", ""), "--settings"),
        (("quality", "", "-p", "x"), "BUNDLE|MODEL"),
        (("export", "demo", ""), "[MODEL] OUT"),
        (("export", "demo", "o", "--name", ""), "--name"),
        (("simulate", ""), "TRACE..."),
        (("trace", "demo", "-p", "x", "-o", ""), "--out"),
        (("report", "r", "-o", ""), "--out"),
        (("doctor", "--dir", ""), "--dir"),
    ],
)
def test_a_path_is_not_empty(arguments: tuple[str, ...], setting: str) -> None:
    error = failed(2, *arguments)
    assert (error["setting"], error["cause"]) == (setting, "it is empty")


def test_help_of_a_phone_says_how_to_name_it_and_the_default() -> None:
    """The same in each command."""
    said = {
        name: parameter.help
        for name, command in COMMANDS.items()
        for parameter in command.params
        if isinstance(parameter, click.Option) and "--device" in parameter.opts
    }
    assert {"bench", "deploy", "generate"} <= set(said)
    for name, text in said.items():
        default = "any" if name == "deploy" else "this machine"
        assert "`any` for the one connected" in (text or ""), name
        assert (text or "").endswith(f"[default: {default}]"), name


def test_help_says_ranges_as_people_do() -> None:
    for path, command in COMMANDS.items():
        text = command.get_help(click.Context(command, info_name=path))
        assert re.search(r"<=|>=|[0-9]e[+-]|[0-9]{7}|None", text) is None, text
    shown = COMMANDS["virtual-phone misbehave"].get_help(click.Context(cli))
    assert "[0 to 3,600]" in shown
    assert "[-40 to 120]" in shown


@pytest.mark.parametrize(("name", "kind"), [("start", PhoneSettings), ("misbehave", Misbehaviour)])
def test_ranges_of_virtual_phones_are_those_of_their_settings(
    name: str, kind: Callable[..., object]
) -> None:
    found = [one for one in _options(COMMANDS[f"virtual-phone {name}"])
             if isinstance(one.type, Whole | Number)]  # fmt: skip
    assert len(found) >= 2
    for option in found:
        assert isinstance(option.type, Whole | Number)
        least, most = option.type.min, option.type.max
        assert least is not None
        assert most is not None
        for value in (least, most):
            kind(**{str(option.name): value})
        for value in (least - 1, most + 1):
            with pytest.raises(UsageError, match="out of range"):
                kind(**{str(option.name): value})


@pytest.mark.parametrize("group", ["virtual-phone", "runtime"])
def test_help_of_a_group_has_whole_summaries_and_examples(group: str) -> None:
    command = cli.get_command(click.Context(cli), group)
    assert command is not None
    text = command.get_help(click.Context(command, info_name=group))
    assert "..." not in text.partition("Commands:")[2]
    assert "Examples:" in text


def test_every_path_refuses_to_be_empty() -> None:
    for path, command in COMMANDS.items():
        for one in command.params:
            assert not isinstance(one.type, click.Path) or isinstance(one.type, PathType), path


def test_a_format_is_no_name_of_a_file(tmp_path: pathlib.Path) -> None:
    """In llama-bench, -o is the format."""
    result = run_cli("bench", "b", "-o", "jsonl", cwd=tmp_path)
    assert result.returncode == 2
    assert "Was --format jsonl meant?" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_remedy_names_the_option_to_add(tmp_path: pathlib.Path) -> None:
    (tmp_path / "demo").mkdir()
    error = failed(2, "export", "demo", tmp_path / "demo")
    assert error["remedy"] == "Choose another name, or give --overwrite"


@pytest.mark.parametrize("out", [".", "/"])
def test_an_export_to_a_folder_that_is_there_is_refused(out: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    result = run_cli("export", "demo", out, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert "defect" not in result.stderr


@pytest.mark.usefixtures("lowered_once")
def test_an_unfinished_export_says_so(checkpoint: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "bundle"

    def stop(stage: str, done: int, total: int, detail: str = "") -> None:
        if detail.startswith("layer 1, expert 2"):
            raise KeyboardInterrupt

    with pytest.raises(CancelledError):
        export_bundle(checkpoint, out, max_batch=FEW_ROWS, progress=stop)
    for place in (out, tmp_path / "bundle.partial", tmp_path / "bundle.partial" / "bundle"):
        for command in (
            *("inspect", "verify", "prepare", "info", "bench", "deploy"),
            "generate -p x", "quality -p x", "tune -p x", "trace -p x -o t",
        ):  # fmt: skip
            name, *options = command.split()
            result = run_cli(name, place, *options, cwd=tmp_path)
            assert result.returncode == 4, (command, result.stderr)
            found = re.search(r"its export is not finished: (\d+) files? (is|are)", result.stderr)
            assert found is not None, (command, result.stderr)
            assert 0 < int(found[1]) < 10
            assert f"export ... {out}` again: it continues where it stopped" in result.stderr
    same = ("export", checkpoint, out, "--max-batch", FEW_ROWS)
    for other, said in (
        (("export", "demo", *same[2:]), "of another checkpoint, or of one that has changed since"),
        ((*same, "--quant", "8da8w"), "with other options (experts 8da4w instead of 8da8w"),
    ):
        error = failed(2, *other)
        assert error["file"] == str(out)
        assert f"an export {said}" in error["cause"]
        assert re.search(
            r": \d files are complete and 10 experts are made, [\d.]+ [KM]iB in ", error["cause"]
        )
        assert "give --overwrite to delete it" in error["remedy"]
    (checkpoint / "model.safetensors").touch()
    again = run_cli(*same)
    assert again.returncode == 0
    assert f"note: continues the interrupted export to {out}: " in again.stderr
    assert "files are complete and 10 experts are made" in again.stderr
    assert "model" in ok("inspect", out)


@pytest.mark.usefixtures("lowered_once")
def test_an_export_that_begins_anew_does_not_say_that_it_continues(
    checkpoint: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "bundle"
    arguments = ("export", checkpoint, out, "--max-batch", FEW_ROWS, "--overwrite")
    assert "continues" not in run_cli(*arguments).stderr
    partial = tmp_path / "bundle.partial"
    (partial / "bundle").mkdir(parents=True)
    (partial / "bundle" / "embedding.bin").write_bytes(b"of an older export")
    (partial / JOURNAL).write_text('{"key": "of an older version"}\n')
    error = failed(2, *arguments[:-1])
    assert "or with a damaged journal, was interrupted here" in error["cause"]
    again = run_cli(*arguments)
    assert (again.returncode, "continues" in again.stderr) == (0, False)
    assert not partial.exists()
