# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Streamed text equals text decoded at once, and never shows half a character."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from moe_mobile.text.detokenizer import Detokenizer


def _byte_level() -> Tokenizer:
    """Tokens are the 256 bytes and a merge or two, as in GPT-2's and Qwen's tokenizers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    vocabulary |= {"he": 256, "ðŁ": 257}  # the latter is the first half of most emoji
    tokenizer = Tokenizer(models.BPE(vocabulary, [("h", "e"), ("ð", "Ł")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<eos>", special=True)])
    return tokenizer


def _byte_fallback() -> Tokenizer:
    """Words with a space mark, and bytes for the rest, as in Llama's and Mixtral's tokenizers."""
    vocabulary = {"<unk>": 0, "▁Hello": 1, "▁world": 2, "!": 3}
    vocabulary |= {f"<0x{byte:02X}>": 4 + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    return tokenizer


BYTE_LEVEL = _byte_level()
BYTE_FALLBACK = _byte_fallback()


def _stream(tokenizer: Tokenizer, prompt: list[int], ids: list[int]) -> list[str]:
    stream = Detokenizer(tokenizer, prompt)
    return [*(stream.step(token) for token in ids), stream.finish()]


@given(st.text(), st.text())
@example("", "héllo 🙂🙂 wörld")
@example("a 🙂", "🙂🙂 b")
@example("\ufffd", "\ufffd\ufffd a")
def test_text_comes_out_whole(prompt: str, text: str) -> None:
    prompt_ids = BYTE_LEVEL.encode(prompt).ids
    ids = BYTE_LEVEL.encode(text).ids
    pieces = _stream(BYTE_LEVEL, prompt_ids, ids)
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(st.lists(st.integers(0, 258)), st.lists(st.integers(0, 258)))
def test_any_tokens_give_the_text_of_decoding_at_once(left: list[int], right: list[int]) -> None:
    # A prompt comes from text, so it ends with a whole character.
    prompt = BYTE_LEVEL.encode(BYTE_LEVEL.decode(left)).ids
    whole = BYTE_LEVEL.decode(prompt + right)
    assert "".join(_stream(BYTE_LEVEL, prompt, right)) == whole[len(BYTE_LEVEL.decode(prompt)) :]


def _fallback_ids(text: str) -> list[int]:
    return [4 + byte for byte in text.encode()]


def _whole_characters(tokenizer: Tokenizer, ids: list[int]) -> str:
    texts = (tokenizer.decode(ids[:end]) for end in range(len(ids), -1, -1))
    return next(text for text in texts if not text.endswith("\ufffd"))


@given(st.text(st.characters(codec="utf-8", exclude_characters="\ufffd")), st.data())
@example("a 🙂", None)
def test_a_prompt_may_end_inside_a_character(text: str, data: st.DataObject | None) -> None:
    for tokenizer, ids in (
        (BYTE_LEVEL, BYTE_LEVEL.encode(text).ids),
        (BYTE_FALLBACK, [1, *_fallback_ids(text)]),
    ):
        ends = range(len(ids) + 1) if data is None else [data.draw(st.integers(0, len(ids)))]
        for end in ends:
            shown = _whole_characters(tokenizer, ids[:end])
            pieces = _stream(tokenizer, ids[:end], ids[end:])
            assert shown + "".join(pieces) == tokenizer.decode(ids), (ids, end)
            assert not any("\ufffd" in piece for piece in pieces)


TEXTS = st.text(st.sampled_from("\ufffd🙂éa "), max_size=8)


@given(TEXTS, st.lists(st.integers(0, 258), max_size=4), TEXTS, st.data())
@example("\ufffd🙂!", [], "", None)
@example("x\ufffd\ufffdé🙂!", [], "", None)
@example("\ufffd", [257], "🙂é", None)
def test_no_cut_loses_characters(
    first: str, between: list[int], last: str, data: st.DataObject | None
) -> None:
    """Also where U+FFFD stands in the text itself, or bytes that never become a character."""
    for tokenizer, ids in (
        (BYTE_LEVEL, [*BYTE_LEVEL.encode(first).ids, *between, *BYTE_LEVEL.encode(last).ids]),
        (BYTE_FALLBACK, [1, *_fallback_ids(first), 3, *_fallback_ids(last)]),
    ):
        whole = tokenizer.decode(ids)
        cuts = range(len(ids) + 1) if data is None else [data.draw(st.integers(0, len(ids)))]
        for cut in cuts:
            added = "".join(_stream(tokenizer, ids[:cut], ids[cut:]))
            # At most three tokens hold what there is of a character that the cut is inside of.
            before = [tokenizer.decode(ids[:end]) for end in range(max(0, cut - 3), cut + 1)]
            assert whole in [text + added for text in before], (ids, cut)


@given(TEXTS, st.lists(st.integers(0, 40), max_size=6), st.integers(0, 40))
@example("🙂", [3], 4)
@example("🙂a", [1, 1, 1, 1], 6)
@example("é🙂🙂", [4, 5, 5, 7], 8)
def test_special_tokens_may_stand_inside_of_a_character(
    text: str, places: list[int], cut: int
) -> None:
    for tokenizer, special, ids in (
        (BYTE_LEVEL, 258, BYTE_LEVEL.encode(text).ids),
        (BYTE_FALLBACK, 260, [1, *_fallback_ids(text)]),
    ):
        for place in places:
            ids.insert(place, special)
        added = "".join(_stream(tokenizer, ids[:cut], ids[cut:]))
        prompt = [token for token in ids[:cut] if token != special]
        # At most three tokens hold what there is of a character that the cut is inside of.
        before = [tokenizer.decode(prompt[: max(0, len(prompt) - n)]) for n in range(4)]
        assert tokenizer.decode(ids) in [text + added for text in before], (ids, cut)


def test_a_text_that_is_no_beginning_of_the_whole_loses_nothing() -> None:
    class Joining:
        """Text that depends on what follows it."""

        def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
            return "".join(map(chr, ids)).replace("n 't", "n't")

    stream = Detokenizer(Joining(), [ord(one) for one in "can '"])
    assert stream.step(ord("t")) == "'t"


def test_a_character_that_a_prompt_leaves_open_is_shown_once() -> None:
    half = _fallback_ids("🙂")[:2]
    # What a prompt shows is not repeated, and text after it is not lost.
    assert _stream(BYTE_FALLBACK, [1, *half], [3, 2]) == ["!", " world", ""]
    assert _stream(BYTE_FALLBACK, [1, *half], []) == [""]


def test_bytes_that_never_complete_leave_what_is_out() -> None:
    """With byte fallback, a byte too many spoils the characters before it."""
    smile, half = _fallback_ids("🙂"), _fallback_ids("€")[:2]
    assert BYTE_FALLBACK.decode([*smile, *half]) == "\ufffd" * 6
    broken = "\ufffd" * 2
    assert _stream(BYTE_FALLBACK, [], [*smile, *half]) == ["", "", "", "🙂", "", "", broken]
    assert _stream(BYTE_FALLBACK, [1, *smile], [*half, 2, 3]) == [
        "",
        "",
        f"{broken} world",
        "!",
        "",
    ]
    assert "".join(_stream(BYTE_FALLBACK, [1], [*smile, *half, *smile])) == "🙂" + "\ufffd" * 6


def test_byte_fallback_and_spaces_between_words() -> None:
    ids = [2, *_fallback_ids("🙂🙂é"), 2, 3]
    assert "".join(_stream(BYTE_FALLBACK, [1], ids)) == " world🙂🙂é world!"
    # With nothing before it, a first word has no space.
    assert "".join(_stream(BYTE_FALLBACK, [], [1, 2])) == "Hello world"


@given(st.text())
def test_byte_fallback_text_comes_out_whole(text: str) -> None:
    prompt = [1, *_fallback_ids("é🙂é")]
    assert "".join(_stream(BYTE_FALLBACK, prompt, _fallback_ids(text))) == text


def test_text_is_shown_as_soon_as_it_is_complete() -> None:
    ids = BYTE_LEVEL.encode("he🙂h").ids
    assert _stream(BYTE_LEVEL, [], ids) == ["he", "", "", "🙂", "h", ""]


def test_bytes_that_never_complete_are_shown_at_the_end() -> None:
    ids = BYTE_LEVEL.encode("a🙂").ids[:-1]
    pieces = _stream(BYTE_LEVEL, [], ids)
    assert (pieces[:-1], pieces[-1]) == (["a", "", ""], "\ufffd")


def test_special_tokens_are_silent() -> None:
    assert "".join(_stream(BYTE_LEVEL, [], [258, *BYTE_LEVEL.encode("a").ids, 258])) == "a"
