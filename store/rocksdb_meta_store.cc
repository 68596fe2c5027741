#include "store/rocksdb_meta_store.h"

#include <fcntl.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/options.h>
#include <rocksdb/slice.h>
#include <rocksdb/write_batch.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace vlm::store {
namespace {

constexpr uint64_t kLogBytesMax = 16 << 20;    // replayed on open: bounds the restart
constexpr size_t kWriteBufferBytes = 8 << 20;  // per family

rocksdb::Slice SliceOf(std::string_view bytes) { return rocksdb::Slice(bytes.data(), bytes.size()); }
std::string_view ViewOf(const rocksdb::Slice& slice) { return std::string_view(slice.data(), slice.size()); }

absl::Status ToStatus(const rocksdb::Status& status, std::string_view action, const std::string& path) {
  if (status.ok()) return absl::OkStatus();
  const std::string message =
      absl::StrCat(absl::string_view(action.data(), action.size()), " the database ", path, ": ", status.ToString());
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(message);
  if (status.IsCorruption()) return absl::DataLossError(message);
  return absl::InternalError(message);
}

// The process that holds RocksDB's lock, by asking the kernel about its LOCK file.
std::optional<pid_t> LockHolder(const std::string& path) {
  const int fd = open((path + "/LOCK").c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  struct flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  const bool known = fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK && lock.l_pid > 0;
  close(fd);
  return known ? std::optional<pid_t>(lock.l_pid) : std::nullopt;
}

absl::Status OpenError(const rocksdb::Status& status, const std::string& path) {
  const std::string text = status.ToString();
  if (!status.IsIOError() || !absl::StrContains(text, "lock")) return ToStatus(status, "open", path);
  // Only another process's lock is looked up: closing the file here would drop a lock of our own (POSIX).
  if (absl::StrContains(text, "current process")) {
    return absl::FailedPreconditionError(absl::StrCat("database is open already in this process: ", path));
  }
  const std::optional<pid_t> holder = LockHolder(path);
  return absl::FailedPreconditionError(absl::StrCat("database is in use by another process",
                                                    holder ? absl::StrCat(" (pid ", *holder, ")") : "",
                                                    "; stop it or choose another state folder: ", path));
}

// RocksDB's own text log would be a file beside the database: on a full disk its writer ends the process, by an
// assertion, before the failed commit is told. So warnings and errors go to standard error, the rest nowhere.
class WarningLog final : public rocksdb::Logger {
 public:
  explicit WarningLog(std::string path) : Logger(rocksdb::InfoLogLevel::WARN_LEVEL), path_(std::move(path)) {}

  using Logger::Logv;
  void Logv(const char* format, va_list values) override {
    char text[512];
    std::vsnprintf(text, sizeof(text), format, values);
    text[strcspn(text, "\n")] = 0;  // some of its lines bring their own end
    std::fprintf(stderr, "rocksdb %s: %s\n", path_.c_str(), text);
  }
  void LogHeader(const char* /*format*/, va_list /*values*/) override {}  // every option of every family

 private:
  const std::string path_;
};

rocksdb::DBOptions DatabaseOptions(const std::string& path) {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.max_total_wal_size = kLogBytesMax;
  options.skip_stats_update_on_db_open = true;
  options.skip_checking_sst_file_sizes_on_db_open = true;
  options.max_open_files = 64;
  options.max_background_jobs = 2;
  options.info_log = std::make_shared<WarningLog>(path);
  options.paranoid_checks = true;
  // RocksDB's default stops quietly before a damaged record and forgets the acknowledged commits behind it.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  return options;
}

// What a disk writes whole or not at all: bytes of a page that never came are zeros from a multiple of it on.
constexpr size_t kSectorBytes = 512;

// The end of the newest log that has bytes, where whole sectors up to its end are zeros. A value that ends in a few
// zeros is not that: its record, when it is damaged, was acknowledged.
struct ZeroTail {
  std::string log;
  off_t begin = 0, end = 0;
};

std::optional<ZeroTail> FindZeroTail(rocksdb::Env* env, const std::string& path) {
  std::vector<std::string> names;
  if (!env->GetChildren(path, &names).ok()) return std::nullopt;
  std::erase_if(names, [](const std::string& name) { return !absl::EndsWith(name, ".log"); });
  std::sort(names.begin(), names.end(), [](const std::string& a, const std::string& b) {  // numbers, the newest first
    return std::pair(a.size(), std::string_view(a)) > std::pair(b.size(), std::string_view(b));
  });
  for (const std::string& name : names) {
    const std::string log = absl::StrCat(path, "/", name);
    std::string bytes;
    if (!rocksdb::ReadFileToString(env, log, &bytes).ok()) return std::nullopt;
    if (bytes.empty()) continue;
    const size_t kept = bytes.find_last_not_of('\0') + 1;  // 0 where there is none
    const size_t sector = (kept + kSectorBytes - 1) / kSectorBytes * kSectorBytes;
    if (sector >= bytes.size()) return std::nullopt;
    return ZeroTail{log, static_cast<off_t>(kept), static_cast<off_t>(bytes.size())};
  }
  return std::nullopt;
}

// RocksDB takes a record with zeros for its rest for damage. Without them it is one that was cut short, which it drops.
rocksdb::Status OpenDatabase(const rocksdb::DBOptions& options, const std::string& path,
                             const std::vector<rocksdb::ColumnFamilyDescriptor>& families,
                             std::vector<rocksdb::ColumnFamilyHandle*>* handles, rocksdb::DB** db) {
  const rocksdb::Status status = rocksdb::DB::Open(options, path, families, handles, db);
  if (!status.IsCorruption()) return status;
  const std::optional<ZeroTail> tail = FindZeroTail(options.env, path);
  if (!tail || truncate(tail->log.c_str(), tail->begin) != 0) return status;
  const rocksdb::Status again = rocksdb::DB::Open(options, path, families, handles, db);
  if (again.ok()) {
    std::fprintf(
        stderr, "rocksdb %s: dropped a commit that a crash left unfinished: bytes %lld to %lld of %s are zeros\n",
        path.c_str(), static_cast<long long>(tail->begin), static_cast<long long>(tail->end), tail->log.c_str());
    return again;
  }
  // Damage elsewhere: the file as it was, so that nothing is lost to who can mend it.
  if (truncate(tail->log.c_str(), tail->end) != 0) {
    std::fprintf(stderr, "rocksdb %s: cannot add its zeros to %s again: %s\n", path.c_str(), tail->log.c_str(),
                 std::strerror(errno));
  }
  return status;
}

class RocksDbMetaStore final : public MetaStore {
 public:
  RocksDbMetaStore(std::string path, std::unique_ptr<rocksdb::DB> db,
                   std::map<std::string, rocksdb::ColumnFamilyHandle*, std::less<>> handles,
                   std::set<std::string, std::less<>> families)
      : path_(std::move(path)), db_(std::move(db)), handles_(std::move(handles)), families_(std::move(families)) {}

  ~RocksDbMetaStore() override {
    for (const auto& [name, handle] : handles_) db_->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
    db_->Close().PermitUncheckedError();  // every promise was kept by a synced commit
  }

  absl::Status Commit(const std::vector<Mutation>& mutations, Durability durability) override {
    rocksdb::WriteBatch batch;
    for (const Mutation& mutation : mutations) {
      VLM_ASSIGN_OR_RETURN(rocksdb::ColumnFamilyHandle* const family, Family(mutation.family));
      const rocksdb::Status added = mutation.value.has_value() ? batch.Put(family, mutation.key, *mutation.value)
                                                               : batch.Delete(family, mutation.key);
      VLM_RETURN_IF_ERROR(ToStatus(added, "build a batch for", path_));
    }
    rocksdb::WriteOptions options;
    options.sync = durability == Durability::kSynced;
    return ToStatus(db_->Write(options, &batch), "write to", path_);
  }

  absl::StatusOr<std::optional<std::string>> Get(std::string_view family, std::string_view key) const override {
    VLM_ASSIGN_OR_RETURN(rocksdb::ColumnFamilyHandle* const handle, Family(family));
    std::string value;
    const rocksdb::Status status = db_->Get(rocksdb::ReadOptions(), handle, SliceOf(key), &value);
    if (status.IsNotFound()) return std::optional<std::string>();
    VLM_RETURN_IF_ERROR(ToStatus(status, "read from", path_));
    return std::optional<std::string>(std::move(value));
  }

  absl::Status ScanFrom(std::string_view family, std::string_view prefix, std::string_view first,
                        const Visitor& visitor) const override {
    VLM_ASSIGN_OR_RETURN(rocksdb::ColumnFamilyHandle* const handle, Family(family));
    const std::unique_ptr<rocksdb::Iterator> row(db_->NewIterator(rocksdb::ReadOptions(), handle));
    for (row->Seek(SliceOf(std::max(prefix, first))); row->Valid(); row->Next()) {
      if (!ViewOf(row->key()).starts_with(prefix) || !visitor(ViewOf(row->key()), ViewOf(row->value()))) break;
    }
    return ToStatus(row->status(), "scan", path_);
  }

 private:
  absl::StatusOr<rocksdb::ColumnFamilyHandle*> Family(std::string_view name) const {
    if (!families_.contains(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("store was opened without this family; add it to the list given on open: ", std::string(name)));
    }
    return handles_.find(name)->second;
  }

  const std::string path_;
  const std::unique_ptr<rocksdb::DB> db_;
  const std::map<std::string, rocksdb::ColumnFamilyHandle*, std::less<>> handles_;
  const std::set<std::string, std::less<>> families_;  // those asked for
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetaStore>> OpenRocksDbMetaStore(const RocksDbOptions& options) {
  const rocksdb::DBOptions db_options = DatabaseOptions(options.path);
  // It would make the folder itself, behind a warning that there is none. Why it cannot be made, opening says.
  db_options.env->CreateDirIfMissing(options.path).PermitUncheckedError();
  // RocksDB opens only with every family it holds, an older program's among them.
  std::vector<std::string> existing;
  const rocksdb::Status listed = rocksdb::DB::ListColumnFamilies(db_options, options.path, &existing);
  if (!listed.ok() && !listed.IsPathNotFound() && !listed.IsIOError()) return ToStatus(listed, "read", options.path);
  std::set<std::string> names(existing.begin(), existing.end());
  names.insert(options.families.begin(), options.families.end());
  names.insert(rocksdb::kDefaultColumnFamilyName);

  rocksdb::ColumnFamilyOptions family_options;
  family_options.write_buffer_size = kWriteBufferBytes;
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  for (const std::string& name : names) descriptors.emplace_back(name, family_options);

  rocksdb::DB* opened = nullptr;
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  const rocksdb::Status status = OpenDatabase(db_options, options.path, descriptors, &handles, &opened);
  if (!status.ok()) return OpenError(status, options.path);
  std::map<std::string, rocksdb::ColumnFamilyHandle*, std::less<>> by_name;
  for (rocksdb::ColumnFamilyHandle* const handle : handles) by_name[handle->GetName()] = handle;
  return std::make_unique<RocksDbMetaStore>(
      options.path, std::unique_ptr<rocksdb::DB>(opened), std::move(by_name),
      std::set<std::string, std::less<>>(options.families.begin(), options.families.end()));
}

}  // namespace vlm::store
