# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Continues a text, or talks with a model that has a chat template.

python export_scripts/chat.py demo "Once upon a time" --text
python export_scripts/chat.py out/qwen3-moe
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from moe_mobile import Engine, Generation


def main() -> None:
    parser = argparse.ArgumentParser(description="Continue a text, or chat")
    parser.add_argument("bundle", help="a folder that `moe-mobile export` made")
    parser.add_argument("prompt", nargs="?", help="without it: each line of standard input")
    parser.add_argument("--text", action="store_true", help="continue the prompt as it is")
    parser.add_argument("--cache", default="50%", help="memory for experts: 50%%, 512MiB or auto")
    options = parser.parse_args()

    prompts: Iterable[str] = [options.prompt] if options.prompt else map(str.strip, sys.stdin)
    messages: list[dict[str, str]] = []
    with Engine(options.bundle, cache=options.cache) as engine:
        for prompt in prompts:
            if options.text:
                show(engine.generate(prompt))
                continue
            messages.append({"role": "user", "content": prompt})
            answer = show(engine.generate(messages))
            messages.append({"role": "assistant", "content": answer})


def show(generation: Generation[str]) -> str:
    """Prints text as it comes, and then how fast it came. Returns the text."""
    for piece in generation:
        print(piece, end="", flush=True)
    result = generation.result()
    nanoseconds = sum(one.total_ns for one in result.stats.tokens if one.phase == "decode")
    if nanoseconds:
        speed = (len(result.stats.tokens) - 1) * 1e9 / nanoseconds
        hits = result.stats.totals.hit_rate
        print(f"\n[{speed:.1f} tokens/s, {hits:.0%} of the experts were in the cache]")
    return result.text or ""


if __name__ == "__main__":
    main()
