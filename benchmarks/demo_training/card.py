# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""The model card, rendered from the measured facts (see :func:`.results.measure`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.demo_training.corpora import DOMAINS, HELD_OUT_ONE_IN, TRAIN_BYTES_PER_DOMAIN
from benchmarks.demo_training.results import shares

_HEAD = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [moe, qwen3_moe, demo]
---

# moe-mobile demo model

A small mixture-of-experts language model with the Qwen3-MoE architecture, truly trained, so that
its routing behaves like that of a large model: small enough to ship, to test with, and to try an
engine on any device. It writes text in the style of its domains; it knows nothing and follows
no instructions.

Made by `python -m benchmarks.demo_training`, which also wrote this card.
"""

_LIMITS = """\
## Limits

English only. The text of the domains is old, technical or religious and the model repeats its
views and its language. Do not use its output as information.

## Licence

The weights, like the rest of the project, are under Apache-2.0. Of the training text nothing is
shipped but `heldout.txt`, which is public-domain text; the packages the text was taken from are
named above with the licences they state. (In the United Kingdom printing the King James Bible
is subject to letters patent.)
"""

_REPEAT = """\
To make it again: `python -m benchmarks.demo_training fetch`, then `prepare`, `train` and `ship`,
with the package files named above in the `downloads` folder (mirrors move on to newer versions).
The result depends on the inputs, the versions of torch and tokenizers, the kind of machine and
the number of threads, and on nothing else; a run that was stopped and resumed ends the same.
"""


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _model_section(facts: dict[str, Any], config: dict[str, Any]) -> str:
    return (
        f"## Model\n\n"
        f"{facts['parameters'] / 1e6:.2f} M parameters, bf16. {config['num_hidden_layers']} layers "
        f"of {config['num_experts']} experts, of which {config['num_experts_per_tok']} are active; "
        f"hidden size {config['hidden_size']}, expert width {config['moe_intermediate_size']}, "
        f"{config['num_attention_heads']} query and {config['num_key_value_heads']} key-value "
        f"heads of {config['head_dim']}, query and key norm, tied embedding, byte-level BPE of "
        f"{config['vocab_size']} tokens, context {config['max_position_embeddings']}.\n\n"
        f"SHA-256: `model.safetensors` `{facts['sha256']['model.safetensors']}`, "
        f"`tokenizer.json` `{facts['sha256']['tokenizer.json']}`.\n"
    )


def _data_section(facts: dict[str, Any]) -> str:
    rows = []
    for domain in DOMAINS:
        entry = facts["manifest"][domain.name]
        for i, source in enumerate(entry["sources"]):
            rows.append(
                [
                    f"{domain.name} ({domain.title})" if i == 0 else "",
                    f"`{source['file']}`",
                    source["licence"],
                    f"`{source['sha256']}`",
                ]
            )
    packages = _table(["domain", "package file", "licence as stated", "SHA-256"], rows)
    rows = []
    for domain in DOMAINS:
        entry = facts["manifest"][domain.name]
        for part in ("train", "held"):
            of = entry[part]
            rows.append(
                [
                    domain.name,
                    "training" if part == "train" else "held out",
                    f"{of['documents']}",
                    f"{of['bytes'] / 1e6:.2f} MB",
                    f"{facts['domains'][domain.name][part + '_tokens']:,}",
                    f"`{of['sha256']}`",
                ]
            )
    texts = _table(["domain", "part", "documents", "text", "tokens used", "SHA-256"], rows)
    return (
        f"## Data\n\nDebian 12 and npm packages, unpacked by `fetch` and `prepare`:\n\n{packages}\n"
        f"Cut into documents; one in {HELD_OUT_ONE_IN}, chosen by a hash of its text, is held out; "
        f"about {TRAIN_BYTES_PER_DOMAIN / 1e6:.1f} MB a domain are kept for training. The hashes "
        f"are those of the files that `prepare` writes:\n\n{texts}"
    )


def _training_section(facts: dict[str, Any], remark: str) -> str:
    run, settings = facts["run"], facts["run"]["settings"]
    total = settings["steps"] * settings["tokens_per_step"]
    corpus = sum(entry["train_tokens"] for entry in facts["domains"].values())
    minutes = f", {run['minutes']} minutes in all" if "minutes" in run else ""
    session = f" in the last of {run['sessions']} sessions" if run["sessions"] > 1 else ""
    return (
        f"## Training\n\n{settings['steps']:,} steps of {settings['tokens_per_step']:,} tokens: "
        f"{total / 1e6:.2f} M tokens, {total / corpus:.1f} times the text. Rows of "
        f"{settings['short_row']} tokens, of the full context in the last "
        f"{settings['long_steps']} steps. Muon for attention and experts, AdamW (rate times "
        f"{settings['adam_scale']}) for the rest; peak rate {settings['peak_rate']}, warm-up "
        f"{settings['warmup_steps']} steps, then constant, linear decay to 0 in the last "
        f"{settings['decay_steps']} (corner rounded by a line to 0 at "
        f"{settings['steps'] + settings['ease_after']:,}, of {settings['ease_steps']:,} steps); "
        f"Switch balance loss times {settings['balance']}, and from step "
        f"{settings['lift_from']} on {settings['lift']} times a loss that raises the mean "
        f"router logit of starved experts; seed {settings['seed']}; fp32.\n\n{_REPEAT}\n"
        f"Measured: {run['tokens_per_second']:,} tokens/s on average{session} "
        f"({run['device']}, {run['threads']} threads){minutes}. {remark}\n"
    ).replace(" \n", "\n")


def _quality_section(facts: dict[str, Any]) -> str:
    rows = [
        [
            domain.name,
            f"{entry['held_tokens']:,}",
            f"{entry['perplexity']:.2f}",
            f"{entry['kneser_ney']:.2f}",
            f"{entry['ratio']:.3f}",
        ]
        for domain in DOMAINS
        for entry in [facts["domains"][domain.name]]
    ]
    head = ["domain", "held-out tokens", "perplexity", "Kneser-Ney trigram", "ratio"]
    sample = facts["sample"]
    return (
        f"## Held-out perplexity\n\nPer token, in windows of the full context, bf16 weights "
        f"computed in fp32; all tokens but the first of a window are scored. Next to it an "
        f"interpolated modified Kneser-Ney trigram over the same tokens, trained on all the "
        f"training text of all domains.\n\n{_table(head, rows)}\n"
        f"`heldout.txt` ({sample['bytes']:,} bytes of held-out Bible and novels, "
        f"{sample['tokens']:,} tokens with one `<|endoftext|>` before): perplexity "
        f"{sample['perplexity']:.3f} in windows of the full context.\n"
    )


def _usage_section(facts: dict[str, Any]) -> str:
    by_domain = shares(facts["usage"])
    overall = by_domain.mean(0)
    experts = overall.shape[1]
    probability = overall / experts
    logs = np.log(np.maximum(probability, 1e-12))
    effective = np.exp(-(probability * logs).sum(1))
    differ = np.abs(by_domain[:, None] - by_domain[None]).sum(3) / (2 * experts)
    pairs = np.triu_indices(len(DOMAINS), 1)
    rows = [
        [
            str(layer),
            f"{overall[layer].min():.2f}",
            f"{overall[layer].max():.2f}",
            f"{effective[layer]:.1f}",
            f"{differ[:, :, layer][pairs].mean():.2f}",
        ]
        for layer in range(overall.shape[0])
    ]
    head = ["layer", "least used", "most used", "effective experts", "difference of domains"]
    every = [
        [str(layer), " ".join(f"{share:.2f}" for share in overall[layer])]
        for layer in range(overall.shape[0])
    ]
    return (
        f"## Expert usage\n\nOn the held-out text of all domains, each weighted alike; 1.00 is the "
        f"fair share of an expert. Effective experts: exponential of the entropy, of {experts}. "
        f"Difference of domains: total variation distance between the usage of two domains, mean "
        f"over pairs.\n\n{_table(head, rows)}\nEvery expert, 0 to {experts - 1}:\n\n"
        f"{_table(['layer', 'share'], every)}"
    )


def render(facts: dict[str, Any], config: dict[str, Any], remark: str) -> str:
    """The card in Markdown; ``config`` is config.json, ``remark`` ends the training section."""
    sections = [
        _HEAD,
        _model_section(facts, config),
        _data_section(facts),
        _training_section(facts, remark),
        _quality_section(facts),
        _usage_section(facts),
        _LIMITS,
    ]
    return "\n".join(sections)
