#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <map>
#include <nlohmann/json.hpp>

#include "checkpoint/format/safetensors_folder.h"
#include "train/checkpoint_state.h"

namespace vlm::train {
namespace {

using Kind = PlannedTensor::Kind;

// A copy, in memory of LibTorch's CPU allocator: the trainer's keeps it from one save to the next.
at::Tensor CopyOut(const at::Tensor& flat, int64_t begin, int64_t end) {
  at::Tensor host = at::empty({end - begin}, at::TensorOptions().dtype(flat.scalar_type()));
  return host.copy_(flat.narrow(0, begin, end - begin));
}

// This rank's images and, for each bucket, what is still to be copied from it.
class Saver {
 public:
  Saver(const StatePlan& plan, ParameterStore* store, const std::set<std::string>& present)
      : plan_(plan), store_(store), todo_(store->buckets().size()) {
    for (const BucketSpec& bucket : store->buckets()) {
      for (const ParamRange& range : bucket.ranges) offset_[range.param] = range.offset;
    }
    for (const PlannedFile& file : plan.files) {
      if (file.rank != store->rank() || present.contains(file.name)) continue;
      FileImage image{file.name, {}, {}};
      for (size_t i = 0; i < file.tensors.size(); ++i) {
        const PlannedTensor& tensor = file.tensors[i];
        image.tensors.push_back({tensor.name, tensor.dtype, tensor.shape, {}});
        todo_[static_cast<size_t>(store->BucketOf(tensor.param))].push_back({&tensor, images_.size(), i});
      }
      images_.push_back(std::move(image));
    }
  }

  absl::StatusOr<std::vector<FileImage>> Save() && {
    at::NoGradGuard no_grad;
    for (BucketId id = 0; id < static_cast<BucketId>(todo_.size()); ++id) {
      VLM_RETURN_IF_ERROR(CopyWeights(id));
      if (!store_->Optimized(id)) continue;
      if (store_->has_separate_master()) {
        VLM_RETURN_IF_ERROR(CopyState(id, Kind::kMaster, ParameterStore::StateKind::kMaster));
      }
      VLM_RETURN_IF_ERROR(CopyState(id, Kind::kFirstMoment, ParameterStore::StateKind::kFirstMoment));
      VLM_RETURN_IF_ERROR(CopyState(id, Kind::kSecondMoment, ParameterStore::StateKind::kSecondMoment));
    }
    if (store_->rank() == 0) AppendJsonFiles();
    return std::move(images_);
  }

 private:
  struct Todo {
    const PlannedTensor* tensor;
    size_t image, position;
  };

  absl::Status CopyWeights(BucketId id) {
    VLM_RETURN_IF_ERROR(store_->queue()->Wait(store_->Acquire(id)));
    for (const Todo& todo : todo_[static_cast<size_t>(id)]) {
      if (todo.tensor->kind != Kind::kWeight) continue;
      VLM_ASSIGN_OR_RETURN(const at::Tensor value, store_->ReadParameter(todo.tensor->param));
      images_[todo.image].tensors[todo.position].value = value.to(at::kCPU).flatten();
    }
    store_->Release(id);
    return absl::OkStatus();
  }

  absl::Status CopyState(BucketId id, Kind kind, ParameterStore::StateKind state) {
    VLM_ASSIGN_OR_RETURN(const at::Tensor full, store_->GatherState(id, state));
    for (const Todo& todo : todo_[static_cast<size_t>(id)]) {
      if (todo.tensor->kind != kind) continue;
      const int64_t offset = offset_.at(todo.tensor->param);
      images_[todo.image].tensors[todo.position].value =
          CopyOut(full, offset + todo.tensor->begin, offset + todo.tensor->end);
    }
    return absl::OkStatus();
  }

  void AppendJsonFiles() {
    std::map<std::string, std::string> weights, optimizer;
    uint64_t weight_bytes = 0, optimizer_bytes = 0;
    for (const PlannedFile& file : plan_.files) {
      for (const PlannedTensor& tensor : file.tensors) {
        const bool weight = tensor.kind == Kind::kWeight;
        (weight ? weights : optimizer)[tensor.name] = file.name;
        (weight ? weight_bytes : optimizer_bytes) += static_cast<uint64_t>(tensor.bytes());
      }
    }
    nlohmann::json steps = nlohmann::json::object();
    for (size_t id = 0; id < store_->buckets().size(); ++id) {
      if (!store_->Optimized(static_cast<BucketId>(id))) continue;
      for (const ParamRange& range : store_->buckets()[id].ranges) {
        steps[store_->graph().params[range.param].name] = store_->optimizer_steps(static_cast<BucketId>(id));
      }
    }
    const nlohmann::json state = {{"format", kOptimizerFormat},
                                  {"compute", store_->has_separate_master() ? "BF16" : "F32"},
                                  {"steps", std::move(steps)}};
    images_.push_back({std::string(kWeightsIndex), {}, checkpoint::MakeSafetensorsIndex(weights, weight_bytes)});
    images_.push_back({std::string(kOptimizerIndex), {}, checkpoint::MakeSafetensorsIndex(optimizer, optimizer_bytes)});
    images_.push_back({std::string(kOptimizerJson), {}, state.dump(2) + "\n"});
  }

  const StatePlan& plan_;
  ParameterStore* const store_;
  std::map<model::ParamId, int64_t> offset_;  // in its bucket
  std::vector<std::vector<Todo>> todo_;       // by bucket
  std::vector<FileImage> images_;
};

}  // namespace

absl::StatusOr<std::vector<FileImage>> SaveState(const StatePlan& plan, ParameterStore* store,
                                                 const std::set<std::string>& present) {
  return Saver(plan, store, present).Save();
}

}  // namespace vlm::train
