// A Program is a flat list of operations over virtual tensors: the one idea of the runtime.
//
// Models append operations and never touch Vulkan. From the list come the memory plan (plan.hpp),
// the recorded command buffers with their barriers, the bounded submissions and the profile
// (executor.hpp). A Program has phases, each run on its own and as often as wanted ("text", "step",
// ...).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <map>
#include <optional>
#include <shaders/registry.hpp>
#include <string>
#include <vector>

#include "quantsparse/device.hpp"

namespace quantsparse::program {

/// Handle of a tensor of one Program.
struct Tensor {
    std::uint32_t id = 0xFFFFFFFF;
    bool valid() const { return id != 0xFFFFFFFF; }
};

enum class Lifetime {
    transient,   ///< lives from its first to its last use inside one phase; memory is shared
    persistent,  ///< keeps its contents between runs and phases; the host may read and write it
    constant,    ///< weights: written by the host, counted apart
};

/// Tensors that are used together and may live in host memory, visiting the device while they are
/// used (residency.hpp). Groups of one kind take turns in the same two slots of device memory.
struct StreamGroup {
    enum class Kind {
        weights,         ///< of a layer
        prompt_weights,  ///< those that are used once a prompt
        prompt,          ///< keys and values made from the prompt
        residuals,       ///< of sparse attention
    };
    Kind kind = Kind::weights;
    std::string name;  ///< "block 3"
};
inline constexpr std::size_t kStreamKinds = 4;
inline constexpr std::uint32_t kNoGroup = 0xFFFFFFFF;

/// What operations must respect of the device they will run on.
struct Limits {
    std::uint64_t max_binding_bytes = 128ull << 20;
    std::uint64_t max_block_bytes = 2ull << 30;  ///< one allocation
    std::uint64_t alignment = 256;               ///< of a binding's offset
    std::uint64_t texel_bytes = 0;  ///< a binding read through a texel buffer; 0: none are
    std::uint32_t max_invocations = 128;
    bool runs_on_cpu = false;
    Arithmetic arithmetic = Arithmetic::portable;
    // With the matrix tier:
    bool has_dot = false;  ///< few rows are left to the dot tier, which wastes less
    MatrixShape matrix_int8, matrix_half;
    std::uint32_t subgroup = 0;
    std::uint32_t shared_bytes = 0;
    int matrix_tile = -1;  ///< of kernels/matrix_tiles.hpp, forced; -1: by the product's size
    // What was measured to be fastest (quantsparse/tuning.hpp); 0 and -1: the defaults.
    int preferred_matrix_tile = -1;  ///< for products with enough work-groups
    std::uint32_t product_lanes = 0, product_rows = 0;

    /// Whether integer products that matrix units don't make go through the dot tier.
    bool uses_dot() const {
        return arithmetic == Arithmetic::dot || (arithmetic == Arithmetic::matrix && has_dot);
    }
};

struct Binding {
    Tensor tensor;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;  ///< 0: to the end of the tensor
    bool reads = false;
    bool writes = false;
    bool texels = false;  ///< bound as a uniform texel buffer of uvec4 instead of a storage buffer
};

inline Binding read(Tensor t, std::uint64_t offset = 0, std::uint64_t bytes = 0) {
    return {t, offset, bytes, true, false};
}
inline Binding write(Tensor t, std::uint64_t offset = 0, std::uint64_t bytes = 0) {
    return {t, offset, bytes, false, true};
}
inline Binding read_write(Tensor t, std::uint64_t offset = 0, std::uint64_t bytes = 0) {
    return {t, offset, bytes, true, true};
}
/// The same read through a uniform texel buffer of four 32-bit words a texel.
inline Binding as_texels(Binding binding) {
    binding.texels = true;
    return binding;
}
/// A binding the specialised shader never touches; Vulkan wants a buffer there all the same.
inline Binding unused(Tensor any) {
    return {any, 0, 0, false, false};
}

/// Along which axes the work-groups of an operation may be dispatched in several parts. A part has
/// its own gl_NumWorkGroups: kernels that read it say along which axes they don't mind.
using Cuts = std::array<bool, 3>;
inline constexpr Cuts kCutAnywhere = {true, true, true};

struct Operation {
    std::string name;  ///< for the profile and for messages
    shaders::ShaderId shader;
    std::vector<std::uint32_t>
        specialization;  ///< value i of constant id i; id 0 is the group's width
    std::vector<Binding> bindings;
    std::vector<std::byte> push;
    std::array<std::uint32_t, 3> groups = {1, 1, 1};
    double work = 0;  ///< estimated arithmetic operations, to bound the length of submissions
    std::uint32_t phase = 0;
    Cuts cuts = kCutAnywhere;
};

/// Whether the shader reads gl_NumWorkGroups.
bool reads_group_count(shaders::ShaderId shader);

class Program {
  public:
    struct TensorInfo {
        std::string name;
        std::uint64_t bytes = 0;
        Lifetime lifetime = Lifetime::transient;
        std::uint32_t group = kNoGroup;  ///< index into stream_groups()
    };

