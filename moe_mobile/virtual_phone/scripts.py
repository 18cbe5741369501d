# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Android's own commands that a phone needs, as shell scripts over the files in /virtual."""

from __future__ import annotations

_SHELL = "#!/system/bin/sh\n"

_GETPROP = """
if [ $# = 0 ]; then
  while IFS= read -r line; do print -r -- "$line"; done </virtual/properties
  exit 0
fi
while IFS='=' read -r key value; do
  if [ "$key" = "$1" ]; then print -r -- "$value"; exit 0; fi
done </system/build.prop
print -r -- "$2"
"""

_DUMPSYS = """
case "$1" in
  -l) printf 'Currently running services:\\n  battery\\n  thermalservice\\n' ;;
  battery|thermalservice) exec cat "/virtual/$1" ;;
  *) print -u2 -r -- "Can't find service: $1"; exit 1 ;;
esac
"""

_SETTINGS = """
if [ "$*" = "get secure android_id" ]; then exec getprop ro.moe_mobile.android_id; fi
print -u2 -r -- "settings: only get secure android_id is known here, not $*"
exit 1
"""

_LOGCAT = """
lines=+1 follow=-f
while [ $# -gt 0 ]; do
  case "$1" in
    -c)
      print -r -- clear >/virtual/requests
      i=0
      while [ -s /virtual/log ] && [ $((i += 1)) -lt 200 ]; do sleep 0.01; done
      exit 0 ;;
    -d) follow= ;;
    -t) follow= lines=$2; shift ;;
    *) print -u2 -r -- "logcat: only -c, -d and -t COUNT are known here, not $1"; exit 1 ;;
  esac
  shift
done
case "$lines" in
  +1|[0-9]*([0-9])) exec tail -n "$lines" $follow /virtual/log ;;
  *) print -u2 -r -- "logcat: invalid number of lines: $lines"; exit 1 ;;
esac
"""

_REBOOT = """
print -r -- reboot >/virtual/requests
sleep 60
"""

_UNAME = """
# The kernel is this machine's; the processor is the emulated one.
case "$*" in
  -m) print aarch64 ;;
  -a) toybox uname -a | sed 's/x86_64/aarch64/' ;;
  *) exec toybox uname "$@" ;;
esac
"""


def all_scripts(*, arm64: bool) -> dict[str, str]:
    """Text of each script by its name in /system/bin."""
    found = {"getprop": _GETPROP, "dumpsys": _DUMPSYS, "logcat": _LOGCAT, "reboot": _REBOOT}
    found["settings"] = _SETTINGS
    if arm64:
        found["uname"] = _UNAME
    return {name: _SHELL + body for name, body in found.items()}
