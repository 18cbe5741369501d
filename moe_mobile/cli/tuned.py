# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""``--settings``: options that take their values from the file that `tune` wrote."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from moe_mobile.cli.commands import Decorated
from moe_mobile.cli.types import PATH
from moe_mobile.errors import BudgetError, UsageError

if TYPE_CHECKING:
    from moe_mobile.bundle.manifest import Manifest
    from moe_mobile.tune.settings_file import ChosenSettings

settings_file_option = click.option(
    "--settings",
    "settings_file",
    type=PATH,
    metavar="FILE",
    help="Take --cache, --routing, --precision, --pool, --eviction and --initial-cache from a file "
    "that `tune` wrote, unless they are given here.",
)


class Tuned:
    """The settings in a file for a bundle.

    Raises what reading the file and the bundle does, and UsageError if the file is for another
    bundle.
    """

    def __init__(self, path: pathlib.Path, bundle: pathlib.Path) -> None:
        import hashlib

        from moe_mobile.bundle.reader import parse_manifest, read_manifest_bytes
        from moe_mobile.tune.settings_file import read_settings

        self._path, self._file = path, read_settings(path)
        data = read_manifest_bytes(bundle)
        self._file.require(hashlib.sha256(data).hexdigest(), path)
        manifest = parse_manifest(data, str(bundle))
        for choice in self._file.choices:
            self._require_fit(choice.settings, manifest)

    def values(self, cache: str | None) -> dict[str, str]:
        """Of the running command's options that were not given, by their names.

        ``cache``: the one that was given. Raises UsageError if the file has nothing for it.
        """
        from moe_mobile.routing.capacity import percent_of

        try:
            chosen = self._file.pick(cache).settings
        except UsageError as error:
            raise UsageError(error.cause, file=self._path, remedy=error.remedy) from None
        if cache is not None and percent_of(cache) != percent_of(chosen.cache):
            click.echo(
                f"note: {self._path} has no settings for a cache of {cache}: those for "
                f"{chosen.cache} are used; their quality was not measured here",
                err=True,
            )
        values = dataclasses.asdict(chosen)
        return {name: value for name, value in values.items() if is_default(name)}

    def _require_fit(self, settings: ChosenSettings, manifest: Manifest) -> None:
        """Raises UsageError if no engine would take it for this model."""
        from moe_mobile.routing.capacity import parse_capacity

        capacity = parse_capacity(settings.cache).of(manifest.moe.num_experts)
        try:
            require_routing(manifest, settings.routing, capacity, settings.precision)
        except (UsageError, BudgetError) as error:
            raise UsageError(
                f"the choice for {settings.cache} does not fit this model: {error.cause}",
                file=self._path,
                remedy="Run `moe-mobile tune` for this bundle",
            ) from error


def require_routing(
    manifest: Manifest, routing: str, capacity: int, precision: str = "full"
) -> None:
    """Raises UsageError or BudgetError if the model has too few experts for the routing, not that
    precision, or the cache of so many for each layer too little room."""
    from moe_mobile.quality.score import Cache, open_run
    from moe_mobile.routing.facts import MoeFacts

    if manifest.moe_layers:
        open_run(MoeFacts.of_bundle(manifest), Cache(routing, capacity, precision=precision))


def settings_option(function: Decorated) -> Decorated:
    """``--settings`` of a command that runs one configuration of a ``bundle``."""

    @functools.wraps(function)
    def command(*, settings_file: pathlib.Path | None, **options: Any) -> Any:
        if settings_file is not None:
            require_cache(settings_file, [options["residency"]])
            cache = None if is_default("cache") else options["cache"]
            options |= Tuned(settings_file, options["bundle"]).values(cache)
        return function(**options)

    return settings_file_option(cast(Decorated, command))


def is_default(option: str) -> bool:
    """Whether the running command's option was not given."""
    return click.get_current_context().get_parameter_source(option) is ParameterSource.DEFAULT


def require_cache(path: pathlib.Path, residencies: list[str]) -> None:
    """Raises UsageError for an engine that has no cache."""
    if "resident" in residencies:
        raise UsageError(
            "settings are for a cache, and --residency resident has none",
            file=path,
            remedy="Leave out --settings or --residency resident",
        )
