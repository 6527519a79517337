#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/storage/file_system.h"

namespace anneal {
namespace {

absl::Status ErrnoStatus(absl::string_view what, absl::string_view path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", what, " ", path));
}

std::string ParentOf(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Closes on destruction.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

absl::StatusOr<Descriptor> Open(const std::string& path, int flags) {
  int fd;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return ErrnoStatus("open", path);
  return Descriptor(fd);
}

absl::Status SyncFolder(const std::string& path) {
  ANNEAL_ASSIGN_OR_RETURN(Descriptor folder, Open(path, O_RDONLY | O_DIRECTORY));
  // Some network file systems cannot sync folders (EINVAL) and need not.
  if (::fsync(folder.get()) != 0 && errno != EINVAL) return ErrnoStatus("sync folder", path);
  return absl::OkStatus();
}

class PosixWritableFile : public WritableFile {
 public:
  PosixWritableFile(Descriptor file, std::string path)
      : file_(std::move(file)), path_(std::move(path)) {}

  absl::Status Append(absl::string_view bytes) override {
    while (!bytes.empty()) {
      const ssize_t n = ::write(file_.get(), bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus("write", path_);
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    return ::fsync(file_.get()) == 0 ? absl::OkStatus() : ErrnoStatus("sync", path_);
  }

 private:
  const Descriptor file_;
  const std::string path_;
};

class PosixReadableFile : public ReadableFile {
 public:
  PosixReadableFile(Descriptor file, std::string path)
      : file_(std::move(file)), path_(std::move(path)) {}

  absl::StatusOr<std::string> ReadAt(int64_t offset, int64_t bytes) override {
    std::string out(static_cast<size_t>(bytes), '\0');
    size_t have = 0;
    while (have < out.size()) {
      const ssize_t n = ::pread(file_.get(), out.data() + have, out.size() - have,
                                offset + static_cast<int64_t>(have));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus("read", path_);
      if (n == 0) break;
      have += static_cast<size_t>(n);
    }
    out.resize(have);
    return out;
  }

 private:
  const Descriptor file_;
  const std::string path_;
};

// Lets the kernel copy, in the file system itself where it can.
absl::Status CopyBytes(int from, const Descriptor& to, const std::string& path) {
  if (::ioctl(to.get(), FICLONE, from) == 0) return absl::OkStatus();
  constexpr size_t kStep = 64 << 20;
  while (true) {
    const ssize_t n = ::copy_file_range(from, nullptr, to.get(), nullptr, kStep, 0);
    if (n == 0) return absl::OkStatus();
    if (n < 0 && errno != EINTR) break;
  }
  // Old kernels and some file systems cannot do either (EXDEV, EINVAL, ENOSYS, EOPNOTSUPP); the
  // offsets stand where it stopped.
  std::string buffer(1 << 20, '\0');
  while (true) {
    const ssize_t n = ::read(from, buffer.data(), buffer.size());
    if (n == 0) return absl::OkStatus();
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus("read for copying to", path);
    for (ssize_t done = 0; done < n;) {
      const ssize_t written =
          ::write(to.get(), buffer.data() + done, static_cast<size_t>(n - done));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return ErrnoStatus("write", path);
      done += written;
    }
  }
}

class PosixFileSystem : public FileSystem {
 public:
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path,
                                                              int64_t keep_bytes) override {
    ANNEAL_ASSIGN_OR_RETURN(Descriptor file, Open(path, O_WRONLY | O_CREAT | O_NOFOLLOW));
    if (::ftruncate(file.get(), keep_bytes) != 0) return ErrnoStatus("truncate", path);
    if (::lseek(file.get(), keep_bytes, SEEK_SET) < 0) return ErrnoStatus("seek in", path);
    return std::make_unique<PosixWritableFile>(std::move(file), path);
  }

  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override {
    ANNEAL_ASSIGN_OR_RETURN(Descriptor file, Open(path, O_RDONLY));
    return std::make_unique<PosixReadableFile>(std::move(file), path);
  }

  absl::StatusOr<FileInfo> Stat(const std::string& path) override {
    struct stat info = {};
    if (::lstat(path.c_str(), &info) != 0) return ErrnoStatus("look at", path);
    FileInfo out;
    if (S_ISREG(info.st_mode)) out.kind = FileInfo::Kind::kFile;
    if (S_ISDIR(info.st_mode)) out.kind = FileInfo::Kind::kFolder;
    out.size_bytes = info.st_size;
    return out;
  }

  absl::StatusOr<std::vector<std::string>> List(const std::string& folder) override {
    std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(folder.c_str()), &::closedir);
    if (dir == nullptr) return ErrnoStatus("list", folder);
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = ::readdir(dir.get())) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
    }
    if (errno != 0) return ErrnoStatus("list", folder);
    std::sort(names.begin(), names.end());
    return names;
  }

