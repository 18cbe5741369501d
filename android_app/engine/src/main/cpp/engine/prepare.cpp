// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/prepare.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "cache/memory_plan.h"
#include "engine/packed_store.h"
#include "engine/store_key.h"
#include "executorch/packer.h"
#include "executorch/program.h"

namespace moe_mobile {
namespace {

constexpr char kLockName[] = "lock";
constexpr char kScratchName[] = "scratch.bin";
constexpr std::chrono::milliseconds kLockPoll{200};
constexpr std::chrono::milliseconds kLockPatience = std::chrono::hours(1);

void make_directories(const std::string& path) {
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string part = path.substr(0, slash);
    if (mkdir(part.c_str(), 0755) != 0 && errno != EEXIST && errno != EISDIR) {
      struct stat status{};
      const int error = errno;
      if (stat(part.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
        errno = error;
        throw_errno(part, "create the folder");
      }
    }
    if (slash == std::string::npos) return;
  }
}

// Only one process prepares a store; others wait for it, and find the work done. The kernel drops
// the lock with the process, however it ends.
UniqueFd lock_directory(const std::string& directory, const Progress& progress) {
  const std::string path = directory + "/" + kLockName;
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd.valid()) throw_errno(path, "create the file");
  for (std::chrono::milliseconds waited{0};; waited += kLockPoll) {
    if (flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
    if (errno != EWOULDBLOCK) throw_errno(path, "lock");
    if (waited >= kLockPatience)
      throw Error(ErrorCode::kIo, path, "another process has been preparing this bundle for long",
                  "See whether it makes progress; end it if not, and try again.");
    const auto seconds = [](auto time) { return uint64_t(time / std::chrono::seconds(1)); };
    progress("wait", seconds(waited), seconds(kLockPatience));
    std::this_thread::sleep_for(kLockPoll);
  }
}

enum class Depth { kIndex, kBlobs };

bool intact(const std::string& path, const std::vector<Sha256Digest>& sources,
            Depth depth = Depth::kIndex) {
  if (access(path.c_str(), F_OK) != 0) return false;
  try {
    const PackedFile file = open_packed(path, sources, /*allow_direct=*/false);
    if (depth == Depth::kBlobs)
      for (size_t blob = 0; blob < sources.size(); ++blob) file.read(blob);
    return true;
  } catch (const Error&) {
    return false;
  }
}

// A folder that the user named may hold the only copy of another bundle's weights.
void require_own(const std::string& path, const std::vector<Sha256Digest>& sources) {
  if (access(path.c_str(), F_OK) != 0) return;
  std::vector<PackedEntry> entries;
  try {
    entries = PackedFile::open(path, kAnyPackedKey, /*allow_direct=*/false).entries();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kBundleCorrupt) throw;
    return;  // damaged: made anew
  }
  bool own = entries.size() == sources.size();
  for (size_t i = 0; own && i < sources.size(); ++i) own = entries[i].source == sources[i];
  if (!own)
    throw Error(ErrorCode::kUsage, path, "it holds packed weights of another bundle",
                kOtherPackedDir);
}

void require_space(const std::string& directory, uint64_t bytes) {
  struct statvfs space{};
  if (statvfs(directory.c_str(), &space) != 0) throw_errno(directory, "read the free space");
  const uint64_t free_bytes = static_cast<uint64_t>(space.f_bavail) * space.f_frsize;
  if (free_bytes < bytes)
    throw Error(ErrorCode::kDiskFull, directory,
                "the packed store needs about " + format_bytes(bytes) + " more, and " +
                    format_bytes(free_bytes) + " are free",
                "Free some space, choose another `packed_dir`, or set `consume`.");
}

class Preparation {
 public:
  Preparation(const Bundle& bundle, const PrepareOptions& options, std::string directory,
              const Progress& progress)
      : bundle_(bundle),
        manifest_(bundle.manifest()),
        options_(options),
        directory_(std::move(directory)),
        scratch_(directory_ + "/" + kScratchName),
        progress_(progress) {
    total_ = 2 * uint64_t{manifest_.num_layers} + 1 + experts();
  }

