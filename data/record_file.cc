#include "data/record_file.h"

#include <fnmatch.h>

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "data/tar/tar_reader.h"

namespace vlm::data {
namespace {

constexpr uint64_t kLineBytesMax = 4 << 20;
constexpr uint64_t kReadBytes = 1 << 20;

bool EndsWith(const std::string& text, std::string_view ending) {
  return text.size() >= ending.size() && text.compare(text.size() - ending.size(), ending.size(), ending) == 0;
}

absl::StatusOr<std::vector<RecordPlace>> ListTar(const std::string& path, const ReadableFile& file) {
  VLM_ASSIGN_OR_RETURN(const std::vector<TarSample> samples, IndexSamples(file, path));
  std::vector<RecordPlace> places;
  places.reserve(samples.size());
  for (const TarSample& sample : samples) {
    RecordPlace place;
    place.line = places.size() + 1;
    place.key = sample.key;
    bool has_json = false;
    for (const TarSamplePart& part : sample.parts) {
      if (part.bytes > std::numeric_limits<uint32_t>::max()) {
        return absl::InvalidArgumentError(absl::StrCat("member is larger than 4 GiB: ", path, ": ", sample.key));
      }
      const Span span{part.offset, static_cast<uint32_t>(part.bytes)};
      if (part.extension == "json") {
        place.json = span;
        has_json = true;
      } else if (EndsWith(part.extension, "jpg") || EndsWith(part.extension, "jpeg") ||
                 EndsWith(part.extension, "png")) {
        place.images.push_back(span);
        place.endings.push_back(part.extension);
      } else {
        return absl::InvalidArgumentError(absl::StrCat("member has an unknown ending (known: json, jpg, jpeg, png): ",
                                                       path, ": ", sample.key, ".", part.extension));
      }
    }
    if (!has_json) return absl::InvalidArgumentError(absl::StrCat("sample has no .json: ", path, ": ", sample.key));
    places.push_back(std::move(place));
  }
  return places;
}

absl::StatusOr<std::vector<RecordPlace>> ListLines(const std::string& path, const ReadableFile& file) {
  std::vector<RecordPlace> places;
  std::string buffer;
  uint64_t line = 1, line_start = 0;
  auto add = [&](uint64_t end) -> absl::Status {
    const uint64_t bytes = end - line_start;
    if (bytes > kLineBytesMax) {
      return absl::InvalidArgumentError(absl::StrCat("line is longer than 4 MiB: ", path, ":", line));
    }
    if (bytes > 0) places.push_back({{line_start, static_cast<uint32_t>(bytes)}, {}, line, {}, {}});
    return absl::OkStatus();
  };
  for (uint64_t offset = 0; offset < file.size(); offset += kReadBytes) {
    buffer.resize(std::min(kReadBytes, file.size() - offset));
    VLM_RETURN_IF_ERROR(file.ReadAt(offset, std::as_writable_bytes(std::span(buffer.data(), buffer.size()))));
    for (size_t at = buffer.find('\n'); at != std::string::npos; at = buffer.find('\n', at + 1)) {
      VLM_RETURN_IF_ERROR(add(offset + at));
      line_start = offset + at + 1;
      ++line;
    }
  }
  VLM_RETURN_IF_ERROR(add(file.size()));
  return places;
}

// "" for the root of all.
std::string WithoutSlash(std::string path) {
  while (path.ends_with('/')) path.pop_back();
  return path;
}

// By their text alone.
bool IsBelow(const std::string& path, const std::string& root) { return path.starts_with(WithoutSlash(root) + "/"); }

// Sorted; empty when nothing matches.
absl::StatusOr<std::vector<std::string>> Match(FileSystem* files, const std::string& start,
                                               const std::string& pattern) {
  std::vector<std::string> found;
  const std::vector<std::string> levels = absl::StrSplit(pattern, '/', absl::SkipEmpty());
  if (!levels.empty()) found.push_back(start);
  for (const std::string& level : levels) {
    if (level == "..") return absl::PermissionDeniedError(absl::StrCat("data path may not hold '..': ", pattern));
    std::vector<std::string> next;
    for (const std::string& folder : found) {
      const absl::StatusOr<std::vector<std::string>> names = files->List(folder.empty() ? "/" : folder);
      // Nothing there, or a file where the pattern wants a folder; any other error would cost files of the data set.
      if (absl::IsNotFound(names.status())) continue;
      VLM_RETURN_IF_ERROR(names.status());
      for (const std::string& name : *names) {
        if (fnmatch(level.c_str(), name.c_str(), FNM_PERIOD) == 0) next.push_back(absl::StrCat(folder, "/", name));
      }
    }
    found = std::move(next);
  }
  std::sort(found.begin(), found.end());
  return found;
}

// No symbolic link on the way to one of `paths` may lead out of all roots.
absl::Status CheckTargets(FileSystem* files, const std::vector<std::string>& roots,
                          const std::vector<std::string>& paths) {
  std::vector<std::string> real_roots;
  for (const std::string& root : roots) {
    const absl::StatusOr<std::string> real = files->Canonical(root);
    if (real.ok()) real_roots.push_back(*real);  // a missing one holds nothing
  }
  for (const std::string& path : paths) {
    VLM_ASSIGN_OR_RETURN(const std::string target, files->Canonical(path));
    if (std::none_of(real_roots.begin(), real_roots.end(),
                     [&](const std::string& root) { return IsBelow(target, root); })) {
      return absl::PermissionDeniedError(absl::StrCat(
          "data path leads through a symbolic link out of the worker's data roots (", absl::StrJoin(roots, ", "),
          "); start vlm-worker with one more --data-root to read: ", path, " -> ", target));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<RecordPlace>> ListRecords(const std::string& path, const ReadableFile& file) {
  if (EndsWith(path, ".tar")) return ListTar(path, file);
  if (EndsWith(path, ".jsonl")) return ListLines(path, file);
  return absl::InvalidArgumentError(absl::StrCat("data file has an unknown ending (known: .tar, .jsonl): ", path));
}

absl::StatusOr<std::string> ReadSpan(const ReadableFile& file, const Span& span) {
  std::string bytes(span.bytes, '\0');
  VLM_RETURN_IF_ERROR(file.ReadAt(span.offset, std::as_writable_bytes(std::span(bytes.data(), bytes.size()))));
  return bytes;
}

absl::StatusOr<std::vector<std::string>> ResolvePattern(FileSystem* files, const std::vector<std::string>& roots,
                                                        const std::string& pattern) {
  if (roots.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("worker has no data root; start vlm-worker with --data-root FOLDER to read: ", pattern));
  }
  const bool absolute = !pattern.empty() && pattern[0] == '/';
  const auto root =
      absolute ? std::find_if(roots.begin(), roots.end(), [&](const std::string& one) { return IsBelow(pattern, one); })
               : roots.begin();
  if (root == roots.end()) {
    return absl::PermissionDeniedError(
        absl::StrCat("data path is outside the worker's data roots (", absl::StrJoin(roots, ", "),
                     "); start vlm-worker with one more --data-root to read: ", pattern));
  }
  const std::string start = WithoutSlash(*root);
  const std::string relative = absolute ? pattern.substr(start.size()) : pattern;
  VLM_ASSIGN_OR_RETURN(std::vector<std::string> found, Match(files, start, relative));
  if (found.empty()) {
    return absl::NotFoundError(absl::StrCat(
        "no data file matches below ", *root,
        absolute ? ": " : " (where relative paths start; for another --data-root write an absolute path): ", pattern));
  }
  VLM_RETURN_IF_ERROR(CheckTargets(files, roots, found));
  return found;
}

}  // namespace vlm::data
