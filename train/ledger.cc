#include "train/ledger.h"

#include "absl/strings/str_cat.h"

namespace vlm::train {

std::string Ledger::ToString() const {
  return absl::StrCat("resident: parameters ", resident.parameters, ", gathered ", resident.gathered, ", gradients ",
                      resident.gradients, ", master ", resident.master, ", moments ", resident.moments,
                      ", activations ", resident.activations, ", scratch ", resident.scratch,
                      "\ncommunicated: reduced ", communicated.reduced, ", gathered parameters ",
                      communicated.gathered_parameters, ", gathered gradients ", communicated.gathered_gradients,
                      ", gathered state ", communicated.gathered_state, "\n");
}

}  // namespace vlm::train