    /// While it lives, constant and persistent tensors are added to one stream group.
    class Grouping {
      public:
        Grouping(Program& program, StreamGroup group) : program_(program) {
            program_.groups_.push_back(std::move(group));
            program_.open_group_ = static_cast<std::uint32_t>(program_.groups_.size() - 1);
        }
        ~Grouping() { program_.open_group_ = kNoGroup; }
        Grouping(const Grouping&) = delete;

      private:
        Program& program_;
    };

    explicit Program(const Limits& limits, bool keep_intermediates = false)
        : limits_(limits), keep_intermediates_(keep_intermediates) {}

    const Limits& limits() const { return limits_; }

    /// Declares a tensor of at least `bytes` (rounded up to 16).
    Tensor add(const std::string& name, std::uint64_t bytes,
               Lifetime lifetime = Lifetime::transient);

    /// Operations appended from here on belong to this phase; returns its number.
    std::uint32_t begin_phase(const std::string& name);

    /// `cuts` must be given by kernels that read gl_NumWorkGroups.
    template <typename Push>
    void dispatch(const std::string& name, shaders::ShaderId shader,
                  std::vector<std::uint32_t> specialization, std::vector<Binding> bindings,
                  const Push& push, std::array<std::uint32_t, 3> groups, double work,
                  std::optional<Cuts> cuts = std::nullopt) {
        static_assert(sizeof(Push) <= 128, "Vulkan guarantees 128 bytes of push constants");
        std::vector<std::byte> bytes(sizeof(Push));
        std::memcpy(bytes.data(), &push, sizeof(Push));
        append({name, shader, std::move(specialization), std::move(bindings), std::move(bytes),
                groups, work, 0, kCutAnywhere},
               cuts);
    }

    /// Whether these reads should go through texel buffers: the device is faster so and all fit.
    bool reads_texels(std::initializer_list<Binding> bindings) const;

    /// Whether models should copy intermediates aside for comparison with reference data.
    bool keep_intermediates() const { return keep_intermediates_; }
    void register_intermediate(const std::string& name, Tensor tensor) {
        intermediates_[name] = tensor;
    }
    const std::map<std::string, Tensor>& intermediates() const { return intermediates_; }

    const std::vector<TensorInfo>& tensors() const { return tensors_; }
    const std::vector<Operation>& operations() const { return operations_; }
    const std::vector<std::string>& phases() const { return phases_; }
    std::uint64_t bytes_of(Tensor tensor) const { return tensors_[tensor.id].bytes; }
    const std::vector<StreamGroup>& stream_groups() const { return groups_; }

  private:
    void append(Operation operation, std::optional<Cuts> cuts);  ///< checks ranges and limits

    Limits limits_;
    bool keep_intermediates_;
    std::vector<TensorInfo> tensors_;
    std::vector<Operation> operations_;
    std::vector<std::string> phases_;
    std::vector<StreamGroup> groups_;
    std::uint32_t open_group_ = kNoGroup;
    std::map<std::string, Tensor> intermediates_;
};

/// The limits of an opened device, or of `info` for a plan without one.
Limits limits_of(const DeviceInfo& info, std::uint64_t storage_alignment, Arithmetic arithmetic);

}  // namespace quantsparse::program
