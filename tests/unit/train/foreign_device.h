// A device of its own for tests of code that must run on any: computes what the CPU computes, but its memory means
// nothing to the host (every byte is stored inverted). Code that reads a tensor's memory where it may only call ATen
// gets nonsense, and code that mixes devices gets LibTorch's error, as on a GPU.
#ifndef VLM_TESTS_UNIT_TRAIN_FOREIGN_DEVICE_H_
#define VLM_TESTS_UNIT_TRAIN_FOREIGN_DEVICE_H_

#include <c10/core/Device.h>

namespace vlm::train {

// Registers the device with LibTorch, once per process.
c10::Device ForeignDevice();

}  // namespace vlm::train

#endif  // VLM_TESTS_UNIT_TRAIN_FOREIGN_DEVICE_H_
