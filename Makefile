# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
#
#   make venv    an environment in .venv with the pinned ExecuTorch, and the package compiled against it
#   make demo    export, prepare and stream the demo model, here and on a virtual phone
#   make bench   measure streaming on experts of real size
#   make test    native and Python tests
#   make app     the Android app as an APK; make app-test: its tests. Both need JDK 17 and Maven
#   make text    the library that gives the app's moe_runner text, for this machine and for phones
#   make lint    what a change must pass besides the tests; `make format` repairs most of it
#   make clean   remove build output; `make distclean` removes the environment too
#
# All that is needed beforehand: make, a C++17 compiler and Python 3.11 or newer with its venv module.

.DELETE_ON_ERROR:
# Without its bytecode Python compiles PyTorch at each start: 9 s more for an import of ExecuTorch.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: venv demo bench test app app-test text lint format clean distclean gtest phone-tools test-tools

VENV := .venv
BIN := $(VENV)/bin
ENGINE := android_app/engine/src/main/cpp
TEXT := android_app/engine/src/main/rust

# Folders are listed too: removing a file changes only them.
ENGINE_SOURCES := CMakeLists.txt $(shell find cmake $(ENGINE) -type d -o -type f)
# An installed package knows where each of its modules lies.
PACKAGE_FOLDERS := $(shell find moe_mobile -type d ! -name __pycache__)
CPP_FILES = $(shell find $(ENGINE) tests/native -name '*.h' -o -name '*.cpp')

venv: $(VENV)/package.stamp

# $(PYTHON) overrides the search. Wheels of the pinned ExecuTorch exist for Python 3.10 to 3.14.
$(VENV)/uv.stamp:
	@command -v c++ >/dev/null || { echo "No C++ compiler found: apt-get install g++"; exit 1; }
	@for python in $(PYTHON) python3.11 python3; do \
	  if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; \
	  then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Python 3.11 to 3.14 is needed, and neither python3.11 nor python3 is one." \
	       "Name one with: make venv PYTHON=/path/to/python"; exit 1; fi; \
	$$found -c 'import venv, ensurepip' || { \
	  echo "$$found has no venv module: apt-get install python3-venv"; exit 1; }; \
	test -x $(BIN)/python || $$found -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	@touch $@

# The pins and the tools, all that the package needs to be built and run.
$(VENV)/pins.stamp: $(VENV)/uv.stamp pyproject.toml
	@$(BIN)/python -c "import tomllib; \
	  print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')" \
	  > $(VENV)/build-requires.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -r pyproject.toml --extra dev -r $(VENV)/build-requires.txt
	@touch $@

# Without build isolation, so that the engine meets at run time the ExecuTorch it was compiled with.
# Editable: Python files are used where they lie. A changed engine and moved modules come through here.
$(VENV)/package.stamp: $(VENV)/pins.stamp $(ENGINE_SOURCES) $(PACKAGE_FOLDERS)
	PATH="$(CURDIR)/$(BIN):$$PATH" VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --no-build-isolation \
	  --no-deps --reinstall-package moe-mobile -C build-dir=build/package --editable .
	@touch $@

# Without phone tools its last step says what is missing.
demo: venv
	-@$(MAKE) --no-print-directory phone-tools
	$(BIN)/moe-mobile demo

bench: venv
	$(BIN)/python -m benchmarks.streaming

# One more than there are cores: some tests wait, for phones or for the disk. Each takes 2 GB.
WORKERS := $(shell n=$$(($$(nproc) + 1)); echo $$((n > 4 ? 4 : n)))

test: venv gtest test-tools
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# GoogleTest is the one thing the native tests take from the system.
gtest:
	@test -e /usr/include/gtest/gtest.h || test -e /usr/local/include/gtest/gtest.h || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libgtest-dev; \
	else echo "The native tests need GoogleTest: apt-get install libgtest-dev"; exit 1; fi

# Program:Debian package, of what virtual phones are made, the engine for arm64 and the check of locks.
PHONE_TOOLS := toybox:toybox mksh:mksh busybox:busybox-static
ARM64_TOOLS := qemu-aarch64-static:qemu-user-static aarch64-linux-gnu-g++:g++-aarch64-linux-gnu
phone-tools: TOOLS := $(PHONE_TOOLS)
test-tools: TOOLS := $(PHONE_TOOLS) $(ARM64_TOOLS) clang++:clang
phone-tools test-tools:
	@missing=""; for pair in $(TOOLS); do \
	  command -v $${pair%%:*} >/dev/null || missing="$$missing $${pair##*:}"; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing; \
	else echo "Tools are missing: apt-get install$$missing"; exit 1; fi

# APP_RUNTIME names a folder with the engine for phones; else it is built, or was before.
app: venv
	$(BIN)/python -m android_app.tools apk $(if $(APP_RUNTIME),--runtime $(APP_RUNTIME))

app-test: venv
	$(BIN)/python -m android_app.tools test

# build/rust/[TARGET/]release/libmoe_text.a, for CMake's MOE_TEXT_LIBRARY. Only the app needs it.
ARM64 := aarch64-unknown-linux-gnu
text: export CARGO_TARGET_DIR := $(CURDIR)/build/rust
text: export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER := aarch64-linux-gnu-gcc
text:
	cd $(TEXT) && cargo build --release --locked --lib
	cd $(TEXT) && { ! command -v rustup >/dev/null || rustup target add $(ARM64); } && \
	  cargo build --release --locked --lib --target $(ARM64)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@echo clang-format --dry-run
	@$(if $(CPP_FILES),$(BIN)/clang-format --dry-run --Werror $(CPP_FILES))
	@if cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 && \
	  cd $(TEXT) && cargo fetch --quiet --locked; \
	then cargo fmt --check && \
	  CARGO_TARGET_DIR=$(CURDIR)/build/rust cargo clippy --locked --all-targets -- -D warnings; \
	else echo "The Rust library of the app was not checked: cargo with rustfmt and clippy, or a" \
	  "crate, is not to be had here"; fi

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	@echo clang-format -i
	@$(if $(CPP_FILES),$(BIN)/clang-format -i $(CPP_FILES))
	@if cargo fmt --version >/dev/null 2>&1; then cd $(TEXT) && cargo fmt; fi

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis $(VENV)/package.stamp

distclean: clean
	rm -rf $(VENV)
