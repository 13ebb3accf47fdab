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

bool reads_group_count(shaders::ShaderId shader) {
    static thread_local std::map<shaders::ShaderId, bool> known;
    const auto [entry, added] = known.try_emplace(shader, false);
    if (!added) return entry->second;
    constexpr std::uint32_t kDecorate = 71, kBuiltIn = 11, kNumWorkgroups = 24, kHeader = 5;
    const auto words = shaders::shader_code(shader).words;
    for (std::size_t i = kHeader; i < words.size(); i += std::max(1u, words[i] >> 16)) {
        if (words[i] == (4u << 16 | kDecorate) && words[i + 2] == kBuiltIn &&
            words[i + 3] == kNumWorkgroups) {
            return entry->second = true;
        }
    }
    return false;
}

void Program::append(Operation operation, std::optional<Cuts> cuts) {
    if (phases_.empty()) begin_phase("run");
    operation.phase = static_cast<std::uint32_t>(phases_.size() - 1);
    if (!cuts && reads_group_count(operation.shader)) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("operation {}: {} reads the number of its work-groups: its "
                                "dispatch must say along which axes it may be cut",
                                operation.name, shaders::shader_code(operation.shader).name));
    }
    operation.cuts = cuts.value_or(kCutAnywhere);
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
