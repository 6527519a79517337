#pragma once
// A Hugging Face model directory as a whole: what it must hold, what it is, and the hash that names
// its content. Without torch and without reading the weights' bytes, but for the hash.

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "common/base/regular_file.h"
#include "common/format/model_config.h"

namespace anneal {

struct ModelFile {
  // Within the directory; never with a slash.
  std::string name;
  int64_t size_bytes = 0;
};

struct ModelDirectory {
  std::string path;
  ModelConfig config;
  int64_t parameters = 0;
  // The files that make up the model: config, weights, tokenizer. By name; whatever else lies in
  // the directory is no part of it.
  std::vector<ModelFile> files;
  int64_t size_bytes = 0;  // of these
  bool has_chat_template = false;
};

// Checks that the directory holds a whole model that we can train: a config of a known family, all
// weights in safetensors with the shapes that the config asks for, a tokenizer. NOT_FOUND if there
// is no directory, INVALID_ARGUMENT with what is missing or wrong and what to do. Files may be
// symbolic links, as in the cache of the Hugging Face hub; `open` says how far they may lead for
// what errors quote. Of the weights only shapes and names are looked at, wherever they lie: whoever
// must know what they are takes the hash, with `open` too.
absl::StatusOr<ModelDirectory> ReadModelDirectory(const std::string& path,
                                                  const FileOpener& open = OpenRegularFile);

// SHA-256 of files, remembered while size, time of change and inode stay the same. What changed
// less than two seconds ago is read again, since file systems keep times coarsely. Thread-safe: of
// those who ask for one file at the same time one reads it, and the others wait for that.
class FileHashCache {
 public:
  using Hasher = std::function<absl::StatusOr<std::string>(int fd, const std::string& path)>;

  explicit FileHashCache(Clock& clock);
  // With another way to read an open file: for tests.
  FileHashCache(Clock& clock, Hasher hasher) : clock_(clock), hasher_(std::move(hasher)) {}
  absl::StatusOr<std::string> Sha256Of(const std::string& path,
                                       const FileOpener& open = OpenRegularFile);

 private:
  // Device, inode, size, seconds and nanoseconds of the last change.
  using Identity = std::tuple<uint64_t, uint64_t, int64_t, int64_t, int64_t>;
  Clock& clock_;
  const Hasher hasher_;
  absl::Mutex mu_;
  // Being read.
  std::set<std::string> reading_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::pair<Identity, std::string>> hashes_ ABSL_GUARDED_BY(mu_);
};

// SHA-256 of each file of a model, by its name.
using ModelDigests = std::map<std::string, std::string>;

absl::StatusOr<ModelDigests> DigestModel(const ModelDirectory& model, FileHashCache& cache,
                                         const FileOpener& open = OpenRegularFile);

// The model's identity (docs/formats/model_hash.md): what `sha256sum` prints for its files in byte
// order of their names, hashed again. Reads every byte that `cache` does not know.
absl::StatusOr<std::string> ModelContentHash(const ModelDirectory& model, FileHashCache& cache,
                                             const FileOpener& open = OpenRegularFile);

// Whether the directory still is the model with that content hash; then the hashes of its files.
// FAILED_PRECONDITION with reason MODEL_CHANGED if it holds another one, or none. Reads every byte.
absl::StatusOr<ModelDigests> CheckModelUnchanged(const std::string& path,
                                                 absl::string_view content_hash);

// One of the model's files, which must still have the hash it had when it was looked at; an error
// as above if not. `digests` may be empty: then the file is what it is.
absl::StatusOr<std::string> ReadModelFile(const std::string& path, const std::string& name,
                                          const ModelDigests& digests);

}  // namespace anneal