  absl::Status MakeFolders(const std::string& folder) override {
    if (::mkdir(folder.c_str(), 0777) == 0) return SyncFolder(ParentOf(folder));
    if (errno == ENOENT) {
      ANNEAL_RETURN_IF_ERROR(MakeFolders(ParentOf(folder)));
      // Once: where nothing can be made (/proc) it says the same although the parent is there.
      if (::mkdir(folder.c_str(), 0777) == 0) return SyncFolder(ParentOf(folder));
    }
    struct stat info = {};
    if (errno == EEXIST && ::stat(folder.c_str(), &info) == 0 && S_ISDIR(info.st_mode))
      return absl::OkStatus();
    return ErrnoStatus("make folder", folder);
  }

  absl::Status Rename(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) {
      // A folder that is there: Linux says "not empty", POSIX allows both.
      if (errno == ENOTEMPTY) errno = EEXIST;
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot rename ", from, " to ", to));
    }
    ANNEAL_RETURN_IF_ERROR(SyncFolder(ParentOf(to)));
    return ParentOf(from) == ParentOf(to) ? absl::OkStatus() : SyncFolder(ParentOf(from));
  }

  absl::Status RemoveTree(const std::string& path) override {
    std::error_code error;
    std::filesystem::remove_all(path, error);
    return error ? absl::ErrnoToStatus(error.value(), absl::StrCat("cannot remove ", path))
                 : absl::OkStatus();
  }

  absl::Status CopyFile(const std::string& from, const std::string& to) override {
    ANNEAL_ASSIGN_OR_RETURN(Descriptor source, Open(from, O_RDONLY));
    return CopyOpenFile(source.get(), to);
  }

  absl::Status CopyOpenFile(int from, const std::string& to) override {
    if (::lseek(from, 0, SEEK_SET) < 0) return ErrnoStatus("rewind what is copied to", to);
    ANNEAL_ASSIGN_OR_RETURN(Descriptor target, Open(to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW));
    ANNEAL_RETURN_IF_ERROR(CopyBytes(from, target, to));
    return ::fsync(target.get()) == 0 ? absl::OkStatus() : ErrnoStatus("sync", to);
  }

  absl::StatusOr<int64_t> FreeBytes(const std::string& path) override {
    struct statvfs info = {};
    if (::statvfs(path.c_str(), &info) != 0) return ErrnoStatus("measure the disk of", path);
    return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
  }
};

}  // namespace

FileSystem& FileSystem::Posix() {
  static PosixFileSystem& files = *new PosixFileSystem;
  return files;
}

absl::StatusOr<std::string> ReadSmallFile(FileSystem& files, const std::string& path,
                                          int64_t max_bytes) {
  ANNEAL_ASSIGN_OR_RETURN(auto file, files.OpenForRead(path));
  ANNEAL_ASSIGN_OR_RETURN(std::string bytes, file->ReadAt(0, max_bytes + 1));
  if (static_cast<int64_t>(bytes.size()) > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is over ", max_bytes, " bytes"));
  }
  return bytes;
}

}  // namespace anneal
