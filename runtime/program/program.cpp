#include "program/program.hpp"

#include <fmt/format.h>
#include <algorithm>

#include "quantsparse/error.hpp"

namespace quantsparse::program {

Tensor Program::add(const std::string& name, std::uint64_t bytes, Lifetime lifetime) {
    tensors_.push_back({name, std::max<std::uint64_t>(16, (bytes + 15) / 16 * 16), lifetime,
                        lifetime == Lifetime::transient ? kNoGroup : open_group_});
    return {static_cast<std::uint32_t>(tensors_.size() - 1)};
}

std::uint32_t Program::begin_phase(const std::string& name) {
    phases_.push_back(name);
    return static_cast<std::uint32_t>(phases_.size() - 1);
}

bool Program::reads_texels(std::initializer_list<Binding> bindings) const {
    return std::all_of(bindings.begin(), bindings.end(), [this](const Binding& binding) {
        const std::uint64_t bytes =
            binding.bytes ? binding.bytes : bytes_of(binding.tensor) - binding.offset;
        return bytes <= limits_.texel_bytes;
    });
}

void Program::append(Operation operation) {
    if (phases_.empty()) begin_phase("run");
    operation.phase = static_cast<std::uint32_t>(phases_.size() - 1);
    for (Binding& binding : operation.bindings) {
        const TensorInfo& tensor = tensors_.at(binding.tensor.id);
        const bool touched = binding.reads || binding.writes;
        if (!touched) {
            binding.bytes = std::min(tensor.bytes, std::uint64_t{16});
            continue;
        }
        if (binding.bytes == 0) binding.bytes = tensor.bytes - binding.offset;
        if (binding.offset + binding.bytes > tensor.bytes ||
            binding.offset % limits_.alignment != 0) {
            throw Error(ErrorCode::unsupported,
                        fmt::format("operation {} binds bytes {}+{} of {} ({} bytes, alignment {})",
                                    operation.name, binding.offset, binding.bytes, tensor.name,
                                    tensor.bytes, limits_.alignment));
        }
        if (binding.bytes > limits_.max_binding_bytes) {
            throw Error(
                ErrorCode::unsupported,
                fmt::format("operation {} needs {:.0f} MiB of {} in one binding, the device "
                            "allows {:.0f}: lower the size or the frames",
                            operation.name, static_cast<double>(binding.bytes) / (1 << 20),
                            tensor.name,
                            static_cast<double>(limits_.max_binding_bytes) / (1 << 20)));
        }
    }
    for (const std::uint32_t count : operation.groups) {
        if (count == 0) return;  // nothing to do
        if (count > 65535) {
            throw Error(ErrorCode::unsupported,
                        fmt::format("operation {} needs {} work-groups in one dimension",
                                    operation.name, count));
        }
    }
    operations_.push_back(std::move(operation));
}

Limits limits_of(const DeviceInfo& info, std::uint64_t storage_alignment, Arithmetic arithmetic) {
    Limits limits;
    limits.max_binding_bytes = info.max_storage_buffer_range;
    limits.max_block_bytes = info.max_allocation_bytes;
    // Chunks are cut at multiples of 256 bytes whatever the device asks, so that a plan made for
    // one device has the same shape on another.
    limits.alignment = std::max<std::uint64_t>(256, storage_alignment);
    limits.max_invocations = info.max_workgroup_invocations;
    limits.runs_on_cpu = info.kind == "cpu";
    limits.texel_bytes = info.texel_reads_are_faster ? info.max_texel_buffer_bytes : 0;
    limits.arithmetic = arithmetic;
    limits.has_dot = info.integer_dot_product;
    limits.matrix_int8 = info.matrix_int8;
    limits.matrix_half = info.matrix_half;
    limits.subgroup = info.subgroup_size;
    limits.shared_bytes = info.shared_memory_bytes;
    return limits;
}

}  // namespace quantsparse::program
