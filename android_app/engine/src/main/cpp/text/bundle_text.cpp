// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "text/bundle_text.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "text/moe_text.h"

namespace moe_mobile {
namespace {

constexpr char kTokenizer[] = "tokenizer.json";
constexpr const char* kFiles[] = {kTokenizer, "tokenizer_config.json", "special_tokens_map.json",
                                  "chat_template.jinja",
                                  "additional_chat_templates/tool_use.jinja"};
// As moe_mobile/base/limits.py has it.
constexpr uint64_t kMostBytes = 256u << 20;

MoeTextBytes text_bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// The result of a call. Throws what it answered, with the path of a file in `directory`.
std::string checked(MoeTextAnswer answer, const std::string& directory) {
  const std::unique_ptr<MoeTextAnswer, void (*)(MoeTextAnswer*)> freed(
      &answer, [](MoeTextAnswer* done) { moe_text_free(*done); });
  std::string whole(reinterpret_cast<const char*>(answer.data), answer.size);
  if (answer.kind == 0) return whole;
  std::array<std::string, 4> texts;  // file, setting, cause, remedy
  size_t begin = 0;
  for (std::string& text : texts) {
    text = whole.substr(std::min(begin, whole.size())).c_str();
    begin += text.size() + 1;
  }
  auto& [file, setting, cause, remedy] = texts;
  const ErrorCode code = answer.kind == 1   ? ErrorCode::kUsage
                         : answer.kind == 2 ? ErrorCode::kBundleInvalid
                                            : ErrorCode::kRuntime;
  if (!file.empty()) throw Error(code, directory + "/" + file, cause, remedy);
  if (!setting.empty()) throw Error(code, Setting{setting}, cause, remedy);
  throw Error(code, "", cause, remedy);
}

class Stream : public TextStream {
 public:
  Stream(MoeTextStream* stream, std::string directory)
      : stream_(stream, moe_text_stream_close), directory_(std::move(directory)) {}
  std::string step(uint32_t token) override {
    return checked(moe_text_step(stream_.get(), token), directory_);
  }
  std::string finish() override { return checked(moe_text_finish(stream_.get()), directory_); }

 private:
  std::unique_ptr<MoeTextStream, void (*)(MoeTextStream*)> stream_;
  std::string directory_;
};

class Text : public BundleText {
 public:
  Text(MoeText* text, std::string directory)
      : text_(text, moe_text_close), directory_(std::move(directory)) {}

  std::vector<uint32_t> encode(const std::string& request) const override {
    const std::string packed =
        checked(moe_text_encode(text_.get(), text_bytes(request)), directory_);
    std::vector<uint32_t> ids(packed.size() / sizeof(uint32_t));
    if (!ids.empty()) std::memcpy(ids.data(), packed.data(), packed.size());
    return ids;
  }

  std::string render(const std::string& request) const override {
    return checked(moe_text_render(text_.get(), text_bytes(request)), directory_);
  }

  std::string decode(Span<const uint32_t> ids) const override {
    return checked(moe_text_decode(text_.get(), ids.data(), ids.size()), directory_);
  }

  std::unique_ptr<TextStream> stream(Span<const uint32_t> prompt) const override {
    MoeTextStream* made = nullptr;
    checked(moe_text_stream(text_.get(), prompt.data(), prompt.size(), &made), directory_);
    return std::make_unique<Stream>(made, directory_);
  }

 private:
  std::unique_ptr<MoeText, void (*)(MoeText*)> text_;
  std::string directory_;
};

}  // namespace

std::string BundleText::missing(const Bundle& bundle) {
  const std::vector<FileRef>& files = bundle.manifest().files;
  const bool has = std::any_of(files.begin(), files.end(),
                               [](const FileRef& file) { return file.path == kTokenizer; });
  return has ? "" : "this bundle has no tokenizer";
}

std::unique_ptr<BundleText> BundleText::open(const Bundle& bundle) {
  if (const std::string cause = missing(bundle); !cause.empty())
    throw Error(ErrorCode::kUsage, bundle.directory() + "/" + kTokenizer, cause,
                "Send `token_ids`, or export again from a folder with tokenizer.json.");
  std::vector<AlignedBuffer> contents;
  std::vector<MoeTextFile> files;
  for (const FileRef& file : bundle.manifest().files) {
    const bool wanted = std::any_of(std::begin(kFiles), std::end(kFiles),
                                    [&](const char* name) { return file.path == name; });
    if (!wanted) continue;
    if (file.bytes > kMostBytes)
      throw Error(ErrorCode::kBundleInvalid, bundle.path(file), "is larger than 256 MiB",
                  "Export the bundle again from a complete checkpoint.");
    contents.push_back(bundle.read_verified(file));
    files.push_back({text_bytes(file.path), {contents.back().data(), contents.back().size()}});
  }
  const Manifest& manifest = bundle.manifest();
  MoeText* made = nullptr;
  checked(moe_text_open(files.data(), files.size(), manifest.vocab_size, manifest.context_length,
                        &made),
          bundle.directory());
  return std::make_unique<Text>(made, bundle.directory());
}

}  // namespace moe_mobile
