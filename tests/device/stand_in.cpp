// A CUDA device for machines without one, loaded before the program (LD_PRELOAD).
//
// libtorch's dispatcher, autograd and engine see CUDA tensors; the kernels behind them are those of the processor. So
// it shows what does not depend on NVIDIA's kernels: that every tensor is on the device on which it is used, in which
// precision the layers compute, what is warned of, how many orders an iteration gives the device and how often the
// host waits for an answer, and what happens when the device's memory is full. It says nothing of speed, nor of
// NVIDIA's rounding.
//
// The addresses of device memory are not mapped: whoever reads it from the host dies, as on a real device.
// STAND_IN_MEMORY: how many bytes the device has. STAND_IN_REPORT: a file that gets the counts, at every answer.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace {

using at::IntArrayRef;
using at::Tensor;
using std::optional;

// Above all that a process of x86-64 maps near its heap.
constexpr uintptr_t kFar = uintptr_t{1} << 46;
// In front of each block, its size.
constexpr size_t kHeader = 64;

std::atomic<long> orders{0}, answers{0}, used{0}, peak{0};
// Above 0 inside an order, whose own copies are none.
thread_local int within = 0;

struct Within {
  Within() { ++within; }
  ~Within() { --within; }
};

char* here(const void* device) { return reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(device) - kFar); }

void ordered() {
  if (within == 0) ++orders;
}

void answered() {
  if (within > 0) return;
  ++answers;
  static std::mutex one;
  const char* file = getenv("STAND_IN_REPORT");
  if (file == nullptr) return;
  std::lock_guard<std::mutex> held(one);
  if (FILE* f = fopen(file, "w")) {
    fprintf(f, "{\"orders\": %ld, \"answers\": %ld, \"peak\": %ld}\n", orders.load(), answers.load(), peak.load());
    fclose(f);
  }
}

struct Memory final : c10::Allocator {
  static void give_back(void* device) {
    if (device == nullptr) return;
    char* block = here(device) - kHeader;
    used -= *reinterpret_cast<long*>(block);
    free(block);
  }

  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device device(c10::kCUDA, 0);
    if (bytes == 0) return {nullptr, nullptr, &give_back, device};
    const long size = long((bytes + 511) / 512 * 512);
    const char* limit = getenv("STAND_IN_MEMORY");
    const bool fits = limit == nullptr || used + size <= atol(limit);
    TORCH_CHECK_WITH(OutOfMemoryError, fits, "CUDA out of memory. Tried to allocate ", size, " bytes.");
    void* block = nullptr;
    TORCH_CHECK(posix_memalign(&block, kHeader, kHeader + size_t(size)) == 0, "no memory");
    *static_cast<long*>(block) = size;
    const long now = used += size;
    for (long high = peak; now > high && !peak.compare_exchange_weak(high, now);) {
    }
    void* address = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(block) + kHeader + kFar);
    return {address, address, &give_back, device};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }

  void copy_data(void* to, const void* from, size_t bytes) const override { memcpy(here(to), here(from), bytes); }
} memory;

