// What composition adds to a document before it is checked.
#ifndef VLM_SPEC_EXPAND_H_
#define VLM_SPEC_EXPAND_H_

#include "spec/diagnostic.h"
#include "spec/yaml_node.h"

namespace vlm::spec {

// Inserts an index stage before each training stage whose data names no index: its sources are the paths and
// {stage, split} of the mixture, its tokenizer that of data.tokenizer or the job's only one, its template
// data.template or the usual one of the kind, its picture size and context those of the model it will feed.
// Gives a training stage without a length one epoch. Reports what keeps an index from being inserted; shapes
// that do not fit are left for the check.
void ExpandJob(YamlNode* root, Diagnostics* diagnostics);

}  // namespace vlm::spec

#endif  // VLM_SPEC_EXPAND_H_
