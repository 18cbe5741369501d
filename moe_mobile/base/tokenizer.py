# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""``tokenizer.json``, the same file in a checkpoint and in a bundle."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from moe_mobile.base.json_field import too_many_values
from moe_mobile.base.memory import is_out_of_memory, is_panic
from moe_mobile.base.tokenizer_growth import require_limited
from moe_mobile.errors import BundleInvalidError, MoeMobileError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Encoding, Tokenizer

TOKENIZER = "tokenizer.json"
"""Name of the tokenizer's file in a bundle or checkpoint."""

_AGAIN = "Export again from a complete checkpoint"
_TRIAL = "The sky is blue, and 1 + 1 = 2.\n"
_TRIAL_TOKENS = 512
# More than most texts have in a token, and tokens that the end of a part may change.
_CHARACTERS = 8
_SPARE_TOKENS = 1024


class TextTokenizer:
    """A tokenizer of the tokenizers library whose failures are typed errors that name its file.

    The library raises plain Exception, and for what its Rust code did not expect something that is
    no Exception at all.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        file: str | os.PathLike[str],
        kind: type[MoeMobileError],
        remedy: str,
    ) -> None:
        self._tokenizer = tokenizer
        self._file, self._kind, self._remedy = file, kind, remedy

    def encode(self, text: str, add_special_tokens: bool = True) -> Encoding:
        """A text as tokens."""
        with self._typed("encode a text"):
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def ids(self, text: str, most: int | None = None, add_special_tokens: bool = True) -> list[int]:
        """A text's token ids. If there are more than ``most``, at least one more than those.

        Encoding takes hundreds of times a text's memory, so no more of a long one is read than it
        takes. What follows a part of a text changes only the last of its tokens.
        """
        if most is not None:
            length = _CHARACTERS * (most + _SPARE_TOKENS)
            while length < len(text):
                ids: list[int] = self.encode(text[:length], add_special_tokens).ids
                if len(ids) > most + _SPARE_TOKENS:
                    return ids[: most + 1]
                length *= 2
        whole: list[int] = self.encode(text, add_special_tokens).ids
        return whole

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Tokens as a text."""
        with self._typed("decode tokens"):
            return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """The id of each token."""
        with self._typed("list its tokens"):
            return self._tokenizer.get_vocab(with_added_tokens=with_added_tokens)

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that are found in a text before it is split, by id."""
        with self._typed("list its tokens"):
            return self._tokenizer.get_added_tokens_decoder()

    def rules(self) -> dict[str, Any]:
        """All of it, as the library would write it today."""
        with self._typed("list its rules"):
            whole: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return whole

    @property
    def is_bpe(self) -> bool:
        """Whether its model is byte-pair encoding."""
        return type(self._tokenizer.model).__name__ == "BPE"

    @property
    def normalizes(self) -> bool:
        """Whether it changes texts before it splits them."""
        return self._tokenizer.normalizer is not None

    def require_rows(self, rows: int, remedy: str | None = None) -> None:
        """Raises if a token, or one that it adds to all texts, has an id that an embedding of so
        many rows lacks. ``remedy``: if not the tokenizer's."""
        token, last = max(
            (*self.get_vocab().items(), *self._put_around_texts()),
            key=lambda one: one[1],
            default=("", -1),
        )
        if last >= rows:
            raise self._kind(
                f"its token {token!r} has the id {last}, but the model's embedding has {rows} rows",
                file=self._file,
                remedy=remedy or self._remedy,
            )

    def _put_around_texts(self) -> Iterator[tuple[str, int]]:
        """Tokens of the post-processor, which the vocabulary need not have, and their ids."""
        processor = self._tokenizer.post_processor
        if processor is None:
            return
        left = [json.loads(processor.__getstate__())]
        while left:
            one = left.pop()
            left += one.get("processors", ())
            for name in ("cls", "sep"):
                if name in one:
                    yield tuple(one[name])
            used = {piece.get("SpecialToken", {}).get("id") for piece in one.get("single", ())}
            for name, token in one.get("special_tokens", {}).items():
                if name in used:
                    yield from ((name, id) for id in token["ids"])

    def try_out(self) -> None:
        """Encodes and decodes a short text, and decodes some tokens alone. Raises if the file can
        be read, but not used."""
        self.decode(self.encode(_TRIAL).ids)
        for id in sorted(self.get_vocab().values())[:_TRIAL_TOKENS]:
            self.decode([id])

    def _typed(self, what: str) -> contextlib.AbstractContextManager[None]:
        return _typed(f"the tokenizer cannot {what}", self._file, self._kind, self._remedy)


def parse_tokenizer(
    data: bytes,
    file: str | os.PathLike[str] = TOKENIZER,
    kind: type[MoeMobileError] = BundleInvalidError,
    remedy: str = _AGAIN,
) -> TextTokenizer:
    """A tokenizer that takes texts as they are.

    Raises an error of ``kind`` that names ``file`` if it cannot be read, as using it does.
    """
    from tokenizers import Tokenizer, models

    with _typed("the tokenizer cannot be read", file, kind, remedy):
        if too_many_values(data):
            raise ValueError("it holds too many values")
        members = json.loads(data, object_pairs_hook=_named_once)
        if isinstance(members, dict):
            require_limited(members)
            _require_prefixed_merges(members.get("model"))
        del members  # takes several times the memory of the file
        tokenizer = Tokenizer.from_str(data.decode())
        # Left over from training; transformers ignores the first two too.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if isinstance(tokenizer.model, models.BPE):
            tokenizer.model.dropout = None
    return TextTokenizer(tokenizer, file, kind, remedy)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Of members of one name only the last is judged, but the library reads
    each."""
    members = dict(pairs)
    if len(members) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it has two members {twice!r} in one object")
    return members


def _require_prefixed_merges(model: object) -> None:
    """Raises ValueError unless the second part of each merge begins with the prefix that the
    library cuts off there: it counts bytes, and the process ends if that leaves half a character.
    """
    prefix = model.get("continuing_subword_prefix") if isinstance(model, dict) else None
    merges = model.get("merges") if isinstance(model, dict) else None
    if not isinstance(prefix, str) or not isinstance(merges, list):
        return
    for merge in merges:
        # "a b" in old files.
        parts = merge.split(" ") if isinstance(merge, str) else merge
        last = parts[-1] if isinstance(parts, list) and parts else None
        if isinstance(last, str) and not last.startswith(prefix):
            raise ValueError(
                f"its continuing_subword_prefix {prefix!r} does not begin {last!r}, the second "
                "part of a merge"
            )


def is_failure(error: BaseException) -> bool:
    """Whether the library failed, which may be a panic: nobody interrupted it, and it was not for
    want of memory."""
    failed = isinstance(error, Exception) or is_panic(error)
    return failed and not is_out_of_memory(error)


@contextlib.contextmanager
def _typed(
    what: str, file: str | os.PathLike[str], kind: type[MoeMobileError], remedy: str
) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if not is_failure(error):
            raise
        cause = " ".join(str(error).split()) or type(error).__name__
        raise kind(f"{what}: {cause}", file=file, remedy=remedy) from error