  void run(PrepareResult* result) {
    pack_methods();
    for (uint32_t layer = 0; layer < manifest_.num_layers && options_.experts; ++layer)
      if (manifest_.layers[layer].experts) pack_layer(layer);
    result->bytes_written = bytes_written_;
    result->already_prepared = bytes_written_ == 0;
    result->experts = experts();
  }

 private:
  uint64_t experts() const {
    return options_.experts ? uint64_t{manifest_.num_moe_layers()} * manifest_.moe.num_experts : 0;
  }

  void advance(uint64_t steps) {
    done_ += steps;
    progress_("prepare", done_, total_);
  }

  PackedImage pack(const LoadedProgram& program, const char* method) {
    return pack_method(program, method, &arena_, scratch_);
  }

  // The template's layout: from the finished file if there is one, else by packing it.
  void pack_methods() {
    const std::string path = methods_file(directory_);
    const auto sources = method_sources(manifest_);
    if (intact(path, sources)) {
      const AlignedBuffer tail = open_packed(path, sources, false).read(kTemplateTail);
      template_ = parse_packed_tail({tail.data(), tail.size()}, path);
      return advance(2 * uint64_t{manifest_.num_layers} + 1);
    }
    const uint32_t first = template_layer(manifest_);
    require_source(first, path, sources);
    PackedFileWriter writer(path, packed_store_key());
    append_template(&writer, first, sources[kTemplateTail]);
    for (uint32_t layer = 0; layer < manifest_.num_layers; ++layer) {
      const FileRef& dense = manifest_.layers[layer].dense;
      const AlignedBuffer bytes = bundle_.read_verified(dense);
      const LoadedProgram program(bytes.data(), bytes.size(), bundle_.path(dense));
      append_method(&writer, program, "qkv", dense.sha256);
      append_method(&writer, program, "mix", dense.sha256);
    }
    const AlignedBuffer bytes = bundle_.read_verified(manifest_.head);
    const LoadedProgram head(bytes.data(), bytes.size(), bundle_.path(manifest_.head));
    append_method(&writer, head, "forward", manifest_.head.sha256);
    writer.commit();
  }

  // Where the shard is gone, a damaged file cannot be made anew: its own error says more than that
  // of the shard.
  void require_source(uint32_t layer, const std::string& path,
                      const std::vector<Sha256Digest>& sources) const {
    if (!bundle_.has_shard(layer) && access(path.c_str(), F_OK) == 0)
      open_packed(path, sources, /*allow_direct=*/false);
  }

  void append_template(PackedFileWriter* writer, uint32_t layer, const Sha256Digest& source) {
    const AlignedBuffer bytes = bundle_.read_program(layer, 0);
    const LoadedProgram program(bytes.data(), bytes.size(), expert_name(layer, 0));
    const PackedImage image = pack(program, "forward");
    template_ = image.layout;
    append(writer, image.tail.data(), image.tail.size(), source);
    append(writer, bytes.data(), bytes.size(), source);
  }

  void append_method(PackedFileWriter* writer, const LoadedProgram& program, const char* method,
                     const Sha256Digest& source) {
    const PackedImage image = pack(program, method);
    append(writer, image.weights.data(), image.weights.size(), source);
    append(writer, image.tail.data(), image.tail.size(), source);
    advance(1);
  }

