# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""`python -m moe_mobile`: the command line where its script is not on the PATH."""

from moe_mobile.cli import main

if __name__ == "__main__":
    main()
