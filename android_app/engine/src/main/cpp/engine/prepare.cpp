// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/prepare.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <set>
#include <utility>

#include "base/cpu.h"
#include "base/error.h"
#include "base/file_lock.h"
#include "base/heap.h"
#include "base/make_in_order.h"
#include "cache/memory_plan.h"
#include "engine/packed_store.h"
#include "engine/probe.h"
#include "executorch/backend.h"
#include "executorch/program.h"
#include "executorch/signature.h"

namespace moe_mobile {
namespace {

constexpr char kLockName[] = "lock";
constexpr char kScratchName[] = "scratch.bin";
constexpr std::chrono::milliseconds kLockPatience = std::chrono::hours(1);

// Only one process prepares a store; others wait for it and then find the work done.
UniqueFd lock_directory(const std::string& directory, const Progress& progress) {
  const std::string path = directory + "/" + kLockName;
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd.valid()) throw_errno(path, "create the file");
  const auto seconds = [](auto time) { return uint64_t(time / std::chrono::seconds(1)); };
  const auto waiting = [&](auto waited) {
    progress("wait", seconds(waited), seconds(kLockPatience));
  };
  if (!lock_file(fd.get(), path, kLockPatience, waiting))
    throw Error(ErrorCode::kIo, path,
                "another process has been preparing this bundle for a long time",
                "Check whether it makes progress. If it does not, end it and try again.");
  return fd;
}

enum class Depth { kIndex, kBlobs };

bool intact(const std::string& path, const std::vector<ExpectedBlob>& blobs,
            Depth depth = Depth::kIndex) {
  if (access(path.c_str(), F_OK) != 0) return false;
  try {
    const PackedFile file = open_packed(path, blobs, /*allow_direct=*/false);
    if (depth == Depth::kBlobs)
      for (size_t blob = 0; blob < blobs.size(); ++blob) file.read(blob);
    return true;
  } catch (const Error&) {
    return false;
  }
}

// A folder that the user named may hold the only copy of another bundle's weights.
void require_own(const std::string& path, const std::vector<ExpectedBlob>& blobs) {
  if (blobs.empty() || access(path.c_str(), F_OK) != 0) return;
  std::vector<PackedEntry> entries;
  try {
    entries = PackedFile::open(path, kAnyPackedKey, /*allow_direct=*/false).entries();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kBundleCorrupt) throw;
    return;  // damaged: replaced
  }
  bool own = entries.size() == blobs.size();
  for (size_t i = 0; own && i < blobs.size(); ++i) own = entries[i].source == blobs[i].source;
  if (!own)
    throw Error(ErrorCode::kUsage, path, "it holds packed weights of another bundle",
                kOtherPackedDir);
}

void require_space(const std::string& directory, uint64_t bytes, bool consume) {
  const uint64_t free_bytes = free_space(directory);
  if (free_bytes >= bytes) return;
  throw Error(
      ErrorCode::kDiskFull, directory,
      "the packed store needs about " + format_bytes(bytes, Rounding::kUp) + " more, and " +
          format_bytes(free_bytes, Rounding::kDown) + " are free",
      consume
          ? "Free some space, or choose another `packed_dir`."
          : "Free some space, choose another `packed_dir`, or prepare the bundle with `consume`.");
}

// The shards whose experts are in the store, if `experts` are wanted there.
std::vector<ShardKey> packed_shards(const Manifest& manifest, bool experts) {
  return experts && packs_experts(manifest) ? manifest.shards() : std::vector<ShardKey>();
}

uint64_t packed_experts_of(const Manifest& manifest, const PrepareOptions& options) {
  return packed_shards(manifest, options.experts).size() * manifest.moe.num_experts;
}

