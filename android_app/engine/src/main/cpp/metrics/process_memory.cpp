// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "metrics/process_memory.h"

#include <fstream>
#include <iterator>
#include <sstream>

#include "base/error.h"

namespace moe_mobile {

ProcessMemory read_process_memory(const std::string& proc_self) {
  ProcessMemory memory;
  std::ifstream status(proc_self + "/status");
  bool any = false;
  for (std::string line; std::getline(status, line);) {
    std::istringstream words(line);
    std::string name;
    uint64_t kibibytes = 0;
    if (!(words >> name >> kibibytes)) continue;
    const struct {
      const char* name;
      uint64_t* value;
    } known[] = {{"RssAnon:", &memory.rss_anon},
                 {"RssFile:", &memory.rss_file},
                 {"VmRSS:", &memory.rss},
                 {"VmHWM:", &memory.peak_rss},
                 {"VmSwap:", &memory.swap}};
    for (const auto& entry : known) {
      if (name != entry.name) continue;
      *entry.value = kibibytes * 1024;
      any = true;
    }
  }
  if (!any) throw Error(ErrorCode::kIo, proc_self + "/status", "cannot be read");

  // "pid (name) state ...": the name may hold anything, so count from its closing parenthesis.
  std::ifstream stat(proc_self + "/stat");
  const std::string text((std::istreambuf_iterator<char>(stat)), {});
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return memory;
  std::istringstream words(text.substr(name_end + 1));
  std::string word;
  for (int skipped = 0; skipped < 9; ++skipped) words >> word;  // state .. cminflt is before majflt
  uint64_t faults = 0;
  if (words >> faults) memory.major_faults = faults;
  return memory;
}

}  // namespace moe_mobile
