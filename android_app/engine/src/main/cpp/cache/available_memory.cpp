// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>

#include "base/error.h"
#include "cache/memory_planner.h"

namespace moe_mobile {
namespace {

// The number after `key` and white space, in a file of such lines.
std::optional<uint64_t> field(const std::string& path, const std::string& key) {
  std::ifstream stream(path);
  std::string name;
  uint64_t value;
  for (std::string line; std::getline(stream, line);) {
    std::istringstream words(line);
    if (words >> name >> value && name == key) return value;
  }
  return std::nullopt;
}

// A file that holds one number; "max" means no limit.
std::optional<uint64_t> number(const std::string& path) {
  std::ifstream stream(path);
  uint64_t value;
  if (stream >> value) return value;
  return std::nullopt;
}

// What one control group leaves: its limit minus its use, not counting page cache that the kernel
// can take back.
std::optional<uint64_t> left_in_group(const std::string& folder, const char* limit_name,
                                      const char* usage_name, const char* stat_prefix) {
  const std::optional<uint64_t> limit = number(folder + "/" + limit_name);
  const std::optional<uint64_t> usage = number(folder + "/" + usage_name);
  if (!limit.has_value() || !usage.has_value()) return std::nullopt;
  const std::string stat = folder + "/memory.stat";
  const std::string prefix = stat_prefix;
  const uint64_t cached = field(stat, prefix + "inactive_file").value_or(0) +
                          field(stat, prefix + "active_file").value_or(0);
  const uint64_t used = *usage > cached ? *usage - cached : 0;
  return *limit > used ? *limit - used : 0;
}

// The smallest amount that the group at `path` and its parents leave.
uint64_t left_in_groups(const std::string& root, std::string path, const char* limit_name,
                        const char* usage_name, const char* stat_prefix) {
  uint64_t least = std::numeric_limits<uint64_t>::max();
  while (true) {
    const auto left = left_in_group(root + path, limit_name, usage_name, stat_prefix);
    if (left.has_value()) least = std::min(least, *left);
    const size_t slash = path.rfind('/');
    if (path.empty() || slash == std::string::npos) return least;
    path.resize(slash);
  }
}

}  // namespace

uint64_t available_memory(const std::string& proc, const std::string& cgroup) {
  const std::optional<uint64_t> kibibytes = field(proc + "/meminfo", "MemAvailable:");
  if (!kibibytes.has_value()) {
    throw Error(ErrorCode::kIo, proc + "/meminfo", "has no MemAvailable line",
                "Give the cache budget in bytes");
  }
  uint64_t available = *kibibytes * 1024;
  // Lines are "0::/path" for version 2 and "4:cpu,memory:/path" for version 1.
  std::ifstream groups(proc + "/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (controllers == ",,") {
      available =
          std::min(available, left_in_groups(cgroup, path, "memory.max", "memory.current", ""));
    } else if (controllers.find(",memory,") != std::string::npos) {
      available =
          std::min(available, left_in_groups(cgroup + "/memory", path, "memory.limit_in_bytes",
                                             "memory.usage_in_bytes", "total_"));
    }
  }
  return available;
}

}  // namespace moe_mobile