// An estimate of the size of methods.packed.
uint64_t packed_dense_bytes(const Manifest& manifest) {
  uint64_t bytes = 0;
  for (const DenseEntry& entry : dense_entries(manifest))
    if (entry.blob) bytes += entry.program->bytes;
  return bytes;
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
        progress_(progress),
        methods_finished_(intact(methods_file(directory_), method_blobs(manifest_))) {
    total_ = packed_experts_of(manifest_, options_);
    for (const auto& [layer, variant] : packed_shards(manifest_, options_.experts))
      if (intact(layer_file(manifest_, directory_, layer, variant),
                 layer_blobs(manifest_, layer, variant))) {
        finished_.insert({layer, variant});
        done_ += manifest_.moe.num_experts;
      }
  }

  // An estimate of what run() will write.
  uint64_t missing_bytes() const {
    uint64_t bytes = 0;
    for (const auto& [layer, variant] : packed_shards(manifest_, options_.experts)) {
      if (finished_.count({layer, variant}) != 0) continue;
      const uint64_t shard = manifest_.experts(layer, variant).shard.bytes;
      // With `consume` a shard is deleted before the next one is packed.
      bytes = options_.consume ? std::max(bytes, shard) : bytes + shard;
    }
    return bytes + (methods_finished_ ? 0 : packed_dense_bytes(manifest_));
  }

  void run(PrepareResult* result) {
    pack_methods();
    // Experts of layers that an earlier run packed count before the first report, so that a rate is
    // one of this run's work.
    progress_("prepare", done_, total_);
    for (const auto& [layer, variant] : packed_shards(manifest_, options_.experts))
      pack_layer(layer, variant);
    result->bytes_written = bytes_written_;
    result->already_prepared = bytes_written_ == 0;
    result->experts = packed_experts_of(manifest_, options_);
    result->shards_deleted = shards_deleted_;
    result->bytes_deleted = bytes_deleted_;
  }

 private:
  uint64_t num_dense_methods() const {
    uint64_t count = 0;
    for (const DenseEntry& entry : dense_entries(manifest_))
      if (entry.blob) count += entry.methods.size();
    return count;
  }

  // As many as there are cores, while what they hold at once stays small: for each a program, and
  // three times its packed weights (in XNNPACK's file, as an image, waiting to be written).
  unsigned workers_of(uint32_t variant) const {
    constexpr uint64_t kMostBytes = 512 << 20;
    const uint64_t each = 4 * manifest_.expert_bytes(variant);
    return static_cast<unsigned>(std::clamp<uint64_t>(kMostBytes / each, 1, available_cores()));
  }

  // On a worker's thread.
  AlignedBuffer pack_expert_of(const ExpertKey& key, unsigned worker) const {
    const AlignedBuffer bytes = bundle_.read_program(key);
    const LoadedProgram program(bytes.data(), bytes.size(), expert_name(key));
    require_expert(program, manifest_, key.layer, key.variant);
    PlannedArena arena;
    PackedImage image = packed_experts(manifest_).pack(
        program, "forward", &arena, scratch_ + std::to_string(worker), [](Method*) {});
    if (!packed_experts(manifest_).same_layout(template_indexes_[key.variant], image.index,
                                               program.name()))
      throw Error(
          ErrorCode::kUnsupported, program.name(),
          "its packed weights are laid out unlike those of the other experts (two equal weight "
          "matrices in one expert cause this)",
          "Set `residency` to programs for this bundle.");
    return std::move(image.weights);
  }

  // Finds the templates' indexes too: in the finished file if there is one, else by packing them.
  void pack_methods() {
    const std::string path = methods_file(directory_);
    const auto blobs = method_blobs(manifest_);
    if (blobs.empty()) return;
    const uint32_t templates =
        packs_experts(manifest_) ? static_cast<uint32_t>(manifest_.precisions.size()) : 0;
    template_indexes_.resize(templates);
    if (methods_finished_) {
      const PackedFile file = open_packed(path, blobs, false);
      for (uint32_t variant = 0; variant < templates; ++variant) {
        const AlignedBuffer index = file.read(template_index(variant));
        template_indexes_[variant].assign(index.data(), index.data() + index.size());
      }
      return;
    }
    for (uint32_t variant = 0; variant < templates; ++variant)
      require_source(template_layer(manifest_), variant, path, blobs);
    PackedFileWriter writer(path, packed_store_key());
    for (uint32_t variant = 0; variant < templates; ++variant)
      append_template(&writer, variant, blobs);
    for (const DenseEntry& entry : dense_entries(manifest_)) {
      if (!entry.blob) continue;
      const AlignedBuffer bytes = bundle_.read_verified(*entry.program);
      const LoadedProgram program(bytes.data(), bytes.size(), bundle_.path(*entry.program));
      require_methods(program, entry);
      for (const DenseMethod& method : entry.methods)
        append_method(&writer, program, method, *entry.program);
    }
    append(&writer, probes_.data(), probes_.size() * sizeof(Sha256Digest), blobs.back());
    writer.commit();
  }

  // If the shard is gone, a damaged file cannot be replaced. Then the file's own error says more
  // than the missing shard's.
  void require_source(uint32_t layer, uint32_t variant, const std::string& path,
                      const std::vector<ExpectedBlob>& blobs) const {
    if (!bundle_.has_shard(layer, variant) && access(path.c_str(), F_OK) == 0)
      open_packed(path, blobs, /*allow_direct=*/false);
  }

  void append_template(PackedFileWriter* writer, uint32_t variant,
                       const std::vector<ExpectedBlob>& blobs) {
    const ExpertKey key{template_layer(manifest_), 0, variant};
    const AlignedBuffer bytes = bundle_.read_program(key);
    const LoadedProgram program(bytes.data(), bytes.size(), expert_name(key));
    require_expert(program, manifest_, key.layer, key.variant);
    std::vector<uint8_t>& index = template_indexes_[variant];
    const uint32_t hidden = manifest_.hidden_size;
    index = packed_experts(manifest_)
                .pack(program, "forward", &arena_, scratch_,
                      [&](Method* method) {
                        probes_.push_back(digest_of(probe(method, {{hidden}, {hidden}, 1})));
                      })
                .index;
    append(writer, index.data(), index.size(), blobs[template_index(variant)]);
    append(writer, bytes.data(), bytes.size(), blobs[template_program(variant)]);
  }

  void append_method(PackedFileWriter* writer, const LoadedProgram& program,
                     const DenseMethod& method, const DenseProgram& dense) {
    const PackedImage image =
        backend_of(dense.delegate)
            .packed_weights()
            ->pack(program, method.name, &arena_, scratch_, [&](Method* loaded) {
              probes_.push_back(digest_of(probe(loaded, method.signature)));
            });
    append(writer, image.weights.data(), image.weights.size(), {dense.sha256});
    append(writer, image.index.data(), image.index.size(), {dense.sha256, /*sealed=*/true});
    progress_("prepare dense", ++methods_done_, num_dense_methods());
  }

  void pack_layer(uint32_t layer, uint32_t variant) {
    const LayerExperts& experts = manifest_.experts(layer, variant);
    const std::string path = layer_file(manifest_, directory_, layer, variant);
    const auto blobs = layer_blobs(manifest_, layer, variant);
    if (finished_.count({layer, variant}) != 0) {
      // A shard may be deleted only if its packed file can be read.
      const bool goes = options_.consume && bundle_.has_shard(layer, variant);
      if (!goes || intact(path, blobs, Depth::kBlobs)) return consume(experts);
      done_ -= experts.programs.size();
    }
    require_source(layer, variant, path, blobs);
    PackedFileWriter writer(path, packed_store_key());
    MakeInOrder<AlignedBuffer>::run(
        experts.programs.size(), workers_of(variant),
        [&](unsigned worker, size_t expert) {
          return pack_expert_of({layer, static_cast<uint32_t>(expert), variant}, worker);
        },
        [&](size_t expert, AlignedBuffer weights) {
          append(&writer, weights.data(), weights.size(), blobs[expert]);
          progress_("prepare", ++done_, total_);
        });
    writer.commit();
    consume(experts);
  }

  void append(PackedFileWriter* writer, const void* data, size_t bytes, const ExpectedBlob& blob) {
    writer->append(data, bytes, blob.source, blob.sealed);
    bytes_written_ += align_up(bytes, kBlobAlignment);
  }

  void consume(const LayerExperts& experts) {
    if (!options_.consume) return;
    const std::string shard = bundle_.path(experts.shard);
    if (unlink(shard.c_str()) == 0) {
      ++shards_deleted_;
      bytes_deleted_ += experts.shard.bytes;
    } else if (errno != ENOENT) {
      throw_errno(shard, "remove the file");
    }
    sync_directory(shard.substr(0, shard.rfind('/')));
  }

  std::string expert_name(const ExpertKey& key) const {
    return "expert " + std::to_string(key.expert) + " of layer " + std::to_string(key.layer) +
           (key.variant == 0 ? "" : " in " + manifest_.precisions[key.variant].quantization);
  }

  const Bundle& bundle_;
  const Manifest& manifest_;
  const PrepareOptions& options_;
  std::string directory_;
  std::string scratch_;
  const Progress& progress_;
  // What an earlier run wrote.
  const bool methods_finished_;
  std::set<std::pair<uint32_t, uint32_t>> finished_;  // layer and variant
  PlannedArena arena_;
  std::vector<std::vector<uint8_t>> template_indexes_;  // by variant
  std::vector<Sha256Digest> probes_;                    // of templates and methods, in their order
  uint64_t methods_done_ = 0;
  uint64_t done_ = 0;
  uint64_t total_ = 0;
  uint64_t bytes_written_ = 0;
  uint64_t shards_deleted_ = 0;
  uint64_t bytes_deleted_ = 0;
};

}  // namespace

