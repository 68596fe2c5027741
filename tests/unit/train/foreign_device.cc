#include "foreign_device.h"

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>
#include <cstring>
#include <optional>

namespace vlm::train {
namespace {

constexpr c10::DeviceType kType = c10::DeviceType::PrivateUse1;
constexpr c10::DispatchKeySet kKey(c10::DispatchKey::PrivateUse1);

class ForeignAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* const memory = std::malloc(bytes == 0 ? 1 : bytes);
    return {memory, memory, &std::free, c10::Device(kType, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

ForeignAllocator* Allocator() {
  static ForeignAllocator* const allocator = new ForeignAllocator();
  return allocator;
}

// `from` and `to` may be equal.
__attribute__((optimize("O3"))) void Invert(const uint8_t* from, uint8_t* to, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) to[i] = static_cast<uint8_t>(~from[i]);
}

// Where the elements of a tensor lie: bytes of its storage from the first to behind the last.
struct Span {
  uint8_t* data = nullptr;
  size_t bytes = 0;
};

Span SpanOf(const at::Tensor& tensor) {
  const size_t element = tensor.element_size();
  uint8_t* const data = static_cast<uint8_t*>(tensor.storage().mutable_data());
  if (tensor.numel() == 0) return {data, 0};
  int64_t last = 0;
  for (int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
  return {data + static_cast<size_t>(tensor.storage_offset()) * element, static_cast<size_t>(last + 1) * element};
}

// The tensor's values on the host, with the same strides.
at::Tensor Readable(const at::Tensor& foreign) {
  const Span span = SpanOf(foreign);
  const at::Tensor host = at::empty({static_cast<int64_t>(span.bytes)}, at::kByte);
  Invert(span.data, host.mutable_data_ptr<uint8_t>(), span.bytes);
  at::Tensor view = at::empty({0}, foreign.options().device(at::kCPU));
  view.set_(host.storage(), 0, foreign.sizes(), foreign.strides());
  return view;
}

at::Tensor Empty(at::IntArrayRef size, std::optional<at::ScalarType> type, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, Allocator(), kKey, type.value_or(at::kFloat), format);
}

at::Tensor EmptyStrided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> type,
                        std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, Allocator(), kKey, type.value_or(at::kFloat));
}

at::Tensor CopyFrom(const at::Tensor& from, const at::Tensor& to, bool) {
  const at::Tensor source = from.is_cpu() ? from : Readable(from);
  if (to.is_cpu()) {
    at::Tensor target = to;
    target.copy_(source);
    return to;
  }
  const at::Tensor changed = Readable(to).copy_(source);
  const Span span = SpanOf(to);
  Invert(SpanOf(changed).data, span.data, span.bytes);
  return to;
}

// Contents are lost when the tensor grows: only operators that overwrite their output ask for this.
const at::Tensor& Resize(const at::Tensor& tensor, at::IntArrayRef size, std::optional<at::MemoryFormat>) {
  c10::TensorImpl* const impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(size);
  const size_t bytes =
      static_cast<size_t>(tensor.storage_offset() + tensor.numel()) * static_cast<size_t>(tensor.element_size());
  c10::StorageImpl* const storage = impl->unsafe_storage().unsafeGetStorageImpl();
  if (storage->nbytes() < bytes) {
    storage->set_data_ptr_noswap(Allocator()->allocate(bytes));
    storage->set_nbytes(bytes);
  }
  return tensor;
}

at::Tensor CopyFromAndResize(const at::Tensor& from, const at::Tensor& to) {
  if (from.sizes() != to.sizes()) Resize(to, from.sizes(), std::nullopt);
  return CopyFrom(from, to, false);
}

void Fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) { at::native::cpu_fallback(op, stack); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &Empty);
  library.impl("empty_strided", &EmptyStrided);
  library.impl("_copy_from", &CopyFrom);
  library.impl("_copy_from_and_resize", &CopyFromAndResize);
  library.impl("resize_", &Resize);
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("view", &at::native::view);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&Fallback>());
}

// One device, one stream; what is enqueued is done.
struct ForeignGuard final : c10::impl::NoOpDeviceGuardImpl<kType> {
  c10::Device getDevice() const override { return {kType, 0}; }
  c10::Device exchangeDevice(c10::Device) const override { return {kType, 0}; }
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, {kType, 0}); }
  c10::Stream getNewStream(c10::Device device, int) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return getStream({kType, 0}); }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, ForeignGuard)

// Autograd asks for these before it runs a backward on the device.
struct ForeignHooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
};

}  // namespace

c10::Device ForeignDevice() {
  static const bool registered = [] {
    c10::register_privateuse1_backend("foreign");
    at::RegisterPrivateUse1HooksInterface(new ForeignHooks());
    return true;
  }();
  (void)registered;
  return {kType, 0};
}

}  // namespace vlm::train
