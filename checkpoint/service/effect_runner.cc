#include "checkpoint/service/effect_runner.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/format/durable_file.h"

namespace vlm::checkpoint {
namespace {

constexpr std::string_view kCatalogFile = "CATALOG";
constexpr std::string_view kCatalogMagic = "vlm-catalog 1 ";
constexpr uint64_t kCatalogBytesMax = 256;
constexpr uint64_t kFreeBytesFloor = 64 << 20;  // left for sums, markers and other writers

bool IsAtOrBeneath(const std::string& path, const std::string& root) {
  return path == root || root == "/" || path.starts_with(root + "/");
}

std::string CatalogPath(const std::string& root) { return absl::StrCat(root, "/", std::string(kCatalogFile)); }

}  // namespace

EffectResult EffectRunner::Run(const Effect& effect) const {
  EffectResult result{.id = effect.id, .status = absl::OkStatus(), .damages = {}};
  switch (effect.kind) {
    case Effect::Kind::kPrepareRoot:
      result.status = PrepareRoot(effect.root);
      break;
    case Effect::Kind::kMakeFolder:
      result.status = MakeFolder(effect);
      break;
    case Effect::Kind::kCheckFiles:
    case Effect::Kind::kVerifyFiles:
      result.status = Look(effect, &result);
      break;
    case Effect::Kind::kRemoveFolder:
      result.status = RemoveFolder(effect);
      break;
    case Effect::Kind::kWriteCommitted:
      result.status = WriteCommitted(effect);
      break;
  }
  return result;
}

// `root` must not exist yet to be checked: its nearest parent that does stands for it.
absl::Status EffectRunner::CheckAllowed(const std::string& root) const {
  std::string existing = root;
  while (existing != "/" && !files_->Stat(existing).ok()) existing = ParentPath(existing);
  VLM_ASSIGN_OR_RETURN(const std::string canonical, files_->Canonical(existing));
  const std::string resolved = canonical + root.substr(existing == "/" ? 0 : existing.size());
  for (const std::string& allowed : options_.allowed_roots) {
    const absl::StatusOr<std::string> real = files_->Canonical(allowed);
    if (real.ok() && IsAtOrBeneath(resolved, *real)) return absl::OkStatus();
  }
  return absl::PermissionDeniedError(
      absl::StrCat("artifacts root is beneath none of the allowed roots; choose another or allow it: ", root));
}

absl::Status EffectRunner::CheckOurs(const std::string& root) const {
  absl::StatusOr<std::string> text = ReadFile(files_, CatalogPath(root), kCatalogBytesMax);
  if (!text.ok())
    return Annotate(text.status(), "artifacts root does not show its CATALOG file (is its disk mounted?)");
  absl::StripTrailingAsciiWhitespace(&*text);
  if (*text != absl::StrCat(std::string(kCatalogMagic), options_.catalog_uuid)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "artifacts root belongs to another catalog; choose another root or that catalog's state folder: ", root,
        " says \"", *text, "\""));
  }
  return absl::OkStatus();
}

absl::Status EffectRunner::PrepareRoot(const std::string& root) const {
  VLM_RETURN_IF_ERROR(CheckAllowed(root));
  VLM_RETURN_IF_ERROR(MakeDirectories(files_, root));
  if (!files_->Stat(CatalogPath(root)).ok()) {
    VLM_RETURN_IF_ERROR(WriteFileDurably(files_, CatalogPath(root),
                                         absl::StrCat(std::string(kCatalogMagic), options_.catalog_uuid, "\n")));
  }
  return CheckOurs(root);
}

// The folder must be reached from its root through plain folders only.
absl::Status EffectRunner::CheckNoLinks(const Effect& effect, const std::string& folder) const {
  VLM_ASSIGN_OR_RETURN(const std::string root, files_->Canonical(effect.root));
  VLM_ASSIGN_OR_RETURN(const std::string resolved, files_->Canonical(folder));
  if (resolved == root + folder.substr(effect.root.size())) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("step folder leaves its root through a symbolic link: ", folder, " is ", resolved));
}

absl::Status EffectRunner::MakeFolder(const Effect& effect) const {
  VLM_RETURN_IF_ERROR(CheckOurs(effect.root));
  VLM_ASSIGN_OR_RETURN(const uint64_t free_bytes, files_->FreeBytes(effect.root));
  if (effect.bytes > 0 && free_bytes < effect.bytes + std::min(kFreeBytesFloor, effect.bytes)) {
    return absl::ResourceExhaustedError(absl::StrCat("disk of the artifacts root has too little space for the step: ",
                                                     free_bytes, " bytes free, ", effect.bytes, " needed"));
  }
  // Links are looked for in the part that exists, before anything is made behind one.
  std::string existing = effect.folder;
  while (!files_->Stat(existing).ok()) existing = ParentPath(existing);
  VLM_RETURN_IF_ERROR(CheckNoLinks(effect, existing));
  VLM_RETURN_IF_ERROR(MakeDirectories(files_, effect.folder));
  // A folder found in place may be one that a process made and did not live to sync.
  for (std::string parent = ParentPath(effect.folder);; parent = ParentPath(parent)) {
    VLM_RETURN_IF_ERROR(files_->SyncDirectory(parent));
    if (parent == effect.root) return absl::OkStatus();
  }
}

absl::Status EffectRunner::RemoveFolder(const Effect& effect) const {
  VLM_RETURN_IF_ERROR(CheckOurs(effect.root));
  const std::string parent = ParentPath(effect.folder);
  if (absl::IsNotFound(files_->Stat(parent).status())) return absl::OkStatus();
  VLM_RETURN_IF_ERROR(CheckNoLinks(effect, parent));
  VLM_RETURN_IF_ERROR(RemoveTree(files_, effect.folder));
  return files_->SyncDirectory(parent);
}

absl::Status EffectRunner::WriteCommitted(const Effect& effect) const {
  VLM_RETURN_IF_ERROR(CheckOurs(effect.root));
  VLM_RETURN_IF_ERROR(CheckNoLinks(effect, effect.folder));
  return WriteFileDurably(files_, absl::StrCat(effect.folder, "/COMMITTED.json"), effect.contents);
}

absl::Status EffectRunner::Look(const Effect& effect, EffectResult* result) const {
  VLM_RETURN_IF_ERROR(CheckOurs(effect.root));
  std::vector<FileClaim> claims;
  for (const v1::StepFile& file : effect.files) claims.push_back({file.name(), file.bytes(), file.digest()});
  VLM_ASSIGN_OR_RETURN(const std::vector<FileDamage> damages, effect.kind == Effect::Kind::kVerifyFiles
                                                                  ? VerifyFiles(files_, effect.folder, claims)
                                                                  : CheckFiles(files_, effect.folder, claims));
  for (const FileDamage& damage : damages) {
    v1::VerifyStepResponse::Damage& reported = result->damages.emplace_back();
    reported.set_file(damage.file);
    reported.set_chunk(damage.chunk);
    reported.set_detail(damage.detail);
  }
  return absl::OkStatus();
}

}  // namespace vlm::checkpoint