bool is_prepared(const Bundle& bundle, const std::string& directory, bool experts) {
  const Manifest& manifest = bundle.manifest();
  const auto ready = [](const std::string& path, const std::vector<ExpectedBlob>& blobs) {
    return blobs.empty() || intact(path, blobs);
  };
  bool all = ready(methods_file(directory), method_blobs(manifest));
  for (const auto& [layer, variant] : packed_shards(manifest, experts))
    all = all && ready(layer_file(manifest, directory, layer, variant),
                       layer_blobs(manifest, layer, variant));
  return all;
}

PrepareResult prepare(const Bundle& bundle, const PrepareOptions& options,
                      const Progress& progress) {
  const Manifest& manifest = bundle.manifest();
  PrepareResult result;
  result.directory = packed_directory(bundle, options.packed_dir);
  if (options.consume && !packs_experts(manifest))
    throw Error(ErrorCode::kUnsupported, bundle.directory(),
                "its experts have no packed weights, so the engine needs the shards",
                "Leave out `consume`.");
  if (!options.consume && is_prepared(bundle, result.directory, options.experts)) {
    result.already_prepared = true;
    result.experts = packed_experts_of(manifest, options);
    return result;
  }
  if (result.directory != own_packed_directory(bundle)) {
    require_own(methods_file(result.directory), method_blobs(manifest));
    for (const auto& [layer, variant] : packed_shards(manifest, true))
      require_own(layer_file(manifest, result.directory, layer, variant),
                  layer_blobs(manifest, layer, variant));
  }
  keep_large_blocks_out_of_heap();  // the workers' heaps would stay
  make_directories(result.directory);
  const UniqueFd lock = lock_directory(result.directory, progress);
  Preparation preparation(bundle, options, result.directory, progress);
  require_space(result.directory, preparation.missing_bytes(), options.consume);
  preparation.run(&result);
  return result;
}

}  // namespace moe_mobile
