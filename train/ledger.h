// Bytes by class: what is resident, and what has been communicated. Tests compare it with formulas for each
// zero level, which is what makes a sharding, a freeze or a recompute that does nothing impossible.
#ifndef VLM_TRAIN_LEDGER_H_
#define VLM_TRAIN_LEDGER_H_

#include <cstdint>
#include <string>

namespace vlm::train {

// Resident bytes of one rank, counted from the tensors held. With W ranks, P and F padded elements of trainable and
// frozen buckets, S elements of rotating gradient slots, B of gather buffers, c bytes of the compute type:
//               zero 0        zero 1           zero 2           zero 3
//   parameters  c (P + F)     c (P + F)        c (P + F)        c (P + F) / W
//   gathered    0             0                0                c B
//   gradients   c S + 4 P     c P + 4 P / W    c S + 4 P / W    c S + 4 P / W
//   master      4 P           4 P / W          4 P / W          4 P / W        (fp32: 0, a view of the parameters)
//   moments     8 P           8 P / W          8 P / W          8 P / W
// P, in gradients, master and moments, counts reached buckets only. B: the buckets that a schedule holds at one time,
// each buffer as large as the largest bucket that used it. Scratch is 4 times the largest bucket of P while state is
// gathered for a save (zero 1 to 3, W > 1).
//
// Activations, on the CPU in fp32: one block more raises the peak by what it keeps until its backward. For a decoder
// block (two norms, qkv, attention with its log-sum-exp, gate and up, their product, output; letters of model/graph.h)
//   4 N (4 D + (2 H + 2 G) E + H + 3 F + 2),  with recompute 4 N D, its input alone;
// for an encoder block of V patches  4 V (8 C + H + 2 F + 4),  with recompute 4 V C.
struct ResidentBytes {
  int64_t parameters = 0, gathered = 0, gradients = 0, master = 0, moments = 0;
  int64_t activations = 0;  // peak within the last micro-batch, when measured
  int64_t scratch = 0;      // peak of one collective's temporary buffers (saving)
  int64_t snapshot = 0;     // of one save: this rank's part of the state, copied; counted by estimates alone
};

// Payload bytes this rank received since the start, as its collective counts them (an operation still on its way is not
// in). Per bucket of n elements, when every rank contributes:
//   reduce-scatter, per micro-step   c n (W - 1) / W
//   parameters, zero 1, 2, per step  c n (W - 1) / W
//   parameters, zero 3, per gather   c n (W - 1) / W, one for forward and one for backward of every use
//   (train/schedule.h) gradients, zero 0, per step      4 n (W - 1) / W
struct CommunicatedBytes {
  int64_t reduced = 0, gathered_parameters = 0, gathered_gradients = 0, gathered_state = 0;
};

struct Ledger {
  ResidentBytes resident;
  CommunicatedBytes communicated;
  std::string ToString() const;  // one line per class, for logs
};

}  // namespace vlm::train

#endif  // VLM_TRAIN_LEDGER_H_
