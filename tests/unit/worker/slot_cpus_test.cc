#include "worker/slot_cpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "worker/device_probe.h"

namespace vlm::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(SlotCpusTest, EachSlotGetsItsOwnInTheOrderGiven) {
  const std::vector<v1::Device> slots = CpuSlots(3, 2);
  const std::vector<int> cpus = {8, 9, 1, 1, 0, 4, 5, 6};
  EXPECT_THAT(SlotCpus(cpus, slots, slots[0]), ElementsAre(8, 9));
  EXPECT_THAT(SlotCpus(cpus, slots, slots[1]), ElementsAre(1, 0)) << "a repetition counts once";
  EXPECT_THAT(SlotCpus(cpus, slots, slots[2]), ElementsAre(4, 5));
}

TEST(SlotCpusTest, TooFewAreSharedByAll) {
  const std::vector<v1::Device> slots = CpuSlots(2, 2);
  for (const v1::Device& slot : slots) EXPECT_THAT(SlotCpus({3, 4, 5, 3}, slots, slot), ElementsAre(3, 4, 5));
}

TEST(SlotCpusTest, UnevenSlotsFollowEachOther) {
  std::vector<v1::Device> slots = CpuSlots(3, 1);
  slots[0].set_threads(0);  // counts as one
  slots[1].set_threads(3);
  const std::vector<int> cpus = {0, 1, 2, 3, 4};
  EXPECT_THAT(SlotCpus(cpus, slots, slots[0]), ElementsAre(0));
  EXPECT_THAT(SlotCpus(cpus, slots, slots[1]), ElementsAre(1, 2, 3));
  EXPECT_THAT(SlotCpus(cpus, slots, slots[2]), ElementsAre(4));
}

TEST(SlotCpusTest, WithoutProcessorsThereIsNoLimit) {
  const std::vector<v1::Device> slots = CpuSlots(2, 1);
  EXPECT_THAT(SlotCpus({}, slots, slots[1]), IsEmpty());
}

TEST(SlotCpusTest, AnUnknownDeviceMayUseAll) {
  v1::Device gpu;
  gpu.set_kind(v1::DEVICE_KIND_CUDA);
  EXPECT_THAT(SlotCpus({0, 1}, CpuSlots(2, 1), gpu), ElementsAre(0, 1));
}

}  // namespace
}  // namespace vlm::worker