  void pack_layer(uint32_t layer) {
    const LayerExperts& experts = *manifest_.layers[layer].experts;
    const std::string path = layer_file(directory_, layer);
    const auto sources = layer_sources(manifest_, layer);
    // A shard may go only if what stands for it can be read.
    const bool goes = options_.consume && bundle_.has_shard(layer);
    if (intact(path, sources, goes ? Depth::kBlobs : Depth::kIndex)) {
      advance(experts.programs.size());
      return consume(experts);
    }
    require_source(layer, path, sources);
    PackedFileWriter writer(path, packed_store_key());
    for (uint32_t expert = 0; expert < experts.programs.size(); ++expert) {
      const AlignedBuffer bytes = bundle_.read_program(layer, expert);
      const LoadedProgram program(bytes.data(), bytes.size(), expert_name(layer, expert));
      const PackedImage image = pack(program, "forward");
      if (!template_.fits(image.layout))
        throw Error(
            ErrorCode::kUnsupported, program.name(),
            "its packed weights are laid out unlike those of the other experts (two equal weight "
            "matrices in one expert cause this)",
            "Set `residency` to programs for this bundle.");
      append(&writer, image.weights.data(), image.weights.size(), sources[expert]);
      advance(1);
    }
    writer.commit();
    consume(experts);
  }

  void append(PackedFileWriter* writer, const void* data, size_t bytes,
              const Sha256Digest& source) {
    writer->append(data, bytes, source);
    bytes_written_ += align_up(bytes, kBlobAlignment);
  }

  void consume(const LayerExperts& experts) {
    if (!options_.consume) return;
    const std::string shard = bundle_.path(experts.shard);
    if (unlink(shard.c_str()) != 0 && errno != ENOENT) throw_errno(shard, "remove the file");
    sync_directory(shard.substr(0, shard.rfind('/')));
  }

  static std::string expert_name(uint32_t layer, uint32_t expert) {
    return "expert " + std::to_string(expert) + " of layer " + std::to_string(layer);
  }

  const Bundle& bundle_;
  const Manifest& manifest_;
  const PrepareOptions& options_;
  std::string directory_;
  std::string scratch_;
  const Progress& progress_;
  PlannedArena arena_;
  PackedLayout template_;
  uint64_t done_ = 0;
  uint64_t total_ = 0;
  uint64_t bytes_written_ = 0;
};

}  // namespace

bool is_prepared(const Bundle& bundle, const std::string& directory, bool experts) {
  const Manifest& manifest = bundle.manifest();
  if (!intact(methods_file(directory), method_sources(manifest))) return false;
  for (uint32_t layer = 0; layer < manifest.num_layers && experts; ++layer)
    if (manifest.layers[layer].experts &&
        !intact(layer_file(directory, layer), layer_sources(manifest, layer)))
      return false;
  return true;
}

PrepareResult prepare(const Bundle& bundle, const PrepareOptions& options,
                      const Progress& progress) {
  const Manifest& manifest = bundle.manifest();
  PrepareResult result;
  result.directory = packed_directory(bundle, options.packed_dir);
  if (!options.consume && is_prepared(bundle, result.directory, options.experts)) {
    result.already_prepared = true;
    if (options.experts)
      result.experts = uint64_t{manifest.num_moe_layers()} * manifest.moe.num_experts;
    return result;
  }
  if (result.directory != packed_directory(bundle, "")) {
    require_own(methods_file(result.directory), method_sources(manifest));
    for (uint32_t layer = 0; layer < manifest.num_layers; ++layer)
      if (manifest.layers[layer].experts)
        require_own(layer_file(result.directory, layer), layer_sources(manifest, layer));
  }
  make_directories(result.directory);
  const UniqueFd lock = lock_directory(result.directory, progress);
  uint64_t missing_bytes = 0;
  for (uint32_t layer = 0; layer < manifest.num_layers && options.experts; ++layer) {
    if (!manifest.layers[layer].experts) continue;
    const std::string path = layer_file(result.directory, layer);
    if (access(path.c_str(), F_OK) == 0) continue;
    const uint64_t shard = manifest.layers[layer].experts->shard.bytes;
    // With --consume a layer's shard goes before the next one is packed.
    missing_bytes = options.consume ? std::max(missing_bytes, shard) : missing_bytes + shard;
  }
  if (access(methods_file(result.directory).c_str(), F_OK) != 0)
    missing_bytes += manifest.memory.dense_bytes;
  require_space(result.directory, missing_bytes);
  Preparation(bundle, options, result.directory, progress).run(&result);
  return result;
}

}  // namespace moe_mobile
