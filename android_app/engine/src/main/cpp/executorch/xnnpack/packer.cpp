// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "executorch/xnnpack/packer.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "executorch/xnnpack/packed_layout.h"
#include "executorch/xnnpack/xnnpack_backend.h"

namespace moe_mobile {
namespace {

class RemovedAtEnd {
 public:
  explicit RemovedAtEnd(const std::string& path) : path_(path) { unlink(path.c_str()); }
  ~RemovedAtEnd() { unlink(path_.c_str()); }

 private:
  const std::string& path_;
};

// XNNPACK writes through a mapping of a sparse file: if the disk filled up meanwhile, SIGBUS would
// kill the process. So reserve the space first. Packing adds row sums and padding to the weights.
void require_space(const std::string& path, uint64_t program_bytes) {
  constexpr uint64_t kPadding = 1 << 20;
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) throw_errno(path, "create the file");
  struct statvfs space{};
  if (fstatvfs(fd.get(), &space) != 0) throw_errno(path, "read the free space");
  const uint64_t free_bytes = static_cast<uint64_t>(space.f_bavail) * space.f_frsize;
  if (free_bytes < 2 * program_bytes + kPadding)
    throw Error(
        ErrorCode::kDiskFull, path,
        "packing one program needs " + std::to_string(2 * program_bytes + kPadding) +
            " bytes for a short time, but only " + std::to_string(free_bytes) + " are free",
        "Free some space, or choose another `packed_dir`; prepare continues where it stopped.");
}

}  // namespace

PackedImage pack_method(const LoadedProgram& program, const char* method, PlannedArena* arena,
                        const std::string& scratch_path) {
  RemovedAtEnd scratch(scratch_path);
  require_space(scratch_path, program.size());
  load_with_xnnpack(program, method, arena, scratch_path).reset();
  UniqueFd fd = open_read(scratch_path);
  const uint64_t size = file_size(fd.get(), scratch_path);
  if (size < kPackedFooterBytes)
    throw Error(ErrorCode::kRuntime, program.name(),
                "XNNPACK did not write the packed weights to " + scratch_path,
                "Check the free space and that the folder is writable.");
  std::vector<uint8_t> footer(kPackedFooterBytes);
  read_exactly(fd.get(), footer.data(), footer.size(), size - footer.size(), scratch_path);
  const uint64_t index = packed_index_offset(footer, size, scratch_path);
  PackedImage image;
  image.weights = AlignedBuffer(index);
  read_exactly(fd.get(), image.weights.data(), index, 0, scratch_path);
  image.index.resize(size - index);
  read_exactly(fd.get(), image.index.data(), image.index.size(), index, scratch_path);
  (void)parse_packed_index(image.index, scratch_path);  // throws if the format is unknown
  return image;
}

}  // namespace moe_mobile
