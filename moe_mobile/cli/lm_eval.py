# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""``python -m moe_mobile.cli.lm_eval``: lm-evaluation-harness with one more model.

It takes the harness's own arguments; docs/routing/quality.md has examples.
"""

from __future__ import annotations

import sys

from moe_mobile.cli.errors import report
from moe_mobile.errors import MoeMobileError


def main() -> int:
    """Run the harness. Returns the exit code: 0, or that of the error it printed."""
    try:
        import moe_mobile.quality.lm_eval  # noqa: F401  # registers the model

        from lm_eval.__main__ import cli_evaluate  # isort: skip

        cli_evaluate()
    except MoeMobileError as error:
        return report(error, as_json=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
