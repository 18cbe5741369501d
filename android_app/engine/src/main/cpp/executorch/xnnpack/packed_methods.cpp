// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "executorch/xnnpack/packed_methods.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "executorch/xnnpack/packed_layout.h"
#include "executorch/xnnpack/xnnpack_backend.h"

namespace moe_mobile {
namespace {

// A killed process may have left a file of the same name: in a container, process numbers repeat.
UniqueFd create_slot_file(const std::string& directory, SlotName* name, std::string* path) {
  std::vector<SlotName> tried;  // so that each is tried once
  while (true) {
    *path = directory + "/" + name->text();
    UniqueFd fd(::open(path->c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (fd.valid()) return fd;
    const std::string taken = std::exchange(*path, "");  // not ours to remove
    if (errno != EEXIST) throw_errno(taken, "create the file");
    tried.push_back(std::exchange(*name, SlotName()));
  }
}

// Slot files exist only for moments, but a process killed in that time leaves some behind.
void remove_stale_files(const std::string& directory) {
  DIR* folder = opendir(directory.c_str());
  if (folder == nullptr) throw_errno(directory, "read the folder");
  while (const dirent* entry = readdir(folder)) {
    long owner = 0;
    if (std::sscanf(entry->d_name, "moe-slot-%ld-", &owner) != 1) continue;
    if (kill(static_cast<pid_t>(owner), 0) != 0 && errno == ESRCH)
      unlink((directory + "/" + entry->d_name).c_str());
  }
  closedir(folder);
}

// Zero if /proc cannot be read.
size_t open_file_descriptors() {
  DIR* folder = opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  size_t count = 0;
  while (readdir(folder) != nullptr) ++count;
  closedir(folder);
  return count;
}

struct Mapping {
  uintptr_t begin = 0;
  uintptr_t end = 0;
  int count = 0;
};

// Mappings of slot files by base name.
std::unordered_map<std::string, Mapping> slot_mappings() {
  std::unordered_map<std::string, Mapping> found;
  std::ifstream maps("/proc/self/maps");
  std::string line;
  while (std::getline(maps, line)) {
    const size_t name = line.rfind("/moe-slot-");
    if (name == std::string::npos) continue;
    uintptr_t begin = 0;
    uintptr_t end = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR, &begin, &end) != 2) continue;
    const size_t stop = line.find(".bin", name);
    if (stop == std::string::npos) continue;
    Mapping& mapping = found[line.substr(name + 1, stop + 4 - name - 1)];
    mapping.begin = begin;
    mapping.end = end;
    ++mapping.count;
  }
  return found;
}

void reserve_file_descriptors(size_t methods) {
  constexpr rlim_t kSpare = 64;  // for files that the host opens later
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) throw_errno("RLIMIT_NOFILE", "read the limit");
  const rlim_t wanted = static_cast<rlim_t>(methods + open_file_descriptors()) + kSpare;
  if (limit.rlim_cur >= wanted) return;
  if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < wanted)
    throw Error(ErrorCode::kBudget, Setting{"RLIMIT_NOFILE"},
                std::to_string(methods) +
                    " slots need as many open files, and this process may open " +
                    std::to_string(limit.rlim_max),
                "Raise the hard limit (ulimit -Hn), or give a smaller cache budget.");
  limit.rlim_cur = wanted;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) throw_errno("RLIMIT_NOFILE", "raise the limit");
}

}  // namespace

PackedMethods::PackedMethods(std::string directory, size_t count)
    : directory_(std::move(directory)) {
  reserve_file_descriptors(count);
  remove_stale_files(directory_);
}

PackedMethods::~PackedMethods() { remove_files(); }

void PackedMethods::remove_files() {
  for (Entry& entry : methods_)
    if (!entry.path.empty()) unlink(entry.path.c_str());
}

size_t PackedMethods::add(const LoadedProgram& program, const char* method, PlannedArena* arena,
                          Span<const uint8_t> index) {
  const PackedLayout layout = parse_packed_index(index, program.name());
  Entry entry;
  // Move the index to a blob boundary, so that a whole padded blob fits before it.
  entry.capacity = align_up(layout.weight_bytes, kBlobAlignment);
  entry.file_bytes = entry.capacity + index.size();
  const std::vector<uint8_t> moved = moved_packed_index(index, entry.capacity);
  methods_.push_back(std::move(entry));
  Entry& added = methods_.back();
  {
    const UniqueFd fd = create_slot_file(directory_, &added.name, &added.path);
    if (ftruncate(fd.get(), static_cast<off_t>(added.capacity)) != 0 ||
        lseek(fd.get(), 0, SEEK_END) < 0)
      throw_errno(added.path, "write the file");
    write_all(fd.get(), moved.data(), moved.size(), added.path);
  }
  added.method = load_with_xnnpack(program, method, arena, added.path, Workspace::kShared);
  return methods_.size() - 1;
}

void PackedMethods::detach() {
  const auto mappings = slot_mappings();
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  for (; detached_ < methods_.size(); ++detached_) {
    Entry& entry = methods_[detached_];
    const auto found = mappings.find(entry.path.substr(entry.path.rfind('/') + 1));
    const uint64_t expected = align_up(entry.file_bytes, page);
    if (found == mappings.end() || found->second.count != 1 ||
        found->second.end - found->second.begin != expected)
      throw Error(ErrorCode::kRuntime, entry.path,
                  "XNNPACK did not map the slot's file exactly once, so it would ignore the "
                  "weights read into it",
                  "Use a `packed_dir` on another file system.");
    void* at = reinterpret_cast<void*>(found->second.begin);
    if (mmap(at, expected, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
             0) == MAP_FAILED)
      throw Error(ErrorCode::kBudget, entry.path, "there is not enough memory for the slot",
                  "Give a smaller cache budget.");
    // Huge pages make direct reads and the kernels' streaming through the weights cheaper. The
    // system may refuse.
    (void)madvise(at, expected, MADV_HUGEPAGE);
    entry.weights = static_cast<uint8_t*>(at);
    // XNNPACK keeps the file open; without this its blocks would stay allocated.
    if (truncate(entry.path.c_str(), 0) != 0 || unlink(entry.path.c_str()) != 0)
      throw_errno(entry.path, "remove the file");
    entry.path.clear();
  }
}

void PackedMethods::release_weights(size_t number) {
  // Cannot fail for memory that detach() mapped.
  (void)madvise(methods_[number].weights, methods_[number].capacity, MADV_DONTNEED);
}

}  // namespace moe_mobile
