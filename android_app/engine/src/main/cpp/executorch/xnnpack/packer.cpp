// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "executorch/xnnpack/packer.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "executorch/xnnpack/packed_layout.h"
#include "executorch/xnnpack/xnnpack_backend.h"

namespace moe_mobile {
namespace {

// Larger programs are packed on the disk, where their bytes can leave memory.
constexpr uint64_t kMostInMemory = 64 << 20;

// The system call: Android's C library has a function for it since Android 11 only.
UniqueFd file_in_memory() {
  return UniqueFd(static_cast<int>(syscall(SYS_memfd_create, "moe-pack", MFD_CLOEXEC)));
}

// The file that XNNPACK packs into: in memory if the system can do that, because XNNPACK waits
// until what it packed is on the disk.
class Scratch {
 public:
  Scratch(const std::string& fallback, uint64_t program_bytes) {
    if (program_bytes <= kMostInMemory) fd_ = file_in_memory();
    if (fd_.valid()) {
      path_ = "/proc/self/fd/" + std::to_string(fd_.get());
      // XNNPACK opens it by this path, which SELinux may not allow.
      if (UniqueFd(::open(path_.c_str(), O_RDWR | O_CLOEXEC)).valid()) return;
    }
    path_ = file_ = fallback;
    unlink(path_.c_str());
    fd_ = UniqueFd(::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd_.valid()) throw_errno(path_, "create the file");
    require_space(program_bytes);
  }
  ~Scratch() {
    if (!file_.empty()) unlink(file_.c_str());
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  const std::string& path() const { return path_; }
  int fd() const { return fd_.get(); }

 private:
  // XNNPACK writes through a mapping of a sparse file: if the disk filled up meanwhile, SIGBUS
  // would kill the process. Packing adds row sums and padding to the weights.
  void require_space(uint64_t program_bytes) const {
    constexpr uint64_t kPadding = 1 << 20;
    const uint64_t free_bytes = free_space(path_);
    if (free_bytes < 2 * program_bytes + kPadding)
      throw Error(
          ErrorCode::kDiskFull, path_,
          "packing one program needs " + std::to_string(2 * program_bytes + kPadding) +
              " bytes for a short time, but only " + std::to_string(free_bytes) + " are free",
          "Free some space, or choose another `packed_dir`; prepare continues where it stopped.");
  }

  UniqueFd fd_;
  std::string path_;
  std::string file_;  // to be deleted; empty if it is in memory
};

}  // namespace

PackedImage pack_method(const LoadedProgram& program, const char* method, PlannedArena* arena,
                        const std::string& scratch_path, const PackedWeights::Loaded& loaded) {
  const Scratch scratch(scratch_path, program.size());
  loaded(load_with_xnnpack(program, method, arena, scratch.path(), Workspace::kOwn).get());
  const uint64_t size = file_size(scratch.fd(), scratch.path());
  if (size < kPackedFooterBytes)
    throw Error(ErrorCode::kRuntime, program.name(),
                "XNNPACK did not write the packed weights to " + scratch.path(),
                "Check the free space and that the folder is writable.");
  std::vector<uint8_t> footer(kPackedFooterBytes);
  read_exactly(scratch.fd(), footer.data(), footer.size(), size - footer.size(), scratch.path());
  const uint64_t index = packed_index_offset(footer, size, scratch.path());
  PackedImage image;
  image.weights = AlignedBuffer(index);
  read_exactly(scratch.fd(), image.weights.data(), index, 0, scratch.path());
  image.index.resize(size - index);
  read_exactly(scratch.fd(), image.index.data(), image.index.size(), index, scratch.path());
  (void)parse_packed_index(image.index, scratch.path());  // throws if the format is unknown
  return image;
}

}  // namespace moe_mobile
