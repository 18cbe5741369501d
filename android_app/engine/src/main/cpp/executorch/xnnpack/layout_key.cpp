// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "executorch/xnnpack/layout_key.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

#include "base/crc32c.h"

namespace moe_mobile {
namespace {

// Vector instructions. Other words, such as mitigations, come and go with kernels and microcode;
// they must not invalidate a packed store.
bool chooses_kernels(const std::string& word) {
  static const char* const kPrefixes[] = {"sse",  "ssse",  "avx", "fma", "f16c", "gfni",
                                          "amx",                                          // x86
                                          "fp",   "asimd", "sve", "sme", "i8mm", "bf16",  // arm64
                                          "neon", "vfp"};                                 // arm
  for (const char* prefix : kPrefixes)
    if (word.rfind(prefix, 0) == 0) return true;
  return false;
}

}  // namespace

std::string cpu_features(const std::string& cpuinfo) {
  std::set<std::string> words;
  std::istringstream lines(cpuinfo);
  std::string line;
  while (std::getline(lines, line)) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string field = line.substr(0, line.find_last_not_of(" \t", colon - 1) + 1);
    if (field == "flags" || field == "Features") {
      std::istringstream values(line.substr(colon + 1));
      std::string word;
      while (values >> word)
        if (chooses_kernels(word)) words.insert(word);
    } else if (field == "CPU implementer" || field == "CPU part" || field == "model" ||
               field == "cpu family" || field == "vendor_id") {
      const size_t value = line.find_first_not_of(" \t", colon + 1);
      if (value != std::string::npos) words.insert(field + "=" + line.substr(value));
    }
  }
  std::string joined;
  for (const std::string& word : words) joined += (joined.empty() ? "" : " ") + word;
  return joined;
}

std::string xnnpack_layout_key() {
  std::ifstream file("/proc/cpuinfo");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const std::string features = cpu_features(text);
  utsname host{};
  uname(&host);
  char key[160];
  std::snprintf(key, sizeof(key), "xnnpack-%s-%s-%08x-p%ld", MOE_EXECUTORCH_VERSION, host.machine,
                crc32c(features.data(), features.size()), sysconf(_SC_PAGESIZE));
  return key;
}

}  // namespace moe_mobile