const bool allocates = [] {
  c10::SetAllocator(c10::kCUDA, &memory, 100);
  return true;
}();

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static c10::Device only() { return {c10::kCUDA, 0}; }
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, only()); }
  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device exchangeDevice(c10::Device) const override { return only(); }
  c10::Device getDevice() const override { return only(); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const override { return stream(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { answered(); }
  void synchronizeEvent(void*) const override { answered(); }
  void synchronizeDevice(const c10::DeviceIndex) const override { answered(); }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

}  // namespace

namespace at {
namespace {

struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  Allocator* getCUDADeviceAllocator() const override { return &memory; }
  void deviceSynchronize(DeviceIndex) const override { answered(); }
};
REGISTER_CUDA_HOOKS(CUDAHooks);

}  // namespace
}  // namespace at

namespace {

// The same memory as a tensor of the processor.
Tensor of_host(const Tensor& t) {
  if (!t.is_cuda()) return t;
  void* data = t.numel() == 0 ? nullptr : here(t.data_ptr());
  return at::from_blob(data, t.sizes(), t.strides(), t.options().device(c10::kCPU));
}

Tensor on_device(const Tensor& t, c10::ScalarType type) {
  return t.defined() ? t.to(type).to(c10::Device(c10::kCUDA, 0)) : t;
}

// Whatever is not below: copied to the host, computed, copied back.
void order(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const std::string& name = schema.operator_name().name;
  bool device = false, host = false;
  const auto see = [&](const Tensor& t) {
    if (!t.defined()) return;
    // A number may come from the host, and so may indices.
    (t.is_cuda() ? device : host) |= t.is_cuda() || t.dim() > 0;
  };
  for (const auto& value : torch::jit::last(*stack, schema.arguments().size())) {
    if (value.isTensor()) see(value.toTensor());
    if (value.isTensorList())
      for (const auto& t : value.toTensorVector()) see(t);
  }
  const bool mixed = device && host && name.find("index") == std::string::npos;
  TORCH_CHECK(!mixed, name, ": expected all tensors to be on the same device");
  if (name == "aten::_local_scalar_dense")
    answered();
  else
    ordered();
  Within inside;
  at::native::cpu_fallback(op, stack);
}

Tensor empty(IntArrayRef size, optional<at::ScalarType> type, optional<at::Layout>, optional<at::Device>,
             optional<bool>, optional<at::MemoryFormat> format) {
  const c10::DispatchKeySet keys(c10::DispatchKey::CUDA);
  return at::detail::empty_generic(size, &memory, keys, c10::dtype_or_default(type), format);
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, optional<at::ScalarType> type, optional<at::Layout>,
                     optional<at::Device>, optional<bool>) {
  const c10::DispatchKeySet keys(c10::DispatchKey::CUDA);
  return at::detail::empty_strided_generic(size, stride, &memory, keys, c10::dtype_or_default(type));
}

Tensor& copy(Tensor& to, const Tensor& from, bool) {
  if (to.is_cuda())
    ordered();
  else
    answered();
  Tensor target = of_host(to);
  target.copy_(of_host(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  Tensor target = to;
  if (to.sizes() != from.sizes()) target.resize_(from.sizes());
  return copy(target, from, false);
}

const Tensor& resize(const Tensor& t, IntArrayRef size, optional<at::MemoryFormat>) {
  auto* impl = t.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(size);
  const size_t bytes = size_t(t.storage_offset() + t.numel()) * t.itemsize();
  auto* storage = impl->unsafe_storage().unsafeGetStorageImpl();
  if (storage->nbytes() < bytes) {
    storage->set_data_ptr(memory.allocate(bytes));
    storage->set_nbytes(bytes);
  }
  return t;
}

Tensor& fill(Tensor& t, const at::Scalar& value) {
  ordered();
  of_host(t).fill_(value);
  return t;
}

Tensor& zero(Tensor& t) {
  ordered();
  of_host(t).zero_();
  return t;
}

// Convolutions of float16 and bfloat16 as tensor cores compute them: sums in float32, rounded once.
Tensor widened(const Tensor& t) { return of_host(t).to(c10::kFloat); }

void check_alike(const Tensor& x, const Tensor& other) {
  TORCH_CHECK(x.device() == other.device(), "convolution: expected all tensors to be on the same device");
  TORCH_CHECK(x.scalar_type() == other.scalar_type(), "convolution: input is ", x.scalar_type(), ", expected ",
              other.scalar_type());
}

Tensor convolution(const Tensor& x, const Tensor& weight, const optional<Tensor>& bias, IntArrayRef stride,
                   IntArrayRef padding, IntArrayRef dilation, bool transposed, IntArrayRef output_padding,
                   int64_t groups) {
  ordered();
  Within inside;
  check_alike(x, weight);
  optional<Tensor> shift;
  if (bias && bias->defined()) {
    check_alike(x, *bias);
    shift = widened(*bias);
  }
  const Tensor y = at::convolution(widened(x), widened(weight), shift, stride, padding, dilation, transposed,
                                   output_padding, groups);
  return on_device(y, x.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor& gradient, const Tensor& x, const Tensor& weight,
                                                        at::OptionalIntArrayRef bias, IntArrayRef stride,
                                                        IntArrayRef padding, IntArrayRef dilation, bool transposed,
                                                        IntArrayRef output_padding, int64_t groups,
                                                        std::array<bool, 3> wanted) {
  ordered();
  Within inside;
  check_alike(x, weight);
  check_alike(x, gradient);
  const auto [of_x, of_weight, of_bias] =
      at::convolution_backward(widened(gradient), widened(x), widened(weight), bias, stride, padding, dilation,
                               transposed, output_padding, groups, wanted);
  const auto type = x.scalar_type();
  return {on_device(of_x, type), on_device(of_weight, type), on_device(of_bias, type)};
}

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&order>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("copy_", copy);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("resize_", resize);
  m.impl("fill_.Scalar", fill);
  m.impl("zero_", zero);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("unfold", at::native::unfold);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("convolution", convolution);
  m.impl("convolution_backward", convolution_backward);
}

}  // namespace
