#include "coordinator/core/scheduler.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace vlm::coordinator {
namespace {

constexpr size_t kHoldersNamed = 3;

struct Free {
  const NodeOffer* node = nullptr;
  std::vector<const v1::Device*> devices;
};

struct Survey {
  std::vector<Free> usable;                // nodes with free slots
  int64_t free = 0, offered = 0;           // slots of usable nodes
  int64_t unchecked = 0, reattaching = 0;  // slots that may become usable
  std::map<std::string, int64_t> holders;
  std::vector<std::string> problems;
};

v1::DeviceKind Choose(v1::DeviceKind wished, const std::vector<NodeOffer>& offers) {
  if (wished != v1::DEVICE_KIND_UNSPECIFIED) return wished;
  for (const NodeOffer& offer : offers) {
    for (const NodeOffer::Slot& slot : offer.slots) {
      if (slot.device.kind() == v1::DEVICE_KIND_CUDA) return v1::DEVICE_KIND_CUDA;
    }
  }
  return v1::DEVICE_KIND_CPU_SLOT;
}

Survey Look(v1::DeviceKind kind, const std::vector<NodeOffer>& offers) {
  Survey survey;
  for (const NodeOffer& offer : offers) {
    if (offer.usable == NodeOffer::Usable::kRootFailed) {
      survey.problems.push_back(absl::StrCat(offer.node_id, ": ", offer.problem));
    }
    Free free{&offer, {}};
    for (const NodeOffer::Slot& slot : offer.slots) {
      if (slot.device.kind() != kind) continue;
      switch (offer.usable) {
        case NodeOffer::Usable::kYes:
          ++survey.offered;
          if (slot.holder.empty()) {
            free.devices.push_back(&slot.device);
          } else {
            ++survey.holders[slot.holder];
          }
          break;
        case NodeOffer::Usable::kRootUnchecked:
          ++survey.unchecked;
          break;
        case NodeOffer::Usable::kUnknown:
          ++survey.reattaching;
          break;
        case NodeOffer::Usable::kRootFailed:
          break;
      }
    }
    survey.free += static_cast<int64_t>(free.devices.size());
    if (!free.devices.empty()) survey.usable.push_back(std::move(free));
  }
  return survey;
}

std::string Holders(const Survey& survey) {
  std::vector<std::string> named;
  int64_t others = 0;
  for (const auto& [holder, slots] : survey.holders) {
    if (named.size() < kHoldersNamed) {
      named.push_back(absl::StrCat(holder, " holds ", slots));
    } else {
      others += slots;
    }
  }
  if (others > 0) named.push_back(absl::StrCat("others hold ", others));
  return absl::StrJoin(named, ", ");
}

void Explain(const PlacementWish& wish, v1::DeviceKind kind, const Survey& survey, PlacementDecision* decision) {
  const std::string what = kind == v1::DEVICE_KIND_CUDA ? "GPUs" : "CPU slots";
  const std::string need = absl::StrCat("needs ", wish.ranks_min, " ", what);
  const int64_t later = survey.offered + survey.unchecked + survey.reattaching;
  decision->reserve = later >= wish.ranks_min;
  if (survey.offered >= wish.ranks_min && survey.free < wish.ranks_min) {
    decision->kind = "capacity";
    decision->reason = absl::StrCat(need, ", ", survey.free, " of ", survey.offered, " are free; ", Holders(survey));
  } else if (survey.offered + survey.unchecked >= wish.ranks_min) {
    decision->kind = "root";
    decision->reason = absl::StrCat(need, "; workers with ", survey.unchecked,
                                    " slots have yet to show that they see the artifacts folder");
  } else if (decision->reserve) {
    decision->kind = "workers";
    decision->reason = absl::StrCat(need, "; waiting for workers with ", survey.reattaching, " slots to reconnect");
  } else if (!survey.problems.empty()) {
    decision->kind = "root";
    decision->reason =
        absl::StrCat(need, ", workers offer ", survey.offered, "; not usable: ", absl::StrJoin(survey.problems, "; "));
  } else {
    decision->kind = "workers";
    decision->reason =
        absl::StrCat(need, ", workers offer ", survey.offered, ": start more workers or lower ranks.min");
  }
}

}  // namespace

PlacementDecision DecidePlacement(const PlacementWish& wish, const std::vector<NodeOffer>& offers) {
  const v1::DeviceKind kind = Choose(wish.device, offers);
  Survey survey = Look(kind, offers);
  PlacementDecision decision;
  // A root check takes one round trip and is bounded: better to wait for it than to start with fewer ranks.
  const bool growing = survey.unchecked > 0 && survey.free < wish.ranks_max;
  if (survey.free < wish.ranks_min || growing) {
    Explain(wish, kind, survey, &decision);
    return decision;
  }
  std::sort(survey.usable.begin(), survey.usable.end(), [](const Free& a, const Free& b) {
    if (a.devices.size() != b.devices.size()) return a.devices.size() > b.devices.size();
    return a.node->node_id < b.node->node_id;
  });
  std::vector<std::string> nodes;
  for (const Free& free : survey.usable) {
    if (decision.ranks.size() == static_cast<size_t>(wish.ranks_max)) break;
    nodes.push_back(free.node->node_id);
    for (const v1::Device* device : free.devices) {
      if (decision.ranks.size() == static_cast<size_t>(wish.ranks_max)) break;
      decision.ranks.push_back({free.node->node_id, *device});
    }
  }
  decision.reason = absl::StrCat(decision.ranks.size(), " ranks on ", absl::StrJoin(nodes, ", "));
  return decision;
}

}  // namespace vlm::coordinator
